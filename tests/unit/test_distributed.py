"""Two processes that train one model: the numbers of one process, checkpoints for either.

Run as a script by `torch.distributed.run`, this file is what each of the two does: all cases, one
after the other, into a file that the tests read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saebook.data.store import BatchStream, ExampleStore, StoreWriter
from saebook.errors import ConfigError, TrainingError
from saebook.models import SAE, SAEConfig
from saebook.models.shares import cut_over, kept_over
from saebook.training import TrainConfig, Trainer, fit, fit_many
from saebook.training.distributed import ManyProcesses, Processes, find_processes
from saebook.training.examples import as_batch

N_STEPS, BATCH, D_IN, D_SAE = 50, 32, 12, 64
LIMIT_S = 120
AGREE = 1e-9
PREFIXES = (16, 64)
SPARSE, DENSE = {"engine": "sparse"}, {"engine": "dense"}
JUMP = {"architecture": "jumprelu", "target_l0": 4.0}

CASES: dict[str, tuple[dict, dict]] = {
    "batchtopk": ({"k": 3}, DENSE),
    "batchtopk, sparse": ({"k": 3}, SPARSE),
    "batchtopk, from the start": ({"k": 3}, SPARSE | {"selection_warmup_fraction": 0.0}),
    "batchtopk, own k": ({"prefixes": PREFIXES, "prefix_k": (1, 3)}, DENSE),
    "batchtopk, own k, sparse": ({"prefixes": PREFIXES, "prefix_k": (1, 3)}, SPARSE),
    "topk": ({"architecture": "topk", "k": 3}, DENSE),
    "topk, sparse": ({"architecture": "topk", "k": 3}, SPARSE),
    "topk, nested": ({"architecture": "topk", "k": 3, "prefixes": PREFIXES}, SPARSE),
    "relu": ({"architecture": "relu"}, DENSE),
    "relu, controlled": ({"architecture": "relu", "target_l0": 4.0}, SPARSE),
    "relu, tanh": ({"architecture": "relu", "sparsity": "tanh"}, SPARSE),
    "relu, ghost": ({"architecture": "relu", "auxiliary": "ghost"}, DENSE),
    "leaky relu": ({"architecture": "leaky_relu"}, DENSE),
    "jumprelu": (JUMP, DENSE),
    "jumprelu, sparse": (JUMP, SPARSE),
    "jumprelu, step": (JUMP | {"sparsity": "l0_step"}, SPARSE),
    "jumprelu, preactivation": (JUMP | {"auxiliary": "preactivation"}, DENSE),
    "gated": ({"architecture": "gated"}, SPARSE),
    "free decoder": ({"k": 3, "decoder_norm": "free"}, DENSE),
    "mlp decoder": ({"k": 3, "decoder": "mlp", "d_hidden": 8}, DENSE),
    "transcoder": ({"k": 3, "d_out": 5, "reconstruction": "mse"}, DENSE),
    "clipped": ({"k": 3}, DENSE | {"clip_norm": 0.05}),
    # Of each example: latents that resampling drew twice are equal, and within a batch which of
    # equal ones are kept is up to the sorting.
    "resampled": (
        {"architecture": "topk", "k": 3, "auxiliary": "none"},
        DENSE | {"resample_every": 0.2},
    ),
    "sgd": ({"k": 3}, DENSE | {"optimizer": "sgd", "learning_rate": 1e-3}),
    "sharded adam": ({"k": 3}, SPARSE | {"shard_optimizer": True}),
    "sharded lamb": ({"k": 3}, DENSE | {"shard_optimizer": True, "optimizer": "lamb"}),
    "sharded nadam": (
        {"k": 3, "auxiliary": "none"},
        DENSE | {"shard_optimizer": True, "optimizer": "nadam", "resample_every": 0.2},
    ),
}
# What would be wrong without …, which these cases have to show.
BROKEN = {
    "gradients added": ("relu", "add_up"),
    "a common cut": ("batchtopk, from the start", "sharing"),
    "a common L0": ("jumprelu", "mean"),
    "a common variance": ("topk", "mean"),
}
CONFIG = SAEConfig(d_in=D_IN, d_sae=D_SAE, k=3)
TRAIN = TrainConfig(n_steps=N_STEPS, batch_size=BATCH, device="cpu", n_checkpoints=5)


class OnlyOwn(ManyProcesses):
    """Processes that leave out one of the things that they have to do together."""

    def __init__(self, left_out: str):
        super().__init__()
        self._left_out = left_out

    def add_up(self, sae, result):
        if self._left_out != "add_up":
            return super().add_up(sae, result)
        for parameter in sae.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.size)
        return result

    def sharing(self, sae):
        if self._left_out != "sharing":
            return super().sharing(sae)
        return _ScaledAlone(sae, self.size)

    def mean(self, value):
        return value.detach().clone() if self._left_out == "mean" else super().mean(value)


class _ScaledAlone:
    """A pass that sees its share alone, and divides its gradients as if it did not."""

    def __init__(self, sae, size):
        self.sae, self.size = sae, size

    def __enter__(self):
        return None

    def __exit__(self, *_):
        for parameter in self.sae.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(self.size)


def examples(n: int = 640, seed: int = 0) -> Tensor:
    """Sparse mixtures of features."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(24, D_IN, generator=generator)
    strength = torch.rand(n, 24, generator=generator)
    return (strength * (torch.rand(n, 24, generator=generator) < 0.1)) @ features


