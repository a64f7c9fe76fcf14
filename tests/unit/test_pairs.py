"""Temporal pairs: within a run, uniform in distance, the same wherever the examples lie."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from saebook.data.store import (
    Batch,
    BatchStream,
    ExampleStore,
    Pairs,
    StoredExamples,
    StoreWriter,
    StreamedBatches,
    bins_of_ms,
)
from saebook.errors import ConfigError, DataError

groups_of = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@settings(deadline=None, max_examples=100)
@given(groups=groups_of, window=st.integers(1, 9), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_a_positive_is_another_row_of_its_run_within_the_window(groups, window, seed, epoch):
    pairs = Pairs.of_groups(groups, window)
    numbers = np.arange(len(groups))
    offsets = pairs.offsets(numbers, seed=seed, epoch=epoch)
    assert (np.abs(offsets) <= window).all()
    for i, offset in enumerate(offsets.tolist()):
        between = groups[min(i, i + offset) : max(i, i + offset) + 1]
        assert i + offset >= 0 and len(set(between)) == 1
        if offset == 0:  # only what has no neighbour goes without
            assert groups[i - 1 : i] != [groups[i]] and groups[i + 1 : i + 2] != [groups[i]]
    assert pairs.n_alone == (offsets == 0).sum()
    assert pairs.sequence(numbers).tolist() == groups


@settings(deadline=None, max_examples=30)
@given(groups=groups_of, order=st.randoms(use_true_random=False))
def test_a_draw_depends_on_the_example_and_not_on_its_batch(groups, order):
    pairs = Pairs.of_groups(groups, 4)
    numbers = np.arange(len(groups))
    together = pairs.offsets(numbers, seed=1, epoch=2)
    order.shuffle(shuffled := numbers.tolist())
    one_by_one = [int(pairs.offsets(np.array([i]), seed=1, epoch=2)[0]) for i in shuffled]
    assert one_by_one == together[shuffled].tolist()


def test_distances_are_uniform_where_all_exist_and_among_those_that_do():
    pairs = Pairs([40_000], window=5)
    offsets = pairs.offsets(np.arange(5, 39_995), seed=3, epoch=0)
    counts = [(offsets == d).sum() for d in range(-5, 6) if d]
    assert chisquare(counts).pvalue > 0.01 and (offsets != 0).all()
    short = Pairs(np.full(20_000, 3), window=5)  # of three rows the first has 1 and 2 after it
    first = short.offsets(np.arange(0, 60_000, 3), seed=3, epoch=0)
    assert set(first.tolist()) == {1, 2} and chisquare(np.bincount(first)[1:]).pvalue > 0.01


def test_epochs_and_seeds_draw_anew():
    pairs = Pairs([1000], window=8)
    drawn = [pairs.offsets(np.arange(1000), seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.03 < (drawn[one] == drawn[other]).mean() < 0.1  # of 16, one in sixteen agrees


def test_a_group_that_comes_back_is_one_sequence_in_two_runs():
    pairs = Pairs.of_groups([7, 7, 2, 2, 7], 9)
    assert pairs.sequence(np.arange(5)).tolist() == [7, 7, 2, 2, 7]
    assert pairs.position(np.arange(5)).tolist() == [0, 1, 0, 1, 0]
    assert pairs.offsets(np.arange(5), seed=0, epoch=0).tolist() == [1, -1, 1, -1, 0]


def trials(path, lengths=(5, 9, 1, 7, 30, 2), splits=None) -> ExampleStore:
    """A store whose only column numbers its rows."""
    n = sum(lengths)
    trial = np.repeat(np.arange(len(lengths)), lengths)
    with StoreWriter(path, kind="counts", shard_rows=16) as writer:
        writer.add(
            np.arange(n)[:, None] + 1,
            session="a",
            trial=trial,
            split="train" if splits is None else np.array(splits)[trial],
        )
    return ExampleStore.open(path)


def taken(stream, n: int) -> list[Batch]:
    return [stream.next_batch() for _ in range(n)]


def columns_of(batches: list[Batch]) -> list[tuple]:
    """Rows of all batches in the order of their examples."""
    rows = zip(
        *(
            torch.cat([getattr(b, name).reshape(len(b), -1)[:, -1] for b in batches]).tolist()
            for name in ("x", "positive", "group", "position", "paired")
        ),
        strict=True,
    )
    return sorted(rows)


@pytest.mark.parametrize("seq_len", [1, 3])
def test_streamed_and_resident_examples_have_the_same_positives(tmp_path, seq_len):
    splits = ["train", "train", "train", "validation", "train", "train"]
    store = trials(tmp_path / "store", splits=splits)
    stored = StoredExamples(store, "train", seq_len, within_trials=True)
    pairs = Pairs.of_stored(stored, window=4)
    everything = stored.take(torch.arange(len(stored)))
    resident = BatchStream(everything, 6, seed=5, pairs=pairs)
    streamed = StreamedBatches(stored, 6, seed=5, pairs=pairs, buffer_examples=16, chunk_examples=3)
    try:
        n = len(stored) // 6
        # Which examples an epoch leaves out differs, so those of both are compared.
        ones, others = (dict.fromkeys(columns_of(taken(s, n))) for s in (resident, streamed))
        assert len(ones) == len(others) == n * 6
        known = {row[0]: row for row in ones}
        both = [row for row in others if row[0] in known]
        assert len(both) > 6 and all(row == known[row[0]] for row in both)
        trial = np.repeat(np.arange(6), (5, 9, 1, 7, 30, 2))
        for x, positive, _, _, paired in others:
            apart = int(positive) - int(x)
            assert (apart != 0) == paired and abs(apart) <= 4
            assert trial[int(x) - 1] == trial[int(positive) - 1]
    finally:
        streamed.close()


@pytest.mark.parametrize("streams", [False, True])
def test_a_resumed_stream_draws_the_same_pairs(tmp_path, streams):
    store = trials(tmp_path / "store")
    stored = StoredExamples(store, within_trials=True)
    pairs = Pairs.of_stored(stored, window=6)

    def make():
        if not streams:
            return BatchStream(store, 5, seed=2, pairs=pairs)
        return StreamedBatches(stored, 5, seed=2, pairs=pairs, buffer_examples=24)

    stream, resumed = make(), make()
    taken(stream, 7)
    resumed.load_state_dict(stream.state_dict())
    for _ in range(16):
        one, other = stream.next_batch(), resumed.next_batch()
        for name in ("x", "positive", "group", "position", "paired"):
            assert getattr(one, name).equal(getattr(other, name))
    stream.close(), resumed.close()


def test_pairs_change_no_example_and_no_order():
    x = torch.arange(40.0)[:, None]
    plain, paired = (BatchStream(x, 8, seed=1, pairs=p) for p in (None, Pairs([40], 2)))
    for _ in range(7):
        assert next(plain).equal(paired.next_batch().x)


def test_a_slice_of_a_batch_takes_all_that_belongs_to_it():
    x = torch.arange(4.0)[:, None]
    part = Batch(x, positive=-x, group=torch.arange(4))[1:3]
    assert part.positive is not None and part.group is not None and part.paired is None
    assert part.x.flatten().tolist() == [1, 2] and part.positive.flatten().tolist() == [-1, -2]
    assert part.group.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pairs([3], 0), "window=0: give a whole number"),
        (lambda: Pairs([3], cast("int", 1.5)), "window=1.5"),
        (lambda: Pairs([3, 0], 1), "each at least 1"),
        (lambda: Pairs([3, 2], 1, [1]), "give each run its sequence"),
        (lambda: Pairs.of_groups([0.5, 1.0], 1), "give a whole number for each row"),
        (lambda: BatchStream(torch.zeros(4, 2), 2, pairs=Pairs([3], 1)), "pairs of 3 examples"),
        (lambda: bins_of_ms(10, 0.05), "shorter than a bin of 50 ms"),
        (lambda: bins_of_ms(100, None), "needs the width of a bin"),
    ],
)
def test_what_makes_no_pairs_is_refused(make, says):
    with pytest.raises((ConfigError, DataError), match=says):
        make()


def test_windows_in_ms_become_bins():
    assert [bins_of_ms(ms, 0.05) for ms in (50, 400, 1600)] == [1, 8, 32]
