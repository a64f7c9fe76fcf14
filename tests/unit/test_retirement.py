"""Retiring surplus latents: by their contribution, once, for good."""

from __future__ import annotations

import pytest
import torch

from saebook.data.simulate import simulate_dictionary
from saebook.models import SAE, SAEConfig, fold_scaling, load_sae, save_sae
from saebook.training import TrainConfig, Trainer, fit
from saebook.training.retirement import contributions, surplus

K = {"topk": {"k": 3}, "batchtopk": {"k": 3}, "jumprelu": {"target_l0": 3.0}}


def data(n: int = 4096) -> torch.Tensor:
    return torch.from_numpy(simulate_dictionary(n, 16, 24, mean_l0=3, seed=0).x)


def trained(architecture: str = "topk", n_steps: int = 200, **changes) -> Trainer:
    config = SAEConfig(d_in=16, d_sae=64, architecture=architecture, **K[architecture])
    trainer = Trainer(SAE(config), TrainConfig(n_steps=n_steps, device="cpu", **changes))
    x = data()
    for i in range(n_steps):
        trainer.step(x[(i % 16) * 256 : (i % 16 + 1) * 256])
    return trainer


@torch.no_grad()
def test_contribution_is_what_removal_adds_to_the_squared_error():
    sae = SAE(SAEConfig(d_in=16, d_sae=32, architecture="topk", k=4))
    x = data(64)
    sae.fit_inputs(x)
    forward = sae.pass_through(x)
    grown, squares, firings = contributions(sae, forward)
    for j in range(32):
        latents = forward.latents.clone()
        latents[:, j] = 0
        without = (forward.target_scaled - (latents @ sae.W_dec + sae.b_dec)).square().sum(dim=1)
        with_it = (forward.target_scaled - forward.reconstruction_scaled).square().sum(dim=1)
        active = forward.latents[:, j] != 0
        assert int(firings[j]) == int(active.sum())
        assert float(grown[j]) == pytest.approx(float((without - with_it).sum()), abs=1e-3)
        each = (without - with_it)[active]
        assert float(squares[j]) == pytest.approx(float(each.square().sum()), rel=1e-3, abs=1e-3)


def test_a_rare_latent_that_helps_stays_and_a_weak_one_goes():
    #            strong, rare and strong, frequent and weak, silent, once and weak
    firings = torch.tensor([1000.0, 5.0, 1000.0, 0.0, 1.0])
    each = torch.tensor([1.0, 1.0, 1e-3, 0.0, 1e-3])
    totals = torch.stack([each * firings, each.square() * firings, firings])
    assert surplus(totals).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("architecture", sorted(K))
def test_surplus_latents_are_retired_once_and_stay_silent(architecture):
    trainer = trained(architecture)
    retired = trainer.sae.retired
    assert 5 < int(retired.sum()) < 50
    assert torch.equal(retired, trainer.retirement.retired)
    sae = trainer.sae.eval()
    if architecture == "batchtopk":
        sae.config.selection.finish(sae, data())
    assert not bool((sae.encode(data()) != 0)[:, retired].any())
    assert float(trainer.dead(256).float().mean()) < 0.3


def test_retiring_costs_no_error():
    with_it, without = (trained(retire_at=at).sae for at in (0.75, None))
    assert int(without.retired.sum()) == 0
    x = data()
    with torch.no_grad():
        errors = [float((x - sae(x)[0]).square().sum()) for sae in (with_it, without)]
    assert errors[0] < 1.02 * errors[1]


def test_nothing_is_retired_where_every_latent_is_needed():
    config = SAEConfig(d_in=16, d_sae=12, architecture="topk", k=3)
    trainer = Trainer(SAE(config), TrainConfig(n_steps=200, device="cpu"))
    for i in range(200):
        trainer.step(data()[(i % 16) * 256 : (i % 16 + 1) * 256])
    assert int(trainer.sae.retired.sum()) == 0


def test_retired_latents_survive_files_and_folding_and_are_not_called_dead(tmp_path):
    config = SAEConfig(d_in=16, d_sae=64, architecture="topk", k=3)
    run = fit(config, data(), TrainConfig(n_steps=200, device="cpu"), progress=False)
    retired = run.sae.retired
    assert run.card["retired_fraction"] == pytest.approx(float(retired.float().mean()))
    assert run.card["dead_fraction"] + run.card["retired_fraction"] <= 1
    assert torch.equal(load_sae(save_sae(run.sae, tmp_path / "sae")).retired, retired)
    assert torch.equal(fold_scaling(run.sae).retired, retired)


def test_training_begins_with_topk_and_ends_with_the_architectures_own_rule():
    config = SAEConfig(d_in=16, d_sae=64, architecture="batchtopk", k=3)
    trainer = Trainer(SAE(config), TrainConfig(n_steps=20, device="cpu"))
    x = data(256)
    per_example = []
    for _ in range(20):
        trainer.step(x)
        per_example.append(int((trainer.sae.encode(x) != 0).sum(dim=1).max()))
    assert max(per_example[:9]) <= 3 < min(per_example[11:])
