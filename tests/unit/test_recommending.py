"""Recommended settings: valid everywhere, and refused where nothing can be recommended."""

from __future__ import annotations

import pytest
import torch

from saebook.data.simulate import simulate_counts
from saebook.errors import ConfigError
from saebook.training import TrainConfig, fit, recommend_config


@pytest.mark.parametrize("n_units", [1, 3, 8, 20, 100, 400, 5000])
@pytest.mark.parametrize("n_examples", [200, 3000, 1_000_000])
@pytest.mark.parametrize("mean_rate", [0.05, 5.0, 60.0])
def test_every_recommendation_and_its_sweep_can_be_trained(n_units, n_examples, mean_rate):
    advice = recommend_config(n_units, n_examples, mean_rate)
    assert advice.config in advice.sweep
    assert len(set(map(repr, advice.sweep))) == len(advice.sweep) <= 12
    assert all(
        config.d_in == n_units and 1 <= (config.k or 0) <= config.d_sae for config in advice.sweep
    )
    assert advice.config.d_sae * 10 <= n_examples
    assert advice.train.batch_size <= n_examples
    assert set(advice.ranges) <= set(advice.reasons) == set(advice.table.index)
    assert str(advice).count("\n") == len(advice.reasons) - 1


@pytest.mark.parametrize(
    ("n_units", "n_examples", "mean_rate", "reconstruction"),
    [
        (85, 11_000, 10.2, "lmse"),
        (45, 11_000, 33.0, "mse"),  # many spikes, of few units
        (157, 38_000, 1.1, "mse"),  # many units, few spikes in a bin
        (237, 4_300, 2.0, "mse"),  # many units and spikes, but a short recording
    ],
)
def test_the_loss_follows_units_spikes_and_length(n_units, n_examples, mean_rate, reconstruction):
    advice = recommend_config(n_units, n_examples, mean_rate)
    assert advice.config.reconstruction == reconstruction
    assert {"mse", "lmse"} == {config.reconstruction for config in advice.sweep}


def test_what_follows_from_a_setting_follows_anew_in_a_variant():
    advice = recommend_config(200, 20_000, 5.0)
    assert (advice.config.reconstruction, advice.config.output) == ("lmse", "relu")
    assert advice.variant(reconstruction="mse").output == "none"


def test_a_recommended_run_follows_features_better_than_units_do():
    known = simulate_counts(6000, 150, 60, mean_rate_hz=10.0, seed=3)
    x, features = torch.from_numpy(known.x), torch.from_numpy(known.features)
    advice = recommend_config(150, 5000, 10.0)
    train = TrainConfig.from_dict(advice.train.to_dict() | {"n_steps": 150, "device": "cpu"})
    run = fit(advice.config, x[:5000], train, progress=False)

    def followed(activity: torch.Tensor) -> torch.Tensor:
        both = torch.corrcoef(torch.cat([activity, features[5000:]], dim=1).T)
        return both[: activity.shape[1], activity.shape[1] :].nan_to_num().amax(dim=0).mean()

    with torch.no_grad():
        latents = run.sae.encode(x[5000:])
    assert followed(latents) > followed(x[5000:]) + 0.1


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((0, 1000, 5.0), "n_units = 0"),
        ((2.5, 1000, 5.0), "n_units = 2.5"),
        ((10, 50, 5.0), "n_examples = 50: no SAE"),
        ((10, 1000, 0.0), "mean_rate = 0.0"),
        ((10, 1000, float("nan")), "mean_rate = nan"),
    ],
)
def test_impossible_numbers_are_refused(arguments, found):
    with pytest.raises(ConfigError, match=found):
        recommend_config(*arguments)


def test_a_bin_without_width_is_refused():
    with pytest.raises(ConfigError, match="bin_size_s = 0"):
        recommend_config(10, 1000, 5.0, bin_size_s=0)
