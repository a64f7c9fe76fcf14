"""Batches: each epoch takes each example once, and a resumed stream is the same stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.data.store import Batch, BatchStream, ExampleStore, ResidentRows, StoreWriter
from saebook.errors import CheckpointError, ConfigError, DataError, SelectionError


def numbered(n: int) -> torch.Tensor:
    """Examples that carry their own row number."""
    return torch.arange(n)[:, None].repeat(1, 2)


def taken(stream: BatchStream, n_batches: int) -> list[list[int]]:
    return [[int(v) for v in batch[:, 0]] for batch in itertools.islice(stream, n_batches)]


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 15),
    drop_last=st.booleans(),
    seed=st.integers(0, 3),
)
def test_each_epoch_takes_each_example_once(n, batch_size, drop_last, seed):
    if drop_last and batch_size > n:
        return
    stream = BatchStream(numbered(n), batch_size, drop_last=drop_last, seed=seed)
    epochs = []
    for epoch in range(3):
        assert stream.epoch == epoch
        batches = taken(stream, stream.batches_per_epoch)
        assert all(len(batch) == batch_size for batch in batches[: None if drop_last else -1])
        rows = [row for batch in batches for row in batch]
        assert len(rows) == len(set(rows)) == (n - n % batch_size if drop_last else n)
        epochs.append(tuple(rows))
    if n >= 12:
        assert len(set(epochs)) == 3


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 30),
    batch_size=st.integers(1, 7),
    before=st.integers(0, 40),
    drop_last=st.booleans(),
)
def test_a_stream_resumed_anywhere_goes_on_exactly(n, batch_size, before, drop_last):
    batch_size = min(batch_size, n)
    stream = BatchStream(numbered(n), batch_size, drop_last=drop_last, seed=4)
    taken(stream, before)
    state = stream.state_dict()
    resumed = BatchStream(numbered(n), batch_size, drop_last=drop_last, seed=4)
    taken(resumed, 3)  # the state replaces whatever the stream did before
    resumed.load_state_dict(state)
    assert resumed.epoch == stream.epoch
    assert taken(resumed, 12) == taken(stream, 12)


def test_dropped_examples_change_from_epoch_to_epoch():
    stream = BatchStream(numbered(10), 9)
    seen = {row for batch in taken(stream, 20) for row in batch}
    assert seen == set(range(10))


def test_seeds_and_epochs_share_no_order():
    orders = set()
    for seed in range(3):
        stream = BatchStream(numbered(20), 20, seed=seed)
        orders |= {tuple(batch) for batch in taken(stream, 3)}
    assert len(orders) == 9


@pytest.mark.parametrize(
    "dtype",
    [np.uint8, np.uint16, np.uint32, np.uint64, np.int64, np.float16, np.float64, ">u2", bool],
)
def test_batches_are_float32_whatever_is_kept(dtype):
    data = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    stream = BatchStream(data, 3)
    batch = next(stream)
    assert batch.dtype == torch.float32
    assert sorted(batch.tolist()) == [[0, 1], [1, 0], [1, 1]]
    assert next(BatchStream(data, 3, dtype=torch.float64)).dtype == torch.float64


def test_wide_counts_survive_the_way_to_float():
    for dtype, value in [(np.uint16, 65535), (np.uint32, 2**24), (np.uint64, 2**24)]:
        assert next(BatchStream(np.array([[value]], dtype), 1)).item() == value
    with pytest.raises(DataError, match="16777217"):
        BatchStream(np.array([[2**24 + 1]], np.uint32), 1)
    exact = BatchStream(np.array([[2**24 + 1]], np.uint32), 1, dtype=torch.float64)
    assert next(exact).item() == 2**24 + 1


def test_counts_are_kept_as_they_are_stored():
    counts = torch.zeros(8, 4, dtype=torch.uint8)
    kept = ResidentRows(counts)
    counts[0] = 7
    assert kept.take(torch.tensor([0])).tolist() == [[7.0] * 4]  # the same memory, no copy


def test_windows_are_examples_like_any_other():
    data = torch.arange(24).reshape(4, 3, 2)
    batch = next(BatchStream(data, 4))
    assert batch.shape == (4, 3, 2)
    assert sorted(batch[:, 0, 0].tolist()) == [0, 6, 12, 18]


def test_a_store_gives_the_rows_of_its_split(tmp_path):
    with StoreWriter(tmp_path / "s", kind="counts", shard_rows=3) as writer:
        for session in ("a", "b"):
            writer.add(
                np.arange(4)[:, None] + (10 if session == "b" else 0),
                session=session,
                split=["train", "train", "test", "guard"],
            )
    store = ExampleStore.open(tmp_path / "s")
    assert sorted(next(BatchStream(store, 4)).flatten().tolist()) == [0, 1, 10, 11]
    assert sorted(next(BatchStream(store, 2, split="test")).flatten().tolist()) == [2, 12]
    assert BatchStream(store, 8, split=None).n_examples == 8
    with pytest.raises(SelectionError, match=r"no row in split 'validation' \(rows: 4 train, 2"):
        BatchStream(store, 1, split="validation")


def test_another_row_source_can_stand_in():
    class Squares:
        device = torch.device("cpu")

        def __len__(self) -> int:
            return 5

        def take(self, rows: torch.Tensor) -> torch.Tensor:
            return (rows**2)[:, None].float()

    stream = BatchStream(Squares(), 5)
    assert sorted(next(stream).flatten().tolist()) == [0, 1, 4, 9, 16]
    with pytest.raises(ConfigError, match="row source's own"):
        BatchStream(Squares(), 5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 3), r"shape \(0, 3\)"),
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.tensor([[0.0], [float("nan")], [float("inf")]]), r"2 of 3 examples .* row 1"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex"),
        (np.array([["a"]]), "give numbers"),
        ([[1.0, 2.0]], "is a list"),
    ],
)
def test_data_that_cannot_be_batched_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        BatchStream(data, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, r"batch_size=2\.0"),
        ({"batch_size": 11}, "at most 10"),
        ({"batch_size": 2, "seed": -1}, "seed=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        BatchStream(numbered(10), **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed=1, this one 0"),
        ({"n_examples": 11}, "n_examples=11, this one 10"),
        ({"batch_size": 3}, "batch_size=3"),
        ({"cursor": 99}, "nowhere"),
        ({"extra": 1}, "load what state_dict"),
    ],
)
def test_the_state_of_another_stream_is_refused(changes, message):
    stream = BatchStream(numbered(10), 2)
    with pytest.raises(CheckpointError, match=message):
        stream.load_state_dict({**stream.state_dict(), **changes})


def test_read_only_arrays_are_taken_without_a_warning():
    data = np.ones((4, 2), np.float32)
    data.flags.writeable = False
    assert next(BatchStream(data, 4)).shape == (4, 2)


def test_a_batch_counts_its_examples():
    batch = Batch(torch.zeros(4, 3), valid=torch.ones(4, dtype=torch.bool))
    assert len(batch) == 4
    assert batch.positive is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_the_order_is_the_same_on_every_device(dtype):
    data = np.arange(100).reshape(50, 2).astype(dtype)
    host = BatchStream(data, 7, seed=3)
    device = BatchStream(data, 7, seed=3, device="cuda")
    assert device.device.type == "cuda"
    for _ in range(10):
        assert torch.equal(next(host), next(device).cpu())
