"""Discovery: what it finds, what it must not find, and what it says of data that can't be used."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from saebook.data import UnitCriteria, prepare
from saebook.data.spikes import Recording, Series
from saebook.errors import DataError
from saebook.evaluation import (
    ablation_effects,
    attribute_latent,
    compare_codes,
    decode_variables,
    describe_latents,
    discover,
    discovery_variables,
    peri_event,
)
from saebook.evaluation.discovery import (
    best_of_fewer,
    label_scores,
    score_latents,
    shifted_scores,
    tail_p,
)
from saebook.evaluation.variables import Variable, stepped
from saebook.metrics import auroc, benjamini_hochberg, hits_needed, mutual_information
from saebook.models import SAE, SAEConfig

N = 4000
TRAIN, TEST = np.arange(2600), np.arange(2700, N)


def slow(rng, n, tau=20.0, m=1):
    """AR(1) signals [n, m]."""
    from scipy.signal import lfilter

    keep = math.exp(-1 / tau)
    return np.asarray(lfilter([1.0], [1.0, -keep], rng.normal(size=(n + 400, m)), axis=0))[400:]


def place(values, kind="continuous", n_steps=8):
    train = np.zeros(len(values), dtype=bool)
    train[TRAIN] = True
    return stepped("place", kind, values, "m", train, n_steps)


def trial_labels(rng, n_trials=100, length=40, n_kinds=2):
    kind = rng.integers(0, n_kinds, n_trials)
    trial = np.repeat(np.arange(n_trials), length)
    names = tuple("abcdefgh"[:n_kinds])
    return Variable(
        "side", "categorical", kind[trial] * 1.0, kind[trial], np.arange(n_kinds) * 1.0, "", names,
        trial,
    )  # fmt: skip


def test_every_offset_agrees_with_rolling_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(97, 3)), rng.normal(size=(97, 3))
    scores = shifted_scores(a, b)
    for offset in (0, 1, 40, 96):
        for column in range(3):
            moved = np.roll(b[:, column], offset)
            expected = np.corrcoef(a[:, column], moved)[0, 1]
            assert scores.r[offset, column] == pytest.approx(expected, abs=1e-5)


def test_the_guard_leaves_out_both_sides():
    rng = np.random.default_rng(0)
    wave = slow(rng, 2000)
    scores = shifted_scores(wave, wave, least_guard=100)
    guard = int(scores.guard[0])
    assert guard >= 100
    assert len(scores.null(0)) == 2000 - 2 * guard + 1
    assert scores.null(0).max() < 0.6 < scores.r[1, 0] and scores.r[-1, 0] > 0.6


def test_p_of_slow_unrelated_signals_is_uniform_where_it_matters():
    rng = np.random.default_rng(1)
    p = []
    for _ in range(12):
        a, b = np.maximum(slow(rng, 3000, 15, 50), 0), slow(rng, 3000, 15, 50)
        scores = shifted_scores(a, b)
        for column, guard in enumerate(scores.guard):
            null = scores.null(column)
            p.append(tail_p(float(scores.r[0, column]), null, run=guard, held_out=2 * guard - 1).p)
    p = np.array(p)
    assert (p <= 0.05).mean() < 0.08 and (p <= 0.01).mean() < 0.025 and (p <= 0.001).mean() < 0.005


def test_a_tail_reaches_below_the_count_but_not_on_little_evidence():
    rng = np.random.default_rng(0)
    null = rng.exponential(size=20_000)
    much = tail_p(15.0, null, best=100.0)
    little = tail_p(15.0, null, run=400, best=100.0)
    assert much.method == little.method == "tail"
    assert 0.2 < math.log(much.p) / -15.0 < 1.4
    assert little.p > 100 * much.p
    none = tail_p(15.0, null, run=4000, held_out=8000)
    assert none.method == "counted" and none.p == pytest.approx(8000 / 28_000)


def test_a_null_of_ties_is_counted():
    found = tail_p(1.0, np.zeros(999))
    assert (found.method, found.p) == ("counted", 0.001)
    assert tail_p(0.0, np.zeros(999)).p == 1.0
    with pytest.raises(DataError, match="finite"):
        tail_p(float("nan"), np.zeros(9))


def test_two_drifts_are_not_related():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, N)
    drifting = place(ramp + 0.1 * rng.normal(size=N))
    latents = (ramp + 0.3 * rng.normal(size=N))[:, None]
    fold = np.arange(N) // 200 % 3 == 2
    train, test = np.flatnonzero(~fold), np.flatnonzero(fold)
    plain, without = (
        score_latents(
            latents[train], latents[test], drifting, train, test, bin_size_s=0.05, drift_degree=d
        )[0]
        for d in (-1, 3)
    )
    assert plain.r > 0.5
    assert without.p > 0.05 and abs(without.r) < 0.15


def test_what_follows_is_found_and_what_does_not_is_not():
    rng = np.random.default_rng(3)
    where = slow(rng, N)[:, 0]
    latents = np.maximum(slow(rng, N, m=12), 0)
    latents[:, 4] = np.maximum(where, 0) + 0.5 * rng.random(N)
    latents[:, 7] = 0
    other = replace(place(slow(rng, N)[:, 0]), name="other")
    found = discover(latents, [other, place(where)], TRAIN, TEST, bin_size_s=0.05, progress=False)
    assert sorted(found.found.index) == [4]
    row = found.table.loc[4]
    assert row["variable"] == "place" and row["score_test"] > 0.4 and row["p"] < 1e-3
    assert found.table.loc[7, "variable"] == "" and np.isnan(found.table.loc[7, "p"])
    assert found.n_tested == 11
    assert found.score(4).p == pytest.approx(row["p"], rel=1e-3)
    for part in ("11 tested", "1 constant", "1 discovered", "place 1", "smallest attainable p"):
        assert part in found.report()


@pytest.mark.parametrize("form", ["tensor", "sparse"])
def test_latents_may_be_a_tensor_or_sparse(form):
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    latents = np.maximum(slow(rng, N, m=3), 1).astype(np.float32) - 1
    given = torch.as_tensor(latents) if form == "tensor" else csr_array(latents)
    variables = [place(slow(rng, N)[:, 0])]
    one, other = (
        discover(x, variables, TRAIN, TEST, bin_size_s=0.05, progress=False).table
        for x in (latents, given)
    )
    pd.testing.assert_frame_equal(one, other)


def test_labels_are_permuted_by_trial_and_never_by_row():
    rng = np.random.default_rng(0)
    side = trial_labels(rng)
    # The same value all through a trial, drawn without regard to the label: rows would lie.
    unrelated = rng.normal(size=(100, 200))[side.trial]
    follows = (side.group + rng.normal(size=N))[:, None]
    latents = np.concatenate([follows, unrelated], axis=1)
    scores = score_latents(latents[TRAIN], latents[TEST], side, TRAIN, TEST, bin_size_s=0.05)
    p = np.array([score.p for score in scores])
    assert scores[0].null_kind == "labels" and p[0] < 1e-4
    assert (p[1:] < 0.05).mean() < 0.1


def test_drift_over_blocks_of_trials_is_no_label():
    rng = np.random.default_rng(0)
    label = (np.arange(100) >= 85).astype(int)
    trial = np.repeat(np.arange(100), 40)
    late = Variable(
        "late", "categorical", label[trial] * 1.0, label[trial], np.arange(2.0), "", ("no", "yes"),
        trial,
    )  # fmt: skip
    drift = np.linspace(0, 1, N)[:, None] + 0.1 * rng.normal(size=(N, 1))
    curves = np.array([[0.0], [1.0]])
    within = label_scores(drift, curves, late, np.arange(N), block_trials=16)
    across = label_scores(drift, curves, late, np.arange(N), block_trials=100)
    share = [(s.null[:, 0] >= s.observed[0]).mean() for s in (within, across)]
    assert share[1] < 0.002 and within.null.std() < across.null.std()
    assert within.null.mean() > 0.5 > across.null.mean()


def test_a_latent_locked_to_an_event_is_not_named_after_a_condition():
    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 50, 110)
    start = np.cumsum(lengths)[:100]
    n = int(start[-1]) + 60
    lag, trial = np.full(n, -1), np.full(n, -1)
    for k, at in enumerate(start):
        lag[at : at + 20], trial[at : at + 20] = np.arange(20) // 2, k
    side = rng.integers(0, 2, 100)
    known = lag >= 0
    values, centres = np.where(known, lag * 0.1, np.nan), np.arange(10) * 0.1
    go = Variable("go", "event", values, lag, centres, "s", trial=trial)
    by_side = Variable(
        "go, by side", "event", values, np.where(known, side[trial] * 10 + lag, -1), centres, "s",
        ("left", "right"), trial,
    )  # fmt: skip
    locked = (lag == 3) * 1.0 + 0.3 * rng.normal(size=n)
    sided = (lag == 3) * (known & (side[trial] == 1)) + 0.3 * rng.normal(size=n)
    latents = np.stack([locked, sided, rng.normal(size=n)], axis=1)
    train, test = np.arange(n * 6 // 10), np.arange(n * 6 // 10, n)
    p = {
        v.name: [
            s.p
            for s in score_latents(latents[train], latents[test], v, train, test, bin_size_s=0.1)
        ]
        for v in (go, by_side)
    }
    assert p["go"][0] < 1e-3 and p["go"][1] < 1e-2 and p["go"][2] > 0.01
    assert p["go, by side"][0] > 0.01 and p["go, by side"][1] < 1e-3
    matrix, condition = peri_event(locked, go, np.arange(n))
    assert matrix.shape == (100, 10) and np.nanmean(matrix, axis=0).argmax() == 3
    assert (peri_event(sided, by_side, np.arange(n))[1] == side).all() and not condition.any()


def test_gaps_are_masked_not_shifted_in():
    rng = np.random.default_rng(0)
    where = slow(rng, N, tau=3)[:, 0]
    latent = np.maximum(where, 0) + 0.2 * rng.random(N)
    gap = (np.arange(N) // 50) % 2 == 1
    known = place(np.where(gap, np.nan, where))
    # What happens in the gaps must not matter at all.
    wild = np.where(gap, 100 * rng.random(N), latent)
    one, other = (
        score_latents(x[TRAIN, None], x[TEST, None], known, TRAIN, TEST, bin_size_s=0.05)[0]
        for x in (latent, wild)
    )
    assert one.p == other.p < 1e-2 and one.n_rows == int((~gap[TEST]).sum())


def test_benjamini_hochberg_agrees_with_scipy():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(0).random(50) ** 3
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))
    assert np.isnan(benjamini_hochberg([np.nan, 0.5])).tolist() == [True, False]
    assert hits_needed([0.001] * 40, 0.05) == 1
    with pytest.raises(DataError, match="0 to 1"):
        benjamini_hochberg([1.5])


def test_auroc_counts_ties_half():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    activity, positive = rng.integers(0, 3, (300, 2)).astype(float), rng.random(300) < 0.3
    expected = [roc_auc_score(positive, column) for column in activity.T]
    assert auroc(activity, positive) == pytest.approx(expected)
    assert auroc(np.zeros(300), positive) == 0.5
    assert np.isnan(auroc(activity[:, 0], np.ones(300, dtype=bool)))


def test_information_of_independent_signals_is_zero_on_average():
    rng = np.random.default_rng(0)
    draws = [
        mutual_information(rng.integers(0, 3, 900), rng.integers(0, 6, 900)) for _ in range(100)
    ]
    assert abs(np.mean(draws)) < 0.002
    same = rng.integers(0, 4, 5000)
    assert mutual_information(same, same) == pytest.approx(2.0, abs=0.01)


def test_descriptions_of_a_perfect_detector():
    rng = np.random.default_rng(0)
    step = rng.integers(0, 4, N)
    steps = Variable("place", "continuous", step * 1.0, step, np.arange(4.0), "m")
    latents = np.stack([(step == 2) * 1.0, np.ones(N)], axis=1)
    found = discover(latents, [steps], TRAIN, TEST, bin_size_s=0.05, progress=False)
    row = describe_latents(found).loc[0]
    assert (row["coverage"], row["specificity"], row["auroc"]) == (1.0, 1.0, 1.0)
    share = (step[TEST] == 2).mean()
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert row["information"] == pytest.approx(entropy, abs=0.01)
    with pytest.raises(DataError, match="constant"):
        found.variable(1)


def test_best_of_fewer_agrees_with_drawing():
    rng = np.random.default_rng(0)
    by, score = rng.random(12), rng.random(12)
    drawn = [rng.choice(12, 5, replace=False) for _ in range(20_000)]
    expected = np.mean([score[d[by[d].argmax()]] for d in drawn])
    assert best_of_fewer(by, score, 5) == pytest.approx(expected, abs=0.01)


def test_rivals_and_readouts_on_a_known_code():
    rng = np.random.default_rng(0)
    where = slow(rng, N)[:, 0]
    noisy = where[:, None] + 2 * rng.normal(size=(N, 4))
    codes = {"clean": np.stack([where, rng.normal(size=N)], axis=1), "units": noisy}
    table = compare_codes(codes, [place(where)], TRAIN, TEST, bin_size_s=0.05).set_index("code")
    assert table.loc["clean", "dimension"] == 0 and table["candidates"].tolist() == [2, 4]
    assert table.loc["clean", "score_test"] > 0.9 > table.loc["units", "score_test"]
    single = {"clean": {"place": 0}, "units": {"place": int(table.loc["units", "dimension"])}}
    read = decode_variables(codes, [place(where)], TRAIN, TEST, single=single).loc["place"]
    assert read["clean"] > 0.99 and read["clean, one"] > 0.99
    assert read["units"] > read["units, one"]


def test_a_component_that_hardly_varies_does_not_blow_up_a_readout():
    rng = np.random.default_rng(0)
    where = slow(rng, N)[:, 0]
    code = np.stack([where, 1e-9 * rng.normal(size=N)], axis=1)
    code[TEST, 1] = rng.normal(size=len(TEST))
    read = decode_variables({"code": code}, [place(where)], TRAIN, TEST)
    assert read.loc["place", "code"] > 0.99


def identity_sae(d):
    sae = SAE(SAEConfig(d_in=d, d_sae=d, architecture="relu", input_scaling="none"))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(d))
        sae.W_dec.copy_(torch.eye(d))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae.eval()


def test_removing_the_only_latent_that_knows_costs_its_variable():
    rng = np.random.default_rng(0)
    step = slow(rng, N)[:, 0]
    x = np.maximum(np.stack([step, *rng.normal(size=(3, N))], axis=1), 0).astype(np.float32)
    sae = identity_sae(4)
    found = discover(x, [place(step)], TRAIN, TEST, bin_size_s=0.05, progress=False)
    row = ablation_effects(sae, x, found, [0]).loc[0]
    assert row["decoding"] > 0.5 and row["lost"] > 0.4 > abs(row["lost_control"])
    assert row["fvu"] == pytest.approx(0.0, abs=1e-6) and row["fvu_without"] > 0.1
    with pytest.raises(DataError, match="every row"):
        ablation_effects(sae, x[:100], found, [0])


def test_attribution_of_a_window_finds_unit_and_lag():
    config = SAEConfig(
        d_in=3, d_sae=2, seq_len=4, target="last", architecture="relu", input_scaling="none"
    )
    sae = SAE(config)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[1 * 3 + 2, 0] = 1.0  # unit 2, two bins before the last
    table: Any = attribute_latent(sae, torch.ones(5, 4, 3), 0, bin_size_s=0.1)
    assert table.loc[0, "unit"] == 2 and table.loc[0, "lag_s"] == pytest.approx(0.2)
    assert table.loc[0, "share"] == 1.0 and table["writes"].notna().sum() == 3
    with pytest.raises(DataError, match="active in none"):
        attribute_latent(sae, torch.ones(5, 4, 3), 1)
    with pytest.raises(DataError, match="there are 2"):
        attribute_latent(sae, torch.ones(5, 4, 3), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": []}, "no variable"),
        ({"train_rows": TRAIN[::-1]}, "ascending"),
        ({"test_rows": TRAIN}, "both train_rows and test_rows"),
        ({"test_rows": TEST + 100}, "there are 4000 rows"),
        ({"q": 1.0}, "between 0 and 1"),
        ({"latents": np.full((N, 1), np.nan)}, "NaN"),
        ({"latents": np.zeros(N)}, "give \\[n_rows, m\\]"),
        ({"latents": np.zeros((N - 1, 1))}, "both cover every row"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {
        "latents": np.zeros((N, 1)), "variables": [place(np.arange(N) * 1.0)], "train_rows": TRAIN,
        "test_rows": TEST, "q": 0.05,
    }  # fmt: skip
    given |= change
    order = ("latents", "variables", "train_rows", "test_rows")
    with pytest.raises(DataError, match=message):
        discover(*(given[k] for k in order), bin_size_s=0.05, q=given["q"], progress=False)


def test_all_latents_dead_is_no_discovery_and_no_crash():
    variables = [place(np.arange(N) * 1.0)]
    found = discover(np.zeros((N, 5)), variables, TRAIN, TEST, bin_size_s=0.05, progress=False)
    assert len(found.found) == 0 and found.n_tested == 0
    assert "0 tested" in found.report()
    assert describe_latents(found).empty


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A function that prepares 300 s of four units with what is given beside them."""
    trains = [np.sort(np.random.default_rng(i).uniform(0, 300, 900)) for i in range(24)]

    def make(**beside):
        recording = Recording.from_spike_times(trains, interval=(0, 300), **beside)
        folder = tmp_path_factory.mktemp("store")
        rules = UnitCriteria(max_isi_violations=None)
        return recording, prepare(recording, folder / "store", criteria=rules, progress=False)

    return make