def trace(case: str, processes: Processes) -> dict[str, Tensor]:
    """Everything that 50 steps log, and what they end with."""
    own, trains = CASES[case]
    config = SAEConfig.from_dict({"d_in": D_IN, "d_sae": D_SAE} | own)
    train = TrainConfig.from_dict({"n_steps": N_STEPS, "device": "cpu"} | trains)
    trainer = Trainer(SAE(config, seed=1), train, processes=processes)
    x = examples()
    if config.is_transcoder:
        x = torch.cat([x, x[:, :5] * 2 + x[:, 5:10]], dim=1)
    stream = BatchStream(x, BATCH, seed=3, dtype=torch.float64)
    # Larger inputs first, so that neither cut nor L0 nor variance is the same in both halves.
    weight = torch.linspace(1.6, 0.4, BATCH)[:, None]
    logged = [
        trainer.step(as_batch(processes.share(next(stream) * weight), config))
        for _ in range(N_STEPS)
    ]
    return (
        {f"logged {name}": _column(logged, name) for name in {n for row in logged for n in row}}
        | {f"sae {name}": value.clone() for name, value in trainer.sae.state_dict().items()}
        | {
            "silent": trainer.silent_examples.double(),
            "retired": trainer.retirement.retired.double(),
            "contributions": trainer.retirement.totals.clone(),
            "coefficient": trainer.sparsity.full.clone(),
        }
    )


def _column(rows: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.stack([row[name].double() for row in rows if name in row])


def largest_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    assert set(found) == set(wanted)
    return {
        name: float((found[name] - value).abs().nan_to_num().max() / (1 + value.abs().max()))
        if value.numel()
        else 0.0
        for name, value in wanted.items()
        if name != "sae target_variance" or bool(value.isfinite())
    }


class Stopped(Exception):
    """Stands for a kill in the middle of a run."""


def stop_at(step: int):
    def probe(trainer: Trainer) -> dict[str, float]:
        if trainer.step_number == step:
            raise Stopped
        return {}

    return probe


def run_fit(out: Path | None, stop: int | None = None, **changes):
    train = TrainConfig.from_dict(TRAIN.to_dict() | changes)
    probe = None if stop is None else stop_at(stop)
    return fit(CONFIG, examples(), train, out=out, progress=False, probe=probe)


def stream_fit(folder: Path):
    """On a store that is left on disk: of 640 rows a buffer holds a tenth."""
    train = TrainConfig.from_dict(TRAIN.to_dict() | {"resident_gb": 2.5e-5})
    return fit(CONFIG, ExampleStore.open(folder / "store"), train, progress=False)


def message(call) -> str:
    try:
        call()
    except (ConfigError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def in_each_process(folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    processes = find_processes()
    found: dict = {"size": processes.size}
    found["traces"] = {case: trace(case, processes) for case in CASES}
    found["broken"] = {
        what: trace(case, OnlyOwn(left_out)) for what, (case, left_out) in BROKEN.items()
    }
    # Each names a folder of its own: that of the second must never appear.
    own = folder / f"process {processes.rank}"
    run = run_fit(own / "straight", keep_checkpoints=(0.5, 1.0))
    again = run_fit(own / "straight", keep_checkpoints=(0.5, 1.0))
    found["fit"] = {name: value.clone() for name, value in run.sae.state_dict().items()}
    found["history"], found["card"], found["path"] = run.history, run.card, str(run.path)
    found["read back"] = again.history.equals(run.history) and again.card == run.card
    found["streamed"] = stream_fit(folder).history
    for name, shards in (("stopped", False), ("stopped, sharded", True)):
        with contextlib.suppress(Stopped):
            run_fit(own / name, stop=37, shard_optimizer=shards)
    for name, shards in (("begun", False), ("begun, sharded", True)):
        resumed = run_fit(folder / name, shard_optimizer=shards)
        found[f"{name}, resumed"] = resumed.history
    first = processes.is_first
    found["odd batch"] = message(lambda: run_fit(None, batch_size=33))
    found["unlike"] = message(lambda: run_fit(None, learning_rate=1e-3 if first else 2e-3))
    found["diverged"] = message(lambda: run_fit(None, learning_rate=1e200, optimizer="sgd"))
    found["many"] = message(lambda: fit_many([(CONFIG, TRAIN)], examples(), progress=False))
    found["gpu"] = message(lambda: processes.device_name("cuda:0"))
    torch.save(found, folder / f"found {processes.rank}.pt")


def alone_in_the_end(folder: Path) -> None:
    """The second process dies at its fifth step; what does the first say?"""
    torch.set_num_threads(1)

    def die(trainer: Trainer) -> dict[str, float]:
        if trainer.step_number == 5 and not trainer.processes.is_first:
            os._exit(1)
        return {}

    def train() -> None:
        fit(CONFIG, examples(), TRAIN, progress=False, probe=die)

    (folder / "alone.txt").write_text(message(train))
    os._exit(0)


def start(*arguments: object, **more: str) -> subprocess.Popen[str]:
    lib = Path(__file__).parents[2] / "lib"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(lib)} | more
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str]) -> str:
    try:
        printed, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(
            f"two processes did not end in {LIMIT_S} s:\n{process.communicate()[0][-4000:]}"
        )
    return printed


