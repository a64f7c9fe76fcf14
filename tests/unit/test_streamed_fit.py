"""A whole run on a store that stays on disk."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tqdm import tqdm

from saebook.data.store import BatchStream, ExampleStore, StoreWriter, StreamedBatches
from saebook.errors import CheckpointError, ConfigError, DataError, StoreError, TrainingError
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer, diagnose, fit
from saebook.training.examples import SHARES, read_examples
from saebook.training.memory import available_memory

D_IN, N = 8, 3000
CONFIG = SAEConfig(d_in=D_IN, d_sae=24, k=3)
# The training split of 2400 float rows takes 77 kB; a buffer of 15 kB holds some 300 of them.
TRAIN = TrainConfig(
    n_steps=60, batch_size=64, device="cpu", n_checkpoints=6, resident_gb=6e-5, retire_at=None
)
RESIDENT = dataclasses.replace(TRAIN, resident_gb=1.0)


def examples(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.rand(16, D_IN, generator=generator)
    sparse = torch.rand(N, 16, generator=generator) * (torch.rand(N, 16, generator=generator) < 0.1)
    return sparse @ dictionary + 0.01


def write(path: Path, x: torch.Tensor | np.ndarray, **given) -> ExampleStore:
    trial = np.arange(len(x)) // 20
    split = np.where(trial % 5 == 4, "validation", "train")
    with StoreWriter(path, kind=given.pop("kind", "activations"), shard_rows=500) as writer:
        writer.add(x, session="a", trial=trial, split=split)
    return ExampleStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ExampleStore:
    return write(tmp_path_factory.mktemp("fit") / "store", examples())


def train(store: ExampleStore, config: SAEConfig = CONFIG, settings: TrainConfig = TRAIN, **given):
    return fit(config, store, settings, progress=False, **given)


def same_weights(a: SAE, b: SAE) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class Stopped(Exception):
    """Stands for a kill in the middle of a run."""


def stop_at(step: int):
    def probe(trainer: Trainer) -> dict[str, float]:
        if trainer.step_number == step:
            raise Stopped
        return {}

    return probe


def test_a_streamed_run_is_that_of_the_same_batches_in_memory(store):
    run = train(store)
    found = read_examples(store, None, CONFIG, TRAIN.resident_gb)
    assert found.stored is not None and len(found) == 2400 and len(found.rows) < 500
    stream = found.batches(TRAIN.batch_size, 0, CONFIG)
    rows = store.tensor("train")
    config = CONFIG.for_data(counts=False)
    sae = SAE(config, seed=0)
    sae.fit_inputs(rows[:: found.every])
    trainer = Trainer(sae, TRAIN, TRAIN.n_steps)
    for step in range(1, 61):
        trainer.step(rows[stream.examples_at(step)])
    assert same_weights(run.sae, sae)


def test_a_streamed_run_has_all_that_one_in_memory_has(store):
    streamed, resident = train(store), train(store, settings=RESIDENT)
    assert streamed.card.keys() == resident.card.keys()
    assert streamed.card["split"] == resident.card["split"] == "validation"
    assert streamed.card["n_examples"] == 300 < resident.card["n_examples"] == 600
    assert streamed.card["fvu"] == pytest.approx(resident.card["fvu"], rel=0.2)
    assert streamed.history.columns.tolist() == resident.history.columns.tolist()
    assert streamed.settings["data"] == resident.settings["data"]
    assert diagnose(streamed, store).checked == diagnose(resident, store).checked


def test_counts_and_windows_are_streamed(tmp_path):
    counts = torch.poisson(examples() * 4, generator=torch.Generator().manual_seed(0))
    store = write(tmp_path / "counts", counts.numpy(), kind="counts")
    config = SAEConfig(d_in=D_IN, d_sae=24, k=3, seq_len=3)
    settings = dataclasses.replace(TRAIN, resident_gb=5e-5)
    run = train(store, config, settings)
    assert run.settings["sae"]["reconstruction"] == "lmse"
    assert run.settings["data"]["shape"] == [120 * 18, 3, D_IN]
    assert run.card["split"] == "validation" and math.isfinite(run.card["fvu"])


def test_an_interrupted_run_goes_on_to_the_same_numbers(store, tmp_path):
    straight = train(store, out=tmp_path / "straight")
    with pytest.raises(Stopped):
        train(store, out=tmp_path / "stopped", probe=stop_at(47))
    assert not any(t.name.startswith("saebook-stream") for t in threading.enumerate())
    resumed = train(ExampleStore.open(store.path), out=tmp_path / "stopped")
    assert same_weights(straight.sae, resumed.sae)
    pd.testing.assert_frame_equal(straight.history, resumed.history)
    assert straight.card == resumed.card
    again = train(store, out=tmp_path / "stopped", probe=stop_at(1))
    assert again.card == resumed.card


KILLED = """
import os, signal, sys
from test_streamed_fit import ExampleStore, train

