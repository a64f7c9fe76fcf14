"""One training step at a time: schedules, constraints, counters, exact state."""

from __future__ import annotations

import math

import pytest
import torch

from saebook.data.store import Batch
from saebook.errors import CheckpointError, ConfigError, DataError, TrainingError
from saebook.models import ARCHITECTURES, SAE, SAEConfig
from saebook.training import TrainConfig, Trainer, resolve_device
from saebook.training.schedules import SCHEDULES


def examples(n: int = 256, d_in: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, d_in, generator=torch.Generator().manual_seed(seed))


def make(architecture: str = "batchtopk", n_steps: int = 50, **changes) -> Trainer:
    sparsity = {"k": 4} if ARCHITECTURES[architecture].uses_k else {"sparsity_coefficient": 0.2}
    config = SAEConfig(d_in=8, d_sae=32, architecture=architecture, **sparsity)  # pyright: ignore
    return Trainer(SAE(config, seed=0), TrainConfig(n_steps=n_steps, device="cpu", **changes))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_training_lowers_the_error(architecture):
    trainer = make(architecture, n_steps=400)
    fvu = [float(trainer.step(examples())["fvu"]) for _ in range(400)]
    assert fvu[-1] < 0.5 * fvu[0]


def test_step_returns_detached_scalars_with_the_named_terms():
    losses = make("relu").step(examples())
    terms = {"mse", "l1_decoder_norm", "total", "sparsity_coefficient"}
    assert terms | {"fvu", "worst_example", "l0", "dead", "grad_norm"} == set(losses)
    assert all(v.ndim == 0 and not v.requires_grad for v in losses.values())


def test_total_is_the_weighted_sum_of_the_terms():
    trainer = make("batchtopk", n_steps=40)
    for _ in range(30):
        coefficients = trainer.coefficients()
        losses = trainer.step(examples())
        total = sum(c * losses[name] for name, c in coefficients.items())
        assert losses["total"].item() == pytest.approx(float(total), rel=1e-5)


def test_a_batch_object_is_read_by_its_x():
    a, b = make(), make()
    assert torch.equal(a.step(examples())["total"], b.step(Batch(examples()))["total"])


def test_first_batch_fits_the_inputs_once():
    trainer = make()
    trainer.step(examples(200))
    trainer.step(examples(100))
    assert int(trainer.sae.scaling.n_rows) == 200


def test_learning_rate_follows_the_fractions_of_the_run():
    config = TrainConfig(n_steps=1000, warmup_fraction=0.1, hold_fraction=0.5, final_fraction=0.01)
    cosine, linear, flat = (
        SCHEDULES[n] for n in ("warmup_hold_cosine", "warmup_linear", "constant")
    )
    for schedule in (cosine, linear):
        assert schedule(0.05, config) == pytest.approx(0.5)
        assert schedule(0.1, config) == schedule(0.5, config) == 1.0
        assert schedule(1.0, config) == pytest.approx(0.01)
        assert schedule(0.75, config) == pytest.approx(0.505)
    assert flat(0.0, config) == flat(1.0, config) == 1.0


def test_sparsity_coefficient_ramps_from_zero():
    trainer = make("relu", n_steps=100, sparsity_ramp_fraction=0.1)
    full = trainer.sae.config.sparsity_coefficient or 0.0
    seen = []
    for _ in range(12):
        seen.append(trainer.coefficients()["l1_decoder_norm"])
        trainer.step(examples())
    assert seen[0] == 0 and seen[5] == pytest.approx(full / 2) and seen[10] == full == seen[11]


def test_unit_decoder_rows_stay_at_unit_norm_and_free_ones_move():
    trainer = make("topk")
    for _ in range(20):
        trainer.step(examples())
    assert torch.allclose(trainer.sae.W_dec.norm(dim=1), torch.ones(32), atol=1e-6)
    trainer = make("relu")
    before = trainer.sae.W_dec.norm(dim=1).detach().clone()
    for _ in range(20):
        trainer.step(examples())
    assert (trainer.sae.W_dec.norm(dim=1) - before).abs().max() > 1e-3


