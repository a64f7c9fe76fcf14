"""Takes training steps on a GPU that isn't there, with tensors that have a device and no values.

    python tests/pretended_gpu.py GUARD OUT

GUARD is `fixtures/pretended_gpu.cpp`, compiled. Whatever a step leaves on the host, reads back from
the device or asks for in a size that only the device knows raises; OUT gets the last line of
every case's traceback, or an empty text, as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Of a run of one model; a stack, which finds its own data by where they lie, never gets to its
# run's end, where latents are retired.
N_STEPS, OF_A_STACK = 4, 1
N, D_IN, D_SAE = 32, 16, 64
CASES: dict[str, dict[str, Any]] = {
    "batchtopk": {"k": 4},
    "topk": {"architecture": "topk", "k": 4},
    "nested": {"k": 4, "prefixes": (16, 64)},
    "prefixes of their own k": {"prefixes": (16, 64), "prefix_k": (2, 4)},
    "relu": {"architecture": "relu"},
    "relu to a target": {"architecture": "relu", "target_l0": 4.0},
    "leaky_relu": {"architecture": "leaky_relu"},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 4.0},
    "gated": {"architecture": "gated"},
    "ghost": {"architecture": "relu", "auxiliary": "ghost"},
    "transcoder": {"k": 4, "d_out": 8},
    "windows": {"k": 4, "seq_len": 3},
    "counts": {"k": 4, "reconstruction": "pkl"},
}
# Precision, and the number of dead latents that room is made for.
KINDS = (("fp32", 0), ("bf16", 16))
STACKED = ("batchtopk", "nested", "relu to a target", "jumprelu", "gated", "transcoder")


def pretend(guard: str) -> None:
    """Make torch believe in a GPU; nothing is computed on it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    library = Path(spec.origin).parent / "lib" / "libtorch_cpu.so"
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(guard)
    import torch
    from torch.cuda.amp import common

    common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.Tensor.pin_memory = lambda self, device=None: self
    torch.cuda.current_stream = lambda *_: None
    torch.cuda.Event = _Event
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.nn.Module._apply = _apply


def _apply(self: Any, fn: Any, recurse: bool = True) -> Any:
    """Tensors without values can't be exchanged in place as others are."""
    from torch.nn import Parameter

    for child in self.children() if recurse else ():
        child._apply(fn)
    for name, own in self._parameters.items():
        if own is not None:
            self._parameters[name] = Parameter(fn(own.detach()), own.requires_grad)
    for name, own in self._buffers.items():
        if own is not None:
            self._buffers[name] = fn(own)
    return self


class _Event:
    """Has always happened."""

    def record(self, stream: Any = None) -> None:
        del stream

    def synchronize(self) -> None:
        pass


def steps(settings: dict[str, Any], n_models: int, precision: str, dead: int) -> None:
    """Some steps of a run, from TopK to the architecture's own selection where it has both."""
    import torch

    from saebook.models import SAE, SAEConfig
    from saebook.training import TrainConfig, Trainer
    from saebook.training.dead import DeadCount
    from saebook.training.stacking import SAEStack

    config = SAEConfig(d_in=D_IN, d_sae=D_SAE, **settings)
    shape = (N, D_IN) if config.seq_len == 1 else (N, config.seq_len, D_IN)
    x, target = torch.rand(shape), torch.rand(N, config.d_out or D_IN)
    members = [SAE(config, seed).to("cuda:0") for seed in range(n_models)]
    train = TrainConfig(
        n_steps=N_STEPS if n_models == 1 else 100 * N_STEPS,
        device="cuda:0",
        precision=precision,
        capture="never",
        engine="dense",
        selection_warmup_fraction=0.0,
    )
    told = (dead,) * n_models
    # Values were fitted elsewhere; a count that has arrived is read on the host.
    with (
        patch.object(DeadCount, "_with_room", lambda *_: told),
        patch("saebook.training.trainer.make_update", _plain_update),
        patch("saebook.training.trainer.int", lambda _: 1, create=True),
        patch("saebook.training.stacking.bool", lambda _: True, create=True),
    ):
        model: Any = members[0] if n_models == 1 else SAEStack(members)
        trainer = Trainer(model, train)
    # The fused ones want values; PyTorch's own care that they don't wait.
    trainer.update.optimizer = torch.optim.Adam(
        trainer.sae.parameters(), foreach=False, fused=False, capturable=True
    )
    with patch.object(DeadCount, "_with_room", lambda *_: told):
        batch = _batch(x.to("cuda:0"), target.to("cuda:0") if config.is_transcoder else None)
        for _ in range(N_STEPS if n_models == 1 else OF_A_STACK):
            logged = trainer.step(batch)
    devices = {value.device.type for value in logged.values()}
    assert devices == {"cuda"}, f"{devices}"
    kinds = {p.dtype for p in trainer.sae.parameters()}
    assert kinds == {torch.float32}, f"{kinds}"
    at = {p.device.type for p in trainer.sae.parameters()}
    assert at == {"cuda"}, f"{at}"


def _batch(x: Any, target: Any) -> Any:
    from saebook.data.store import Batch

    return Batch(x, target=target)


def _plain_update(*arguments: Any) -> Any:
    """Kernels need values; the plain update is what they are compared with."""
    from saebook.training.updating import Update

    return Update(*arguments)


def measured() -> None:
    """A model that is made on the device, its examples, and steps of it, as a bench has them."""
    import torch

    from saebook.training.speed import Workload
    from saebook.training.speed.steps import examples, made_on

    device = torch.device("cuda:0")
    workload, generator = Workload(8, 32, 16, "batchtopk", 2), torch.Generator
    # That of a GPU asks the driver.
    with patch("torch.Generator", lambda *_: generator()):
        assert examples(workload, device=device).device.type == "cuda"
        sae = made_on(device, workload.config, 0)
    assert {t.device.type for t in [*sae.parameters(), *sae.buffers()]} == {"cuda"}


def left_on_the_host() -> None:
    """What has to raise: a tensor of the host's among the device's."""
    import torch

    torch.add(torch.ones(2, device="cuda:0"), torch.ones(2))


def read_back() -> None:
    """What has to raise: a number of the device's, read."""
    import torch

    float(torch.ones((), device="cuda:0"))


def main(guard: str, out: str) -> None:
    """Run every case."""
    pretend(guard)
    # Members of a stack exchange their data, which the collector can't take of such tensors.
    gc.disable()
    from torch._subclasses.fake_tensor import FakeTensorMode

    # A copied tensor belongs to the same device.
    mode_class: Any = FakeTensorMode
    mode_class.__deepcopy__ = lambda self, memo: self
    work: dict[str, Any] = {
        "left on the host": left_on_the_host,
        "read back": read_back,
        "a bench": measured,
    }
    for name, settings in CASES.items():
        for precision, dead in KINDS:
            work[f"{name}, {precision}, {dead} dead"] = partial(steps, settings, 1, precision, dead)
        if name in STACKED:
            work[f"a stack of {name}"] = partial(steps, settings, 2, "bf16", 16)
    told = {}
    for name, does in work.items():
        try:
            # Tensors of the device `meta` are taken as they are.
            with FakeTensorMode(allow_non_fake_inputs=name == "a bench"):
                does()
            told[name] = ""
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            last = ([f for f in where if "saebook" in f.filename] or [*where])[-1]
            place = f"{Path(last.filename).name}, line {last.lineno}"
            told[name] = f"{place}: {type(error).__name__}: {str(error)[:200]}"
    Path(out).write_text(json.dumps(told))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:3])
