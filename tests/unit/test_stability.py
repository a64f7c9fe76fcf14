"""Stability of latents: copies are stable, strangers are at chance, what is planted is found."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from saebook.data.simulate import simulate_dictionary, simulate_reach
from saebook.errors import ConfigError, DataError
from saebook.evaluation.stability import (
    NULLS,
    Dictionary,
    absorption,
    compare_seeds,
    compare_sizes,
    condition_profiles,
    consensus,
    dictionary_from,
    dictionary_of,
    followed_features,
    match_over_units,
    match_profiles,
    nested_pairs,
    null_dictionary,
    splitting,
    stability_by,
    stitch,
    unstable_subspaces,
)
from saebook.metrics import (
    correlation_matrix,
    latent_agreement,
    mean_interval,
    pairwise_interval,
    principal_angles,
    spanning_basis,
    subspace_overlap,
)
from saebook.models import SAE, SAEConfig


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[name].to_numpy(float)


def copies(n: int = 3, m: int = 24, d: int = 32, noise: float = 0.0) -> list[Dictionary]:
    """The same latents in other orders and lengths."""
    decoder, encoder = normal(m, d), normal(m, d, seed=1)
    activity = uniform(200, m, seed=2) * (uniform(200, m, seed=3) < 0.2)
    made = []
    for s in range(n):
        order = torch.randperm(m, generator=torch.Generator().manual_seed(s))
        made.append(
            Dictionary(
                f"seed {s}",
                (decoder[order] + noise * normal(m, d, seed=10 + s)) * (1.0 + s),
                encoder[order],
                activity[:, order],
                torch.arange(m),
            )
        )
    return made


# ---- definitions


def test_both_matches_have_to_name_the_same_partner():
    decoder, encoder = normal(10, 40), normal(10, 40, seed=1)
    swapped = torch.tensor([1, 0, *range(2, 10)])
    match = latent_agreement(decoder, decoder, encoder, encoder[swapped])
    assert match.by_decoder.all()
    assert match.found.tolist() == [False, False] + [True] * 8
    # An encoder that names the partner but lies far from it does not count either.
    weak = latent_agreement(decoder, decoder, encoder, encoder + 3 * normal(10, 40, seed=2))
    assert weak.encoder_cosine is not None
    assert weak.by_decoder.all()
    assert not weak.found.all()
    assert bool((weak.found == (weak.encoder_cosine >= 0.7)).all())


def test_a_smaller_dictionary_leaves_latents_without_partner():
    match = latent_agreement(torch.eye(5), torch.eye(5)[:2])
    assert match.partner.tolist() == [0, 1, -1, -1, -1]
    assert match.found.tolist() == [True, True, False, False, False]
    none = latent_agreement(torch.eye(5), torch.zeros(0, 5))
    assert not none.found.any()


def test_sign_counts_for_latents_and_not_for_components():
    a = normal(6, 12)
    assert not latent_agreement(a, -a).found.any()
    assert latent_agreement(a, -a, either_sign=True).found.all()


def test_agreement_refuses_half_an_encoder_and_bad_thresholds():
    a = torch.eye(3)
    with pytest.raises(DataError, match="both or neither"):
        latent_agreement(a, a, a)
    with pytest.raises(DataError, match="threshold is 0"):
        latent_agreement(a, a, threshold=0.0)
    with pytest.raises(DataError, match="one row per latent"):
        latent_agreement(a, a, a[:2], a)


def test_correlation_is_numpys_and_zero_where_constant():
    a, b = normal(50, 3), normal(50, 4, seed=1)
    expected = np.corrcoef(a.T.numpy(), b.T.numpy())[:3, 3:]
    np.testing.assert_allclose(correlation_matrix(a, b).numpy(), expected, atol=1e-6)
    assert float(correlation_matrix(torch.ones(5, 1), a[:5]).abs().max()) == 0.0
    with pytest.raises(DataError, match="same n"):
        correlation_matrix(a, b[:10])


@pytest.mark.parametrize("degrees", [1e-3, 30.0, 75.0])
def test_a_rotated_plane_lies_at_the_angle_of_its_rotation(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    plane = torch.eye(5, dtype=torch.float64)[:, :2]
    turned = plane.clone()
    turned[:, 1] = torch.tensor([0.0, c, s, 0.0, 0.0], dtype=torch.float64)
    mixed = turned @ torch.tensor([[2.0, 1.0], [0.5, -3.0]], dtype=torch.float64)
    angles = principal_angles(plane, mixed)
    assert angles.tolist() == pytest.approx([0.0, degrees], abs=1e-6)
    assert subspace_overlap(plane, mixed) == pytest.approx((1 + c * c) / 2)


def test_basis_keeps_the_energy_asked_for_and_no_dimension_of_rounding():
    rows = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert spanning_basis(rows).shape == (4, 3)
    assert [spanning_basis(rows, energy=e).shape[1] for e in (9 / 14, 0.65, 13 / 14)] == [1, 2, 2]
    assert spanning_basis(torch.zeros(3, 4)).shape == (4, 0)
    rank_one = normal(6, 1) @ normal(1, 8)
    assert spanning_basis(rank_one).shape == (8, 1)


def test_random_subspaces_overlap_as_theory_says():
    overlaps = [
        subspace_overlap(normal(40, 6, seed=s), normal(40, 10, seed=1000 + s)) for s in range(60)
    ]
    assert np.mean(overlaps) == pytest.approx(10 / 40, abs=0.01)


def test_jackknife_over_repetitions_is_wider_than_pairs_taken_as_independent():
    # The value of a pair is set by its members: six pairs hold four numbers.
    effect = [0.0, 1.0, 4.0, 9.0]
    values = [[a + b for b in effect] for a in effect]
    found = pairwise_interval(values)
    assert found.mean == pytest.approx(7.0)
    # For sums of effects the pseudo-values are twice the effects, up to a constant.
    expected = mean_interval([2 * e for e in effect])
    assert found.high - found.low == pytest.approx(expected.high - expected.low)
    assert math.isnan(pairwise_interval([[0, 1], [1, 0]]).low)
    with pytest.raises(DataError, match="at least two"):
        pairwise_interval([[1.0]])
    with pytest.raises(DataError, match="pair"):
        pairwise_interval([[0, math.nan], [1, 0]])


# ---- seeds


def test_permuted_copies_are_stable():
    stability = compare_seeds(copies(), null_seeds=(0,))
    assert stability.interval().mean == 1.0
    assert stability.interval("by_decoder").mean == 1.0
    assert (column(stability.latents, "share_found") == 1.0).all()
    assert column(stability.pairs, "correlation").min() == pytest.approx(1.0)
    assert column(stability.latents, "correlation").min() == pytest.approx(1.0)
    assert (stability.chance_of() < 0.05).all()


def test_strangers_are_at_chance():
    strangers = [
        Dictionary(
            str(s), normal(40, 24, seed=s), normal(40, 24, seed=50 + s), None, torch.arange(40)
        )
        for s in range(4)
    ]
    stability = compare_seeds(strangers, threshold=0.4, null_seeds=(0, 1))
    observed, chance = stability.interval("by_decoder"), stability.chance_of("by_decoder").to_dict()
    assert 0.2 < observed.mean < 0.98  # at this threshold chance is neither nothing nor all
    for null in NULLS:
        assert chance[null] == pytest.approx(observed.mean, abs=0.08)
    # Two matches of unrelated weights hardly ever name the same partner.
    assert stability.interval().mean < 0.1


def test_half_shared_latents_are_half_stable_and_the_right_half():
    shared = normal(10, 32)
    made = []
    for s in range(3):
        own = normal(10, 32, seed=20 + s)
        made.append(dictionary_from(torch.cat([shared, own]), name=str(s)))
    stability = compare_seeds(made, null_seeds=())
    assert stability.interval().mean == pytest.approx(0.5)
    share = column(stability.latents, "share_found").reshape(3, 20).mean(0)
    assert (share[:10] == 1.0).all()
    assert (share[10:] == 0.0).all()


def test_a_pattern_that_all_latents_share_is_no_stability():
    # Every latent is the same loud units plus noise: cosines are high, and so is the hard null.
    common = 5 * uniform(1, 32)
    made = [dictionary_from(common + normal(20, 32, seed=s), name=str(s)) for s in range(3)]
    stability = compare_seeds(made)
    assert stability.interval().mean > 0.9
    chance = stability.chance_of().to_dict()
    assert chance["random directions"] == 0.0
    assert chance["latents shuffled"] == pytest.approx(1.0, abs=0.05)


def test_nulls_keep_what_they_say():
    one = Dictionary("a", normal(12, 8), normal(12, 8, seed=1), None, torch.arange(12))
    random, units, latents = (null_dictionary(one, null, 3) for null in NULLS)
    torch.testing.assert_close(random.decoder.norm(dim=1), one.decoder.norm(dim=1))
    torch.testing.assert_close(units.decoder.sort(1).values, one.decoder.sort(1).values)
    torch.testing.assert_close(latents.decoder.sort(0).values, one.decoder.sort(0).values)
    assert not torch.equal(latents.decoder, one.decoder)
    assert torch.equal(null_dictionary(one, "units shuffled", 3).decoder, units.decoder)
    # Encoder and decoder of a tied model stay tied.
    tied = Dictionary("b", one.decoder, one.decoder, None, torch.arange(12))
    for null in NULLS:
        drawn = null_dictionary(tied, null)
        assert drawn.encoder is not None
        assert torch.equal(drawn.decoder, drawn.encoder)
    with pytest.raises(ConfigError, match="unknown"):
        null_dictionary(one, "none")


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="at least two"):
        compare_seeds(copies(1))
    with pytest.raises(DataError, match="names"):
        compare_seeds([copies()[0]] * 2)
    with pytest.raises(DataError, match="same units"):
        compare_seeds(
            [dictionary_from(torch.eye(3), name="a"), dictionary_from(torch.eye(4), name="b")]
        )
    with pytest.raises(DataError, match="no living latent"):
        compare_seeds([copies()[0], dictionary_from(torch.zeros(2, 32), name="b")])
    with pytest.raises(DataError, match="one entry per latent"):
        Dictionary("a", torch.eye(3), torch.eye(2), None, torch.arange(3))


def test_stability_by_density():
    stability = compare_seeds(copies(), null_seeds=())
    latents = stability.latents.assign(share_found=stability.latents["density"].rank(pct=True))
    table = stability_by(latents, "density", 4)
    assert table["mean"].is_monotonic_increasing
    assert table.attrs["spearman"] == pytest.approx(1.0)
    assert column(table, "n").sum() == len(latents)
    with pytest.raises(DataError, match="unknown for every latent"):
        stability_by(latents, "usefulness")
    with pytest.raises(DataError, match="missing"):
        stability_by(latents, "nothing")


def test_dictionary_of_an_sae_leaves_out_the_dead_and_prices_the_living():
    x = uniform(300, 6)
    sae = SAE(SAEConfig(d_in=6, d_sae=12, architecture="topk", k=2, reconstruction="mse"), seed=0)
    sae.fit_inputs(x)
    with torch.no_grad():
        sae.b_enc[3] = -1e6
    one = dictionary_of(sae, x, "a")
    assert 3 not in one.latent.tolist()
    assert one.encoder is not None
    assert one.usefulness is not None
    # Against the definition, for one latent.
    latents = sae.encode(x).detach()
    without = latents.clone()
    without[:, one.latent[0]] = 0
    sae.requires_grad_(False)
    rise = (x - sae.decode(without)).square().sum() - (x - sae.decode(latents)).square().sum()
    total = (x - x.mean(0)).square().sum()
    assert float(one.usefulness[0]) == pytest.approx(float(rise / total), rel=1e-3)
    with pytest.raises(DataError, match="no latent"), torch.no_grad():
        sae.b_enc.fill_(-1e6)
        sae.encoder_rows.zero_()
        dictionary_of(sae, x, "a")


# ---- consensus


def test_consensus_is_what_is_shared_and_its_directions_are_better():
    true = F.normalize(normal(12, 40), dim=1)
    made = []
    for s in range(5):
        found = true + 0.07 * normal(12, 40, seed=30 + s)
        own = normal(6, 40, seed=100 + s)
        order = torch.randperm(18, generator=torch.Generator().manual_seed(s))
        made.append(dictionary_from(torch.cat([found, own])[order], name=str(s)))
    stability = compare_seeds(made, null_seeds=())
    group = consensus(stability, 0.5)
    assert len(group) == 12
    assert group.n_found.tolist() == [5] * 12
    best = (F.normalize(group.directions, dim=1) @ true.T).amax(1)
    single = (F.normalize(made[0].decoder, dim=1) @ true.T).amax(1).sort().values[-12:]
    assert float(best.min()) > 0.93
    assert float(best.mean()) > float(single.mean())
    assert sorted(group.members.groupby("group").size()) == [5] * 12
    assert not group.members.duplicated(["dictionary", "row"]).any()
    assert group.activity is None


def test_consensus_of_strangers_is_empty_and_keeps_its_shape():
    strangers = [dictionary_from(normal(8, 30, seed=s), np.ones((5, 8)), str(s)) for s in range(3)]
    group = consensus(compare_seeds(strangers, null_seeds=()))
    assert len(group) == 0
    assert group.directions.shape == (0, 30)
    assert group.activity is not None
    assert group.activity.shape == (5, 0)
    with pytest.raises(DataError, match="min_share"):
        consensus(compare_seeds(strangers, null_seeds=()), 0.0)


def test_consensus_of_components_ignores_their_signs():
    rows = normal(4, 10)
    activity = normal(50, 4, seed=1)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    made = [
        dictionary_from(rows, activity, "a", either_sign=True),
        dictionary_from(rows * signs[:, None], activity * signs, "b", either_sign=True),
    ]
    group = consensus(compare_seeds(made, null_seeds=()), 1.0)
    cosine = (F.normalize(group.directions, dim=1) @ F.normalize(rows, dim=1).T).abs()
    assert cosine.amax(1).tolist() == pytest.approx([1.0] * 4)
    assert group.activity is not None
    assert correlation_matrix(group.activity, activity).abs().amax(1).min() > 0.999


# ---- sessions


def session(seed: int, m: int = 20, d: int = 40, perturb: float = 0.1) -> tuple[Dictionary, list]:
    """Latents over 24 shared units and units of their own, weights perturbed."""
    decoder = normal(m, d)
    own = decoder * (1 + perturb * normal(m, d, seed=seed))
    own[:, 24:] = normal(m, d - 24, seed=100 + seed)
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    ids = [i if i < 24 else (seed, i) for i in range(d)]
    return dictionary_from(own[:, order], name=f"day {seed}"), [ids[i] for i in order]


def test_sessions_match_over_the_units_that_they_share():
    (a, units_a), (b, units_b) = session(1), session(2)
    found = match_over_units(a, b, units_a, units_b, min_captured=0.3)
    assert found.n_shared == 24
    assert found.share > 0.9
    assert bool((found.pairs[:, 0] == found.pairs[:, 1]).all())
    for control in ("other units", "latents shuffled"):
        assert found.chance[control].max() < 0.3
        assert found.p(control) == pytest.approx(1 / 21)


def test_latents_on_other_units_are_not_judged():
    decoder = torch.zeros(2, 8)
    decoder[0, :4], decoder[1, 4:] = torch.tensor([1.0, 2.0, 3.0, 4.0]), 1.0
    one = dictionary_from(decoder, name="a")
    units = list(range(8)), [0, 1, 2, 3, "e", "f", "g", "h"]
    found = match_over_units(one, one, units[0], units[1])
    assert (found.judged_first.tolist(), found.share, found.n_shared) == ([0], 1.0, 4)
    with pytest.raises(DataError, match="2 units are shared"):
        match_over_units(one, one, units[0], [0, 1, *"abcdef"])
    with pytest.raises(DataError, match="each once"):
        match_over_units(one, one, [0] * 8, units[1])
    with pytest.raises(DataError, match="lower min_captured"):
        match_over_units(one.select(torch.tensor([1])), one, units[0], units[1])


def test_simulated_sessions_share_the_units_the_simulator_says():
    sessions = [
        simulate_reach(n_units=40, n_trials=8, seed=3, session=s, defects=False) for s in (0, 1)
    ]
    mixing = [one.mixing for one in sessions]
    kept = [m.loc[:, (m != 0).any()] for m in mixing]
    names = [name for name in kept[0] if name in set(kept[1])]
    dictionaries = [dictionary_from(m[names].to_numpy().T, name=str(s)) for s, m in enumerate(kept)]
    units = [list(m.index) for m in mixing]
    a, b = dictionaries
    found = match_over_units(a, b, units[0], units[1], min_captured=0.3, threshold=0.9)
    assert found.n_shared == 24
    assert found.share > 0.9
    assert bool((found.pairs[:, 0] == found.pairs[:, 1]).all())
    assert found.chance["other units"].max() < 0.3


def test_profiles_match_without_a_shared_unit():
    profiles = uniform(10, 8, 6)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    noisy = profiles[order] + 0.05 * normal(10, 8, 6)
    found = match_profiles(profiles, noisy)
    assert found.share == 1.0
    assert order[found.pairs[:, 1]].tolist() == found.pairs[:, 0].tolist()
    assert found.p("conditions dealt anew") < 0.05


def test_a_population_that_only_tiles_is_not_told_from_its_turned_self():
    angle = torch.arange(16) * 2 * math.pi / 16
    tiles = torch.exp(4 * (torch.cos(angle[:, None] - angle) - 1))
    found = match_profiles(tiles, tiles)
    assert found.share == 1.0
    assert found.p("shifted") == 1.0


def test_profiles_of_conditions_and_what_they_refuse():
    activity = torch.arange(20.0)[:, None] * torch.tensor([1.0, 0.0])
    profiles = condition_profiles(activity, [0, 5, 10, 19], [0, 0, 1, 1], 2, 1, 2)
    assert profiles.shape == (2, 2, 3)
    assert profiles[0].tolist() == [[4.0, 5.0, 6.0], [9.0, 10.0, 11.0]]
    with pytest.raises(DataError, match="condition 1"):
        condition_profiles(activity, [5], [0], 2, 1, 2)
    with pytest.raises(DataError, match="alike but for m"):
        match_profiles(profiles, profiles[:, :1])
    with pytest.raises(DataError, match="no profile varies"):
        match_profiles(profiles, torch.ones(2, 2, 3))


# ---- sizes


def test_a_larger_dictionary_keeps_splits_and_adds():
    small = dictionary_from(torch.eye(10)[:4], name="small")
    split = torch.eye(10)[:1] + 0.3 * torch.eye(10)[8:10]
    large = dictionary_from(torch.cat([torch.eye(10)[1:7], split]), name="large")
    found = compare_sizes(small, large)
    assert found.kept == 1.0  # feature 0 has two counterparts, which one-to-one would not allow
    assert found.novel.tolist() == [False] * 3 + [True] * 3 + [False] * 2
    wide = (
        dictionary_from(normal(20, 60), name="small"),
        dictionary_from(normal(40, 60, seed=1), name="l"),
    )
    same = compare_sizes(wide[0], wide[0])
    assert (same.kept, same.summary()["kept_by_chance"]) == (1.0, 0.0)
    assert compare_sizes(*wide).summary()["novel"] == 1.0


def test_stitching_rewards_what_is_new_and_punishes_repetition():
    x = uniform(200, 6) * (uniform(200, 6, seed=1) < 0.3)

    class Axes:
        def __init__(self, n):
            self.W_dec = torch.eye(6)[:n]

        def encode(self, x):
            return x[:, : len(self.W_dec)]

        def decode(self, latents):
            return latents @ self.W_dec

    large = Dictionary("large", torch.eye(6), None, x, torch.arange(6))
    novel = compare_sizes(dictionary_from(torch.eye(6)[:3]), large).novel
    scores = stitch(Axes(3), Axes(6), x, large, novel).to_dict()
    assert scores["small + novel"] == pytest.approx(0.0, abs=1e-6)
    assert scores["small + novel"] < scores["small + random"] < scores["small + returning"]
    assert scores["small + returning"] > scores["small"]
    with pytest.raises(DataError, match="these rows"):
        stitch(Axes(3), Axes(6), x[:10], large, novel)


# ---- the unstable part


def test_a_turned_basis_of_one_subspace_is_unstable_in_a_stable_subspace():
    # Both seeds share four latents; the other six are other bases of the same six dimensions.
    own = torch.linalg.qr(normal(6, 6)).Q
    made = []
    for s, basis in enumerate((torch.eye(6), own)):
        rows = torch.zeros(10, 40)
        rows[:4, :4] = torch.eye(4)
        rows[4:, 4:10] = basis
        made.append(dictionary_from(rows, name=str(s)))
    stability = compare_seeds(made, threshold=0.95, null_seeds=())
    found = unstable_subspaces(stability, energy=1.0, covariance=torch.eye(40))
    row = found.pairs.iloc[0]
    assert (row["n_first"], row["dim_first"]) == (6, 6)
    assert row["overlap"] == pytest.approx(1.0)
    assert float(found.angles[0].max()) == pytest.approx(0.0, abs=1e-4)
    for control in ("random", "data", "by_theory"):
        assert row[control] == pytest.approx(6 / 40, abs=0.04)


def test_unstable_latents_of_strangers_overlap_no_more_than_chance():
    made = [dictionary_from(normal(5, 30, seed=s), name=str(s)) for s in range(3)]
    found = unstable_subspaces(compare_seeds(made, null_seeds=()), energy=1.0, n_draws=40)
    assert len(found.pairs) == 3
    assert column(found.pairs, "overlap").mean() == pytest.approx(5 / 30, abs=0.1)
    same = unstable_subspaces(compare_seeds(copies(2), null_seeds=()))
    assert same.pairs["n_first"].item() == 0
    assert math.isnan(same.pairs["overlap"].item())


# ---- splitting and absorption


def nested_truth(n: int = 4000):
    known = simulate_dictionary(n, 32, 28, mean_l0=4, kind="nested", noise=0.0, seed=0)
    features = torch.from_numpy(known.features)
    return features, nested_pairs(known.parent)


def halves(
    latents: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training and test rows, in the order that the scores take them."""
    cut = len(latents) // 2
    return latents[:cut], features[:cut], latents[cut:], features[cut:]


