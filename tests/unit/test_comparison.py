"""Methods compared: fair data, one readout for all, and results that can be kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from saebook.baselines import PCA, GaussianSmoothing, Method, RawUnits, TrueRates
from saebook.data import UnitCriteria, prepare, read_recording
from saebook.data.simulate import simulate_reach
from saebook.data.spikes import Recording, Series
from saebook.errors import ConfigError, DataError, SelectionError
from saebook.evaluation import RandomDictionary, SAEMethod
from saebook.evaluation.comparison import (
    GROUPS,
    SCORES,
    ComparisonData,
    compare_methods,
    consistency_table,
    cut_stretches,
    fit_co_smoothing,
    groups,
    hold_out_units,
    kept_latents,
    paired_difference,
    recorded_comparison,
    score_method,
    simulated_comparison,
    summarise,
)
from saebook.plots.comparison import plot_comparison


@pytest.fixture(scope="module")
def reach():
    return simulated_comparison(simulate_reach(24, 60, 1, defects=False), name="reach", seed=1)


@pytest.fixture(scope="module")
def session():
    return simulate_reach(24, 60, 1, defects=False)


def toy(n_trials: int = 40, length: int = 10, n_units: int = 12, seed: int = 0) -> ComparisonData:
    """Two factors, each steady for a trial, drive all units additively; rates are known."""
    rng = np.random.default_rng(seed)
    trials = np.repeat(np.arange(n_trials), length)
    factors = rng.gamma(1.0, 2.0, (n_trials, 2))[trials]
    rates = factors @ rng.uniform(0.2, 1, (2, n_units)) + 0.1
    part = np.array(["train", "train", "validation", "test"])[np.arange(n_trials) % 4]
    return ComparisonData(
        "toy",
        rng.poisson(rates),
        trials,
        part[trials],
        hold_out_units(n_units, 0.25, seed=seed),
        0.05,
        behaviour=factors @ [[1.0, 0.0], [1.0, -1.0]],
        condition=trials % 2,
        rates=rates,
        features=factors,
    )


def test_aligned_counts_are_those_of_the_bins_around_the_event(session, reach):
    velocity = session.behavior["hand_velocity"]
    for number in np.unique(reach.trials)[:5]:
        rows = np.flatnonzero(reach.trials == number)
        assert len(rows) == 20 and (np.diff(rows) == 1).all()
        begins = session.trials["go_time"].iloc[number] - 0.3
        first = math.ceil((begins - 1e-9) / 0.05) * 0.05
        for unit in (0, 7):
            expected, _ = np.histogram(session.spike_times[unit], first + 0.05 * np.arange(21))
            assert reach.counts[rows, unit].tolist() == expected.tolist()
        # The velocity is that of 100 ms later.
        inside = (velocity.timestamps >= first + 0.1) & (velocity.timestamps < first + 0.15)
        np.testing.assert_allclose(reach.behaviour[rows[0]], velocity.data[inside].mean(axis=0))


def test_splits_are_by_trial_and_held_out_units_are_seen_by_nobody(reach):
    pairs = set(zip(reach.trials.tolist(), reach.split.tolist(), strict=True))
    assert len(pairs) == len(np.unique(reach.trials))
    assert set(reach.split) == {"train", "validation", "test"}
    assert reach.inputs.shape[1] + reach.targets.shape[1] == 24
    seen = []

    class Watching(RawUnits):
        def _fit(self, x, trials, y):
            seen.append((x.copy(), list(trials)))

    score_method(Watching(), reach)
    train = reach.rows("train")
    np.testing.assert_array_equal(seen[0][0], reach.inputs[train])
    assert set(seen[0][1]) == set(reach.trials[train].tolist())


def test_true_rates_are_the_ceiling_and_expected_counts(reach):
    assert reach.rates is not None
    assert reach.rates.sum() == pytest.approx(reach.counts.sum(), rel=0.05)
    inside = reach.rates[:, ~reach.held_out]
    truth = score_method(TrueRates(rates=inside, trials=reach.trials), reach).scores
    assert truth["rate_r2"] == pytest.approx(1) and truth["readout"] == "none"
    for method in (RawUnits(), PCA(n_components=6), GaussianSmoothing(sigma_s=0.1)):
        scores = score_method(method, reach).scores
        assert -0.1 < scores["co_bps"] < truth["co_bps"]
        assert scores["deviance_explained"] < truth["deviance_explained"]


def test_transductive_methods_are_fitted_on_all_rows(reach):
    rows = []

    class Transductive(RawUnits):
        transductive = True

        def _fit(self, x, trials, y):
            rows.append(len(x))

    score_method(Transductive(), reach)
    assert rows == [len(reach.counts)]


@pytest.mark.parametrize(
    "change,error,message",
    [
        ({"split": np.repeat("train", 400)}, SelectionError, "no validation rows"),
        ({"split": np.tile(["train", "test"], 200)}, SelectionError, "no validation"),
        ({"held_out": np.zeros(12, bool)}, DataError, "0 of 12 units"),
        ({"trials": np.tile(np.arange(40), 10)}, DataError, "not consecutive"),
        ({"rates": np.ones((399, 12))}, DataError, "rates has 399 rows"),
        ({"split": np.resize(["train", "validation", "test", "guard"], 400)}, DataError, "guard"),
    ],
)
def test_data_that_no_comparison_can_use_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        replace(toy(), **change)


def test_a_trial_in_two_splits_is_refused():
    data = toy()
    split = data.split.copy()
    split[5:10] = "test"
    with pytest.raises(DataError, match="two splits"):
        replace(data, split=split)


def test_stretches_stay_within_pieces():
    pieces = np.array([0] * 7 + [-1] * 2 + [2] * 3)
    assert cut_stretches(pieces, 3).tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, 2, 2, 2]


def test_log_linear_readout_finds_a_log_linear_world():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(6000, 3)) * [1, 10, 0.1] + 5
    weights = np.array([[0.5, -0.3], [0.05, 0.0], [0.0, 4.0]])
    rates = np.exp((latents - 5) @ weights - 0.5)
    counts = rng.poisson(rates)
    found = fit_co_smoothing((latents[:4000], counts[:4000]), (latents[4000:], counts[4000:]))
    assert found.readout == "log-linear"
    made = found.rates(latents[4000:])
    assert np.abs(made / rates[4000:] - 1).mean() < 0.05


def test_readout_is_the_benchmarks_poisson_regression():
    from sklearn.linear_model import PoissonRegressor

    rng = np.random.default_rng(1)
    latents = rng.normal(size=(800, 3))
    latents = (latents - latents.mean(axis=0)) / latents.std(axis=0)
    counts = rng.poisson(np.exp(0.3 * latents[:, :2]))
    found = fit_co_smoothing((latents, counts), (latents[:400], counts[:400]), alphas=(0.1,))
    for unit in range(2):
        model = PoissonRegressor(alpha=0.1, max_iter=500).fit(latents, counts[:, unit])
        np.testing.assert_allclose(found.rates(latents)[:, unit], model.predict(latents), rtol=2e-3)


def test_negative_latents_are_read_log_linearly_only():
    data = toy()
    train, validation = data.rows("train"), data.rows("validation")
    assert data.features is not None

    def tried(latents):
        return set(
            fit_co_smoothing(
                (latents[train], data.targets[train]),
                (latents[validation], data.targets[validation]),
            ).tried
        )

    assert tried(data.features) == {"log-linear", "log-linear, of logs", "additive"}
    assert tried(data.features - 5) == {"log-linear"}
    with pytest.raises(ConfigError, match="below 0"):
        fit_co_smoothing(
            (data.features - 5, data.targets), (data.features, data.targets), readouts=["additive"]
        )


def test_readout_does_not_depend_on_the_unit_of_the_latents():
    data = toy()
    assert data.features is not None
    train, validation = data.rows("train"), data.rows("validation")
    bits = []
    for scale in (1.0, 1e4):
        latents = data.features * scale
        found = fit_co_smoothing(
            (latents[train], data.targets[train]), (latents[validation], data.targets[validation])
        )
        bits += [found.tried[name] for name in sorted(found.tried)]
    np.testing.assert_allclose(bits[:3], bits[3:], atol=1e-3)


def test_silent_units_and_rows_far_outside_break_no_score():
    data = toy()
    counts = data.counts.copy()
    counts[np.ix_(data.rows("train"), np.flatnonzero(data.held_out)[:1])] = 0
    silent = replace(data, counts=counts)
    assert math.isfinite(score_method(PCA(n_components=2), silent).scores["co_bps"])
    wild = data.counts.copy()
    wild[data.rows("test")[0], np.flatnonzero(~data.held_out)] = 10_000
    scores = score_method(PCA(n_components=2), replace(data, counts=wild)).scores
    assert scores["co_bps"] > 0


def test_scores_by_hand_on_known_truth():
    data = toy()
    factors = score_method(TrueRates(rates=data.features, trials=data.trials), data).scores
    for name in ("decoding_r2", "mcc", "mcc_spearman"):
        assert factors[name] == pytest.approx(1), name
    for name in ("disentanglement", "completeness", "informativeness"):
        assert factors[name] > 0.9, name
    found = score_method(PCA(n_components=2), toy(n_trials=200)).scores
    assert found["n_components"] == 2 and found["decoding_r2"] > 0.6 and found["rate_r2"] > 0.5
    assert found["disentanglement"] < 0.5 < factors["disentanglement"]
    without = replace(toy(), behaviour=None, condition=None, rates=None, features=None)
    left = score_method(RawUnits(), without).scores
    known = {name for name in SCORES if math.isfinite(left[name])}
    assert known == {"co_bps", "deviance_explained"}


def test_behaviour_known_in_one_trial_only_is_not_decoded():
    data = toy()
    assert data.behaviour is not None
    behaviour = np.full_like(data.behaviour, np.nan)
    behaviour[data.trials == 0] = data.behaviour[data.trials == 0]
    scores = score_method(RawUnits(), replace(data, behaviour=behaviour)).scores
    assert math.isnan(scores["decoding_r2"]) and math.isfinite(scores["co_bps"])


def counting(fits: list[str], name: str = "raw"):
    class Counting(RawUnits):
        def _fit(self, x, trials, y):
            fits.append(name)

    return lambda data, seed: Counting()


def test_a_comparison_goes_on_where_it_stopped(tmp_path):
    fits: list[str] = []
    methods = {"one": counting(fits), "two": counting(fits)}
    first = compare_methods(toy_of, methods, seeds=(0, 1), out=tmp_path, progress=False)
    assert len(fits) == 4 and first["seed"].tolist() == [0, 0, 1, 1]
    again = compare_methods(toy_of, methods, seeds=(0, 1), out=tmp_path, progress=False)
    assert len(fits) == 4
    pd.testing.assert_frame_equal(first, again, check_dtype=False)
    # A result that was cut short, and one of other data, are made again.
    path = next(tmp_path.glob("one-*-seed0.json"))
    path.write_text(path.read_text()[:50])
    compare_methods(toy_of, methods, seeds=(0,), out=tmp_path, progress=False)
    assert len(fits) == 5
    compare_methods(lambda seed: toy(44), methods, seeds=(0,), out=tmp_path, progress=False)
    assert len(fits) == 7
    assert not list(tmp_path.glob(".*"))
    json.loads(path.read_text())


def toy_of(seed: int) -> ComparisonData:
    return toy(seed=seed)


def test_other_settings_are_other_results(tmp_path):
    def pca(n):
        return {"PCA": lambda data, seed: PCA(n_components=n, random_state=seed)}

    two = compare_methods(toy_of, pca(2), seeds=(0,), out=tmp_path, progress=False)
    three = compare_methods(toy_of, pca(3), seeds=(0,), out=tmp_path, progress=False)
    assert [two["n_components"][0], three["n_components"][0]] == [2, 3]
    latents = kept_latents(tmp_path, "PCA", 0)
    assert latents.shape == (int((toy().split != "train").sum()), 3)
    with pytest.raises(DataError, match="FA was not run"):
        kept_latents(tmp_path, "FA", 0)


def test_validation_rows_choose_among_settings():
    widths = [0.001, 0.2]
    makers = [lambda data, seed, s=s: GaussianSmoothing(sigma_s=s) for s in widths]
    table = compare_methods(toy_of, {"smoothing": makers}, seeds=(0,), progress=False)
    assert table["setting"].tolist() == [1]  # the truth is steady within a trial
    alone = compare_methods(toy_of, {"smoothing": makers[1]}, seeds=(0,), progress=False)
    assert table["co_bps"].tolist() == alone["co_bps"].tolist()


def test_a_method_that_refuses_the_data_is_named_and_does_not_stop_the_rest():
    methods = {
        "PCA": lambda data, seed: PCA(n_components=50),
        "raw units": lambda data, seed: RawUnits(),
    }
    table = compare_methods(toy_of, methods, seeds=(0,), progress=False).set_index("method")
    assert "n_components=50, but there are 9 units" in table.loc["PCA", "note"]
    assert math.isnan(table.loc["PCA", "co_bps"]) and table.loc["raw units", "note"] == ""

    class Broken(RawUnits):
        def _transform(self, x, trials):
            return x * np.nan

    with pytest.raises(ZeroDivisionError):
        compare_methods(toy_of, {"a": lambda d, s: 1 / 0}, seeds=(0,), progress=False)  # type: ignore[arg-type,return-value]
    broken = compare_methods(toy_of, {"b": lambda d, s: Broken()}, seeds=(0,), progress=False)
    assert "not finite: check the method" in broken["note"][0]
    with pytest.raises(ConfigError, match="0 methods"):
        compare_methods(toy_of, {}, seeds=(0,))


def test_a_comparison_in_a_few_numbers(tmp_path):
    def factors(data, seed):
        return TrueRates(rates=data.features, trials=data.trials)

    class Smooth(RawUnits):
        temporal = True

    class Sees(RawUnits):
        temporal = transductive = True

    methods = {
        "factors": factors,
        "raw units": lambda data, seed: RawUnits(),
        "smooth": lambda data, seed: Smooth(),
        "sees": lambda data, seed: Sees(),
        "too many": lambda data, seed: PCA(n_components=99),
    }
    seeds = (0, 1, 2)
    table = compare_methods(toy_of, methods, seeds=seeds, out=tmp_path, progress=False)
    by_method = dict(zip(table["method"], groups(table), strict=True))
    assert by_method["raw units"] == GROUPS[0] and by_method["smooth"] == GROUPS[1]
    assert by_method["sees"] == GROUPS[2]
    summary = summarise(table).set_index(["method", "score"])
    assert "too many" not in summary.index.get_level_values("method")
    row = summary.loc[("raw units", "co_bps")]
    assert row["n"] == 3 and row["low"] < row["mean"] < row["high"]
    same = paired_difference(table, "raw units", "smooth", "co_bps")
    assert same.mean == same.low == same.high == 0.0
    assert paired_difference(table, "factors", "raw units", "mcc").low > 0
    with pytest.raises(DataError, match="no seed in common"):
        paired_difference(table, "factors", "too many", "co_bps")


def test_consistency_is_high_where_sessions_share_a_course_and_at_chance_where_not(tmp_path):
    def sessions(seed):
        rng = np.random.default_rng(seed)
        course = np.random.default_rng(9).gamma(1.0, 1.0, (4, 10, 3))  # the same in all sessions
        trials, step = np.repeat(np.arange(80), 10), np.tile(np.arange(10), 80)
        condition = trials % 4
        rates = course[condition, step] @ rng.uniform(0, 1, (3, 12)) + 0.05
        part = np.array(["train", "validation", "test"])[(np.arange(80) // 4) % 3]
        return ComparisonData(
            "shared course",
            rng.poisson(5 * rates),
            trials,
            part[trials],
            hold_out_units(12, 0.25, seed=seed),
            0.05,
            condition=condition,
        )

    class Noise(RawUnits):
        def _transform(self, x, trials):
            return np.random.default_rng(int(x.sum())).normal(size=(len(x), 3))

    methods = {
        "PCA": lambda data, seed: PCA(n_components=3),
        "noise": lambda data, seed: Noise(),
    }
    compare_methods(sessions, methods, seeds=(0, 1), out=tmp_path, progress=False)
    table = consistency_table(tmp_path, sessions, ["PCA", "noise", "absent"], (0, 1))
    table = table.set_index("method")
    assert table.loc["PCA", "consistency"] > 0.8 > 0.3 > table.loc["PCA", "chance"]
    assert abs(table.loc["noise", "consistency"] - table.loc["noise", "chance"]) < 0.1
    assert "absent" not in table.index
    with pytest.raises(DataError, match="at least two"):
        consistency_table(tmp_path, sessions, ["PCA"], (0,))


def test_a_figure_has_a_row_per_method_and_none_for_the_ceiling():
    rows = []
    for method, temporal, value in (
        ("PCA", False, 0.1),
        ("SAE", False, -5.0),
        ("GPFA", True, 0.3),
        ("true rates", True, 0.5),
    ):
        rows += [
            {"method": method, "seed": s, "temporal": temporal, "transductive": False,
             "co_bps": value + 0.01 * s, "mcc": math.nan}
            for s in range(3)
        ]  # fmt: skip
    figure = plot_comparison(pd.DataFrame(rows), {"co_bps": "co-smoothing", "mcc": "MCC"})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 1
    assert [t.get_text() for t in shown[0].get_yticklabels()] == ["PCA", "SAE", "GPFA"]
    assert shown[0].get_xlim()[0] > -1  # one bad method does not squeeze the rest


def test_an_sae_is_a_method():
    data = toy()

    def train(x):
        assert x.dtype == torch.float32
        sae = RandomDictionary(x.shape[1], 8, k=2)
        sae.fit(x, x.mean(0))
        return sae

    method = SAEMethod(train, name="random dictionary").fit(data.inputs, data.trials)
    sae = method.sae
    x = torch.as_tensor(data.inputs, dtype=torch.float32)
    np.testing.assert_allclose(method.transform(data.inputs), sae.encode(x), rtol=1e-5)
    expected = sae.decode(sae.encode(x)).clamp_min(0)
    np.testing.assert_allclose(method.reconstruct(data.inputs), expected, rtol=1e-4, atol=1e-6)
    assert isinstance(method, Method) and method.name == "random dictionary"
    assert method.components is not None and method.components.shape == (8, 9)


def test_windows_of_an_sae_stay_within_trials():
    class Windows:
        config = None

        def encode(self, x):
            return x.flatten(1)

        def decode(self, latents):
            return latents.reshape(len(latents), 3, -1)

    method = SAEMethod(lambda x: Windows(), window=3)
    counts = np.arange(12.0).reshape(6, 2)
    trials = np.array([0, 0, 0, 1, 1, 1])
    latents = method.fit(counts, trials).transform(counts, trials)
    first = latents.reshape(6, 3, 2)[:, :, 0]
    assert first.tolist() == [
        [0, 0, 2], [0, 2, 4], [2, 4, 4], [6, 6, 8], [6, 8, 10], [8, 10, 10]
    ]  # fmt: skip
    np.testing.assert_array_equal(method.reconstruct(counts, trials), counts)
    assert method.temporal and not SAEMethod.temporal
    with pytest.raises(ConfigError, match="odd"):
        SAEMethod(lambda x: Windows(), window=4)


def test_a_window_whose_last_bin_alone_is_reconstructed_is_refused():
    from saebook.models import SAE, SAEConfig

    config = SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2, seq_len=3)
    method = SAEMethod(lambda x: SAE(config), window=3)
    with pytest.raises(ConfigError, match="target='all'"):
        method.fit(np.ones((10, 4)))


def recorded(recording, tmp_path, **settings):
    store = prepare(
        recording,
        tmp_path / "store",
        criteria=UnitCriteria(max_isi_violations=None, min_rate_hz=0.0),
        progress=False,
    )
    return store, recorded_comparison(recording, store, **settings)


def test_a_recording_with_trials_is_cut_around_its_go_cue(session, tmp_path):
    store, data = recorded(session.to_recording(), tmp_path)
    assert data.natural_trials and data.equal_trials and data.condition is not None
    assert "hand_velocity" in data.behaviour_name and "100 ms later" in data.behaviour_name
    assert len(np.unique(data.trials)) >= 20
    assert data.bin_size_s == store.bin_size_s


def test_a_recording_without_trials_is_cut_into_stretches_within_splits(tmp_path):
    rng, time = np.random.default_rng(0), np.arange(0, 600, 0.02)
    trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    position = Series("position", np.sin(time)[:, None], time, "cm", ("x",))
    recording = Recording.from_spike_times(
        trains, interval=(0, 600), behavior={"position": position}
    )
    store, data = recorded(recording, tmp_path)
    assert not data.natural_trials and data.condition is None and data.equal_trials
    assert any("no trials" in note for note in data.notes)
    assert data.behaviour_name == "position (cm)" and data.behaviour is not None
    lengths = np.unique(data.trials, return_counts=True)[1]
    assert set(lengths.tolist()) == {20}
    # Rows of a stretch are neighbours in the store, and of one split.
    assert len(data.counts) > 0.8 * len(store)


def test_of_a_long_recording_evenly_spaced_stretches_of_every_split_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    recording = Recording.from_spike_times(trains, interval=(0, 600))
    store, whole = recorded(recording, tmp_path)
    some = recorded_comparison(recording, store, max_bins=3000)
    assert 2500 < len(some.counts) <= 3000 < len(whole.counts)
    shares = [[np.mean(d.split == part) for part in ("train", "test")] for d in (whole, some)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.05)
    assert any("evenly spaced" in note for note in some.notes)
    kept = np.unique(some.trials)
    assert kept[0] < 20 and kept[-1] > whole.trials.max() - 20


def test_behaviour_that_tells_nothing_is_left_out_with_its_reason(tmp_path):
    rng, time = np.random.default_rng(0), np.arange(0, 600, 0.5)
    trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]

    def cut(behavior, name):
        recording = Recording.from_spike_times(trains, interval=(0, 600), behavior=behavior)
        return recorded(recording, tmp_path / name)[1]

    late = Series("position", np.sin(time)[:, None], time + 10_000, "cm", ("x",))
    still = Series("position", np.ones((len(time), 1)), time, "cm", ("x",))
    for name, behavior, reason in (
        ("none", {}, "no behaviour"),
        ("late", {"position": late}, "does not overlap"),
        ("still", {"position": still}, "never changes"),
    ):
        data = cut(behavior, name)
        assert data.behaviour is None and any(reason in note for note in data.notes)


def test_linear_track_has_stretches_and_a_position(shared_data, tmp_path):
    recording = read_recording(shared_data / "linear_track.nwb")
    store = prepare(
        recording, tmp_path / "store", criteria=UnitCriteria(min_rate_hz=0.05), progress=False
    )
    data = recorded_comparison(recording, store)
    assert not data.natural_trials and "led_position" in data.behaviour_name
    scores = score_method(RawUnits(), data).scores
    assert math.isfinite(scores["co_bps"]) and math.isfinite(scores["decoding_r2"])
