"""Initial weights: what random draws promise, and what waits for data."""

from __future__ import annotations

import pytest
import torch

from saebook.metrics import fvu
from saebook.models import ARCHITECTURES, SAE, SAEConfig
from saebook.models.initialisation import geometric_median


def inputs(n: int = 256, d_in: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def free(**changes) -> SAEConfig:
    settings = {"d_in": 32, "d_sae": 400, "architecture": "topk", "decoder_norm": "free"}
    return SAEConfig(**(settings | changes))


@pytest.mark.parametrize(("init", "fan"), [("he", 32), ("xavier", 432)])
def test_uniform_draws_have_the_variance_that_their_names_promise(init, fan):
    sae = SAE(free(decoder_init=init, encoder_init=init), seed=3)
    for rows in (sae.W_dec, sae.encoder_rows):
        assert rows.var().item() == pytest.approx(2 / fan, rel=0.05)
        limit = (6 / fan) ** 0.5
        assert 0.99 * limit < rows.abs().max().item() <= limit
    assert not torch.equal(sae.W_dec, sae.encoder_rows)


def test_unit_rows_are_transposed_into_the_encoder():
    sae = SAE(free())
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(400))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    relu = SAE(SAEConfig(d_in=32, d_sae=400, architecture="relu"))
    assert torch.allclose(relu.W_dec.norm(dim=1), torch.full((400,), 0.1))


def test_unit_norm_holds_whatever_the_draw():
    for init in ("he", "xavier", "unit", "data"):
        sae = SAE(free(decoder_init=init, decoder_norm="unit", d_in=8, d_sae=40))
        sae.fit_inputs(inputs())
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(40), atol=1e-6)


def test_rows_drawn_from_data_are_centred_training_examples():
    x = inputs(64)
    sae = SAE(SAEConfig(d_in=8, d_sae=40, k=4, decoder_init="data", architecture="topk"), seed=0)
    sae.fit_inputs(x)
    scaled = sae.scaling(x)
    centred = torch.nn.functional.normalize(scaled - scaled.mean(dim=0), dim=1)
    similarity = sae.W_dec.detach() @ centred.T  # [40, 64]
    assert torch.allclose(similarity.max(dim=1).values, torch.ones(40), atol=1e-5)
    assert len(set(similarity.argmax(dim=1).tolist())) == 40  # no example twice
    directions = torch.nn.functional.normalize(sae.encoder_rows.detach(), dim=1)
    assert torch.allclose(directions, sae.W_dec, atol=1e-5)


def test_rows_drawn_from_data_differ_between_seeds():
    """They were drawn by the number of latents alone: every seed began with the same rows."""
    first, same, other = (
        SAE(SAEConfig(d_in=8, d_sae=40, k=4, decoder_init="data"), seed=seed) for seed in (1, 1, 2)
    )
    for sae in (first, same, other):
        sae.fit_inputs(inputs())
    assert torch.equal(first.W_dec, same.W_dec) and not torch.equal(first.W_dec, other.W_dec)


def test_more_latents_than_examples_repeat_them_and_one_at_the_mean_stays_random():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]])  # the last is the mean
    config = SAEConfig(d_in=2, d_sae=9, k=1, decoder_init="data", input_scaling="none")
    sae = SAE(config)
    sae.fit_inputs(x)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(9), atol=1e-6)
    on_axis = sae.W_dec[:, 0].abs() > 1 - 1e-6
    assert on_axis.sum() == 6  # three latents drew the example without a direction


def test_a_transcoders_rows_are_drawn_as_pairs():
    x, target = inputs(64), inputs(64, 5, seed=1)
    config = SAEConfig(d_in=8, d_sae=40, k=4, d_out=5, decoder_init="data", architecture="topk")
    sae = SAE(config)
    sae.fit_inputs(x, target)

    def nearest(rows: torch.Tensor, values: torch.Tensor) -> list[int]:
        centred = torch.nn.functional.normalize(values - values.mean(dim=0), dim=1)
        return (torch.nn.functional.normalize(rows.detach(), dim=1) @ centred.T).argmax(1).tolist()

    drawn = nearest(sae.W_dec, target)
    assert nearest(sae.encoder_rows, x) == drawn and len(set(drawn)) == 40


def test_hidden_weights_of_an_mlp_are_not_overwritten_by_examples():
    """They were where the hidden layer had as many units as the input."""
    config = SAEConfig(d_in=8, d_sae=40, k=4, decoder="mlp", d_hidden=8, decoder_init="data")
    sae = SAE(config)
    before = sae.W_dec.detach().clone()
    sae.fit_inputs(inputs())
    assert torch.equal(sae.W_dec, before)


# --- biases -----------------------------------------------------------------------------


