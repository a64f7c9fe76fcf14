"""Schedules at points with known answers, and the settings they are read from."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saebook.errors import ConfigError
from saebook.training import TrainConfig
from saebook.training.schedules import (
    SCHEDULES,
    SPARSITY_SCHEDULES,
    LearningRate,
    LossDependentDecay,
    ripple,
)

CONFIG = TrainConfig(warmup_fraction=0.1, hold_fraction=0.5, final_fraction=0.01)
# Values at fractions 0, 0.05, 0.1, 0.5, 0.625, 0.75, 1 of the run.
FRACTIONS = (0.0, 0.05, 0.1, 0.5, 0.625, 0.75, 1.0)
EXPECTED = {
    "constant": (1, 1, 1, 1, 1, 1, 1),
    "warmup_constant": (0, 0.5, 1, 1, 1, 1, 1),
    "loss_dependent": (0, 0.5, 1, 1, 1, 1, 1),
    "warmup_linear": (0, 0.5, 1, 1, 0.7525, 0.505, 0.01),
    "warmup_hold_cosine": (
        0,
        0.5,
        1,
        1,
        0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2,
        0.505,
        0.01,
    ),
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_at_known_points(name):
    found = [SCHEDULES[name](fraction, CONFIG) for fraction in FRACTIONS]
    assert found == pytest.approx(list(EXPECTED[name]), abs=1e-12)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("joint", [0.1, 0.5, 1.0])
def test_schedules_are_continuous_at_their_joints(name, joint):
    before, at, after = (SCHEDULES[name](joint + d, CONFIG) for d in (-1e-9, 0.0, 1e-9))
    assert before == pytest.approx(at, abs=1e-7) and after == pytest.approx(at, abs=1e-7)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@given(
    fraction=st.floats(0, 1.5),
    joints=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    final=st.floats(0, 1),
    amplitude=st.floats(0, 1),
    period=st.floats(0.01, 1),
)
def test_no_schedule_leaves_zero_to_one(name, fraction, joints, final, amplitude, period):
    config = TrainConfig(
        schedule=name,
        learning_rate=1.0,
        warmup_fraction=joints[0],
        hold_fraction=joints[1],
        final_fraction=final,
        cycle_amplitude=amplitude,
        cycle_period=period,
    )
    assert 0 <= LearningRate(config).at(fraction) <= SCHEDULES[name](fraction, config) <= 1


def test_ripple_dips_by_its_amplitude_half_way_and_returns():
    config = TrainConfig(cycle_amplitude=0.1, cycle_period=0.2)
    for start in (0.0, 0.2, 0.4, 0.8):
        assert ripple(start, config) == pytest.approx(1.0)
        assert ripple(start + 0.05, config) == pytest.approx(0.95)
        assert ripple(start + 0.1, config) == pytest.approx(0.9)
    assert [ripple(f, TrainConfig()) for f in (0.0, 0.03, 0.77)] == [1.0, 1.0, 1.0]
    mean = sum(ripple(i / 1000, config) for i in range(1000)) / 1000
    assert mean == pytest.approx(0.95)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_learning_rate_multiplies_peak_schedule_and_ripple(name):
    config = TrainConfig(schedule=name, learning_rate=2e-3, cycle_amplitude=0.2, cycle_period=0.1)
    for fraction in (0.02, 0.33, 0.71):
        expected = 2e-3 * SCHEDULES[name](fraction, config) * ripple(fraction, config)
        assert LearningRate(config).at(fraction) == pytest.approx(expected, rel=1e-12)


def test_only_the_loss_dependent_schedule_heeds_the_loss():
    for name in SCHEDULES:
        rate = LearningRate(TrainConfig(schedule=name, plateau_patience=0.05, plateau_factor=0.1))
        before = rate.at(0.3)
        for i in range(10):
            rate.observe(1.0, 0.02 * i)
        expected = 0.001 if name == "loss_dependent" else 1.0  # cut three times
        assert rate.at(0.3) == pytest.approx(before * expected)


def noisy_losses() -> list[float]:
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [(2.0 * math.exp(-i / 40) + 0.05 * float(noise[i])) for i in range(200)]


def test_loss_dependent_decay_agrees_with_torch_on_evenly_spaced_logs():
    losses = noisy_losses()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=6, eps=0.0
    )
    decay = LossDependentDecay(patience=6.5 / 200, factor=0.5)
    cuts = set()
    for i, loss in enumerate(losses):
        scheduler.step(loss)
        assert decay.update(loss, i / 200) == optimizer.param_groups[0]["lr"]
        cuts.add(decay.multiplier)
    assert len(cuts) > 5


def test_loss_dependent_decay_goes_on_exactly():
    losses = noisy_losses()
    straight, first, second = (LossDependentDecay(patience=0.03, factor=0.5) for _ in range(3))
    expected = [straight.update(loss, i / 200) for i, loss in enumerate(losses)]
    found = [first.update(loss, i / 200) for i, loss in enumerate(losses[:83])]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.multiplier == first.multiplier
    found += [second.update(loss, i / 200) for i, loss in enumerate(losses) if i >= 83]
    assert found == expected and expected[82] < 1 and expected[-1] < expected[82]


def test_learning_rate_state_survives_through_its_owner():
    config = TrainConfig(schedule="loss_dependent", plateau_patience=0.05)
    first, second = LearningRate(config), LearningRate(config)
    for i in range(9):
        first.observe(1.0, i / 50)
    second.load_state_dict(first.state_dict())
    assert second.at(0.5) == first.at(0.5) < config.learning_rate
    assert LearningRate(TrainConfig()).state_dict() == {}


def test_losses_that_are_not_numbers_are_never_improvements():
    decay = LossDependentDecay(patience=0.1, factor=0.5)
    assert [decay.update(float("nan"), f) for f in (0.0, 0.2)] == [1.0, 0.5]
    assert decay.update(-3.0, 0.25) == 0.5
    assert decay.update(-2.0, 0.4) == 0.25  # losses below zero improve downwards too
    assert decay.update(-3.1, 0.45) == 0.25 and decay.update(-3.1, 0.54) == 0.25


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("ramp", {0.0: 0, 0.05: 0.25, 0.1: 0.5, 0.2: 1, 0.5: 1, 1.0: 1}),
        ("two_phase", {0.0: 0, 0.2: 0, 0.599: 0, 0.6: 0, 0.65: 0.25, 0.7: 0.5, 0.81: 1, 1.0: 1}),
        ("none", {0.0: 1, 0.3: 1, 1.0: 1}),
    ],
)
def test_sparsity_schedules_at_known_points(name, points):
    config = TrainConfig(
        sparsity_schedule=name, sparsity_ramp_fraction=0.2, sparsity_start_fraction=0.6
    )
    found = [SPARSITY_SCHEDULES[name](fraction, config) for fraction in points]
    assert found == pytest.approx(list(points.values()), abs=1e-12)


def test_sparsity_without_a_ramp_is_a_step():
    config = TrainConfig(sparsity_schedule="two_phase", sparsity_ramp_fraction=0.0)
    two_phase, ramp = SPARSITY_SCHEDULES["two_phase"], SPARSITY_SCHEDULES["ramp"]
    assert [two_phase(f, config) for f in (0.49, 0.5, 0.51)] == [0.0, 1.0, 1.0]
    assert ramp(0.0, config) == 1.0


def test_settings_survive_json():
    settings = TrainConfig(optimizer="nadam", resample_every=0.1, keep_checkpoints=(0.1, 0.5))
    again = TrainConfig.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings and again.keep_checkpoints == (0.1, 0.5)
    assert settings.to_dict() == json.loads(json.dumps(settings.to_dict()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"schedule": "warmup_const"}, "did you mean 'warmup_constant'"),
        ({"sparsity_schedule": "two_fase"}, "did you mean 'two_phase'"),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"momentum_decay": -0.1}, "momentum_decay = -0.1"),
        ({"momentum": 1.0}, r"in \[0, 1\)"),
        ({"weight_decay": -1.0}, "can't be negative"),
        ({"weight_decay": 500.0, "learning_rate": 3e-3}, "to zero or past it"),
        ({"cycle_period": 0.0}, "greater than 0"),
        ({"cycle_amplitude": 1.5}, r"lies in \[0, 1\]"),
        ({"plateau_factor": 2.0}, r"lies in \[0, 1\]"),
        ({"plateau_patience": 0}, "greater than 0"),
        ({"controller_rate": 0.0}, "greater than 0"),
        ({"resample_every": 0.6}, "ever be resampled"),
        ({"resample_every": 0.2, "resample_until": 0.1}, "ever be resampled"),
        ({"warmup_fraction": 0.6}, "raise hold_fraction"),
        (
            {"sparsity_schedule": "two_phase", "sparsity_start_fraction": 0.97},
            "start it earlier",
        ),
        ({"keep_checkpoints": (0.5, 0.1)}, "increasing fractions"),
        ({"keep_checkpoints": (0.0,)}, "increasing fractions"),
        ({"keep_checkpoints": (0.5, 0.5)}, "increasing fractions"),
        ({"keep_checkpoints": 0.5}, "keep_checkpoints"),
        ({"log_memory": 1}, "True or False"),
        ({"learning_rate": float("nan")}, "finite number"),
    ],
)
def test_contradictory_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)