def test_true_features_neither_split_nor_absorb():
    features, pairs = nested_truth()
    found = absorption(*halves(features, features), pairs)
    assert found.n_judged >= 10
    assert (found.rate, found.gap) == (0.0, 0.0)
    assert found.gap_beside == 0.0
    table = splitting(*halves(features, features))
    assert column(table, "judged").any()
    assert not column(table, "split").any()


def test_planted_absorption_is_found_in_the_pair_it_was_planted_in():
    features, pairs = nested_truth()
    parent, child = pairs[0]
    latents = features.clone()
    latents[:, parent] *= features[:, child] == 0
    found = absorption(*halves(latents, features), pairs)
    row = found.pairs.iloc[0]
    assert bool(row["judged"])
    assert (row["absorbed"], row["gap"]) == (1.0, 1.0)
    assert (row["parent_latent"], row["child_latent"]) == (parent, child)
    others = found.pairs.iloc[1:]
    untouched = others[others["judged"] & (others["parent"] != parent)]
    assert len(untouched)
    assert (untouched["absorbed"] == 0).all()


def test_silence_in_company_is_not_absorption():
    # The parent's latent fails wherever anything else is on as well: crowding, not absorption.
    n = 20000
    parent = uniform(n) < 0.4
    child = parent & (uniform(n, seed=1) < 0.4)
    other = uniform(n, seed=2) < 0.4
    crowded = (child | other) & (uniform(n, seed=3) < 0.5)
    features = torch.stack([parent, child, other], 1).float()
    latents = torch.stack([parent & ~crowded, child, other], 1).float()
    found = absorption(*halves(latents, features), [(0, 1)])
    row = found.pairs.iloc[0]
    assert row["missed"] == pytest.approx(0.5, abs=0.03)
    assert row["beside"] == 2
    assert found.gap_beside == pytest.approx(0.5, abs=0.03)
    assert found.gap < found.gap_beside


