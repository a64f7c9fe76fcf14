"""Batches from a store larger than memory."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.data.store import (
    Batches,
    BatchStream,
    ExampleStore,
    RowSource,
    StoredExamples,
    StoreWriter,
    StreamedBatches,
    shards,
    windows,
)
from saebook.errors import CheckpointError, ConfigError, SelectionError, StoreError
from saebook.metrics import same_group_pairs

D_IN = 3
SMALL: dict[str, Any] = {"batch_size": 7, "buffer_examples": 40, "chunk_examples": 5}


def write(
    path: Path, n: int = 203, *, trial: int = 10, shard_rows: int = 60, **given
) -> ExampleStore:
    """A store whose row i holds (i, trial, session); every fifth trial is validation."""
    kind = given.pop("kind", "counts")
    with StoreWriter(path, kind=kind, shard_rows=shard_rows) as writer:
        for session in range(2):
            rows = np.arange(n)[session * n // 2 : (session + 1) * n // 2]
            trials = rows // trial
            x = np.stack([rows, trials, np.full(len(rows), session)], axis=1)
            split = np.where(trials % 5 == 4, "validation", "train")
            writer.add(x, session=str(session), trial=trials, split=split)
    return ExampleStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ExampleStore:
    return write(tmp_path_factory.mktemp("streaming") / "store")


def epoch_of(stream: StreamedBatches) -> list[torch.Tensor]:
    return [next(stream) for _ in range(stream.batches_per_epoch)]


def numbers(batches: list[torch.Tensor]) -> list[int]:
    return [int(i) for batch in batches for i in batch[..., 0].flatten()]


# --- order ------------------------------------------------------------------------------


@given(
    n=st.integers(2, 90),
    batch_size=st.integers(1, 12),
    buffer=st.integers(1, 40),
    chunk=st.integers(1, 12),
    seed=st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_every_epoch_takes_each_example_once(tmp_path_factory, n, batch_size, buffer, chunk, seed):
    batch_size = min(batch_size, n)
    buffer = max(buffer, batch_size, chunk)
    store = write(tmp_path_factory.mktemp("once") / "store", n, trial=n + 1, shard_rows=17)
    stream = StreamedBatches(
        store, batch_size, split=None, seed=seed, buffer_examples=buffer, chunk_examples=chunk
    )
    for epoch in range(2):
        assert stream.epoch == epoch
        taken = numbers(epoch_of(stream))
        assert len(taken) == n - n % batch_size == len(set(taken))
    stream.close()


def test_only_rows_of_the_split_are_taken(store):
    stream = StreamedBatches(store, 1, buffer_examples=40, chunk_examples=5)
    assert sorted(numbers(epoch_of(stream))) == store.rows("train").tolist()
    held_out = StreamedBatches(store, 1, split="validation")
    assert sorted(numbers(epoch_of(held_out))) == store.rows("validation").tolist()


def test_the_order_is_of_the_seed_and_the_epoch(store):
    stream = StreamedBatches(store, **SMALL)
    first, second = epoch_of(stream), epoch_of(stream)
    assert numbers(first) != numbers(second)
    again = StreamedBatches(store, **SMALL)
    assert numbers(epoch_of(again)) == numbers(first)
    assert numbers(epoch_of(again)) == numbers(second)
    assert numbers(epoch_of(StreamedBatches(store, **SMALL, seed=1))) != numbers(first)


def test_it_says_which_examples_a_step_takes(store):
    stream = StreamedBatches(store, **SMALL)
    rows = store.rows("train")
    for step in range(1, 3 * stream.batches_per_epoch):
        expected = rows[stream.examples_at(step).numpy()]
        assert numbers([next(stream)]) == expected.tolist()


def test_it_has_the_face_of_batches_in_memory(store):
    stream = StreamedBatches(store, 7)
    assert isinstance(stream, Batches)
    assert isinstance(BatchStream(store, 7), Batches)
    assert isinstance(StoredExamples(store), RowSource)
    resident = BatchStream(store, 7)
    assert stream.n_examples == resident.n_examples
    assert stream.batches_per_epoch == 163 // 7
    some = torch.tensor([160, 3, 3, 77])
    assert torch.equal(stream.take(some), resident.take(some))
    assert next(stream).dtype == torch.float32
    assert next(StreamedBatches(store, 7, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.uint32, torch.bfloat16, torch.float32]
)
def test_every_stored_type_comes_through(tmp_path, dtype):
    top = {torch.uint8: 255, torch.uint16: 40_000, torch.uint32: 2**24}.get(dtype, 1.5)
    x = torch.tensor([[0, 1, 2], [3, top, 5], [6, 7, 8], [9, 10, 11]]).to(torch.float64)
    counts = not dtype.is_floating_point
    with StoreWriter(tmp_path / "s", kind="counts" if counts else "activations") as writer:
        writer.add(x.numpy() if counts else x.to(dtype), session="a", split="train")
    store = ExampleStore.open(tmp_path / "s")
    assert store.dtype == str(dtype).removeprefix("torch.")
    batch = next(StreamedBatches(store, 4))
    assert torch.equal(batch[batch[:, 0].argsort()].to(torch.float64), x)
    back = StoredExamples(store).take(torch.tensor([3, 0]))
    assert back.dtype == dtype and torch.equal(back.to(torch.float64), x[[3, 0]])


# --- resume -----------------------------------------------------------------------------


def test_it_goes_on_from_every_cursor(store):
    straight = StreamedBatches(store, **SMALL)
    n = 2 * straight.batches_per_epoch + 3
    states, batches = [], []
    for _ in range(n):
        states.append(straight.state_dict())
        batches.append(next(straight))
    resumed = StreamedBatches(store, **SMALL)
    for at in [*range(n - 1, -1, -3), *range(n - 1)]:
        resumed.load_state_dict(states[at])
        assert torch.equal(next(resumed), batches[at])
        if at + 1 < n:
            assert torch.equal(next(resumed), batches[at + 1])


def test_a_state_of_another_store_or_buffer_is_refused(store, tmp_path):
    state = StreamedBatches(store, **SMALL).state_dict()
    larger: dict[str, Any] = SMALL | {"buffer_examples": 41}
    with pytest.raises(CheckpointError, match="buffer_examples=40, this one 41"):
        StreamedBatches(store, **larger).load_state_dict(state)
    altered = write(tmp_path / "altered", trial=9)
    with pytest.raises(CheckpointError, match=r"n_examples|store="):
        StreamedBatches(altered, **SMALL).load_state_dict(state)
    with StoreWriter(tmp_path / "other", kind="counts") as writer:
        writer.add(store.array(), session="0", split=store.index["split"].to_numpy())
    with pytest.raises(CheckpointError, match="store="):
        StreamedBatches(ExampleStore.open(tmp_path / "other"), **SMALL).load_state_dict(state)
    with pytest.raises(CheckpointError, match="nowhere"):
        StreamedBatches(store, **SMALL).load_state_dict(state | {"cursor": 1000})


# --- windows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trial", "shard_rows", "seq_len"), [(10, 60, 4), (1000, 17, 5), (3, 8, 2)]
)
def test_windows_are_those_of_the_index(tmp_path, trial, shard_rows, seq_len):
    store = write(tmp_path / "store", trial=trial, shard_rows=shard_rows)
    expected = windows(store.index, seq_len, split="train")
    stored = StoredExamples(store, seq_len=seq_len)
    assert len(stored) == len(expected)
    assert stored.rows(np.arange(len(stored))).tolist() == expected[:, 0].tolist()
    stream = StreamedBatches(stored, 1, buffer_examples=30, chunk_examples=7)
    found = torch.cat(epoch_of(stream))[..., 0]
    assert found[found[:, 0].argsort()].tolist() == expected.tolist()
    last = torch.arange(len(stored) - 1, -1, -5)
    assert stored.take(last)[..., 0].tolist() == expected[last.numpy()].tolist()


def test_windows_longer_than_every_trial_are_refused(store):
    with pytest.raises(SelectionError, match="longest trial has 10"):
        StreamedBatches(store, 1, seq_len=11)


# --- reading ----------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, int, int]]:
    """(shard, first row, rows) of every read, in order."""
    log: list[tuple[str, int, int]] = []
    plain = shards.OpenShard.read_into

    def logged(self, row, out):
        log.append((self._path.name, row, len(out)))
        plain(self, row, out)

    monkeypatch.setattr(shards.OpenShard, "read_into", logged)
    return log


def test_a_buffer_is_read_in_order_of_the_file(store, reads):
    stream = StreamedBatches(store, **SMALL)
    n_groups = stream._n_groups
    assert n_groups > 3
    epoch_of(stream)
    stream.close()
    # A new buffer begins where reading goes back.
    descents = sum(a[:2] > b[:2] for a, b in itertools.pairwise(reads))
    assert descents <= n_groups  # one more buffer, of the next epoch, was read ahead
    assert sum(n for _, _, n in reads) <= 163 + 2 * 40


def test_neighbouring_chunks_are_one_read(tmp_path, reads):
    store = write(tmp_path / "store", 200, trial=1000, shard_rows=100)
    stream = StreamedBatches(store, 10, split=None, buffer_examples=200, chunk_examples=5)
    next(stream)
    stream.close()
    assert reads[:2] == [("shard-00000.safetensors", 0, 100), ("shard-00001.safetensors", 0, 100)]


def test_no_more_than_two_buffers_are_made(store, monkeypatch):
    made = []
    plain = StoredExamples.buffer

    def counted(self, rows):
        made.append(rows)
        return plain(self, rows)

    monkeypatch.setattr(StoredExamples, "buffer", counted)
    stream = StreamedBatches(store, **SMALL)
    state = stream.state_dict()
    for _ in range(3):
        epoch_of(stream)
        stream.load_state_dict(state)
    assert len(made) == 2 and max(made) <= SMALL["buffer_examples"]


def test_the_next_buffer_is_read_while_this_one_is_used(store, reads):
    stream = StreamedBatches(store, **SMALL)
    next(stream)
    assert stream._ahead is not None
    stream._ahead[2].result(timeout=10)
    before, waited = len(reads), stream.waited_s
    while stream._cursor + SMALL["batch_size"] <= 35:
        next(stream)
    assert len(reads) == before and stream.waited_s == waited
    stream.close()


def streaming_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("saebook-stream")]


def test_its_thread_ends_with_it(store):
    stream = StreamedBatches(store, **SMALL)
    next(stream)
    assert len(streaming_threads()) >= 1
    stream.close()
    last = next(stream)
    assert last.shape == (7, D_IN)
    del stream
    gc.collect()
    deadline = time.monotonic() + 10
    while streaming_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not streaming_threads()


# --- mixing -----------------------------------------------------------------------------


def test_pairs_of_one_group_are_counted():
    assert same_group_pairs(torch.tensor([1, 1, 1, 2])) == pytest.approx(3 / 6)
    assert same_group_pairs(torch.arange(5)) == 0
    assert np.isnan(same_group_pairs(torch.tensor([1])))


def test_a_larger_buffer_mixes_better(tmp_path):
    store = write(tmp_path / "store", 4000, trial=20, shard_rows=1000)
    session = torch.from_numpy(np.arange(4000) // 20)
    whole = same_group_pairs(session)
    ratio = {}
    for buffer in (200, 800, 4000):
        stream = StreamedBatches(store, 100, split=None, buffer_examples=buffer, chunk_examples=20)
        steps = range(1, stream.batches_per_epoch + 1)
        shares = [same_group_pairs(session[stream.examples_at(step)]) for step in steps]
        ratio[buffer] = np.mean(shares) / whole
    # Pairs of a buffer of b come from one chunk (4000 / b) times as often as of all 4000.
    assert ratio[200] == pytest.approx(20, rel=0.2)
    assert ratio[800] == pytest.approx(5, rel=0.2)
    assert ratio[4000] == pytest.approx(1, rel=0.2)


# --- errors -----------------------------------------------------------------------------


def test_settings_that_cannot_work_are_refused(store):
    with pytest.raises(ConfigError, match="buffer_examples=5 is less than batch_size=7"):
        StreamedBatches(store, 7, buffer_examples=5)
    with pytest.raises(ConfigError, match="chunk_examples=9 is more than"):
        StreamedBatches(store, 7, buffer_examples=8, chunk_examples=9)
    with pytest.raises(ConfigError, match="leaves no batch of 163"):
        StreamedBatches(store, 164)
    with pytest.raises(SelectionError, match="no row in split 'test'"):
        StreamedBatches(store, 1, split="test")
    with pytest.raises(ConfigError, match="split='training'"):
        StreamedBatches(store, 1, split="training")


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size - 40)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
def test_a_shard_spoilt_in_mid_run_is_named(tmp_path, how):
    store = write(tmp_path / "store")
    good = (tmp_path / "store" / "shard-00002.safetensors").read_bytes()
    stream = StreamedBatches(store, **SMALL)
    state = stream.state_dict()
    next(stream)
    spoil(tmp_path / "store" / "shard-00002.safetensors", how)
    with pytest.raises(StoreError, match=r"shard-00002\.safetensors"):
        for _ in range(stream.batches_per_epoch):
            state = stream.state_dict()
            next(stream)
    assert stream.state_dict() == state
    (tmp_path / "store" / "shard-00002.safetensors").write_bytes(good)
    unbroken = StreamedBatches(write(tmp_path / "same"), **SMALL)
    unbroken.load_state_dict(state)
    assert torch.equal(next(stream), next(unbroken))


def test_a_shard_altered_before_the_run_is_named_at_once(tmp_path):
    write(tmp_path / "store")
    spoil(tmp_path / "store" / "shard-00001.safetensors", "altered")
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors was altered"):
        StreamedBatches(ExampleStore.open(tmp_path / "store"), 1)


def test_a_file_cut_short_while_it_is_open_is_named(tmp_path):
    write(tmp_path / "store")
    path = tmp_path / "store" / "shard-00000.safetensors"
    opened = shards.OpenShard(path)
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(StoreError, match="ends before row 59"):
        opened.read_into(50, np.empty((10, D_IN), np.uint8))
    opened.close()
    path.write_bytes(b"\x05\0\0\0\0\0\0\0{no}")
    with pytest.raises(StoreError, match="not a readable shard"):
        shards.OpenShard(path)


def test_an_index_in_another_order_is_refused(tmp_path):
    store = write(tmp_path / "store")
    index = store.index
    index["shard_row"] = index["shard_row"].to_numpy()[::-1].copy()
    with pytest.raises(StoreError, match="does not number the rows as the shards hold them"):
        reordered(store, index)


def reordered(store: ExampleStore, index: pd.DataFrame) -> StoredExamples:
    from saebook.data.store import layout

    store._manifest["index"] = layout.write_table(store.path, layout.INDEX, index)
    return StoredExamples(store)


def test_counts_too_large_for_the_type_of_the_batches_are_refused(tmp_path):
    with StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add([[2**24 + 1], [0]], session="a", split="train")
    store = ExampleStore.open(tmp_path / "s")
    with pytest.raises(ValueError, match="16777217"):
        next(StreamedBatches(store, 1))
    exact = StreamedBatches(store, 2, dtype=torch.float64)
    assert next(exact).max() == 2**24 + 1
