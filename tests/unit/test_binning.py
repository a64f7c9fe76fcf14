"""Spike counts: exact at every edge, conserved, and never wrapped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saebook.data.spikes import binning
from saebook.data.spikes.binning import bin_spikes, n_complete_bins
from saebook.errors import DataError, SelectionError

# The fixture only chooses the path, once for all examples of a test.
FIXTURE_PER_TEST = [HealthCheck.function_scoped_fixture]
WIDTHS = (0.05, 0.1, 0.02, 1 / 3, 0.001, 0.3)
STARTS = (0.0, 4397.0, 4397.0023, -3.0, 0.1, 1e6 / 3)


def by_definition(trains: list, width: float, start: float, n_bins: int) -> np.ndarray:
    edges = start + np.arange(n_bins + 1) * width
    return np.stack([np.diff(np.searchsorted(np.sort(t), edges)) for t in trains], axis=1)


@st.composite
def trains_at_edges(draw):
    """Trains made of times within a few units of rounding of an edge, and of times anywhere."""
    width, start = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(STARTS))
    n_bins = draw(st.integers(1, 400))
    stop = start + n_bins * width
    trains = []
    for _ in range(draw(st.integers(1, 11))):
        i = np.array(draw(st.lists(st.integers(-2, n_bins + 2), max_size=30)), float)
        times = np.concatenate([start + i * width, (start / width + i) * width, i / (1 / width)])
        steps = draw(st.integers(0, 3))
        for _ in range(steps):
            times = np.concatenate(
                [times, np.nextafter(times, np.inf), np.nextafter(times, -np.inf)]
            )
        anywhere = draw(st.lists(st.floats(start - width, stop + width), max_size=20))
        trains.append(np.concatenate([times, anywhere]))
    return trains, width, start, stop, draw(st.booleans())


@pytest.fixture(params=["edges", "compiled"])
def path(request, monkeypatch) -> str:
    """Both ways of counting, whatever the size of the matrix."""
    monkeypatch.setattr(binning, "COMPILED_CELLS", 0 if request.param == "compiled" else np.inf)
    return request.param


@settings(max_examples=150, deadline=None, suppress_health_check=FIXTURE_PER_TEST)
@given(trains_at_edges())
def test_equals_the_definition_at_adversarial_edges(path, case) -> None:
    trains, width, start, stop, ordered = case
    if ordered:
        trains = [np.sort(times) for times in trains]
    n_bins = n_complete_bins(width, start, stop)
    counts = bin_spikes(trains, width, start, stop)
    np.testing.assert_array_equal(counts, by_definition(trains, width, start, n_bins))
    last = start + n_bins * width
    inside = sum(int(((t >= start) & (t < last)).sum()) for t in trains)
    assert counts.sum() == inside


@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURE_PER_TEST)
@given(trains_at_edges(), st.randoms(use_true_random=False))
def test_units_and_spikes_in_any_order(path, case, random) -> None:
    trains, width, start, stop, _ = case
    counts = bin_spikes(trains, width, start, stop)
    order = list(range(len(trains)))
    random.shuffle(order)
    shuffled = [np.array(random.sample(list(trains[i]), len(trains[i]))) for i in order]
    np.testing.assert_array_equal(bin_spikes(shuffled, width, start, stop), counts[:, order])


def test_spike_on_an_edge_that_division_misplaces(path) -> None:
    # 1.7 / 0.1 is 17, but bin 17 begins at 17 * 0.1 = 1.7000000000000002.
    counts = bin_spikes([[1.7]], 0.1, 0.0, 3.0)
    assert np.flatnonzero(counts).tolist() == [16]


@pytest.mark.parametrize("n_units", [1, 3, 7, 8, 9, 17])
@pytest.mark.parametrize("most", [1, 255, 256, 65_535, 65_536])
def test_counts_widen_and_never_wrap(path, most: int, n_units: int) -> None:
    trains = [np.array([0.5, 2.5])] * (n_units - 1) + [np.full(most, 1.5)]
    counts = bin_spikes(trains, 1.0, 0.0, 4.0)
    smallest = np.uint8 if most <= 255 else np.uint16 if most <= 65_535 else np.uint32
    assert counts.dtype == smallest
    assert counts.flags["C_CONTIGUOUS"]
    assert counts[1, -1] == most
    assert counts.sum() == most + 2 * (n_units - 1)


@pytest.mark.parametrize("n_units", [1, 8, 10])
def test_long_trains_cross_chunks(path, n_units) -> None:
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(-1, 101, 5_000)) for _ in range(n_units)]
    trains[0] = rng.permutation(trains[0])
    np.testing.assert_array_equal(
        bin_spikes(trains, 0.05, 0.0, 100.0), by_definition(trains, 0.05, 0.0, 2000)
    )


def test_a_far_time_before_disorder_touches_no_other_memory(path) -> None:
    # Ascending pieces that end far beyond the last bin: found out before they are counted.
    times = np.concatenate([np.linspace(0, 1e300, 3000), np.linspace(0.05, 0.95, 3000)])
    counts = bin_spikes([times, [0.5]], 0.1, 0.0, 1.0)
    np.testing.assert_array_equal(counts, by_definition([times, [0.5]], 0.1, 0.0, 10))


def test_large_matrices_take_the_compiled_path(monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("counted at edges")

    monkeypatch.setattr(binning, "_count_at_edges", refuse)
    counts = bin_spikes([[0.5, 1999.5]] * 1000, 1.0, 0.0, 2000.0)
    assert counts.sum(axis=0).tolist() == [2] * 1000


@pytest.mark.parametrize(
    ("start", "stop", "width", "n_bins"),
    [
        (0.0, 1.0, 0.1, 10),
        (0.0, 0.3, 0.1, 3),
        (4397.0, 4398.0, 0.1, 10),
        (0.0, 0.999999, 0.1, 9),
        (0.0, 3600.0, 0.05, 72_000),
        (-1.0, 1.0, 0.5, 4),
    ],
)
def test_number_of_bins_survives_rounding(start, stop, width, n_bins) -> None:
    assert n_complete_bins(width, start, stop) == n_bins


def test_partial_last_bin_is_dropped(path) -> None:
    counts = bin_spikes([[0.1, 0.95, 1.04]], 0.1, 0.0, 1.05)
    assert counts.shape == (10, 1)
    assert counts.sum() == 2


def test_empty_train_is_a_column_of_zeros(path) -> None:
    counts = bin_spikes([[], [0.1]], 0.5, 0.0, 1.0)
    assert counts.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([[0.1]], 0.0, 0.0, 1.0), DataError, "bin_size_s=0.0"),
        (([[0.1]], -0.1, 0.0, 1.0), DataError, "positive"),
        (([[0.1]], float("nan"), 0.0, 1.0), DataError, "bin_size_s=nan"),
        (([[0.1]], 0.1, 1.0, 1.0), DataError, "start < stop"),
        (([[0.1]], 0.1, 0.0, float("inf")), DataError, "finite"),
        (([[0.1]], 2.0, 0.0, 1.0), SelectionError, "at most 1 s"),
        (([], 0.1, 0.0, 1.0), SelectionError, "no units"),
        (([[0.1, np.nan, 0.3]], 0.1, 0.0, 1.0), DataError, "1 of the 3 spike times"),
        (([[np.nan, 0.1]], 0.1, 0.0, 1.0), DataError, "not finite"),
        (([[0.01, np.nan, 0.02]], 0.1, 0.0, 1.0), DataError, "not finite"),
        (([[0.1, np.inf]], 0.1, 0.0, 1.0), DataError, "not finite"),
        (([[[0.1]]], 0.1, 0.0, 1.0), DataError, "unit 0"),
        (([["soon"]], 0.1, 0.0, 1.0), DataError, "not numbers"),
        (([[0.1]], 1e-9, 1e9, 1e9 + 1), DataError, "rounding"),
        (([[0.1]], 1e-9, 0.0, 1.0), DataError, "wider bins"),
    ],
)
def test_refuses(path, arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        bin_spikes(*arguments)
