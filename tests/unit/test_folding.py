"""Folding, saving and loading leave what an SAE computes as it was."""

from __future__ import annotations

import pytest
import torch

from saebook.errors import ConfigError
from saebook.models import (
    ARCHITECTURES,
    SAE,
    SCALINGS,
    SAEConfig,
    fold_decoder_norms,
    fold_scaling,
    load_sae,
    save_sae,
)
from saebook.training.run import settle

FOLDING = [m for m, rule in SCALINGS.items() if rule.folds]
KINDS = {
    "linear": {},
    "mlp": {"decoder": "mlp", "d_hidden": 7},
    "lmse": {"reconstruction": "lmse"},
    "pkl": {"reconstruction": "pkl"},
    "mlp on counts": {"reconstruction": "pkl", "decoder": "mlp", "d_hidden": 7},
    "softplus": {"reconstruction": "mse", "output": "softplus"},
    "not subtracted": {"apply_b_dec_to_input": False},
    "nested": {"prefixes": (5, 12, 20)},
}
# A file holds what each of the three needs by itself, so pairs are enough: every architecture with
# every mode, and both with every kind.
SAVED = [
    (architecture, mode, list(KINDS)[(i + j + half) % len(KINDS)])
    for i, architecture in enumerate(sorted(ARCHITECTURES))
    for j, mode in enumerate(sorted(SCALINGS))
    for half in (0, len(KINDS) // 2)
]
WINDOWS = {
    "last bin": {"seq_len": 3},
    "all bins": {"seq_len": 3, "target": "all"},
    "all bins, mlp": {"seq_len": 3, "target": "all", "decoder": "mlp", "d_hidden": 7},
    "last bin of counts": {"seq_len": 3, "reconstruction": "lmse"},
}


def inputs(n: int = 64, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def make(architecture: str, x: torch.Tensor, towards=None, **changes) -> SAE:
    """A fitted SAE whose parameters all differ from where they began."""
    config = SAEConfig(d_in=6, d_sae=20, architecture=architecture, **changes)
    sae = SAE(config, seed=1)
    sae.fit_inputs(x, towards)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        sae.config.selection.constrain(sae)
    settle(sae, x)
    return sae


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to 1e-5 of the largest value."""
    return torch.allclose(a, b, rtol=0, atol=1e-5 * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", FOLDING)
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_folding_the_scaling_changes_nothing(architecture, mode, kind):
    sae = make(architecture, inputs(), input_scaling=mode, **KINDS[kind])
    x = inputs(seed=5)
    folded = fold_scaling(sae)
    assert folded.config.input_scaling == "none" and folded.training == sae.training
    assert torch.equal(folded.scaling(x), x)
    assert (sae.encode(x) != 0).any()
    assert same(folded.encode(x), sae.encode(x))
    assert same(folded(x)[0], sae(x)[0])
    assert same(folded.decode(sae.encode(x)), sae(x)[0])


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("mode", FOLDING)
def test_folding_the_scaling_of_windows_changes_nothing(mode, kind):
    windows = inputs(192).reshape(64, 3, 6)
    sae = make("gated", windows, input_scaling=mode, **WINDOWS[kind])
    folded = fold_scaling(sae)
    assert same(folded.encode(windows), sae.encode(windows))
    assert same(folded(windows)[0], sae(windows)[0])


@pytest.mark.parametrize("mode", FOLDING)
def test_folding_a_transcoder_folds_both_ends(mode):
    target = 40 * inputs(seed=7)[:, :4]
    sae = make("topk", inputs(), target, input_scaling=mode, d_out=4)
    folded = fold_scaling(sae)
    assert same(folded(inputs(), target)[0], sae(inputs(), target)[0])
    assert torch.equal(folded.target_scaling(target), target)


@pytest.mark.parametrize("mode", sorted(set(SCALINGS) - set(FOLDING)))
def test_modes_that_no_weights_can_express_refuse_to_fold(mode):
    sae = make("relu", inputs(), input_scaling=mode)
    with pytest.raises(ConfigError, match=r"can't be folded.*train with 'scale'"):
        fold_scaling(sae)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", [a for a, r in ARCHITECTURES.items() if not r.uses_k])
def test_folding_decoder_norms_changes_nothing(architecture, kind):
    sae = make(architecture, inputs(), decoder_norm="free", **KINDS[kind])
    with torch.no_grad():
        sae.W_dec[3] = 0.0
    x = inputs(seed=5)
    folded = fold_decoder_norms(sae)
    norms = sae.W_dec.norm(dim=1)
    expected = torch.where(norms > 0, 1.0, 0.0)
    assert same(folded.W_dec.norm(dim=1), expected)
    assert same(folded(x)[0], sae(x)[0])
    assert same(folded.encode(x), sae.encode(x) * torch.where(norms > 0, norms, 1.0))
    assert folded.config.decoder_norm == "unit"


@pytest.mark.parametrize("architecture", [a for a, r in ARCHITECTURES.items() if r.uses_k])
def test_folding_decoder_norms_where_latents_compete_is_refused(architecture):
    sae = make(architecture, inputs(), decoder_norm="free")
    with pytest.raises(ConfigError, match=r"which latents are the largest.*decoder_norm='unit'"):
        fold_decoder_norms(sae)


def test_folding_leaves_the_original_alone():
    sae = make("gated", inputs())
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    fold_scaling(sae)
    fold_decoder_norms(sae)
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


def test_every_pair_is_saved():
    pairs = [{(a, m) for a, m, _ in SAVED}, {(a, k) for a, _, k in SAVED}]
    pairs.append({(m, k) for _, m, k in SAVED})
    n_architectures, n_modes, n_kinds = len(ARCHITECTURES), len(SCALINGS), len(KINDS)
    assert [len(found) for found in pairs] == [
        n_architectures * n_modes,
        n_architectures * n_kinds,
        n_modes * n_kinds,
    ]


@pytest.mark.parametrize(("architecture", "mode", "kind"), SAVED)
def test_saved_and_loaded_is_the_same(architecture, mode, kind, tmp_path):
    changes = dict(KINDS[kind])
    if mode == "sqrt" and kind == "nested":
        changes["prefix_weights"] = (1.0, 2.0, 3.0)
    sae = make(architecture, inputs(), input_scaling=mode, **changes)
    loaded = load_sae(save_sae(sae, tmp_path / "sae"))
    assert loaded.config == sae.config and not loaded.training
    x = inputs(seed=3)
    assert torch.equal(loaded(x)[0], sae(x)[0])
    assert torch.equal(loaded.directions, sae.directions)
    assert loaded.encoder_rows.stride() == sae.encoder_rows.stride()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_double_precision_survives_saving_and_folding(architecture, tmp_path):
    sae = make(architecture, inputs()).double()
    loaded = load_sae(save_sae(sae, tmp_path / "sae"))
    assert loaded.W_dec.dtype == torch.float64
    x = inputs(seed=3).double()
    assert torch.equal(loaded(x)[0], sae(x)[0])
    assert torch.allclose(fold_scaling(loaded)(x)[0], sae(x)[0], atol=1e-12)


@pytest.mark.parametrize("kind", WINDOWS)
def test_windowed_models_survive_saving(kind, tmp_path):
    windows = inputs(192).reshape(64, 3, 6)
    sae = make("batchtopk", windows, **WINDOWS[kind])
    loaded = load_sae(save_sae(sae, tmp_path / "sae"))
    assert torch.equal(loaded(windows)[0], sae(windows)[0])