def test_the_geometric_median_has_no_pull_left():
    x = inputs(301).double()
    x[0] = 1e4
    median = geometric_median(x)
    pulls = torch.nn.functional.normalize(x - median, dim=1)
    assert pulls.sum(dim=0).norm().item() < 1e-3 * len(x)
    assert (median - x[1:].median(dim=0).values).norm() < 1.5  # and one outlier moves it little
    assert (x.mean(dim=0) - x[1:].median(dim=0).values).norm() > 50


@pytest.mark.parametrize("init", ["mean", "zero", "geometric_median"])
def test_b_dec_begins_where_it_was_asked_to(init):
    x = inputs()
    sae = SAE(SAEConfig(d_in=8, d_sae=40, k=4, b_dec_init=init, reconstruction="mse"))
    sae.fit_inputs(x)
    scaled = sae.scaling(x).double()
    expected = {
        "mean": scaled.mean(dim=0),
        "zero": torch.zeros(8).double(),
        "geometric_median": geometric_median(scaled),
    }[init]
    assert torch.allclose(sae.b_dec.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "output"), [("lmse", "relu"), ("lmse", "softplus"), ("pkl", None)]
)
def test_an_empty_dictionary_of_counts_predicts_their_mean(loss, output):
    x = inputs().round()
    sae = SAE(SAEConfig(d_in=8, d_sae=40, k=4, reconstruction=loss, output=output))
    sae.fit_inputs(x)
    assert torch.allclose(sae.decode(torch.zeros(1, 40))[0], x.mean(dim=0), rtol=1e-4)


def test_an_output_and_a_scale_per_example_can_be_fitted_together():
    """It failed: the mean target has no scale of its own."""
    sae = SAE(
        SAEConfig(
            d_in=8, d_sae=40, architecture="relu", input_scaling="layer_norm", output="softplus"
        )
    )
    sae.fit_inputs(inputs())
    reconstruction = sae(inputs())[0]
    assert reconstruction.shape == (256, 8) and (reconstruction > 0).all()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_mean_input_has_pre_activations_of_zero_however_it_is_centred(architecture):
    x = inputs().round()
    for reconstruction in ("mse", "lmse"):
        config = SAEConfig(
            d_in=8, d_sae=40, architecture=architecture, reconstruction=reconstruction
        )
        sae = SAE(config)
        sae.fit_inputs(x)
        assert config.b_enc_init == ("zero" if reconstruction == "mse" else "center")
        assert sae.pre_activations(x.mean(dim=0)).abs().max().item() < 1e-4


# --- size of the first reconstruction -----------------------------------------------------


def first_pass(architecture: str, **changes) -> tuple[SAE, torch.Tensor, torch.Tensor]:
    """A wide SAE, and its first reconstruction and target, both without ``b_dec``."""
    k = {"k": 32} if ARCHITECTURES[architecture].uses_k else {"target_l0": 32.0}
    sae = SAE(SAEConfig(d_in=8, d_sae=1024, architecture=architecture, **k, **changes)).train()
    sae.fit_inputs(inputs(512))
    forward = sae.pass_through(inputs(512))
    assert float(fvu(inputs(512), sae(inputs(512))[0].detach())) < 1.05
    return sae, forward.reconstruction_scaled - sae.b_dec, forward.target_scaled - sae.b_dec


@pytest.mark.parametrize("changes", [{}, {"decoder_init": "data"}])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "gated"])
def test_the_first_reconstruction_has_its_least_squares_size(architecture, changes):
    sae, made, wanted = first_pass(architecture, **changes)
    factor = ((made * wanted).sum() / made.square().sum()).item()
    assert factor == pytest.approx(1.0, rel=0.02)
    assert (made - wanted).square().sum() < wanted.square().sum()
    # Without it the sum of many projections overshoots.
    assert sae.encoder_rows.norm(dim=1).mean() < 0.7


@pytest.mark.parametrize("init", ["he", "xavier"])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "gated"])
def test_an_encoder_drawn_by_itself_neither_overshoots_nor_vanishes(architecture, init):
    """Least squares left it several times too large, or made it a thousand times too small."""
    sae, made, wanted = first_pass(architecture, encoder_init=init)
    assert (made.norm() / wanted.norm()).item() == pytest.approx(0.1, rel=0.5)
    assert sae.encoder_rows.norm(dim=1).mean() > 1e-3


def test_inputs_of_zero_leave_the_size_alone():
    sae = SAE(SAEConfig(d_in=8, d_sae=40, architecture="topk", k=4, input_scaling="none"))
    sae.fit_inputs(torch.zeros(9, 8))
    assert torch.allclose(sae.encoder_rows.norm(dim=1), torch.ones(40))