def test_planted_splitting_is_found_and_copies_are_not_splitting():
    features, _ = nested_truth()
    turn = uniform(len(features)) < 0.5
    often = int((features > 0).sum(0).argmax())
    one = features[:, often]
    parts = torch.stack([one * turn, one * ~turn], 1)
    rest = torch.cat([features[:, :often], features[:, often + 1 :]], 1)
    table = splitting(*halves(torch.cat([rest, parts], 1), features))
    assert np.flatnonzero(column(table, "split")).tolist() == [often]
    assert table.loc[often, "n_latents"] == 2
    assert table.loc[often, "covered"] == 1.0
    assert table.loc[often, "best"] == pytest.approx(0.5, abs=0.06)
    twice = splitting(*halves(torch.cat([features, one[:, None]], 1), features))
    assert not column(twice, "split").any()


def test_nested_scores_refuse_what_does_not_fit():
    features, pairs = nested_truth(100)
    with pytest.raises(DataError, match="beyond"):
        absorption(*halves(features, features), [(0, 99)])
    with pytest.raises(DataError, match="alike in width"):
        absorption(features, features, features[:, :3], features, pairs)
    with pytest.raises(DataError, match="alike in width"):
        splitting(features[:5], features, features, features)
    assert math.isnan(absorption(*halves(features, features), []).rate)


def test_followed_features_are_chosen_and_scored_on_different_rows():
    features = uniform(400, 3)
    latents = torch.stack([features[:, 1], -features[:, 2]], 1)
    latents[200:, 0] = uniform(200, seed=5)  # follows nothing on test rows
    table = followed_features(*halves(latents, features), names=["a", "b", "c"])
    assert table["feature"].iloc[0] == "b"
    assert table["r_train"].iloc[0] == pytest.approx(1.0)
    assert abs(table["r_test"].iloc[0]) < 0.2
    signed = followed_features(*halves(latents, features), names=["a", "b", "c"], either_sign=True)
    assert signed["r_train"].iloc[1] < 0.3 or signed["feature"].iloc[1] == "c"
    with pytest.raises(DataError, match="must agree"):
        followed_features(*halves(latents, features), names=["a"])
