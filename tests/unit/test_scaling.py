"""Input scaling: every mode does what it promises, on awkward data too."""

from __future__ import annotations

import pytest
import torch

from saebook.errors import DataError
from saebook.models import ARCHITECTURES, SAE, SCALINGS, InputScaling, SAEConfig
from saebook.training import TrainConfig, Trainer, fit

FITTED = [m for m, rule in SCALINGS.items() if not rule.per_example]
PER_EXAMPLE = [m for m, rule in SCALINGS.items() if rule.per_example]


def inputs(n: int = 64, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def scaled(mode: str, x: torch.Tensor) -> torch.Tensor:
    scaling = InputScaling(mode, x.shape[1]).to(x.dtype)
    scaling.fit(x)
    return scaling(x)


def test_modes_reach_what_they_promise():
    x = inputs(1000).double()
    assert torch.equal(scaled("none", x), x)
    assert scaled("scale", x).square().sum(1).mean().item() == pytest.approx(6)
    assert scaled("scale_mean_norm", x).norm(dim=1).mean().item() == pytest.approx(6**0.5)
    assert scaled("center", x).mean(0).abs().max().item() == pytest.approx(0, abs=1e-12)
    assert scaled("center_scale", x).square().sum(1).mean().item() == pytest.approx(6)
    assert scaled("center_scale", x).mean(0).abs().max().item() == pytest.approx(0, abs=1e-12)
    assert scaled("standardize", x).std(0, correction=0).numpy() == pytest.approx(1)
    assert scaled("sqrt", x).square().sum(1).mean().item() == pytest.approx(6)
    assert scaled("constant_norm_rescale", x).norm(dim=1).numpy() == pytest.approx(6**0.5)
    assert scaled("layer_norm", x).mean(1).abs().max().item() == pytest.approx(0, abs=1e-12)
    assert scaled("layer_norm", x).std(1).numpy() == pytest.approx(1, rel=1e-3)


def test_whitening_leaves_the_identity_as_covariance():
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    x = (inputs(500) @ mixing).double()
    whitened = scaled("whiten", x)
    covariance = whitened.T @ whitened / len(x)
    assert torch.allclose(covariance, torch.eye(6).double(), atol=1e-5)


def test_whitening_leaves_directions_without_variance_alone():
    x = inputs(200).double()
    x[:, 5] = x[:, 0]  # the difference of the two never varies
    x[:, 4] = 0.1
    whitened = scaled("whiten", x)
    difference = (whitened[:, 5] - whitened[:, 0]).abs().max().item()
    assert difference < 1e-6 and whitened[:, 4].abs().max() < 1e-6
    scaling = InputScaling("whiten", 6).double()
    scaling.fit(x)
    assert torch.allclose(scaling.invert(scaling(x)), x, atol=1e-6)


def test_square_roots_touch_the_encoder_alone():
    counts = torch.poisson(inputs(200), generator=torch.Generator().manual_seed(0))
    sae = SAE(SAEConfig(d_in=6, d_sae=12, input_scaling="sqrt", architecture="topk", k=3))
    sae.fit_inputs(counts)
    forward = sae.pass_through(counts)
    ratio = forward.x_scaled / counts.sqrt()
    assert ratio[counts > 0].max() == pytest.approx(float(ratio[counts > 0].min()), rel=1e-5)
    # What is compared is the counts, by one factor.
    gain = forward.target_scaled[counts > 0] / counts[counts > 0]
    assert gain.max() == pytest.approx(float(gain.min()), rel=1e-5)
    back = forward.reconstruction_scaled / gain[0]
    assert torch.allclose(back, sae(counts)[0], atol=1e-4)


@pytest.mark.parametrize("mode", [m for m, rule in SCALINGS.items() if rule.inverts])
def test_scaling_inverts(mode):
    scaling = InputScaling(mode, 6)
    scaling.fit(inputs())
    x = inputs()
    # layer_norm divides by the deviation and 1e-5, and multiplies by the deviation alone.
    tolerance = 1e-4 if mode == "layer_norm" else 1e-5
    assert torch.allclose(scaling.invert(scaling(x), scaling.context(x)), x, atol=tolerance)


@pytest.mark.parametrize("mode", PER_EXAMPLE)
def test_modes_with_a_scale_per_example_need_the_example_to_decode(mode):
    sae = SAE(SAEConfig(d_in=6, d_sae=12, input_scaling=mode, architecture="topk", k=3))
    sae.fit_inputs(inputs())
    x = inputs(5, seed=1)
    latents = sae.encode(x)
    with pytest.raises(DataError, match=r"context=sae\.context\(x\)"):
        sae.decode(latents)
    assert torch.equal(sae.decode(latents, sae.context(x)), sae(x)[0])
    # A brighter copy of an example has the same latents and a brighter reconstruction.
    assert torch.allclose(sae.encode(3 * x), latents, atol=1e-4)
    assert torch.allclose(sae(3 * x)[0], 3 * sae(x)[0], atol=1e-3)


# --- awkward data -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [7.0, 0.1])
@pytest.mark.parametrize("mode", FITTED)
def test_a_constant_unit_is_not_blown_up_to_the_size_of_a_signal(mode, value):
    x = inputs(1000).double()
    x[:, 2] = value
    out = scaled(mode, x)
    assert out.isfinite().all() and out.abs().max() < 50
    if mode in ("center", "center_scale", "standardize"):
        assert out[:, 2].abs().max() < 1e-6


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", sorted(SCALINGS))
def test_broken_values_are_refused_when_fitting(mode, broken):
    x = inputs()
    x[3, 2] = broken
    with pytest.raises(DataError, match=r"1 of 64 rows hold NaN or infinity|is -inf"):
        SAE(SAEConfig(d_in=6, d_sae=8, k=2, input_scaling=mode)).fit_inputs(x)


@pytest.mark.parametrize("mode", ["scale", "scale_mean_norm", "center_scale", "sqrt"])
def test_all_zero_inputs_have_no_scale(mode):
    with pytest.raises(DataError, match="all 9 rows are zero: there is no scale to fit"):
        SAE(SAEConfig(d_in=6, d_sae=8, k=2, input_scaling=mode)).fit_inputs(torch.zeros(9, 6))


def test_rows_that_are_all_the_same_have_no_scale_about_their_mean():
    with pytest.raises(DataError, match="all 1000 rows are the same"):
        # In double precision the mean of a thousand 0.1 is not 0.1.
        scaled("center_scale", torch.full((1000, 6), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["none", "center", "standardize", "whiten", *PER_EXAMPLE])
def test_modes_that_need_no_scale_survive_all_zero_inputs(mode):
    assert torch.equal(scaled(mode, torch.zeros(9, 6)), torch.zeros(9, 6))
    scaling = InputScaling(mode, 6)
    scaling.fit(torch.zeros(9, 6))
    zeros = torch.zeros(2, 6)
    assert torch.equal(scaling.invert(scaling(zeros), scaling.context(zeros)), zeros)


def test_an_empty_sample_and_another_width_are_refused():
    with pytest.raises(DataError, match="n ≥ 1"):
        InputScaling("scale", 6).fit(torch.zeros(0, 6))
    with pytest.raises(DataError, match=r"it needs \[n, 6\]"):
        InputScaling("scale", 6).fit(torch.zeros(4, 5))


def test_inputs_are_fitted_once():
    sae = SAE(SAEConfig(d_in=6, d_sae=8))
    sae.fit_inputs(inputs())
    with pytest.raises(DataError, match="already fitted, on 64 rows"):
        sae.fit_inputs(inputs())


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_survives_zero_batches_and_constant_units(architecture):
    x = inputs(256)
    x[:, 1] = 0.1
    x[:, 3] = 0.0
    trainer = Trainer(
        SAE(SAEConfig(d_in=6, d_sae=24, architecture=architecture)),
        TrainConfig(n_steps=12, device="cpu"),
    )
    for i in range(12):
        losses = trainer.step(torch.zeros(32, 6) if i in (3, 4, 5) else x)
        assert losses["total"].isfinite()
    assert all(p.isfinite().all() for p in trainer.sae.parameters())
    assert bool(trainer.step(torch.zeros(1, 6))["fvu"] >= 0)


@pytest.mark.parametrize("d_sae", [1, 3, 24])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_trains_on_one_example_and_with_few_latents(architecture, d_sae):
    config = SAEConfig(d_in=6, d_sae=d_sae, architecture=architecture)
    run = fit(config, inputs(1) + 0.25, TrainConfig(n_steps=5, device="cpu"), progress=False)
    assert all(value.isfinite().all() for value in run.sae.state_dict().values())
    assert run.sae(inputs(3))[0].isfinite().all()
    assert run.card["fvu"] is None and "constant" in run.findings


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_fewer_latents_than_inputs_is_allowed_everywhere(architecture):
    config = SAEConfig(d_in=6, d_sae=2, architecture=architecture)
    train = TrainConfig(n_steps=20, batch_size=32, device="cpu")
    run = fit(config, inputs(128), train, progress=False)
    assert 0 <= run.card["l0"] <= 2 and not run.history["total"].isna().to_numpy().any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_broken_examples_are_refused_by_fit_and_visible_in_the_output(architecture, broken):
    x = inputs(128)
    config = SAEConfig(d_in=6, d_sae=12, architecture=architecture)
    run = fit(config, x, TrainConfig(n_steps=3, device="cpu"), progress=False)
    x[5, 1] = broken
    with pytest.raises(DataError, match="1 of 128 training examples hold NaN or infinity"):
        fit(config, x, TrainConfig(n_steps=3, device="cpu"), progress=False)
    # A model can't repair an input: the broken row is broken, and no other one is.
    finite = run.sae(x)[0].isfinite().all(dim=1)
    assert finite.sum() == 127 and not finite[5]