def test_without_behaviour_time_and_trials_are_left_and_said_so(bare):
    variables, notes = discovery_variables(*bare())
    assert [v.kind for v in variables] == ["time"]
    assert "no behaviour" in notes[0] and "time alone" in notes[0]
    start = np.arange(0, 300, 5.0)
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 5, "side": ["l", "r"] * 30})
    variables, notes = discovery_variables(*bare(trials=trials))
    assert {"side", "time in the session", "start_time"} <= {v.name for v in variables}
    assert "structure of trials" in notes[0]


def test_one_trial_is_no_structure(bare):
    trials = pd.DataFrame({"start_time": [10.0], "stop_time": [200.0], "side": ["l"]})
    variables, notes = discovery_variables(*bare(trials=trials))
    assert [v.kind for v in variables] == ["time"]
    assert any("1 trial" in note for note in notes)


def test_a_clock_elsewhere_a_constant_and_gaps_are_named(bare):
    time = np.arange(0, 300, 0.05)
    wave = np.sin(time)
    wave[1000:1500] = np.nan
    late = Series("late", wave[:, None], time + 5000, "m", ("late",))
    flat = Series("flat", np.full((6000, 1), 2.5), time, "m", ("flat",))
    gaps = Series("gaps", wave[:, None], time[:], "m", ("gaps",))
    variables, notes = discovery_variables(
        *bare(behavior={"late": late, "flat": flat, "gaps": gaps})
    )
    assert [v.name for v in variables] == ["gaps"]
    text = "\n".join(notes)
    assert "late: left out, its clock runs from 5000 to" in text and "from 0 to 300 s" in text
    assert "flat: left out, it never changes" in text
    assert "no behaviour" not in text


def test_series_of_whole_numbers_are_categories(bare):
    time = np.arange(0, 300, 0.02)
    state = (time // 7 % 3).astype(int)
    series = Series("state", state[:, None], time, "", ("state",))
    recording, store = bare(behavior={"state": series})
    (variable,), _ = discovery_variables(recording, store)
    assert variable.kind == "categorical" and variable.conditions == ("0", "1", "2")
    centres = store.index["time"].to_numpy() + 0.025
    expected = centres // 7 % 3
    assert (variable.values == expected).mean() > 0.99