def test_silent_examples_are_counted_per_latent():
    trainer = make("topk", n_steps=30)
    silent = torch.zeros(32, dtype=torch.int64)
    for i in range(10):
        x = examples(64, seed=i)
        if i == 0:
            trainer.sae.fit_inputs(x)
            trainer._inputs_fitted = True
        fired = (trainer.sae.encode(x) > 0).any(dim=0)
        silent = torch.where(fired, 0, silent + 64)
        trainer.step(x)
        assert torch.equal(trainer.silent_examples, silent)


def sparse_mixture(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    dictionary = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(256, 24, generator=generator)
    return (strength * (torch.rand(256, 24, generator=generator) < 0.1)) @ dictionary


def test_auxk_revives_latents_that_never_win():
    def dead_at_the_end(aux_coefficient: float) -> float:
        config = SAEConfig(
            d_in=16, d_sae=48, architecture="topk", k=3, aux_coefficient=aux_coefficient
        )
        sae = SAE(config, seed=0)
        with torch.no_grad():
            sae.encoder_rows[:24] *= 0.02  # positive at times, but never among the largest
        # Retired, they would not count as dead any more.
        settings = TrainConfig(n_steps=600, learning_rate=1e-3, retire_at=None, device="cpu")
        trainer = Trainer(sae, settings)
        for i in range(600):
            losses = trainer.step(sparse_mixture(i))
        return float(losses["dead"])

    without, revived = dead_at_the_end(0.0), dead_at_the_end(1 / 32)
    assert without >= 0.5
    assert revived < without - 0.2


def test_clipping_bounds_the_update_not_the_reported_norm():
    loose, tight = make(clip_norm=None), make(clip_norm=1e-3)
    a, b = loose.step(examples()), tight.step(examples())
    assert torch.equal(a["grad_norm"], b["grad_norm"])
    assert a["grad_norm"] > 1e-3
    gradients = [p.grad.square().sum() for p in tight.sae.parameters() if p.grad is not None]
    assert math.sqrt(sum(gradients)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_gradients_have_the_strides_of_their_parameters(architecture):
    trainer = make(architecture, selection_warmup_fraction=0.0)  # thresholds learn at once
    trainer.step(examples())
    for parameter in trainer.sae.parameters():
        assert parameter.grad is not None and parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_state_goes_on_exactly(architecture):
    straight, first, second = make(architecture), make(architecture), make(architecture)
    for i in range(30):
        straight.step(examples(seed=i))
    for i in range(13):
        first.step(examples(seed=i))
    second.load_state_dict(first.state_dict())
    for i in range(13, 30):
        second.step(examples(seed=i))
    for (name, a), b in zip(
        straight.sae.state_dict().items(), second.sae.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_state_of_another_run_length_is_refused():
    with pytest.raises(CheckpointError, match="50 steps, this one has 60"):
        make(n_steps=60).load_state_dict(make(n_steps=50).state_dict())


def test_all_zero_and_broken_batches_are_refused():
    with pytest.raises(DataError, match="no scale"):
        make().step(torch.zeros(16, 8))
    broken = examples()
    broken[0, 0] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        make().step(broken)


def test_a_zero_batch_after_the_first_is_survived():
    trainer = make("topk")
    trainer.step(examples())
    trainer.step(torch.zeros(16, 8))
    assert all(p.isfinite().all() for p in trainer.sae.parameters())


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'constant'"):
        TrainConfig(schedule="constnat")
    with pytest.raises(ConfigError, match="before it has risen"):
        TrainConfig(warmup_fraction=0.6, hold_fraction=0.5)
    with pytest.raises(ConfigError, match="n_steps"):
        Trainer(SAE(SAEConfig(d_in=2, d_sae=4)), TrainConfig())
    with pytest.raises(TrainingError, match="can't be used here"):
        resolve_device("cuda:77")
