"""SAEs behind SAEBench's attributes: the same function, unit decoder rows, its settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from saebook.errors import ConfigError, DataError
from saebook.evaluation.unlearning import Clamp, edited, rank_to_forget, sizes
from saebook.models import SAE, SAEConfig
from saebook.models.formats import for_sae_bench

D_IN, D_SAE = 6, 20
FOLDING = ("none", "scale", "scale_mean_norm", "center", "center_scale", "standardize", "whiten")
PER_EXAMPLE = ("layer_norm", "constant_norm_rescale")
ARCHITECTURES = ("relu", "leaky_relu", "topk", "batchtopk", "jumprelu", "gated")
BENCH = {"model_name": "pythia-70m-deduped", "layer": 3}


def activations() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D_IN, D_IN, generator=generator)
    return torch.randn(4, 30, D_IN, generator=generator) @ mixing * 3 + 2  # [batch, seq, d_in]


@torch.no_grad()
def trained(architecture: str = "topk", scaling: str = "scale", **settings) -> SAE:
    """Weights of every size, as after training."""
    config = SAEConfig(
        d_in=D_IN, d_sae=D_SAE, architecture=architecture, reconstruction="mse",
        input_scaling=scaling, **settings,
    )  # fmt: skip
    sae = SAE(config, seed=1)
    sae.fit_inputs(activations().flatten(0, 1))
    generator = torch.Generator().manual_seed(2)
    for name, value in sae.named_parameters():
        if name != "W_dec" or config.decoder_norm == "free":
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    if architecture == "jumprelu":
        sae.threshold.abs_()
    if architecture == "batchtopk":
        sae.threshold.fill_(0.3)
    return sae.eval()


@pytest.mark.parametrize("scaling", FOLDING + PER_EXAMPLE)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_wrapped_sae_computes_the_same(architecture, scaling):
    sae, x = trained(architecture, scaling), activations()
    wrapped = for_sae_bench(sae, **BENCH)
    latents = sae.encode(x)
    active = wrapped.encode(x)
    torch.testing.assert_close(active != 0, latents != 0)
    expected = sae.decode(latents, sae.context(x))
    torch.testing.assert_close(wrapped.decode(active), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(wrapped(x), expected, atol=1e-4, rtol=1e-5)
    norms = wrapped.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(D_SAE), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scaling", FOLDING)
@pytest.mark.parametrize("architecture", ["relu", "topk", "gated"])
def test_the_matrices_shown_are_those_computed_with(architecture, scaling):
    wrapped, x = for_sae_bench(trained(architecture, scaling), **BENCH), activations()
    latents = wrapped.encode(x)
    torch.testing.assert_close(
        wrapped.decode(latents), latents @ wrapped.W_dec + wrapped.b_dec, atol=1e-4, rtol=1e-5
    )
    if architecture != "gated":
        h = (x - wrapped.b_dec) @ wrapped.W_enc + wrapped.b_enc
        active = latents > 0
        torch.testing.assert_close(h[active], latents[active], atol=1e-4, rtol=1e-4)
    else:
        assert wrapped.b_mag.shape == (D_SAE,)


@pytest.mark.parametrize("scaling", ["none", "scale", "standardize"])
def test_its_clamp_is_ours_in_norms(scaling):
    sae, x = trained("relu", scaling), activations()
    wrapped, chosen = for_sae_bench(sae, **BENCH), [1, 4, 7]
    # The published lines, but for the zeroed first position.
    f = wrapped.encode(x)
    error = x - wrapped.decode(f)
    f[:, :, chosen] = torch.where(f[:, :, chosen] > 0, -30.0, f[:, :, chosen])
    expected = error + wrapped.decode(f)
    values = -30.0 * sizes(sae, np.ones(D_SAE), "norm")[chosen]
    clamp = Clamp(tuple(chosen), tuple(values.tolist()))
    torch.testing.assert_close(edited(sae, x, clamp), expected, atol=1e-3, rtol=1e-5)


def test_scales_of_other_examples_are_not_used():
    wrapped, x = for_sae_bench(trained("topk", "layer_norm"), **BENCH), activations()
    latents = wrapped.encode(x)
    with pytest.raises(DataError, match="encoded last"):
        wrapped.decode(latents[:2])
    with pytest.raises(DataError, match="before decoding"):
        for_sae_bench(trained("topk", "layer_norm"), **BENCH).decode(latents)


def test_settings_are_what_the_evaluations_read():
    wrapped = for_sae_bench(trained(), **BENCH, context_size=64)
    assert wrapped.cfg.hook_name == "blocks.3.hook_resid_post" and wrapped.cfg.hook_layer == 3
    assert wrapped.cfg.architecture == "topk" and wrapped.cfg.dtype == "float32"
    stored = json.loads(json.dumps(wrapped.cfg.to_dict()))
    assert stored["d_sae"] == D_SAE and stored["normalize_activations"] == "none"
    # SAEBench sets further fields on it, one of which JSON can't hold.
    wrapped.cfg.metadata = object()  # pyright: ignore[reportAttributeAccessIssue]
    assert "metadata" not in wrapped.cfg.to_dict()
    nested = trained("batchtopk", prefixes=(5, D_SAE))
    assert for_sae_bench(nested, **BENCH).cfg.architecture == "matryoshka_batch_topk"


def test_it_moves_and_converts_as_a_whole():
    sae, x = trained(), activations()
    wrapped = for_sae_bench(sae, **BENCH).to(device="cpu", dtype=torch.float64)
    assert wrapped.dtype == wrapped.W_enc.dtype == torch.float64
    assert wrapped.cfg.dtype == "float64" and wrapped(x).dtype == torch.float64
    assert sae.W_dec.dtype == torch.float32 and sae.scaling.mode.folds
    assert not any(p.requires_grad for p in wrapped.parameters())
    assert all(p.requires_grad for p in sae.parameters())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seq_len": 2}, "seq_len"),
        ({"d_out": 3}, "d_out"),
        ({"decoder": "mlp"}, "decoder"),
        ({"reconstruction": "lmse"}, "output"),
    ],
)
def test_what_it_cannot_represent_is_refused(settings, named):
    config = {"reconstruction": "mse"} | settings
    sae = SAE(SAEConfig(d_in=D_IN, d_sae=D_SAE, architecture="topk", k=2, **config))
    with pytest.raises(ConfigError, match=named):
        for_sae_bench(sae.eval(), **BENCH)


def test_a_missing_threshold_and_a_missing_direction_are_refused():
    sae = SAE(SAEConfig(d_in=D_IN, d_sae=D_SAE, architecture="batchtopk", reconstruction="mse"))
    with pytest.raises(ConfigError, match="calibrate_threshold"):
        for_sae_bench(sae.eval(), **BENCH)
    sae = trained("relu")
    with torch.no_grad():
        sae.W_dec[3] = 0
    with pytest.raises(ConfigError, match=r"latents \[3\]"):
        for_sae_bench(sae, **BENCH)


@pytest.mark.filterwarnings("ignore")
def test_the_installed_package_agrees():
    reason = "sae_bench is not installed; tests/benchmarks/sae_bench_evaluations.py runs it"
    pytest.importorskip("sae_bench", reason=reason)
    from sae_bench.evals.unlearning.utils.feature_activation import (  # pyright: ignore
        get_top_features,
    )
    from sae_bench.evals.unlearning.utils.intervention import (  # pyright: ignore
        anthropic_clamp_resid_SAE_features,
    )
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae  # pyright: ignore

    rng = np.random.default_rng(3)
    forget, retain = rng.random(D_SAE), rng.random(D_SAE) * 0.02
    chosen = get_top_features(forget, retain, retain_threshold=0.01)
    assert rank_to_forget(forget, retain, 0.01).tolist() == chosen.tolist()

    sae, x = trained("relu", "scale"), activations()
    _, wrapped, _ = load_and_format_sae("ours", for_sae_bench(sae, **BENCH), "cpu")
    theirs = anthropic_clamp_resid_SAE_features(x, None, wrapped, list(chosen[:4]), 30)
    values = -30.0 * sizes(sae, np.ones(D_SAE), "norm")[chosen[:4]]
    ours = edited(sae, x, Clamp(tuple(chosen[:4].tolist()), tuple(values.tolist())))
    torch.testing.assert_close(ours[:, 1:], theirs[:, 1:], atol=1e-3, rtol=1e-5)
    # Theirs leaves the start token as it is.
    torch.testing.assert_close(theirs[:, 0], x[:, 0], atol=1e-4, rtol=1e-5)
