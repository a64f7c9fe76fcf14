"""Second starts for dead latents: resampling, ghost gradients, the pre-activation term."""

from __future__ import annotations

import pytest
import torch

from saebook.models import ARCHITECTURES, SAE, SAEConfig
from saebook.training import TrainConfig, Trainer
from saebook.training.resampling import resample

DEAD = torch.arange(48) >= 30


def sparse_mixture(n: int = 128, seed: int = 0) -> torch.Tensor:
    dictionary = torch.randn(24, 16, generator=torch.Generator().manual_seed(99))
    dictionary = torch.nn.functional.normalize(dictionary, dim=1)
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(n, 24, generator=generator)
    return (strength * (torch.rand(n, 24, generator=generator) < 0.15)) @ dictionary


def trained(architecture: str = "relu", steps: int = 12, train=None, **changes) -> Trainer:
    config = SAEConfig(d_in=16, d_sae=48, architecture=architecture, **changes)
    settings = {"n_steps": 400, "device": "cpu", "retire_at": None} | (train or {})
    trainer = Trainer(SAE(config, seed=0), TrainConfig(**settings))
    for i in range(steps):
        trainer.step(sparse_mixture(seed=i))
    return trainer


def do_resample(trainer: Trainer, dead: torch.Tensor = DEAD, seed: int = 7) -> int:
    with torch.no_grad():
        forward = trainer.sae.pass_through(sparse_mixture(seed=50))
    return int(resample(trainer.sae, trainer.optimizer, forward, dead, seed))


