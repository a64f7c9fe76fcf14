"""Steps on a GPU: recorded or not they are the CPU's, and nothing in them waits for the device."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer, captured
from saebook.training.captured import FIRST_STEPS
from saebook.training.dead import LAG
from saebook.training.engines import ENGINES
from saebook.training.speed.steps import let_die
from saebook.training.stacking import SAEStack

Logs = list[dict[str, torch.Tensor]]

# Whatever else a version of torch or Triton warns of is not what these tests are about.
pytestmark = pytest.mark.filterwarnings("default", "error:this step can't be recorded")

N_STEPS = 50
# Long enough that no latent dies within these steps, and none is retired.
OF_A_RUN = 2000
D_IN, D_SAE, BATCH = 12, 32, 32
X = torch.rand(128, D_IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CASES: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk", "k": 4},
    "batchtopk": {"k": 4},
    "nested": {"k": 4, "prefixes": (8, 32)},
    "relu": {"architecture": "relu"},
    "relu to a target": {"architecture": "relu", "target_l0": 4.0},
    "leaky_relu": {"architecture": "leaky_relu"},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 4.0},
    "gated": {"architecture": "gated"},
}
FUSIBLE = ("topk", "batchtopk", "nested")
EXACT, SINGLE = torch.float64, torch.float32
KINDS = [(name, "dense", EXACT) for name in CASES]
KINDS += [(name, engine, SINGLE) for engine in ("dense", "fused") for name in FUSIBLE]
# Architecture and engine, members, share of dead latents, capture, precision.
WAITS = [(name, "dense", 1, 0.0, "never", "fp32") for name in CASES if name not in FUSIBLE]
WAITS += [
    (name, engine, 1, 0.25, "never", "fp32") for engine in ("dense", "fused") for name in FUSIBLE
]
WAITS += [
    ("batchtopk", engine, n, dead, capture, precision)
    for engine in ("dense", "fused")
    for n, dead, capture, precision in (
        (1, 0.0, "never", "fp32"),
        (1, 0.25, "always", "fp32"),
        (1, 0.25, "never", "bf16"),
        (1, 0.25, "always", "bf16"),
        (4, 0.25, "never", "fp32"),
        (4, 0.25, "always", "fp32"),
        (4, 0.25, "always", "bf16"),
    )
]


def operations() -> Any:
    """The recorder of a CPU that the tests of recorded steps have."""
    path = Path(__file__).parents[1] / "unit" / "test_captured.py"
    spec: Any = importlib.util.spec_from_file_location("test_captured", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Operations


def skip_where_missing(engine: str, device: str) -> None:
    """The fused engine wants Triton and a GPU."""
    if engine != "fused":
        return
    if engine not in ENGINES:
        pytest.skip("there is no fused engine")
    if device == "cpu":
        pytest.skip("the fused engine's kernels have tests of their own on a CPU")
    pytest.importorskip("triton", reason="triton is not installed")


def trainer_of(
    settings: dict[str, Any],
    device: str,
    n_models: int = 1,
    dtype: torch.dtype = SINGLE,
    dead: float = 0.25,
    **train: Any,
) -> Trainer[Any]:
    """A trainer of a model, or a stack, that begins with a share of its latents dead."""
    made = []
    for seed in range(n_models):
        sae = SAE(SAEConfig(d_in=D_IN, d_sae=D_SAE, **settings), seed=seed).to(dtype)
        sae.fit_inputs(X.to(dtype))
        made.append(sae.to(device))
    config = TrainConfig(
        n_steps=OF_A_RUN, batch_size=BATCH, device=device, selection_warmup_fraction=0.0
    )
    config = TrainConfig.from_dict(config.to_dict() | train)
    model: Any = made[0] if n_models == 1 else SAEStack(made)
    trainer = Trainer(model, config)
    if dead:
        let_die(trainer, dead)
    return trainer


def take(trainer: Trainer[Any], n_steps: int) -> Logs:
    """Steps over batches that differ in content and, now and then, in size."""
    x = X.to(trainer.device, trainer.sae.W_dec.dtype)
    logs = []
    for step in range(n_steps):
        batch = x.roll(step, dims=0)[: BATCH if step % 7 else BATCH // 2]
        logs.append(trainer.step(batch))
    return logs


def all_tensors(trainer: Trainer[Any]) -> list[torch.Tensor]:
    """Everything that a step changes."""
    found = [*trainer.sae.parameters(), *trainer.sae.buffers(), trainer.silent_examples]
    return found + [v for state in trainer.optimizer.state.values() for v in state.values()]


def assert_alike(one: Trainer[Any], other: Trainer[Any], most: float) -> None:
    """No tensor differs by more than this share of its norm."""
    for i, (a, b) in enumerate(zip(all_tensors(one), all_tensors(other), strict=True)):
        a, b = (t.detach().double().cpu() for t in (a, b))
        assert a.isnan().equal(b.isnan()), f"tensor {i}"
        difference = (a - b).nan_to_num().norm() / (a.nan_to_num().norm() + 1e-9)
        assert float(difference) <= most, f"tensor {i} {tuple(a.shape)}: {float(difference):.2g}"


def assert_told_alike(told: Logs, logs: Logs, rtol: float) -> None:
    for step, (one, other) in enumerate(zip(told, logs, strict=True)):
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(
                other[key].double().cpu(), one[key].double().cpu(), rtol=rtol, atol=rtol,
                msg=lambda text, at=f"{key} of step {step}": f"{at}: {text}",
            )  # fmt: skip


@pytest.mark.parametrize("n_models", [1, 4])
@pytest.mark.parametrize(("name", "engine", "dtype"), KINDS)
def test_recorded_steps_are_the_steps(name, engine, dtype, n_models, device, monkeypatch):
    skip_where_missing(engine, device)
    if device == "cpu":
        monkeypatch.setitem(captured.RECORDERS, "cpu", operations())
    settings = (CASES[name], device, n_models, dtype)
    plain = trainer_of(*settings, engine=engine, capture="never")
    played = trainer_of(*settings, engine=engine, capture="always")
    told, logs = take(plain, N_STEPS), take(played, N_STEPS)
    assert plain.n_recordings == 0 and played.n_recordings >= 2
    # In float32 sums whose order differs may choose another latent, once in a while.
    assert_alike(plain, played, 1e-6 if dtype == EXACT else 1e-3)
    assert_told_alike(told, logs, 1e-6 if dtype == EXACT else 1e-2)


@pytest.mark.parametrize(("n_models", "capture"), [(1, "never"), (1, "always"), (4, "always")])
@pytest.mark.parametrize("name", list(CASES))
def test_a_run_is_that_of_the_cpu(name, n_models, capture, device):
    if device == "cpu" and capture == "always":
        pytest.skip("a CPU records nothing")
    # Numbers that float32 holds exactly: on a GPU the learning rate is one.
    train = {"schedule": "constant", "learning_rate": 2**-9, "sparsity_schedule": "none"}
    train |= {"warmup_fraction": 0.0, "engine": "dense"}
    here = trainer_of(CASES[name], "cpu", n_models, EXACT, **train)
    there = trainer_of(CASES[name], device, n_models, EXACT, capture=capture, **train)
    told, logs = take(here, N_STEPS), take(there, N_STEPS)
    assert_alike(here, there, 1e-9)
    assert_told_alike(told, logs, 1e-6)


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Within it, waiting for the device raises."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("name", "engine", "n_models", "dead", "capture", "precision"), WAITS)
def test_no_step_waits(name, engine, n_models, dead, capture, precision, device):
    skip_where_missing(engine, device)
    if device == "cpu" and capture == "always":
        pytest.skip("a CPU records nothing")
    train = {"engine": engine, "capture": capture, "precision": precision, "learning_rate": 1e-6}
    trainer = trainer_of(CASES[name], device, n_models, dead=dead, **train)
    batches = X.to(trainer.device, SINGLE).split(BATCH)
    for step in range(LAG + FIRST_STEPS + 2):
        trainer.step(batches[step % len(batches)])
    with no_waiting(device):
        for step in range(2 * LAG + 2):
            logged = trainer.step(batches[step % len(batches)])
    assert trainer.n_recordings == (capture == "always")
    assert torch.isfinite(logged["total"]).all()
    if name in FUSIBLE:
        assert logged["dead"].tolist() == (dead if n_models == 1 else [dead] * n_models)


@pytest.mark.gpu
def test_waiting_would_be_found():
    value = torch.ones((), device="cuda")
    with no_waiting("cuda"), pytest.raises(RuntimeError, match="synchron"):
        float(value)


def test_bf16_keeps_its_weights_in_fp32(device):
    trainer = trainer_of(CASES["batchtopk"], device, precision="bf16", engine="dense")
    before = copy.deepcopy(trainer.sae.state_dict())
    take(trainer, 10)
    for name, value in trainer.sae.named_parameters():
        assert value.dtype == torch.float32
        assert not value.equal(before[name]), name
    rows = trainer.sae.encoder_rows.detach()
    assert not rows.bfloat16().float().equal(rows)
    kinds = {v.dtype for state in trainer.optimizer.state.values() for v in state.values()}
    assert kinds == {torch.float32}
