"""Features embedded non-linearly: what a linear map misses, and that the file holds the truth."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saebook.data.simulate import (
    Simulation,
    rebuild_simulation,
    simulate_reach,
    simulate_session,
)
from saebook.data.simulate.embedding import (
    FORMS,
    TERMS,
    Embedding,
    draw_embedding,
    draw_forms,
    output_weights,
)
from saebook.errors import ConfigError

SMALL: dict[str, Any] = {"n_units": 40, "n_trials": 10, "embedding": "nonlinear"}


@pytest.fixture(scope="module")
def nonlinear() -> Simulation:
    return simulate_reach(n_trials=60, embedding="nonlinear", link="softplus", defects=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return simulate_session(tmp_path_factory.mktemp("nonlinear") / "a.nwb", **SMALL)


def linear_r2(rates: np.ndarray, inputs: np.ndarray) -> float:
    """Share of the variance of all rates that the best linear map of the inputs explains."""
    inputs = np.column_stack([np.ones(len(inputs)), inputs])
    weights = np.linalg.lstsq(inputs, rates, rcond=None)[0]
    left = ((rates - inputs @ weights) ** 2).sum()
    return float(1.0 - left / ((rates - rates.mean(axis=0)) ** 2).sum())


def true_rates(simulation: Simulation) -> np.ndarray:
    rows = range(simulation.n_units)
    return np.stack([simulation.rate_model.from_features(row) for row in rows], axis=1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("link", "linear_at_least"), [("exp", 0.9), ("softplus", 0.999)])
def test_a_linear_map_of_the_true_features_misses_a_third_of_the_rates(link, linear_at_least, seed):
    shared: dict[str, Any] = {"link": link, "seed": seed, "n_trials": 60, "defects": False}
    curved = simulate_reach(embedding="nonlinear", **shared)
    straight = simulate_reach(**shared)
    assert linear_r2(true_rates(straight), straight.features.data) > linear_at_least
    assert 0.6 < linear_r2(true_rates(curved), curved.features.data) < 0.8
    np.testing.assert_array_equal(curved.features.data, straight.features.data)


def test_the_hidden_terms_explain_all_that_the_features_miss(nonlinear):
    model = nonlinear.rate_model
    hidden = model.embedding.hidden(nonlinear.features.data.astype(float))
    assert linear_r2(true_rates(nonlinear), hidden) > 0.999
    drive = model.bias + hidden @ model.weights.T
    np.testing.assert_allclose(np.logaddexp(0.0, drive), true_rates(nonlinear), rtol=1e-9)


def test_directions_are_the_jacobian_averaged_over_active_steps(nonlinear):
    model = nonlinear.rate_model
    features = nonlinear.features.data.astype(float)
    for name in ("speed", "prepare_090", "pair_a"):
        column = nonlinear.features.columns.index(name)
        active = features[features[:, column] > 0]
        nudged = active.copy()
        nudged[:, column] += 1e-7
        change = model.embedding.hidden(nudged) - model.embedding.hidden(active)
        slope = (change / 1e-7).mean(axis=0) @ model.weights.T
        found = nonlinear.mixing[name].to_numpy()
        np.testing.assert_allclose(found, slope, atol=2e-3 * np.abs(slope).max())


def test_directions_are_all_there_and_distinct(nonlinear):
    directions = nonlinear.mixing.to_numpy().T
    length = np.linalg.norm(directions, axis=1)
    assert length.min() > 0  # the silent feature too: what it would do
    cosine = directions @ directions.T / np.outer(length, length)
    assert np.abs(cosine - np.eye(len(cosine))).max() < 0.9


def test_spikes_can_still_be_predicted_from_the_true_rates(nonlinear):
    n = int(nonlinear.interval.duration / 0.02 + 1e-9)
    edges = 0.02 * np.arange(n + 1)
    counts = np.stack([np.histogram(train, edges)[0] for train in nonlinear.spike_times], axis=1)
    expected = nonlinear.rates(0.02, gain=False) * 0.02
    mean = counts.mean(axis=0)
    gained = (counts * np.log(expected / mean) - expected + mean).sum()
    assert 0.15 < gained / (counts.sum() * np.log(2.0)) < 0.5


def test_the_tables_of_the_file_rebuild_the_rates(file):
    import pynwb

    simulation = rebuild_simulation(file)
    make_io: Any = pynwb.NWBHDF5IO
    with make_io(str(file), "r") as io:
        truth = io.read().processing["misc"]
        features = truth["ground_truth_features"].data[:].astype(float)
        embedding = truth["ground_truth_embedding"].to_dataframe()
        output = truth["ground_truth_output"].to_dataframe()
        mixing = truth["ground_truth_mixing"].to_dataframe()
    np.testing.assert_array_equal(mixing.drop(columns="unit"), simulation.mixing)
    weights = embedding.drop(columns=["term", "offset"]).to_numpy()
    hidden = np.maximum(features @ weights.T + embedding["offset"].to_numpy(), 0.0)
    assert list(output.columns) == ["unit", "bias", *embedding["term"]]
    drive = hidden @ output[list(embedding["term"])].to_numpy().T + output["bias"].to_numpy()
    np.testing.assert_allclose(np.exp(drive), true_rates(simulation), rtol=1e-9)


def test_rebuilt_read_and_written_sessions_are_the_same(file, tmp_path):
    from saebook.data.spikes import read_recording

    simulation, recording = rebuild_simulation(file), read_recording(file)
    assert simulation.parameters["embedding"] == "nonlinear"
    assert recording.notes == ()
    truth = recording.ground_truth
    assert truth is not None
    np.testing.assert_array_equal(truth["mixing"].to_numpy(), simulation.mixing.to_numpy())
    for a, b in zip(recording.spike_times, simulation.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    again = simulate_session(tmp_path / "b.nwb", **SMALL)
    same = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, again)]
    assert same[0] == same[1]


@pytest.mark.filterwarnings("ignore")
def test_inspector_has_no_message(file):
    from nwbinspector import inspect_nwbfile

    assert [m for m in inspect_nwbfile(nwbfile_path=str(file)) if m is not None] == []


def test_another_embedding_is_another_file(tmp_path):
    path = tmp_path / "a.nwb"
    settings: dict[str, Any] = {"n_units": 20, "n_trials": 8, "overwrite": "if_changed"}
    simulate_session(path, embedding="nonlinear", **settings)
    before = path.stat().st_mtime_ns
    simulate_session(path, embedding="nonlinear", **settings)
    assert path.stat().st_mtime_ns == before
    simulate_session(path, **settings)
    assert rebuild_simulation(path).rate_model.embedding is None


def test_sessions_of_an_animal_share_the_embedding_and_the_forms_of_their_units():
    first, second = (
        simulate_reach(40, 10, session=i, embedding="nonlinear", defects=False) for i in (0, 1)
    )
    other = simulate_reach(40, 10, animal=1, embedding="nonlinear", defects=False)
    a, b, c = (s.rate_model.embedding for s in (first, second, other))
    assert a is not None and b is not None and c is not None
    np.testing.assert_array_equal(a.weights, b.weights)
    assert not np.array_equal(a.weights, c.weights)
    shared = first.units.index.intersection(second.units.index)
    rows = [s.units.index.get_indexer(shared) for s in (first, second)]
    used = [s.rate_model.weights[r] != 0 for s, r in zip((first, second), rows, strict=True)]
    np.testing.assert_array_equal(*used)


def test_copies_of_a_unit_follow_the_same_terms():
    simulation = simulate_reach(n_trials=10, embedding="nonlinear")
    copies: Any = simulation.units[simulation.units["true_defect"] == "duplicate"]
    assert len(copies)
    for unit, source in copies["true_duplicate_of"].items():
        np.testing.assert_array_equal(simulation.mixing.loc[unit], simulation.mixing.loc[source])


def test_forms_do_what_they_are_called():
    embedding = Embedding(
        np.array([[1.0, 0], [1.0, -3.0], [1.0, -3.0], [2.0, 0]]), np.array([0, 0, 0, -1.0])
    )
    contexts = np.array([[1.0, 0.0], [1.0, 1.0], [0.4, 0.0], [0.4, 1.0]])
    activity = embedding.hidden(contexts)
    for form, expected in {
        "unless": [1.0, 0.0, 0.4, 0.0],
        "with": [0.0, 1.0, 0.0, 0.4],
        "strong": [1.0, 1.0, 0.0, 0.0],
    }.items():
        output = output_weights(np.ones((1, 1)), np.array([[FORMS.index(form)]]))
        np.testing.assert_allclose(activity @ output[0], expected, atol=1e-12)


def test_groups_leave_a_feature_alone_about_half_of_the_time():
    rng = np.random.default_rng(0)
    reference = (rng.random((4000, 60)) < 0.1).astype(float)
    embedding = draw_embedding(reference, rng)
    on = embedding.hidden(reference) > 0
    for term in ("unless_a", "unless_b"):
        first = TERMS.index(term) * 60
        share = (on[:, first : first + 60] & (reference > 0)).sum(axis=0) / reference.sum(axis=0)
        assert share.min() >= 0.4
        assert share.max() < 0.65


def test_a_feature_that_nothing_goes_with_has_no_group_and_still_speaks():
    reference = np.eye(5).repeat(20, axis=0)
    embedding = draw_embedding(reference, np.random.default_rng(0))
    assert (embedding.weights >= 0).all()
    forms = draw_forms((200, 5), embedding, np.random.default_rng(0))
    assert not (forms == FORMS.index("with")).any()
    slopes = embedding.slopes(np.zeros((3, 5)))
    np.testing.assert_array_equal(slopes[:5], np.eye(5))


def test_embeddings_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="embedding='curved'"):
        simulate_reach(embedding="curved")
    with pytest.raises(ConfigError, match="dense_control"):
        simulate_session(tmp_path / "a.nwb", kind="dense_control", embedding="nonlinear")
    with pytest.raises(ConfigError, match="place_cells"):
        simulate_session(tmp_path / "a.nwb", kind="place_cells", embedding="nonlinear")