@pytest.fixture(scope="module")
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, doubles) -> Path:
    """With what both processes found."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("begun", "begun, sharded"):
        with pytest.raises(Stopped):
            run_fit(folder / name, stop=23)
    with StoreWriter(folder / "store", kind="activations") as writer:
        writer.add(examples().float(), session="a", split="train")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = start(*launch, __file__, folder)
    printed = wait_for(process)
    assert process.returncode == 0, printed[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(folder) -> list[dict]:
    return [torch.load(folder / f"found {rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(doubles) -> dict[str, dict[str, Tensor]]:
    """Traces of one process."""
    return {case: trace(case, Processes()) for case in CASES}


@pytest.fixture(scope="module")
def straight(doubles):
    return run_fit(None)


def test_torchrun_starts_two_processes_that_find_each_other(found):
    assert [each["size"] for each in found] == [2, 2]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(case, found, one):
    for each in found:
        differences = largest_difference(each["traces"][case], one[case])
        assert max(differences.values()) < AGREE, differences


@pytest.mark.parametrize("case", CASES)
def test_both_processes_end_with_the_same_weights(case, found):
    first, second = (each["traces"][case] for each in found)
    assert all(first[name].equal(second[name]) for name in first if name.startswith("sae "))


@pytest.mark.parametrize("what", BROKEN)
def test_it_would_not_without(what, found, one):
    case, _ = BROKEN[what]
    differences = largest_difference(found[0]["broken"][what], one[case])
    assert max(differences.values()) > 1e3 * AGREE


def test_the_cases_have_what_they_are_for(one):
    def ever(case: str, name: str) -> bool:
        return bool((one[case][name] > 0).any())

    for case in ("batchtopk", "batchtopk, sparse", "topk", "sharded adam"):
        assert ever(case, "logged auxk") and ever(case, "retired"), case
    assert ever("relu, ghost", "logged ghost")
    assert ever("jumprelu, preactivation", "logged preactivation")
    assert ever("resampled", "logged resampled") and ever("sharded nadam", "logged resampled")
    assert bool((one["clipped"]["logged grad_norm"] > 0.05).all())
    coefficients = one["relu, controlled"]["logged sparsity_coefficient"]
    assert len(coefficients.unique()) > 10
    assert one["batchtopk, own k"]["sae threshold"].shape == (2,)


def test_a_whole_fit_agrees_and_all_processes_return_it(found, straight):
    first, second = found
    pd.testing.assert_frame_equal(first["history"], straight.history, rtol=AGREE, atol=AGREE)
    assert first["history"].equals(second["history"]) and first["card"] == second["card"]
    assert first["card"]["fvu"] == pytest.approx(straight.card["fvu"], abs=1e-6)
    for name, value in straight.sae.state_dict().items():
        torch.testing.assert_close(first["fit"][name], value, rtol=1e-8, atol=1e-8)
        assert first["fit"][name].equal(second["fit"][name])


def test_only_the_first_process_writes_files(found, folder):
    written = {path.name for path in (folder / "process 0" / "straight").iterdir()}
    assert written == {"run.json", "history.parquet", "sae", "checkpoints"}
    kept = sorted(p.name for p in (folder / "process 0" / "straight" / "checkpoints").iterdir())
    assert kept == ["25", "50"]
    assert not (folder / "process 1").exists()
    assert found[0]["path"] == found[1]["path"] == str(folder / "process 0" / "straight")
    assert all(each["read back"] for each in found)


def test_a_store_on_disk_is_shared_too(found, folder):
    alone = stream_fit(folder)
    for each in found:
        pd.testing.assert_frame_equal(each["streamed"], alone.history, rtol=AGREE, atol=AGREE)


@pytest.mark.parametrize("name", ["stopped", "stopped, sharded"])
def test_one_process_goes_on_from_a_checkpoint_of_two(name, found, folder, straight):
    assert (folder / "process 0" / name / "checkpoint.pt").exists()
    resumed = run_fit(folder / "process 0" / name)
    pd.testing.assert_frame_equal(resumed.history, straight.history, rtol=AGREE, atol=AGREE)


@pytest.mark.parametrize("name", ["begun", "begun, sharded"])
def test_two_processes_go_on_from_a_checkpoint_of_one(name, found, straight):
    resumed = found[1][f"{name}, resumed"]
    pd.testing.assert_frame_equal(resumed, straight.history, rtol=AGREE, atol=AGREE)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("odd batch", ["ConfigError", "33", "2 processes", "32 or 34"]),
        ("unlike", ["ConfigError", "learning_rate = 0.001 in process 0, 0.002 in process 1"]),
        ("diverged", ["TrainingError", "step ", "training rows"]),
        ("many", ["ConfigError", "fit_many with 2 processes", "fit"]),
        ("gpu", ["ConfigError", "cuda:0", "'auto'"]),
    ],
)
def test_both_processes_are_told_what_is_wrong(what, said, found):
    for each in found:
        assert all(part in each[what] for part in said), each[what]


def test_a_process_that_dies_does_not_hang_the_other(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    both = [start(__file__, tmp_path, "alone", RANK=str(i), **shared) for i in (0, 1)]
    printed = [wait_for(process) for process in both]
    said = (tmp_path / "alone.txt").read_text()
    assert "TrainingError: process 0 of 2 lost the others" in said, printed


def test_muon_is_not_sharded():
    with pytest.raises(ConfigError, match=r"shard_optimizer=True with optimizer='muon'"):
        TrainConfig(optimizer="muon", shard_optimizer=True)


class Threads:
    """Shares that threads hold, for the cut alone."""

    def __init__(self, size: int):
        self.size = size
        self._given: list[Tensor | None] = [None] * size
        self._barrier = threading.Barrier(size, timeout=20)
        self._local = threading.local()

    @property
    def rank(self) -> int:
        return self._local.rank

    def gather(self, values: Tensor, alike: bool = False) -> list[Tensor]:
        self._given[self.rank] = values
        self._barrier.wait()
        everyone = [part for part in self._given if part is not None]
        self._barrier.wait()
        return everyone

    def mean(self, value: Tensor) -> Tensor:
        return torch.stack(self.gather(value)).mean(dim=0)

    def each(self, call):
        results: list = [None] * self.size

        def run(rank: int) -> None:
            self._local.rank = rank
            results[rank] = call(rank)

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_cut_keeps_the_largest_of_all_shares(data):
    size = data.draw(st.integers(1, 4))
    n = data.draw(st.integers(1, 12))
    few = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5])  # many of them equal
    shares = [
        torch.tensor(data.draw(st.lists(few, min_size=n, max_size=n)), dtype=torch.float32)
        for _ in range(size)
    ]
    wanted = data.draw(st.integers(1, n))
    threads = Threads(size)
    kept = threads.each(lambda rank: kept_over(threads, shares[rank], wanted))
    values = torch.cat(shares)
    largest = values[values > 0].sort(descending=True).values[: wanted * size]
    found = torch.cat([share[mask] for share, mask in zip(shares, kept)])
    assert found.sort(descending=True).values.equal(largest)
    # Of equal ones the first in the order of the batch are kept.
    if len(largest):
        equal = torch.cat(kept)[values == largest[-1]]
        assert equal.equal(equal.sort(descending=True, stable=True).values)
    enough = int((values > 0).sum()) >= wanted * size
    cuts = threads.each(lambda rank: cut_over(threads, shares[rank], wanted))
    assert [cut is not None for cut in cuts] == [enough] * size


if __name__ == "__main__":
    (alone_in_the_end if "alone" in sys.argv else in_each_process)(Path(sys.argv[1]))
