"""Calibration of rates, effects of latents and held-out units, against analytic answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saebook.errors import DataError
from saebook.evaluation import decoder_directions
from saebook.evaluation.effects import effect_directions
from saebook.evaluation.held_out_units import poisson_readout
from saebook.metrics import (
    bits_per_spike,
    calibration_slope,
    floored,
    information_share,
    spike_ratio,
)
from saebook.models import SAE, SAEConfig


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_slope_of_shrunk_rates_is_the_inverse_of_the_shrinkage():
    rates = uniform(200, 4).double() * torch.tensor([1.0, 2.0, 5.0, 20.0]).double()
    shrunk = rates.mean(0) + 0.4 * (rates - rates.mean(0))
    assert calibration_slope(rates, shrunk) == pytest.approx(2.5, rel=1e-12)
    assert calibration_slope(rates, rates) == pytest.approx(1.0, rel=1e-12)


def test_slope_ignores_what_lies_between_units():
    """Units of different means, predicted by their means and noise, are not calibrated."""
    means = torch.tensor([0.0, 100.0])
    noise = uniform(5000, 2)
    assert abs(calibration_slope(uniform(5000, 2, seed=1) + means, noise + means)) < 0.05


def test_slope_of_noise_added_to_the_rates():
    """Regression dilution: var / (var + noise variance)."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.randn(200_000, 1, generator=generator)
    noisy = rates + 0.5 * torch.randn(200_000, 1, generator=generator)
    assert calibration_slope(rates, noisy) == pytest.approx(1 / 1.25, abs=5e-3)


def test_slope_of_constant_rates_and_ratio_of_no_spikes_are_undefined():
    assert math.isnan(calibration_slope(uniform(9, 2), torch.ones(9, 2)))
    assert math.isnan(spike_ratio(torch.zeros(9, 2), torch.ones(9, 2)))
    assert spike_ratio(torch.ones(9, 2), 0.9 * torch.ones(9, 2)) == pytest.approx(0.9)


def test_information_is_that_of_fresh_spikes():
    """Its closed form equals the average over many draws of spikes from the true rates."""
    rng = np.random.default_rng(0)
    true = uniform(400, 3) * 2
    guess, mean = 0.3 + 0.7 * true, true.mean(0)
    drawn = torch.from_numpy(rng.poisson(true.numpy(), (300, *true.shape))).flatten(0, 1)
    repeated = [rates.repeat(300, 1) for rates in (true, guess)]
    best, found = (bits_per_spike(drawn, rates, mean) for rates in repeated)
    assert information_share(true, guess, mean) == pytest.approx(found / best, abs=0.01)


def test_information_of_the_truth_and_of_the_mean():
    true = uniform(50, 3)
    mean = true.mean(0)
    assert information_share(true, true, mean) == 1.0
    assert information_share(true, mean.expand_as(true), mean) == pytest.approx(0.0, abs=1e-9)
    assert information_share(true, 10 * mean.expand_as(true), mean) < 0
    assert math.isnan(information_share(mean.expand_as(true), true, mean))


def test_floor_bounds_what_a_spike_can_cost():
    rates = floored(torch.tensor([[0.0], [-3.0], [4.0]]), torch.tensor([2.0]))
    assert rates.flatten().tolist() == pytest.approx([0.2, 0.2, 4.0])
    with pytest.raises(DataError, match="share is 0"):
        floored(rates, torch.tensor([2.0]), share=0)


@pytest.mark.parametrize("score", [calibration_slope, spike_ratio])
def test_scores_refuse_what_does_not_fit(score):
    with pytest.raises(DataError, match="same shape"):
        score(torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(DataError, match="not finite"):
        score(torch.ones(3, 2), torch.full((3, 2), math.nan))


def fitted(x: torch.Tensor, **settings) -> SAE:
    sae = SAE(SAEConfig(d_in=x.shape[1], d_sae=12, architecture="topk", k=3, **settings), seed=0)
    sae.fit_inputs(x)
    return sae.eval()


def test_effects_of_a_linear_model_are_its_decoder_rows():
    x = uniform(3000, 6)
    sae = fitted(x)
    alive = (sae.encode(x) > 0).any(dim=0)
    effects = effect_directions(sae, x)
    torch.testing.assert_close(effects[alive], decoder_directions(sae)[alive], rtol=1e-4, atol=1e-5)
    assert bool((effects[~alive] == 0).all())


def test_what_a_relu_output_hides_is_no_effect():
    """Weights that only push a rate further below zero do not count."""
    x = uniform(500, 6).round()
    sae = fitted(x, reconstruction="lmse")
    with torch.no_grad():
        sae.W_dec[:, 0] = -sae.W_dec[:, 0].abs()
        sae.b_dec[0] = -1.0
    effects = effect_directions(sae, x)
    assert bool((effects[:, 0] == 0).all()) and bool((effects[:, 1:] != 0).any())
    assert bool((decoder_directions(sae)[:, 0] < 0).all())


def test_readout_finds_the_weights_behind_poisson_counts():
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.exponential(1.0, (20_000, 3)).astype(np.float32))
    weights = torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.2, 0.2]])
    counts = torch.from_numpy(rng.poisson((latents @ weights + 0.1).numpy()))
    readout = poisson_readout(latents, counts, n_iterations=500)
    torch.testing.assert_close(readout.weights, weights, atol=0.03, rtol=0)
    torch.testing.assert_close(readout.offset, torch.full((2,), 0.1), atol=0.03, rtol=0)


def test_readout_conserves_spikes_and_never_falls():
    latents, counts = uniform(300, 5), (4 * uniform(300, 2, seed=1)).round()
    previous = -math.inf
    for n_iterations in (1, 2, 5, 50):
        rates = poisson_readout(latents, counts, n_iterations=n_iterations)(latents)
        score = bits_per_spike(counts, rates)
        assert score >= previous - 1e-6
        previous = score
    assert float(rates.sum()) == pytest.approx(float(counts.sum()), rel=1e-2)


def test_readout_without_a_living_latent_is_the_mean_and_silence_stays_silent():
    counts = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    readout = poisson_readout(torch.zeros(2, 4), counts, n_iterations=2000)
    assert readout(torch.zeros(1, 4)).flatten().tolist() == pytest.approx([2.0, 0.0], abs=1e-5)


def test_readout_refuses_signed_latents():
    with pytest.raises(DataError, match="latents hold negative"):
        poisson_readout(-torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(DataError, match="same rows"):
        poisson_readout(torch.ones(3, 2), torch.ones(2, 1))
