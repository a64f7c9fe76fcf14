"""Where the pairs of a run come from: a store's own trials, or the groups of a tensor's rows."""

from __future__ import annotations

from typing import Any

from saebook.data.store import ExampleStore, Pairs, StoredExamples
from saebook.data.store.batches import check_pairs
from saebook.errors import DataError
from saebook.training.temporal.config import TemporalConfig
from saebook.training.temporal.registry import TEMPORAL


def pairs_of(data: Any, seq_len: int, temporal: TemporalConfig, groups: Any, n: int) -> Pairs:
    """Pairs of training examples, as a temporal term asks for them.

    Parameters
    ----------
    data
        An ``ExampleStore``, its ``StoredExamples``, or a tensor of rows in order of time.
    seq_len
        Rows per example.
    temporal
        Settings of the term.
    groups
        Integers [n], with a tensor alone: the sequence of each row.
    n
        Number of examples.

    Raises
    ------
    DataError
        Groups are missing, superfluous or of other rows, or there would be no pairs, or no
        negatives.
    """
    stored = isinstance(data, ExampleStore | StoredExamples)
    if stored != (groups is None):
        raise DataError(
            "groups were given beside a store, which knows its own trials and documents: leave "
            "them out"
            if stored
            else "a temporal term needs to know which rows follow one another: give groups, the "
            "number of each row's trial or document, with rows in order of time"
        )
    if isinstance(data, ExampleStore):
        data = StoredExamples(data, "train", seq_len, within_trials=True)
    make = Pairs.of_stored if stored else Pairs.of_groups
    pairs = make(data if stored else groups, temporal.window)
    check_pairs(pairs, n)
    if pairs.n_alone == n:
        raise DataError(
            f"none of {n} training examples has another of its trial or document beside it, so "
            "there are no pairs: give longer ones, or leave `temporal` out"
        )
    if TEMPORAL[temporal.kind].masks_sequences and pairs.n_sequences == 1:
        raise DataError(
            f"all {n} training examples are of one sequence, and rows of one sequence are no "
            "negatives of each other: cut it into trials or blocks (groups), or use kind='tsae'"
        )
    return pairs
