"""Recovery of known fields: one latent each, judged where it was not chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.evaluation.fields import correlations, profiles, recover_fields

PLACES = 10
TRAIN, TEST = np.arange(1000), np.arange(1000, 2000)


def recording(noise: float = 0.1):
    rng = np.random.default_rng(0)
    group = rng.integers(0, PLACES, 2000)
    centres = np.arange(PLACES)
    fields = pd.DataFrame(
        {"left": np.exp(-((centres - 2) ** 2)), "right": np.exp(-((centres - 7) ** 2))}
    )
    activity = fields.to_numpy()[group] + noise * rng.normal(size=(2000, 2))
    others = rng.normal(size=(2000, 8))
    return group, fields, np.concatenate([activity, others], axis=1)


def test_latents_that_follow_the_fields_are_found_in_any_order():
    group, fields, units = recording()
    latents = units[:, ::-1]
    found = recover_fields(
        latents, units, group, fields, pd.Series({"left": 0, "right": 1}), TRAIN, TEST
    )
    assert found.table["latent"].tolist() == [9, 8]
    assert found.table["unit"].tolist() == [0, 1]
    assert found.n_recovered == 2 and found.table["chance"].to_numpy().max() < 0.8


def test_noise_recovers_nothing():
    group, fields, units = recording()
    noise = np.random.default_rng(1).normal(size=(2000, 40))
    found = recover_fields(
        noise, units, group, fields, pd.Series({"left": 0, "right": 1}), TRAIN, TEST
    )
    assert found.n_recovered == 0


def test_one_latent_serves_one_field_only():
    group, fields, units = recording()
    both = fields.to_numpy().sum(axis=1)[group][:, None]
    latents = np.concatenate([both, np.zeros((2000, 3))], axis=1)
    found = recover_fields(
        latents, units, group, fields, pd.Series({"left": 0, "right": 1}), TRAIN, TEST
    )
    assert len(set(found.table["latent"].tolist())) == 2 and found.n_recovered == 0


def test_a_latent_that_holds_on_training_rows_alone_does_not_count():
    group, fields, units = recording()
    latents = units.copy()
    latents[TEST] = np.random.default_rng(2).normal(size=(1000, 10))
    found = recover_fields(
        latents, units, group, fields, pd.Series({"left": 0, "right": 1}), TRAIN, TEST
    )
    assert found.table["r_train"].to_numpy().min() > 0.95 and found.n_recovered == 0


def test_silent_latents_correlate_with_nothing_and_unvisited_places_are_filled():
    assert correlations(np.zeros((4, 2)), np.eye(4)[:, :3]).tolist() == [[0.0, 0.0]] * 3
    assert profiles([[0.0], [4.0]], [0, 2], 3)[:, 0].tolist() == [0.0, 2.0, 4.0]


def test_too_few_places_are_refused():
    group, fields, units = recording()
    group[TEST] = 4
    with pytest.raises(DataError, match="visit 1 of 10"):
        recover_fields(units, units, group, fields, pd.Series({"left": 0, "right": 1}), TRAIN, TEST)
