"""Matryoshka dictionaries: nested prefixes, each of which reconstructs the whole target."""

from __future__ import annotations

import pytest
import torch

from saebook.losses import lmse, mse
from saebook.models import ARCHITECTURES, SAE, SAEConfig, calibrate_threshold
from saebook.training import TrainConfig, Trainer, fit

PREFIXES = (3, 8, 20)


def inputs(n: int = 64, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def make(architecture: str, **changes) -> SAE:
    config = SAEConfig(d_in=6, d_sae=20, architecture=architecture, prefixes=PREFIXES, **changes)
    sae = SAE(config, seed=1)
    sae.fit_inputs(inputs())
    if architecture == "batchtopk":
        calibrate_threshold(sae, inputs())
    return sae.eval()


@pytest.mark.parametrize("changes", [{}, {"decoder": "mlp", "d_hidden": 9}])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_prefixes_reconstruct_as_a_slow_loop_does(architecture, changes):
    sae, x = make(architecture, **changes).double(), inputs(16, seed=2).double()
    forward = sae.pass_through(x)
    for size, reconstruction in zip(PREFIXES, forward.level_reconstructions, strict=True):
        for i in range(len(x)):
            projected = sum(
                (forward.latents[i, j] * sae.W_dec[j] for j in range(size)),
                torch.zeros(sae.W_dec.shape[1]).double(),
            )
            slow = sae.config.decoding.finish(sae, projected)
            assert torch.allclose(reconstruction[i], slow, atol=1e-10)
    assert [part.shape[-1] for part in forward.level_latents] == list(PREFIXES)


def test_weights_are_normalised_and_every_level_is_held_against_the_whole_target():
    x = inputs(16, seed=2)
    plain, weighted = make("topk", k=4), make("topk", k=4, prefix_weights=(3.0, 2.0, 1.0))
    scaled_up = make("topk", k=4, prefix_weights=(30.0, 20.0, 10.0))
    forward = plain.pass_through(x)
    assert forward.target_scaled.shape == (16, 6)
    errors = [mse(forward.target_scaled, level).item() for level in forward.level_reconstructions]
    assert len(set(errors)) == 3
    assert plain(x)[2]["mse"].item() == pytest.approx(sum(errors) / 3, rel=1e-5)
    expected = (3 * errors[0] + 2 * errors[1] + errors[2]) / 6
    assert weighted(x)[2]["mse"].item() == pytest.approx(expected, rel=1e-5)
    assert scaled_up(x)[2]["mse"].item() == pytest.approx(expected, rel=1e-5)


def test_counts_are_compared_as_counts_at_every_level():
    sae = make("topk", k=4, reconstruction="lmse")
    x = inputs(16, seed=2)
    latents = sae.encode(x)
    errors = [lmse(x, sae.decode_prefix(latents[:, :n])).item() for n in PREFIXES]
    assert sae(x)[2]["lmse"].item() == pytest.approx(sum(errors) / 3, rel=1e-5)


@pytest.mark.parametrize("own_k", [False, True])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_prefixes_encoded_and_decoded_alone_agree_with_the_whole_pass(architecture, own_k):
    if own_k and not ARCHITECTURES[architecture].uses_k:
        pytest.skip("this architecture has no k")
    sae = make(architecture, **({"prefix_k": (1, 2, 5)} if own_k else {}))
    x = inputs(32, seed=2)
    forward = sae.pass_through(x)
    for level, size in enumerate(PREFIXES):
        latents = sae.encode_prefix(x, level)
        assert latents.shape == (32, size)
        assert torch.equal(latents, forward.level_latents[level])
        scaled = sae.scaling(sae.decode_prefix(latents))
        assert torch.allclose(scaled, forward.level_reconstructions[level], atol=1e-4)
    assert torch.equal(sae.encode_prefix(x, -1), sae.encode(x))
    assert torch.allclose(sae.decode_prefix(sae.encode(x)), sae(x)[0], atol=1e-5)


def test_each_prefix_has_its_own_k_and_its_latents_compete_among_themselves():
    sae = make("topk", prefix_k=(1, 2, 5))
    x = inputs(32, seed=2)
    h = sae.pre_activations(x)
    for level, (size, k) in enumerate(zip(PREFIXES, (1, 2, 5), strict=True)):
        expected = torch.zeros(32, size)
        values, indices = h[:, :size].relu().topk(k)
        expected.scatter_(1, indices, values)
        assert torch.equal(sae.encode_prefix(x, level), expected)
    assert sae.config.k == 5


def test_batchtopk_calibrates_a_threshold_for_every_prefix():
    sae = make("batchtopk", prefix_k=(1, 2, 5))
    x = inputs()
    assert sae.threshold.shape == (3,) and (sae.threshold > 0).all()
    for level, k in enumerate((1, 2, 5)):
        assert int((sae.encode_prefix(x, level) > 0).sum()) == k * len(x)
    alone = torch.cat([sae.encode_prefix(row[None], 0) for row in x])
    assert torch.allclose(alone, sae.encode_prefix(x, 0), atol=1e-6)


def test_batchtopk_follows_every_prefixs_threshold_in_training():
    config = SAEConfig(d_in=6, d_sae=20, prefixes=PREFIXES, prefix_k=(1, 2, 5))
    train = TrainConfig(n_steps=40, device="cpu", selection_warmup_fraction=0.0)
    trainer = Trainer(SAE(config), train)
    x = inputs()
    trainer.step(x)
    smallest = [f[f > 0].min().item() for f in _first_pass(config, x)]
    assert trainer.sae.threshold.tolist() == pytest.approx(smallest, rel=1e-5)


def _first_pass(config: SAEConfig, x: torch.Tensor):
    sae = SAE(config).train()
    sae.fit_inputs(x)
    return sae.pass_through(x).level_latents


@pytest.mark.parametrize(
    ("architecture", "sparsity"),
    [("relu", "l1"), ("relu", "l1_decoder_norm"), ("gated", "l1_gate"), ("jumprelu", "l0_step")],
)
def test_sparsity_factors_act_on_the_latents_that_each_prefix_adds(architecture, sparsity):
    x = inputs(16, seed=2)
    plain = make(architecture, sparsity=sparsity)
    weighted = make(architecture, sparsity=sparsity, prefix_sparsity=(4.0, 2.0, 1.0))
    forward = plain.pass_through(x)
    per_latent = {
        "l1": forward.latents.abs(),
        "l1_decoder_norm": forward.latents.abs() * plain.W_dec.norm(dim=1),
        "l1_gate": forward.pre_activations.relu() * plain.W_dec.norm(dim=1),
        "l0_step": (forward.latents != 0).float(),
    }[sparsity].mean(dim=0)
    parts = [per_latent[a:b].sum().item() for a, b in ((0, 3), (3, 8), (8, 20))]
    assert plain(x)[2][sparsity].item() == pytest.approx(sum(parts), rel=1e-5)
    expected = 4 * parts[0] + 2 * parts[1] + parts[2]
    assert weighted(x)[2][sparsity].item() == pytest.approx(expected, rel=1e-5)


def test_a_prefix_learns_from_its_own_error_and_later_latents_do_not_touch_it():
    sae = make("relu")
    forward = sae.pass_through(inputs(16))
    mse(forward.target_scaled, forward.level_reconstructions[0]).backward()
    assert sae.W_dec.grad is not None
    assert sae.W_dec.grad[:3].any() and not sae.W_dec.grad[3:].any()


def test_nesting_makes_the_first_latents_reconstruct_better_than_a_plain_dictionarys():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(8, 8, generator=generator), dim=1)
    active = torch.rand(2000, 8, generator=generator) < 0.2
    x = (torch.rand(2000, 8, generator=generator) * active) @ directions
    train = TrainConfig(n_steps=250, batch_size=256, device="cpu", retire_at=None)
    error = {}
    for prefixes in ((), (4, 16)):
        config = SAEConfig(d_in=8, d_sae=16, architecture="topk", k=3, prefixes=prefixes)
        sae = fit(config, x, train, progress=False).sae
        first = sae.decode_prefix(sae.encode(x)[:, :4])
        error[prefixes] = float((x - first).detach().square().mean())
    assert error[(4, 16)] < 0.9 * error[()]
