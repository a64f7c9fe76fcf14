"""Profiles of latents: each piece against numbers counted by hand, and broken input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from saebook.data import Recording, UnitCriteria, prepare
from saebook.errors import DataError, SelectionError
from saebook.evaluation import RandomDictionary, StoredLatents, decoder_directions, tuning_curves
from saebook.evaluation.profiles import (
    EventGrid,
    LatentColumns,
    LatentProfiles,
    Spiking,
    labelled_runs,
    permuted_band,
    profiles_of,
    shifted_band,
    shifted_curves,
)
from saebook.evaluation.variables import Variable
from saebook.metrics import coactivity
from saebook.models import SAE, SAEConfig

RNG = np.random.default_rng(0)
WIDTH = 0.1


def sparse_latents(n=600, d=6, share=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((n, d)) < share) * rng.gamma(2.0, 1.0, (n, d))


def event(n_trials=12, n_steps=10, n_pause=10, conditions=("a", "b")):
    """Trials of one second after each other, their conditions alternating."""
    n = n_trials * (n_steps + n_pause)
    at = np.arange(n) % (n_steps + n_pause)
    inside = at < n_steps
    label = np.arange(n) // (n_steps + n_pause) % max(1, len(conditions))
    since = np.where(inside, (at + 0.5) * WIDTH, np.nan)
    group = np.where(inside, label * n_steps + at, -1)
    centres = (np.arange(n_steps) + 0.5) * WIDTH
    name = "go_time, by side" if conditions else "go_time"
    return Variable(name, "event", since, group, centres, "s", tuple(conditions)), n


def profiles(latents, variables=(), **more) -> Any:
    time = np.arange(len(latents)) * WIDTH
    return LatentProfiles(LatentColumns.of_matrix(latents), time, WIDTH, variables, **more)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, sparse.csr_array, sparse.coo_array])
def test_columns_hold_what_they_were_given(kind):
    latents = sparse_latents()
    columns = LatentColumns.of_matrix(kind(latents))
    for latent in range(6):
        assert np.allclose(columns.dense(latent), latents[:, latent])
    assert columns.n_active.tolist() == (latents > 0).sum(0).tolist()
    assert np.allclose(columns.peak, latents.max(0))
    assert columns.nbytes < 20 * (latents != 0).sum() + 1000


def test_blocks_make_the_same_columns_as_the_whole():
    latents = sparse_latents()
    parts = LatentColumns([latents[:7], latents[7:500], latents[500:]])
    for latent in range(6):
        assert np.array_equal(parts.dense(latent), LatentColumns.of_matrix(latents).dense(latent))


def test_negative_values_are_kept_but_not_active():
    columns = LatentColumns.of_matrix(np.array([[-1.0, 1.0], [2.0, 1.0], [0.0, -3.0]]))
    assert columns.dense(0).tolist() == [-1.0, 2.0, 0.0]
    assert columns.n_active.tolist() == [1, 2]
    assert columns.active(1)[0].tolist() == [0, 1]
    assert columns.coactive(0)["n_both"].tolist() == [1]


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (np.array([[0.0], [np.nan]]), "row 1"),
        (np.zeros((0, 3)), "no row"),
        (np.zeros(3), "shape"),
        (np.array([["a"]]), "numbers"),
    ],
)
def test_latents_that_cannot_be_are_refused(latents, words):
    with pytest.raises(DataError, match=words):
        LatentColumns.of_matrix(latents)


def test_coactivity_is_that_of_counting():
    latents = sparse_latents(share=0.3)
    table: Any = LatentColumns.of_matrix(latents).coactive(2)
    active = latents > 0
    assert sorted(table.index) == [0, 1, 3, 4, 5]
    for other, row in table.iterrows():
        both, either = active[:, 2] & active[:, other], active[:, 2] | active[:, other]
        assert row["jaccard"] == pytest.approx(both.sum() / either.sum())
        assert row["given"] == pytest.approx(both.sum() / active[:, 2].sum())
        assert row["given_chance"] == pytest.approx(active[:, other].mean())
    assert table["jaccard"].is_monotonic_decreasing


def test_chance_of_both_is_the_mean_over_all_shifts():
    active = sparse_latents(n=120, d=2, share=0.3) > 0
    shifts = [(active[:, 0] & np.roll(active[:, 1], s)).sum() for s in range(120)]
    both = coactivity([0], active[:, 0].sum(), [active[:, 1].sum()], 120)
    expected = np.mean(shifts)
    n = active.sum(0)
    assert both.jaccard_chance[0] == pytest.approx(expected / (n.sum() - expected))


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="counts of rows"):
        coactivity([5], 3, [9], 20)


def test_shifted_curves_are_curves_of_rolled_activity():
    group = RNG.integers(-1, 4, 300)
    latent = sparse_latents(n=300, d=1)[:, 0]
    rows = np.flatnonzero(latent)
    found: Any = shifted_curves(rows, latent[rows], group, 4, [0, 1, 77, 299])
    for curve, by in zip(found, [0, 1, 77, 299]):
        assert np.allclose(curve, tuning_curves(np.roll(latent, by), group, 4))


def test_a_group_without_rows_has_no_mean():
    assert np.isnan(shifted_curves([0], [1.0], [0, 0], 2, [0])[0, 1])


def test_shifts_hold_their_level_and_are_exceeded_by_tuning():
    group = np.arange(4000) // 5 % 8
    tuned = (group == 3) * 1.0
    rows = np.flatnonzero(tuned)
    band: Any = shifted_band(rows, tuned[rows], group, 8, shortest=20)
    assert band is not None and band.high[3] <= 1.0
    outside = 0
    for seed in range(40):
        rows = np.flatnonzero(np.random.default_rng(seed).random(4000) < 0.1)
        band: Any = shifted_band(rows, np.ones(len(rows)), group, 8, shortest=20, seed=seed)
        curve = shifted_curves(rows, np.ones(len(rows)), group, 8, [0])[0]
        outside += ((curve > band.high) | (curve < band.low)).sum()
    assert 0.02 < outside / (40 * 8) < 0.09


def test_too_short_for_shifts():
    assert shifted_band([0], [1.0], np.zeros(50, int), 1, shortest=20) is None


def test_permuted_labels_hold_their_level_and_stay_among_neighbours():
    outside, label = 0, np.tile([0, 1], 60)
    for seed in range(40):
        sums = np.random.default_rng(seed).normal(size=(120, 3)) + 5.0
        band: Any = permuted_band(sums, np.ones_like(sums), label, 2, seed=seed)
        curves = np.stack([sums[label == kind].mean(0) for kind in (0, 1)])
        outside += ((curves > band.high) | (curves < band.low)).sum()
    assert outside / (40 * 6) < 0.09
    # A drift that labels of blocks share can't be told from them, and must stay in the band.
    drift = np.repeat(np.arange(8.0), 16)[:, None]
    blocks = np.repeat(np.arange(8) % 2, 16)
    band: Any = permuted_band(drift, np.ones_like(drift), blocks, 2)
    assert band.low[0] <= drift[blocks == 0].mean() and drift[blocks == 1].mean() <= band.high[0]


@pytest.mark.parametrize(("label", "n"), [([0] * 10, 1), ([0, 1, 0, 1], 2)])
def test_nothing_to_permute(label, n):
    assert (
        permuted_band(np.ones((len(label), 2)), np.ones((len(label), 2)), np.array(label), n)
        is None
    )


def test_trials_around_an_event():
    variable, n = event()
    latent = np.zeros(n)
    latent[3::20] = 2.0  # fourth bin of each trial
    grid = EventGrid.of(variable, np.arange(n) * WIDTH, WIDTH)
    assert len(grid) == 12 and grid.label.tolist() == [0, 1] * 6
    assert np.allclose(grid.lags_s, (np.arange(10) + 0.5) * WIDTH)
    rows = np.flatnonzero(latent)
    matrix = grid.matrix(rows, latent[rows])
    assert (matrix[:, 3] == 2.0).all() and matrix.sum() == 24.0


def test_trials_are_sorted_by_condition_and_unknown_bins_are_not_zero():
    variable, n = event()
    cut = np.r_[0:3, 5:n]  # two bins of the first trial are missing
    shorter = Variable(
        variable.name, "event", variable.values[cut], variable.group[cut], variable.centres, "s",
        variable.conditions,
    )  # fmt: skip
    time = np.arange(n)[cut] * WIDTH
    found: Any = LatentProfiles(
        LatentColumns.of_matrix(np.ones((len(cut), 1))), time, WIDTH, [shorter]
    )
    piece: Any = found.over_trials(0, None)
    assert piece.label.tolist() == [0] * 6 + [1] * 6
    assert np.isnan(piece.activity).sum() == 2 and np.isnan(piece.activity[0, 3:5]).all()
    assert "12 trials, by 2 conditions" in piece.words


def test_runs_end_at_unknown_bins_and_trials():
    group = np.array([1, 1, -1, 1, 0, 0, 0])
    assert labelled_runs(group, None).tolist() == [0, 0, -1, 1, 2, 2, 2]
    assert labelled_runs(group, np.array([0, 0, 0, 0, 0, 0, 1])).tolist() == [0, 0, -1, 1, 2, 2, 3]


def test_pixels_keep_every_peak():
    latents = np.zeros((10_000, 2))
    latents[1234, 0] = 9.0
    latents[:, 1] = 1.0
    found: Any = profiles(latents)
    piece: Any = found.over_time(0)
    assert np.nanmax(piece.high) == 9.0 and (np.nan_to_num(piece.high) > 0).sum() == 1
    pixel = int(np.nanargmax(piece.high))
    assert piece.edges[pixel] <= 123.4 < piece.edges[pixel + 1]
    always = found.over_time(1)
    assert (always.low == 1.0).all() and (always.high == 1.0).all()


def test_time_that_was_not_looked_at_is_blank():
    latents, time = np.ones((100, 1)), np.r_[np.arange(50), 500 + np.arange(50)] * WIDTH
    found: Any = LatentProfiles(LatentColumns.of_matrix(latents), time, WIDTH).over_time(0)
    assert np.isnan(found.high).sum() > 400 and np.nanmin(found.high) == 1.0


def test_moments_lie_apart():
    latents = np.zeros((100, 1))
    latents[[10, 12, 40, 90], 0] = [5.0, 4.0, 3.0, 6.0]
    assert profiles(latents).moments(0).tolist() == [90, 10, 40]


def test_conditions_that_matter_leave_the_band_of_permuted_labels():
    variable, n = event(n_trials=40)
    side = variable.group // 10 == 1
    latent = np.where(side, 1.0, 0.0) * (RNG.random(n) < 0.8)
    found: Any = profiles(np.stack([latent, 1.0 * (RNG.random(n) < 0.5)], 1), [variable])
    piece: Any = found.tuning(0, variable.name)
    assert piece.band.made_by == "permuted labels"
    assert (piece.curves[1] > piece.band.high).all() and (piece.curves[0] < piece.band.low).all()
    other = found.tuning(1, variable.name)
    assert ((other.curves > other.band.high) | (other.curves < other.band.low)).mean() < 0.35


def test_an_event_without_conditions_is_shifted():
    variable, _ = event(n_trials=60, conditions=())
    latent = np.where(variable.group == 4, 1.0, 0.0)
    piece: Any = profiles(latent[:, None], [variable]).tuning(0, variable.name)
    assert piece.band.made_by == "circular shifts" and piece.curves[0, 4] == 1.0


def test_categories_are_permuted_by_their_stretches():
    group = np.repeat(RNG.integers(0, 3, 60), 10)
    kinds = Variable("kind", "categorical", group * 1.0, group, np.arange(3.0), "", ("x", "y", "z"))
    latent = (group == 1) * 2.0
    piece: Any = profiles(latent[:, None], [kinds]).tuning(0, "kind")
    assert piece.curves.ravel().tolist() == [0.0, 2.0, 0.0]
    assert piece.band.low.shape == (3,) and piece.curves.ravel()[1] > piece.band.high[1]
    assert "highest at y" in piece.words


def test_gaps_in_behaviour_are_masked():
    values = np.sin(np.arange(2000) / 20.0)
    values[300:600] = np.nan
    group = np.where(np.isnan(values), -1, (values > 0).astype(int))
    variable = Variable("pupil", "continuous", values, group, np.array([-0.5, 0.5]), "mm")
    latent = np.where(np.isnan(values), 50.0, np.where(values > 0, 1.0, 0.0))
    piece: Any = profiles(latent[:, None], [variable]).tuning(0, "pupil")
    assert piece.curves.ravel().tolist() == [0.0, 1.0]
    assert piece.band.high.max() <= 1.0


def test_one_trial_and_dead_latents_say_so():
    variable, n = event(n_trials=1)
    found: Any = profiles(np.stack([np.ones(n), np.zeros(n)], 1), [variable])
    piece: Any = found.tuning(0, variable.name)
    assert piece.band is None and "too few trials" in piece.words
    assert "in 1 trial," in found.over_trials(0, None).words
    assert "never active" in found.over_time(1).words
    assert "none" in found.tuning(1, variable.name).words
    assert found.closeup(1) is None and not len(found.coactive(1))
    assert "never active" in found.around_moments(1).words


def test_without_events_or_decoder_there_is_nothing_to_draw():
    found: Any = profiles(sparse_latents())
    assert found.over_trials(0, None) is None and found.weights(0) is None
    assert found.around_moments(0).units == [] and found.closeup(0).spikes is None


def test_unknown_spikes_are_not_shown_as_none():
    found: Any = profiles_of(sparse_latents(), decoder=np.ones((6, 4)))
    assert found.around_moments(0).units == [] and found.closeup(0).counts is None
    assert "spikes" not in found.closeup(0).words


def test_weights_come_by_region_then_by_size():
    decoder = np.array([[0.1, -0.5, 0.9, 0.3]], np.float32)
    spiking = Spiking(["a", "b", "c", "d"], ["CA3", "CA1", "CA3", "CA1"])
    piece: Any = profiles(np.ones((50, 1)), spiking=spiking, decoder=decoder).weights(0)
    assert piece.units == ["d", "b", "c", "a"] and piece.regions == ["CA1", "CA1", "CA3", "CA3"]
    assert "c (+0.9), b (-0.5)" in piece.words


def test_spikes_and_counts_agree():
    trains = [np.sort(RNG.uniform(0, 20, 200)) for _ in range(3)]
    edges = np.arange(0, 20.01, WIDTH)
    counts = np.stack([np.histogram(t, edges)[0] for t in trains], axis=1)
    time = np.arange(len(counts)) * WIDTH
    by_time = Spiking("abc", spike_times=trains)
    by_count = Spiking("abc", counts=counts, time=time, bin_size_s=WIDTH)
    window = time[50] + np.arange(12) * WIDTH
    assert np.array_equal(
        by_time.counts_between([2, 0], window), by_count.counts_between([2, 0], window)
    )
    decoder = np.array([[1.0, 2.0, 3.0]], np.float32)
    latents = np.zeros((200, 1))
    latents[[55, 120], 0] = [2.0, 1.0]
    for spiking in (by_time, by_count):
        found: Any = profiles(latents, spiking=spiking, decoder=decoder)
        piece: Any = found.around_moments(0)
        assert piece.units == ["c", "b", "a"]
        assert piece.counts[0, 0].tolist() == counts[53:58, 2].tolist()
        close = found.closeup(0, 1)
        n = sum(map(len, close.spikes)) if close.spikes else close.counts.sum()
        assert n == counts[110:131].sum() and close.time_s == pytest.approx(12.0)
        assert close.activity[10] == 1.0


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    trains = [np.sort(RNG.uniform(0, 200, 600)) for _ in range(24)]
    recording = Recording.from_spike_times(trains, interval=(0, 200))
    path = tmp_path_factory.mktemp("profiles") / "store"
    rules = UnitCriteria(max_isi_violations=None)
    return recording, prepare(recording, path, criteria=rules, progress=False)


def test_a_model_is_encoded_on_the_rows_of_the_split(store):
    recording, store = store
    sae = RandomDictionary(24, 6, k=2)
    found: Any = profiles_of(sae, store, recording=recording)
    expected = sae.encode(store.tensor("test").float()).numpy()
    assert found.shown == "test bins"
    assert np.allclose(found.columns.dense(4), expected[:, 4])
    assert np.array_equal(found.time, store.index["time"].to_numpy()[store.rows("test")])
    assert np.allclose(found.decoder, decoder_directions(sae))
    assert found.spiking.spike_times is not None
    assert profiles_of(sae, store, split=None).columns.n_rows == len(store)


@pytest.mark.parametrize("target", ["all", "last"])
def test_windows_show_every_unit_at_every_lag(store, target):
    _, store = store
    config = SAEConfig(d_in=24, d_sae=8, architecture="topk", k=2, seq_len=3, target=target)
    sae = SAE(config, seed=0)
    sae.fit_inputs(store.tensor("train").float()[:99].reshape(-1, 3, 24))
    found: Any = profiles_of(sae, store)
    piece: Any = found.weights(5)
    assert piece.per_lag.shape == (3, 24)
    assert piece.per_lag_of == ("decoder" if target == "all" else "encoder")
    if target == "last":
        unit = store.features["unit"].tolist().index(piece.units[0])
        own = sae.W_enc.detach().reshape(3, 24, 8)[:, unit, 5].numpy()
        assert np.allclose(piece.per_lag[:, 0], own)


def test_stored_latents_are_aligned_with_the_store(store):
    _, store = store
    sae, rows = RandomDictionary(24, 6, k=2), np.arange(100, len(store))
    latents = sae.encode(store.tensor(rows=rows).float()).numpy()
    time = store.index["time"].to_numpy()[rows]
    width = float(store.bin_size_s)
    stored = StoredLatents(latents, time, width)
    whole, part = profiles_of(sae, store), profiles_of(stored, store)
    kept = np.isin(whole.time, time)
    assert np.array_equal(part.time, whole.time[kept])
    assert np.allclose(part.columns.dense(3), whole.columns.dense(3)[kept])
    late = StoredLatents(latents, time + 0.01, width)
    with pytest.raises(DataError, match="same bins"):
        profiles_of(late, store)


def test_parts_that_do_not_fit_are_refused(store):
    _, store = store
    sae = RandomDictionary(24, 6, k=2)
    variable = Variable("v", "continuous", np.zeros(3), np.zeros(3, int), np.arange(2.0))
    with pytest.raises(DataError, match="needs a store"):
        profiles_of(sae)
    with pytest.raises(DataError, match="d_in = 5"):
        profiles_of(SAE(SAEConfig(d_in=5, d_sae=8, architecture="topk", k=2)), store)
    with pytest.raises(DataError, match="3 rows of latents"):
        profiles_of(np.eye(3), store)
    with pytest.raises(DataError, match="known on 3 bins"):
        profiles_of(np.eye(4), variables=[variable])
    with pytest.raises(DataError, match="decoder has shape"):
        profiles_of(np.eye(4), decoder=np.ones((3, 5)))
    with pytest.raises(DataError, match="0 to 3"):
        profiles_of(np.eye(4), table=pd.DataFrame({"q": [0.1]}, index=[9]))
    with pytest.raises(DataError, match="rising"):
        profiles_of(np.eye(4), time=[0.0, 2.0, 1.0, 3.0])
    with pytest.raises(SelectionError, match="another split"):
        profiles_of(sae, store, split="unassigned")


def test_a_table_of_findings_gives_each_latent_its_first():
    table = pd.DataFrame({"latent": [2, 0, 2], "variable": ["a", "b", "c"]})
    found: Any = profiles_of(np.eye(4), table=table).table
    assert found["variable"].fillna("").tolist() == ["b", "", "a", ""]
