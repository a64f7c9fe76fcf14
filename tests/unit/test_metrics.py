"""Scores against analytic answers, and their independence of batches."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from saebook.errors import DataError
from saebook.metrics import (
    CardSums,
    LatentSums,
    RawUnitSums,
    ReconstructionSums,
    bits_per_spike,
    cosine,
    dead_fraction,
    dense_fraction,
    density,
    explained_variance,
    fano_factor,
    fvu,
    l0,
    l2_ratio,
    mean_interval,
    r2_per_example,
    r2_per_unit,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_anchors_of_explained_variance():
    x = normal(500, 7) + 3.0
    mean = x.double().mean(0)
    assert explained_variance(x, x) == 1.0
    assert explained_variance(x.double(), mean.expand(500, 7)) == pytest.approx(0.0, abs=1e-12)
    zero = -mean.square().sum() / x.double().var(0, correction=0).sum()
    assert explained_variance(x, torch.zeros_like(x)) == pytest.approx(float(zero), rel=1e-9)
    assert fvu(x, x + 1) == pytest.approx(
        7 / float(x.double().var(0, correction=0).sum()), rel=1e-5
    )


def test_agrees_with_sklearn():
    x, guess = normal(300, 5), normal(300, 5, seed=1)
    ours = explained_variance(x, guess)
    theirs = r2_score(x.double(), guess.double(), multioutput="variance_weighted")
    assert ours == pytest.approx(float(theirs), rel=1e-12)
    units = r2_score(x.double(), guess.double(), multioutput="raw_values")
    np.testing.assert_allclose(r2_per_unit(x, guess), units, rtol=1e-12)
    rows = r2_score(x.double().T, guess.double().T, multioutput="raw_values")
    np.testing.assert_allclose(r2_per_example(x, guess), rows, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=8), offset=st.sampled_from([0.0, 1e4]))
def test_any_partition_and_merge_give_the_one_shot_value(cuts: list[int], offset: float):
    x = normal(60, 4).double() + offset
    guess = x + 0.3 * normal(60, 4, seed=1)
    whole = ReconstructionSums()
    whole.update(x, guess)
    edges = [0, *sorted(cuts), 60]
    streamed, merged = ReconstructionSums(), ReconstructionSums()
    for start, stop in pairwise(edges):
        streamed.update(x[start:stop], guess[start:stop])
        part = ReconstructionSums()
        part.update(x[start:stop], guess[start:stop])
        merged.merge(part)
    for other in (streamed, merged):
        assert other.n_examples == 60
        assert other.fvu() == pytest.approx(whole.fvu(), rel=1e-10)
        torch.testing.assert_close(other.r2_per_feature(), whole.r2_per_feature())
        torch.testing.assert_close(other.r2_per_example(), whole.r2_per_example())
        assert other.cosine() == pytest.approx(whole.cosine(), rel=1e-12)
        assert other.l2_ratio() == pytest.approx(whole.l2_ratio(), rel=1e-12)


def test_a_large_offset_does_not_spoil_the_variance():
    # Σx² - n·mean² loses every digit here; the variance is 1/4 in each of the 2 columns.
    x = (torch.arange(1000) % 2).double()[:, None].expand(1000, 2) + 1e9
    sums = ReconstructionSums()
    for rows in x.split(7):
        sums.update(rows, rows)
    torch.testing.assert_close(sums.squares_per_feature, torch.full((2,), 250.0).double())


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.3])
def test_constant_data_have_no_explained_variance(value: float):
    x = torch.full((10, 3), value)
    assert math.isnan(fvu(x, x))
    assert math.isnan(explained_variance(x, x + 1))
    assert r2_per_unit(x, x).isnan().all()
    assert math.isnan(fvu(x[:1], x[:1]))


def test_a_constant_unit_is_undefined_and_the_others_are_not():
    x = normal(20, 3)
    x[:, 1] = 0.1
    r2 = r2_per_unit(x, 0.5 * x)
    assert r2.isnan().tolist() == [False, True, False]


def test_empty_bins_are_undefined_and_counted():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    sums = ReconstructionSums()
    sums.update(x, torch.ones_like(x))
    assert sums.r2_per_example().isnan().tolist() == [True, True, False]
    assert sums.n_empty == 1
    # Over the two filled rows: ‖(1,1)‖/‖(1,1)‖ and √2/2.
    assert sums.l2_ratio() == pytest.approx((1 + math.sqrt(2) / 2) / 2)
    assert sums.cosine() == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert math.isnan(l2_ratio(torch.zeros(3, 2), torch.ones(3, 2)))
    assert math.isnan(cosine(torch.zeros(3, 2), torch.ones(3, 2)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float):
    x, broken = torch.ones(4, 2), torch.ones(4, 2)
    broken[1, 1] = bad
    with pytest.raises(DataError, match="1 of 8 values of x"):
        fvu(broken, x)
    with pytest.raises(DataError, match="reconstruction"):
        fvu(x, broken)
    with pytest.raises(DataError, match="latents"):
        density(broken)


def test_shapes_are_checked():
    with pytest.raises(DataError, match="shape"):
        fvu(torch.ones(4, 2), torch.ones(4, 3))
    with pytest.raises(DataError, match=r"\[n, d_in\]"):
        fvu(torch.ones(4), torch.ones(4))
    with pytest.raises(DataError, match="no example"):
        fvu(torch.ones(0, 2), torch.ones(0, 2))
    sums = ReconstructionSums()
    sums.update(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(DataError, match="d_in = 2"):
        sums.update(torch.ones(2, 2), torch.ones(2, 2))


def test_small_counts_do_not_wrap():
    x = torch.tensor([[0, 200], [200, 0]], dtype=torch.uint8)
    assert fvu(x, torch.full((2, 2), 100.0)) == 1.0


def test_sparsity_counts():
    latents = torch.tensor([[1.0, 0.0, -1.0, 0.2], [2.0, 0.0, 0.0, 0.0]])
    assert l0(latents) == 2.0
    assert l0(latents, positive_only=True) == 1.5
    shares = density(latents)
    assert shares.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert dead_fraction(shares) == 0.25
    assert dense_fraction(shares) == 0.25
    assert dense_fraction(shares, threshold=0.4) == 0.75
    left, right = LatentSums(), LatentSums()
    left.update(latents[:1])
    right.update(latents[1:])
    assert torch.equal(left.merge(right).density(), shares)
    assert torch.equal(LatentSums().merge(left).density(), shares)
    with pytest.raises(DataError, match="no example"):
        LatentSums().density()


def test_raw_units_leave_the_least_error():
    x = torch.poisson(torch.full((200, 6), 0.4), generator=torch.Generator().manual_seed(0))
    centre = x.mean(0)
    total = float((x - centre).square().sum())
    sums = RawUnitSums(centre)
    for rows in x.split(33):
        sums.update(rows, torch.full((len(rows),), 2))
    control = sums.control(total)
    # Brute force over both fills, keeping the two entries furthest from the fill.
    errors = []
    for fill in (centre, torch.zeros(6)):
        guess = fill.repeat(200, 1)
        kept = (x - fill).abs().topk(2, dim=1).indices
        guess.scatter_(1, kept, x.gather(1, kept))
        errors.append(fvu(x, guess))
    assert control.fvu == pytest.approx(min(errors), rel=1e-5)
    assert control.curve[0] == pytest.approx(1.0, rel=1e-6)
    assert control.curve[-1] == 0.0
    assert (control.curve.diff() <= 0).all()
    assert control.fvu_at(2) == pytest.approx(control.fvu)
    assert control.fvu_at(1.5) == pytest.approx(float(control.curve[1:3].mean()))
    assert control.fvu_at(99) == 0.0


def test_raw_units_copy_everything_once_k_passes_the_active_units():
    x = torch.poisson(torch.full((300, 20), 0.1), generator=torch.Generator().manual_seed(1))
    sums = RawUnitSums(x.mean(0))
    sums.update(x, (x > 0).sum(1))
    assert sums.control(1.0).fvu == 0.0
    assert sums.control(1.0).fill == "zero"


def test_card_is_the_same_for_any_batches_and_reads_as_json():
    x = torch.poisson(torch.full((100, 8), 0.7), generator=torch.Generator().manual_seed(0))
    latents = (normal(100, 12) - 1).relu()
    guess = 0.8 * x
    cards = []
    for size in (100, 7):
        sums = CardSums(centre=x.mean(0))
        for rows, codes, out in zip(
            x.split(size), latents.split(size), guess.split(size), strict=True
        ):
            sums.update(rows, codes, out)
        cards.append(sums.card("test"))
    one, many = (card.to_dict() for card in cards)
    assert one["flags"].keys() == many["flags"].keys()
    assert one["fvu"] == pytest.approx(many["fvu"], rel=1e-12)
    assert one["raw_unit_fvu"] == pytest.approx(many["raw_unit_fvu"], rel=1e-12)
    assert one["r2_per_example"] == many["r2_per_example"]
    json.dumps(one, allow_nan=False)
    assert cards[0].r2_per_example["undefined_share"] >= cards[0].empty_share
    text, html = str(cards[0]), cards[0]._repr_html_()
    for word in ("FVU", "raw units, same L0", "Dead latents", "100 examples"):
        assert word in text
        assert word.strip() in html


def test_card_of_a_silent_model_says_so():
    x = normal(30, 4)
    sums = CardSums()
    sums.update(x, torch.zeros(30, 6), torch.zeros(30, 4))
    card = sums.card()
    assert {"silent", "dead", "worse_than_mean"} <= card.flags.keys()
    assert card.raw_unit is None
    assert card.density_summary()["q50"] != card.density_summary()["q50"]
    assert "undefined" in str(card)
    json.dumps(card.to_dict(), allow_nan=False)


def test_quantiles_agree_with_numpy():
    x = normal(101, 5)
    sums = CardSums()
    sums.update(x, x.relu(), 0.5 * x + 0.1 * normal(101, 5, seed=2))
    card = sums.card()
    expected = np.quantile(card.r2_per_unit.numpy(), [0.05, 0.5, 0.95])
    got = card.r2_per_unit_summary()
    np.testing.assert_allclose([got["q05"], got["q50"], got["q95"]], expected)


def test_fano_of_known_counts():
    counts = torch.poisson(
        torch.full((200_000, 1), 2.0), generator=torch.Generator().manual_seed(0)
    )
    assert float(fano_factor(counts)) == pytest.approx(1.0, abs=0.02)
    assert float(fano_factor(3 * counts)) == pytest.approx(3.0, abs=0.06)
    with pytest.raises(DataError, match="two bins"):
        fano_factor(counts[:1])


def test_bits_per_spike_of_known_rates():
    # Rates 1 and 3 in turn, scored on their expected counts:
    # Σ λ ln(λ/2) / (4 ln 2) = (3 ln 1.5 - ln 2) / (4 ln 2).
    rates = torch.tensor([[1.0], [3.0]]).repeat(50, 1)
    expected = (3 * math.log(1.5) - math.log(2)) / (4 * math.log(2))
    assert bits_per_spike(rates, rates) == pytest.approx(expected, rel=1e-6)
    assert bits_per_spike(rates, rates, mean_rates=torch.tensor([2.0])) == pytest.approx(expected)
    assert math.isnan(bits_per_spike(torch.zeros(4, 1), torch.ones(4, 1)))
    with pytest.raises(DataError, match="floor"):
        bits_per_spike(rates, torch.zeros_like(rates))
    with pytest.raises(DataError, match="negative"):
        bits_per_spike(rates, -rates)


def test_mean_interval_covers_as_often_as_it_says():
    samples = normal(2000, 5).double()
    covered = 0
    for values in samples:
        interval = mean_interval(values.tolist(), confidence=0.8)
        covered += interval.low <= 0 <= interval.high
    assert covered / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_mean_interval_refuses_what_has_no_mean(values: list[float]):
    with pytest.raises(DataError):
        mean_interval(values)