def kill(trainer):
    if trainer.step_number == 47:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}

train(ExampleStore.open(sys.argv[1]), out=sys.argv[2], probe=kill)
"""


def test_a_killed_run_goes_on_to_the_same_numbers(store, tmp_path):
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, store.path, tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert killed.returncode == -9 and (tmp_path / "run" / "checkpoint.pt").is_file()
    resumed, straight = train(store, out=tmp_path / "run"), train(store)
    assert same_weights(resumed.sae, straight.sae)


def test_a_run_goes_on_as_it_began_whatever_memory_there_is(store, tmp_path, monkeypatch):
    settings = dataclasses.replace(TRAIN, resident_gb=None)

    def memory(n_bytes: int) -> None:
        monkeypatch.setattr("saebook.training.examples.available_memory", lambda: n_bytes)

    def mode() -> bool:
        return read_examples(store, None, CONFIG).stored is not None

    for begins, goes_on in ((100_000, 10**9), (10**9, 100_000)):
        memory(begins)
        streams = mode()
        assert streams == (begins == 100_000)
        straight = train(store, settings=settings)
        path = tmp_path / str(begins)
        with pytest.raises(Stopped):
            train(store, settings=settings, out=path, probe=stop_at(37))
        memory(goes_on)
        assert mode() != streams
        assert same_weights(train(store, settings=settings, out=path).sae, straight.sae)


def test_a_store_altered_between_interruption_and_resume_is_refused(tmp_path):
    x = examples()
    store = write(tmp_path / "store", x)
    with pytest.raises(Stopped):
        train(store, out=tmp_path / "run", probe=stop_at(37))
    # The fingerprint of a run looks at every second row, a stream's state at every shard.
    for row, named in ((0, "sha256_of_sample"), (1, "store=")):
        altered = x.clone()
        altered[row] += 1
        other = write(tmp_path / str(row), altered)
        with pytest.raises(CheckpointError, match=named):
            train(other, out=tmp_path / "run")


def test_a_shard_lost_in_mid_run_is_named_and_the_run_can_go_on(tmp_path):
    store = write(tmp_path / "store", examples())
    straight = train(store)
    shard = tmp_path / "store" / "shard-00001.safetensors"
    content = shard.read_bytes()

    def lose(trainer: Trainer) -> dict[str, float]:
        if trainer.step_number == 25:
            shard.unlink()
        return {}

    with pytest.raises(StoreError, match=r"shard-00001\.safetensors is missing"):
        train(store, out=tmp_path / "run", probe=lose)
    shard.write_bytes(content)
    assert same_weights(train(store, out=tmp_path / "run").sae, straight.sae)


def test_a_buffer_smaller_than_a_batch_is_refused_with_the_memory_it_needs(store):
    small = dataclasses.replace(TRAIN, resident_gb=1e-5)
    with pytest.raises(ConfigError, match=r"resident_gb = 1e-05 leaves room for 52 examples") as e:
        train(store, settings=small)
    assert "set resident_gb to more than 1.23e-05" in str(e.value)
    with pytest.raises(ConfigError, match="resident_gb"):
        TrainConfig(resident_gb=0.0)


def test_a_bad_row_is_named_though_no_sample_holds_it(tmp_path):
    x = examples()
    x[1001] = 1e30
    store = write(tmp_path / "store", x)
    number = int(np.flatnonzero(store.rows("train") == 1001)[0])
    # Nothing but the batch that holds it meets the row: not the bias, not the scale.
    config = SAEConfig(
        d_in=D_IN,
        d_sae=24,
        architecture="relu",
        sparsity_coefficient=0.1,
        input_scaling="none",
        b_dec_init="zero",
    )
    found = read_examples(store, None, config, TRAIN.resident_gb)
    assert number % found.every
    stream = found.batches(TRAIN.batch_size, 0, config)
    step = next(step for step in range(1, 61) if number in stream.examples_at(step))
    with pytest.raises(TrainingError, match=f"^step {step}: .*; row {number} has a norm of 2.83e"):
        train(store, config)


def test_a_negative_value_that_no_sample_holds_is_refused_where_counts_are_compared(tmp_path):
    x = examples()
    x[1001, 0] = -0.5
    store = write(tmp_path / "store", x)
    config = dataclasses.replace(CONFIG, reconstruction="lmse")
    with pytest.raises(DataError, match=r"smallest target is -0\.5"):
        train(store, config)


def test_a_store_is_streamed_when_it_takes_more_than_half_of_the_memory(store, monkeypatch):
    n_bytes = 2400 * D_IN * 4
    for memory, streamed in ((2 * n_bytes, False), (2 * n_bytes - 2, True)):
        monkeypatch.setattr("saebook.training.examples.available_memory", lambda m=memory: m)
        assert (read_examples(store, None, CONFIG).stored is not None) == streamed
    assert read_examples(store, None, CONFIG, resident_gb=n_bytes / 1e9).stored is None
    assert read_examples(store, None, CONFIG, resident_gb=n_bytes / 1.001e9).stored is not None
    assert read_examples(examples(), None, CONFIG, resident_gb=1e-9).stored is None


def test_what_a_streamed_run_holds_stays_within_its_memory(store):
    found = read_examples(store, None, CONFIG, TRAIN.resident_gb)
    share = 6e-5 * 1e9 / SHARES
    assert len(found.rows) * D_IN * (4 + 4) <= share
    assert len(found.judged) * D_IN * 4 <= share
    stream = found.batches(64, 0, CONFIG)
    assert isinstance(stream, StreamedBatches)
    next(stream)
    assert stream._current is not None and stream._ahead is not None
    held = stream._current.buffer[0].nbytes + stream._ahead[1][0].nbytes
    assert share < held <= 2 * share
    assert isinstance(read_examples(store, None, CONFIG, 1.0).batches(64, 0, CONFIG), BatchStream)


def test_available_memory_is_that_of_the_tightest_control_group(tmp_path, monkeypatch):
    from saebook.training import memory

    free = available_memory()
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 2500000\ninactive_file 400000\n")
    groups = ((str(tmp_path), "memory.max", "memory.current", "inactive_file"),)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", groups)
    assert available_memory() == 2_400_000 < free
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 2_400_000


def test_checking_a_store_shows_how_many_bytes_are_left(tmp_path, capsys):
    write(tmp_path / "store", examples())

    def shown(progress: bool, store: ExampleStore) -> str:
        capsys.readouterr()
        read_examples(store, None, CONFIG, TRAIN.resident_gb, progress=progress)
        return capsys.readouterr().err

    opened = ExampleStore.open(tmp_path / "store")
    n_bytes = sum(entry["bytes"] for entry in opened.manifest["shards"])
    bar = shown(True, opened)
    size = tqdm.format_sizeof(n_bytes)
    assert "checking the store: 100%" in bar and f"{size}/{size}" in bar
    # What was read needs no second look, and nobody asked the other to tell.
    assert shown(True, opened) == "" == shown(False, ExampleStore.open(tmp_path / "store"))
