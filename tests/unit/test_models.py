"""SAEs: settings, selection, scaling, folding, saving and loading."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.errors import CheckpointError, ConfigError, DataError
from saebook.models import (
    ARCHITECTURES,
    SAE,
    SCALINGS,
    InputScaling,
    SAEConfig,
    calibrate_threshold,
    fold_scaling,
    load_sae,
    save_sae,
)


def inputs(n: int = 64, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def make(architecture: str, **changes) -> SAE:
    k = 3 if ARCHITECTURES[architecture].uses_k else None
    config = SAEConfig(**({"d_in": 6, "d_sae": 20, "architecture": architecture, "k": k} | changes))
    sae = SAE(config, seed=1)
    sae.fit_inputs(inputs())
    return sae


# --- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": 21}, "between 1 and d_sae = 20"),
        ({"k": 0}, "between 1"),
        ({"k": 2.5}, "whole number"),
        ({"k": True}, "whole number"),
        ({"d_in": 0}, "at least 1"),
        ({"architecture": "topkk"}, "did you mean 'topk'"),
        ({"input_scaling": "scaled"}, "did you mean 'scale'"),
        ({"sparsity_coefficient": 0.1}, "set by k"),
        ({"architecture": "relu", "k": 3}, "leave k out"),
        ({"architecture": "relu", "sparsity_coefficient": -1.0}, "negative"),
        ({"aux_coefficient": float("nan")}, "finite"),
        ({"k_aux": 0}, "at least 1"),
        ({"decoder_norm": "half"}, "choose one of"),
    ],
)
def test_contradictory_settings_are_refused_with_the_remedy(changes, says):
    with pytest.raises(ConfigError, match=says):
        SAEConfig(**({"d_in": 6, "d_sae": 20} | changes))


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="did you mean 'd_sae'"):
        SAEConfig.from_dict({"d_in": 6, "d_sea": 20})


@given(
    d_in=st.integers(1, 50),
    d_sae=st.integers(1, 300),
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    scaling=st.sampled_from(sorted(SCALINGS)),
)
def test_settings_survive_json(d_in, d_sae, architecture, scaling):
    config = SAEConfig(d_in=d_in, d_sae=d_sae, architecture=architecture, input_scaling=scaling)
    assert SAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAEConfig(d_in=2, d_sae=4).k = 1  # pyright: ignore[reportAttributeAccessIssue]


# --- selection --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_shapes_follow_the_contract(architecture):
    sae = make(architecture)
    x = inputs(8).reshape(2, 4, 6)
    reconstruction, latents, losses = sae(x)
    assert reconstruction.shape == x.shape
    assert latents.shape == (2, 4, 20)
    objective = sae.config.objective
    assert list(losses) == [
        objective.reconstruction,
        *objective.sparsity,
        *objective.companions,
    ]
    assert sae.W_enc.shape == (6, 20) and sae.W_dec.shape == (20, 6)
    assert (latents >= 0).all() or architecture == "leaky_relu"


def test_topk_keeps_the_k_largest_of_each_example():
    sae = make("topk", k=3)
    x = inputs(32)
    h = sae.pre_activations(x)
    latents = sae.encode(x)
    for row, kept in zip(h, latents, strict=True):
        largest = set(row.argsort(descending=True)[:3].tolist())
        expected = {j for j in largest if row[j] > 0}
        assert set(kept.nonzero().flatten().tolist()) == expected
        assert torch.equal(kept[kept > 0], row[kept > 0])


def test_batchtopk_shares_k_over_the_batch_in_training():
    sae = make("batchtopk", k=3).train()
    latents = sae.encode(inputs(32))
    h = sae.pre_activations(inputs(32)).relu()
    assert int((latents > 0).sum()) == 3 * 32
    assert bool(latents[latents > 0].min() >= h[latents == 0].max())


def test_batchtopk_at_inference_does_not_depend_on_the_rest_of_the_batch():
    sae = make("batchtopk").eval()
    x = inputs(64)
    calibrate_threshold(sae, x)
    together = sae.encode(x)
    alone = torch.cat([sae.encode(row[None]) for row in x])
    assert torch.equal(together > 0, alone > 0)
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_calibrated_threshold_gives_k_on_average_over_its_rows(k):
    sae = make("batchtopk", k=k, d_sae=200).eval()
    x = inputs(500)
    calibrate_threshold(sae, x)
    assert float((sae.encode(x) > 0).sum()) == k * len(x)


def test_batchtopk_without_a_threshold_refuses_inference():
    with pytest.raises(ConfigError, match="calibrate_threshold"):
        make("batchtopk").eval().encode(inputs(2))


def test_more_latents_wanted_than_positive_is_fewer_active_not_negative_ones():
    sae = make("topk", k=20)
    latents = sae.encode(inputs(16))
    assert (latents >= 0).all()
    assert int((latents > 0).sum(dim=1).max()) < 20


def test_wrong_width_is_refused():
    with pytest.raises(DataError, match="d_in = 6"):
        make("relu").encode(torch.zeros(3, 5))


def test_one_example_and_a_narrow_dictionary_work():
    sae = SAE(SAEConfig(d_in=6, d_sae=2, k=1))
    sae.fit_inputs(inputs(1))
    assert sae(inputs(1))[0].shape == (1, 6)


def test_same_seed_same_model():
    a, b, c = (SAE(SAEConfig(d_in=5, d_sae=9, k=2), seed=s) for s in (3, 3, 4))
    assert torch.equal(a.W_dec, b.W_dec)
    assert not torch.equal(a.W_dec, c.W_dec)


# --- scaling and folding ----------------------------------------------------------------


def test_scalings_reach_what_they_promise():
    x = inputs(1000).double()

    def scaled(mode: str) -> torch.Tensor:
        scaling = InputScaling(mode, 6).double()
        scaling.fit(x)
        return scaling(x)

    assert torch.equal(scaled("none"), x)
    assert scaled("scale").square().sum(1).mean().item() == pytest.approx(6)
    assert scaled("scale_mean_norm").norm(dim=1).mean().item() == pytest.approx(6**0.5)
    assert scaled("center").mean(0).abs().max().item() == pytest.approx(0, abs=1e-12)
    assert scaled("center_scale").square().sum(1).mean().item() == pytest.approx(6)
    assert scaled("standardize").std(0, correction=0).numpy() == pytest.approx(1)


def test_a_constant_unit_does_not_break_standardize():
    x = inputs(50)
    x[:, 2] = 7.0
    scaling = InputScaling("standardize", 6)
    scaling.fit(x)
    assert scaling(x).isfinite().all()
    assert scaling(x)[:, 2].abs().max() == 0


@pytest.mark.parametrize("mode", [m for m, rule in SCALINGS.items() if rule.inverts])
def test_scaling_inverts(mode):
    scaling = InputScaling(mode, 6)
    scaling.fit(inputs())
    x = inputs()
    assert torch.allclose(scaling.invert(scaling(x), scaling.context(x)), x, atol=1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_values_are_refused_when_fitting(broken):
    x = inputs()
    x[3, 2] = broken
    with pytest.raises(DataError, match="1 of 64 rows hold NaN or infinity"):
        SAE(SAEConfig(d_in=6, d_sae=8, k=2)).fit_inputs(x)


def test_all_zero_inputs_have_no_scale():
    with pytest.raises(DataError, match="no scale to fit"):
        SAE(SAEConfig(d_in=6, d_sae=8, k=2)).fit_inputs(torch.zeros(9, 6))


def test_inputs_are_fitted_once():
    sae = make("relu")
    with pytest.raises(DataError, match="already fitted, on 64 rows"):
        sae.fit_inputs(inputs())


@pytest.mark.parametrize("to_input", [True, False])
@pytest.mark.parametrize("mode", [m for m, rule in SCALINGS.items() if rule.folds])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_folding_changes_nothing(architecture, mode, to_input):
    sae = make(architecture, input_scaling=mode, apply_b_dec_to_input=to_input).eval()
    if architecture == "batchtopk":
        calibrate_threshold(sae, inputs())
    x = inputs(seed=5)
    folded = fold_scaling(sae)
    assert folded.config.input_scaling == "none"
    assert torch.allclose(folded.encode(x), sae.encode(x), atol=1e-5)
    assert torch.allclose(folded(x)[0], sae(x)[0], atol=1e-5)
    assert torch.equal(folded.scaling(x), x)


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", sorted(SCALINGS))
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_saved_and_loaded_is_the_same(architecture, mode, dtype, tmp_path):
    sae = make(architecture, input_scaling=mode).to(dtype).eval()
    if architecture == "batchtopk":
        calibrate_threshold(sae, inputs())
    loaded = load_sae(save_sae(sae, tmp_path / "sae"))
    assert loaded.config == sae.config and not loaded.training
    assert loaded.W_dec.dtype == dtype
    x = inputs(seed=3)
    assert torch.equal(loaded(x)[0], sae(x)[0])
    assert loaded.encoder_rows.stride() == sae.encoder_rows.stride()


def test_saving_replaces_a_folder_and_leaves_no_partial_one(tmp_path):
    save_sae(make("relu"), tmp_path / "sae")
    save_sae(make("topk"), tmp_path / "sae")
    assert load_sae(tmp_path / "sae").config.architecture == "topk"
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def _break(path, what):
    cfg = path / "cfg.json"
    weights = path / "sae_weights.safetensors"
    content = json.loads(cfg.read_text())
    if what == "no weights":
        weights.unlink()
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:200])
    elif what == "not json":
        cfg.write_text("{")
    elif what == "foreign":
        cfg.write_text(json.dumps({"d_in": 6, "d_sae": 20}))
    elif what == "newer":
        cfg.write_text(json.dumps(content | {"format_version": 99}))
    elif what == "unknown setting":
        cfg.write_text(json.dumps(content | {"seq_length": 3}))
    elif what == "other shape":
        cfg.write_text(json.dumps(content | {"d_sae": 21}))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no weights", "no sae_weights.safetensors"),
        ("truncated", "damaged or truncated"),
        ("not json", "not valid JSON"),
        ("foreign", "architecture"),
        ("newer", "format version 99"),
        ("unknown setting", "seq_length"),
        ("other shape", "does not fit"),
    ],
)
def test_a_damaged_or_foreign_folder_is_named(what, says, tmp_path):
    path = save_sae(make("topk"), tmp_path / "sae")
    _break(path, what)
    with pytest.raises(CheckpointError, match=says):
        load_sae(path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load_sae(tmp_path / "nowhere")


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(1, 9))
def test_topk_never_exceeds_k(seed, n):
    sae = make("topk", k=4)
    assert int((sae.encode(inputs(n, seed=seed)) > 0).sum(dim=1).max()) <= 4