def per_latent(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Parameters and their moments that have a row per latent."""
    found = {}
    for name, parameter in trainer.sae.named_parameters():
        if parameter.shape[0] == 48:
            found[name] = parameter.detach().clone()
            for key, moment in trainer.optimizer.state[parameter].items():
                if moment.shape == parameter.shape:
                    found[f"{name}.{key}"] = moment.clone()
    return found


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_living_latents_keep_every_number_and_dead_ones_start_anew(architecture):
    """The notes' resampling overwrote the whole decoder, living columns too."""
    trainer = trained(architecture)
    others = {n: p.detach().clone() for n, p in trainer.sae.named_parameters() if len(p) != 48}
    before = per_latent(trainer)
    assert do_resample(trainer) == 18
    after = per_latent(trainer)
    for name, value in before.items():
        assert torch.equal(after[name][~DEAD], value[~DEAD]), name
        if "." in name:
            assert not after[name][DEAD].any(), name
        elif name in ("encoder_rows", "b_enc", "W_dec"):
            assert (after[name][DEAD] != value[DEAD]).any(dim=-1).all(), name
    for name, parameter in trainer.sae.named_parameters():
        if name in others:
            assert torch.equal(parameter, others[name]), name


def test_resampled_rows_are_badly_reconstructed_examples():
    trainer = trained()
    x = sparse_mixture(seed=50)
    x[40] *= 300  # one example has nearly all the error
    with torch.no_grad():
        forward = trainer.sae.pass_through(x)
    resample(trainer.sae, trainer.optimizer, forward, DEAD, seed=7)
    sae = trainer.sae
    wanted = forward.target_scaled[40] - forward.target_scaled.mean(dim=0)
    cosine = torch.cosine_similarity(sae.W_dec[DEAD], wanted[None])
    assert (cosine > 0.999).float().mean() > 0.8
    living = sae.encoder_rows[~DEAD].norm(dim=1).mean()
    assert torch.allclose(sae.encoder_rows[DEAD].norm(dim=1), 0.2 * living)
    norms = sae.W_dec.norm(dim=1)
    assert torch.allclose(norms[DEAD], norms[~DEAD].mean())
    h = sae.pre_activations(x.mean(dim=0))
    assert h[DEAD].abs().max() < 1e-4


def test_rows_held_at_unit_norm_are_resampled_at_unit_norm():
    trainer = trained("topk", k=4)
    do_resample(trainer)
    assert torch.allclose(trainer.sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)


def test_where_latents_compete_resampled_ones_are_long_enough_to_win():
    """At a fifth of the norm they were never among the k largest, and stayed dead."""
    trainer = trained("topk", k=4)
    do_resample(trainer)
    norms = trainer.sae.encoder_rows.norm(dim=1)
    assert torch.allclose(norms[DEAD], 0.5 * norms[~DEAD].mean())
    latents = trainer.sae.encode(sparse_mixture(seed=50)).detach()
    assert (latents != 0).any(dim=0)[DEAD].float().mean() > 0.9


def test_thresholds_and_magnitudes_of_resampled_latents_let_them_fire():
    for architecture in ("jumprelu", "gated"):
        trainer = trained(architecture, train={"selection_warmup_fraction": 0.0})
        with torch.no_grad():
            trainer.sae.b_enc[DEAD] = -1e3
        do_resample(trainer)
        latents = trainer.sae.eval().encode(sparse_mixture(seed=50)).detach()
        fires = (latents != 0).any(dim=0)
        assert fires[DEAD].float().mean() > 0.7, architecture


def test_hidden_weights_of_an_mlp_are_not_overwritten_by_examples():
    """They were where the hidden layer had as many units as the target."""
    trainer = trained("relu", decoder="mlp", d_hidden=16)
    before = trainer.sae.W_dec.detach().clone()
    do_resample(trainer)
    assert torch.equal(trainer.sae.W_dec, before)


def test_the_draw_depends_on_its_seed_alone():
    a, b, c = trained(), trained(), trained()
    do_resample(a)
    do_resample(b)
    do_resample(c, seed=8)
    assert torch.equal(a.sae.W_dec, b.sae.W_dec) and not torch.equal(a.sae.W_dec, c.sae.W_dec)


@pytest.mark.parametrize("dead", [torch.zeros(48).bool(), torch.ones(48).bool()])
def test_none_dead_or_all_dead_changes_nothing(dead):
    trainer = trained()
    before = per_latent(trainer)
    assert do_resample(trainer, dead) == 0
    assert all(torch.equal(value, before[name]) for name, value in per_latent(trainer).items())


# --- in training ------------------------------------------------------------------------


def planted(auxiliary: str | None, steps: int = 120, train=None, **changes) -> tuple[float, float]:
    """Share of 18 planted dead latents that fire at the end, and the final FVU."""
    settings = {"n_steps": steps, "selection_warmup_fraction": 0.0} | (train or {})
    trainer = trained(steps=0, auxiliary=auxiliary, train=settings, **changes)
    trainer.sae.fit_inputs(sparse_mixture(1024))
    trainer._inputs_fitted = True
    with torch.no_grad():
        trainer.sae.b_enc[DEAD] = -2.0
        if trainer.sae.config.architecture == "gated":
            trainer.sae.b_mag[DEAD] = -2.0
    trainer.silent_examples[DEAD] = 10**9
    logged = {}
    for i in range(steps):
        logged = trainer.step(sparse_mixture(seed=i))
    fired = (trainer.sae.eval().encode(sparse_mixture(1024, seed=999)) > 0).any(dim=0)
    return float(fired[DEAD].float().mean()), float(logged["fvu"])


@pytest.mark.parametrize(
    ("auxiliary", "changes"),
    [
        ("ghost", {"architecture": "relu", "sparsity_coefficient": 0.1}),
        ("ghost", {"architecture": "topk", "k": 4}),
        ("preactivation", {"architecture": "jumprelu", "aux_coefficient": 0.5}),
    ],
)
def test_auxiliary_terms_revive_planted_dead_latents(auxiliary, changes):
    without = {n: v for n, v in changes.items() if n != "aux_coefficient"}
    left_alone, _ = planted("none", **without)
    revived, fvu = planted(auxiliary, **changes)
    assert left_alone < 0.2
    assert revived > left_alone + 0.2
    assert fvu < 0.9


@pytest.mark.parametrize(
    "shared",
    [
        {"architecture": "relu", "sparsity_coefficient": 0.1},
        {"architecture": "topk", "k": 4},
        {"architecture": "batchtopk", "k": 4},
    ],
)
def test_resampling_revives_planted_dead_latents(shared):
    settings = {"resample_every": 0.25, "resample_until": 0.5}
    left_alone, _ = planted("none", **shared)
    revived, _ = planted("none", train=settings, **shared)
    assert left_alone < 0.2 and revived > 0.7


def resampled_steps(n_steps: int, every: float, until: float) -> list[int]:
    trainer = trained(
        steps=0, train={"n_steps": n_steps, "resample_every": every, "resample_until": until}
    )
    logged = [trainer.step(sparse_mixture(16)) for _ in range(n_steps)]
    return [i + 1 for i, row in enumerate(logged) if "resampled" in row]


def test_resampling_happens_at_every_multiple_and_not_after_its_end():
    """0.3 / 0.1 is a little less than 3: that multiple came late, or past the end never."""
    assert resampled_steps(20, 0.1, 0.3) == [2, 4, 6]
    assert resampled_steps(10, 0.1, 0.5) == [1, 2, 3, 4, 5]
    assert resampled_steps(30, 0.25, 1.0) == [8, 15, 23, 30]


def test_dictionaries_that_died_whole_are_still_counted_as_dead():
    """Nothing could be resampled, and the count of silent examples began anew all the same."""
    trainer = trained(steps=3, train={"n_steps": 10, "resample_every": 0.5})
    with torch.no_grad():
        trainer.sae.b_enc.fill_(-1e3)
    trainer.silent_examples.fill_(10**9)
    for _ in range(2):
        logged = trainer.step(sparse_mixture(16))
    assert float(logged["resampled"]) == 0
    assert (trainer.silent_examples > 10**8).all()


def test_resampled_latents_are_not_dead_at_once():
    trainer = trained(steps=3, train={"n_steps": 10, "resample_every": 0.5})
    trainer.silent_examples[DEAD] = 10**9
    with torch.no_grad():
        trainer.sae.b_enc[DEAD] = -1e3
    for _ in range(2):
        logged = trainer.step(sparse_mixture(16))
    assert float(logged["resampled"]) == 18
    assert not trainer.silent_examples[DEAD].any()
