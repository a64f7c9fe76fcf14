"""Temporal pairs: for each example another one, a little earlier or later in its sequence."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from saebook.data.store.sending import send
from saebook.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from saebook.data.store.stored import StoredExamples

# Of splitmix64: consecutive numbers become independent bits.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
# Keeps these draws apart from those of the order of an epoch, which has the same seed.
_OFFSETS = 0x0FF5E7


class Pairs:
    """Which examples lie near which, and the draw of a positive for each.

    Examples are numbered from 0; those of one run follow one another in time. The positive of
    number i in an epoch is ``i + δ`` with δ uniform among the whole numbers of
    ``{-window, …, window}`` other than 0 for which ``i + δ`` is in the run of i. It depends on the
    seed, the epoch and i alone: not on the batch, nor on where the examples lie.

    Parameters
    ----------
    lengths : array_like [n_runs] of int
        Examples of each run, in order.
    window : int
        Largest distance of a pair, in examples: bins of a recording, tokens of a document.
    sequences : array_like [n_runs] of int, optional
        Sequence that each run belongs to; rows of one sequence are no negatives of each other.
        Each run is its own without it.

    Attributes
    ----------
    window : int
        As given.
    n_alone : int
        Examples that are the only one of their run, and so have no positive.

    Raises
    ------
    ConfigError
        If `window` is no whole number, at least 1.
    DataError
        If a run has no example, or not every run has its sequence.

    Examples
    --------
    >>> pairs = Pairs([3, 1], window=8)
    >>> pairs.offsets(np.arange(4), seed=0, epoch=0).tolist()  # the last one is alone
    [1, 1, -2, 0]
    >>> pairs.sequence(np.arange(4)).tolist(), pairs.position(np.arange(4)).tolist()
    ([0, 0, 0, 1], [0, 1, 2, 0])
    """

    def __init__(self, lengths: Any, window: int, sequences: Any = None) -> None:
        whole = isinstance(window, int | np.integer) and not isinstance(window, bool)
        if not whole or window < 1:
            raise ConfigError(
                f"window={window!r}: give a whole number of bins or tokens, at least 1"
            )
        lengths = np.asarray(lengths, np.int64)
        if lengths.ndim != 1 or (lengths < 1).any():
            raise DataError(
                f"lengths of runs have shape {lengths.shape} and least value "
                f"{lengths.min(initial=0)}; give one per run, each at least 1"
            )
        self.window = int(window)
        self._ends = np.cumsum(lengths)
        self._firsts = self._ends - lengths
        named = np.arange(len(lengths)) if sequences is None else np.asarray(sequences, np.int64)
        if named.shape != lengths.shape:
            raise DataError(
                f"{named.size} sequences of {lengths.size} runs; give each run its sequence"
            )
        self._sequences = named
        self.n_alone = int((lengths == 1).sum())

    @classmethod
    def of_groups(cls, groups: Any, window: int) -> Pairs:
        """Pairs of rows in order of time, from the sequence (trial, document) of each.

        Parameters
        ----------
        groups : array_like or torch.Tensor [n] of int
            Rows that follow one another with the same number are a run. A number that comes up
            again after others begins another run of the same sequence.
        window : int
            As for the class.

        Raises
        ------
        DataError
            If `groups` are no whole numbers, one per row.

        Examples
        --------
        >>> len(Pairs.of_groups([7, 7, 2, 2, 7], window=2)), Pairs.of_groups([7, 7, 2], 2).n_alone
        (5, 1)
        """
        if hasattr(groups, "detach"):
            groups = groups.detach().cpu().numpy()
        groups = np.asarray(groups)
        if groups.ndim != 1 or groups.dtype.kind not in "iu":
            raise DataError(
                f"groups have shape {groups.shape} and type {groups.dtype}; give a whole number "
                "for each row, such as the number of its trial or document"
            )
        begins = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: len(groups)])
        return cls(np.diff(np.append(begins, len(groups))), window, groups[begins])

    @classmethod
    def of_stored(cls, stored: StoredExamples, window: int) -> Pairs:
        """Pairs within the segments, trials and the split of stored examples.

        `stored` is to have been opened with ``within_trials=True`` (windows always are).
        """
        return cls(stored.run_lengths, window)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def n_sequences(self) -> int:
        """Number of different sequences."""
        return len(np.unique(self._sequences))

    @property
    def digest(self) -> str:
        """Sha256 over the window and what the runs are."""
        found = hashlib.sha256(str(self.window).encode())
        for numbers in (self._ends, self._sequences):
            found.update(numbers.astype("<i8").tobytes())
        return found.hexdigest()

    def offsets(self, numbers: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Draw δ for each of the examples [n]: int64 [n], 0 for one that is alone."""
        run = np.searchsorted(self._ends, numbers, side="right")
        before = np.minimum(numbers - self._firsts[run], self.window)
        after = np.minimum(self._ends[run] - 1 - numbers, self.window)
        drawn = (_uniform(numbers, seed, epoch) * (before + after)).astype(np.int64)
        # Those below 0 come first; 0 itself is left out.
        return np.where(before + after == 0, 0, drawn - before + (drawn >= before))

    def sequence(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sequence of each of the examples [n]."""
        return self._sequences[np.searchsorted(self._ends, numbers, side="right")]

    def position(self, numbers: np.ndarray) -> np.ndarray:
        """Return the place of each of the examples [n] in its run, from 0."""
        return numbers - self._firsts[np.searchsorted(self._ends, numbers, side="right")]

    def columns(
        self, numbers: np.ndarray, offsets: np.ndarray, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Return what a `Batch` of these examples [n] says beside its rows, on a device."""
        import torch

        found = {
            "group": self.sequence(numbers),
            "position": self.position(numbers),
            "paired": offsets != 0,
        }
        return {name: send(torch.from_numpy(values), device) for name, values in found.items()}


def bins_of_ms(window_ms: float, bin_size_s: float | None) -> int:
    """Return a window given in milliseconds as a whole number of bins, at least 1.

    Parameters
    ----------
    window_ms : float
        Largest distance of a pair (ms).
    bin_size_s : float or None
        Width of a bin (s), such as ``store.bin_size_s``; None where rows are no bins.

    Raises
    ------
    ConfigError
        If the rows are no bins, or the window is shorter than one.

    Examples
    --------
    >>> bins_of_ms(400, 0.05)
    8
    """
    if bin_size_s is None or not bin_size_s > 0:
        raise ConfigError(
            f"bin_size_s={bin_size_s!r}: a window in ms needs the width of a bin; give the window "
            "in rows instead"
        )
    n_bins = round(window_ms / 1000 / bin_size_s)
    if n_bins < 1:
        raise ConfigError(
            f"window_ms={window_ms!r} is shorter than a bin of {1000 * bin_size_s:g} ms; give a "
            "longer window, or prepare the store with shorter bins"
        )
    return n_bins


def _uniform(numbers: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Floats in [0, 1), one for each number, that look independent."""
    key = np.random.SeedSequence((seed, epoch, _OFFSETS)).generate_state(1, np.uint64)
    bits = numbers.astype(np.uint64) * _STEP + key
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
