"""Sparsity in training: its coefficient, the controller, precision, and what a run logs."""

from __future__ import annotations

import copy

import pytest
import torch

from saebook.errors import ConfigError
from saebook.models import ARCHITECTURES, SAE, SAEConfig, load_sae
from saebook.training import TrainConfig, Trainer, fit
from saebook.training.sparsity import SparsityCoefficient

CONTROLLED = {
    "relu": {"architecture": "relu"},
    "tanh": {"architecture": "relu", "sparsity": "tanh", "tanh_b": 2.0},
    "leaky_relu": {"architecture": "leaky_relu"},
    "gated": {"architecture": "gated"},
}


def sparse_mixture(n: int = 128, seed: int = 0) -> torch.Tensor:
    dictionary = torch.randn(24, 16, generator=torch.Generator().manual_seed(99))
    dictionary = torch.nn.functional.normalize(dictionary, dim=1)
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(n, 24, generator=generator)
    return (strength * (torch.rand(n, 24, generator=generator) < 0.15)) @ dictionary


def train(**changes) -> TrainConfig:
    return TrainConfig(**({"n_steps": 100, "device": "cpu", "retire_at": None} | changes))


# --- the controller ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTROLLED)
def test_the_controller_reaches_its_target(kind):
    config = SAEConfig(d_in=16, d_sae=48, target_l0=4.0, **CONTROLLED[kind])
    trainer = Trainer(SAE(config), train(n_steps=400, controller_rate=0.02))
    batches = [sparse_mixture(64, seed=i) for i in range(20)]
    logged = [trainer.step(batches[i % 20]) for i in range(400)]
    l0 = torch.stack([row["l0"] for row in logged])
    assert float(l0[0]) > 8  # it had some way to go
    assert float(l0[-60:].mean()) == pytest.approx(4.0, rel=0.1)
    # It came down without a swing past the target, which would have left latents dead.
    assert l0[100:].unfold(0, 20, 20).mean(dim=1).min() > 2.5 and float(logged[-1]["dead"]) < 0.3


def coefficient(target_l0: float | None = 4.0, **changes) -> SparsityCoefficient:
    own = None if target_l0 is not None else 0.5
    config = SAEConfig(
        d_in=16, d_sae=48, architecture="relu", target_l0=target_l0, sparsity_coefficient=own
    )
    return SparsityCoefficient(SAE(config), train(**changes))


def test_the_controller_follows_its_formula():
    control = coefficient(controller_rate=0.05)
    start = float(control.full)
    control.observe(torch.tensor(6.0))
    assert float(control.full) == pytest.approx(start * (6 / 4) ** 0.05, rel=1e-5)
    control.observe(torch.tensor(2.0))  # the running L0 is 0.9 · 6 + 0.1 · 2 = 5.6
    expected = start * (6 / 4) ** 0.05 * (5.6 / 4) ** 0.05 * (5.6 / 6) ** 0.5
    assert float(control.full) == pytest.approx(expected, rel=1e-5)


def test_silence_and_excess_move_the_controller_by_bounded_steps():
    for l0, sign in ((0.0, -1), (48.0, 1)):
        control = coefficient(controller_rate=0.05)
        before = float(control.full)
        control.observe(torch.tensor(l0))
        ratio = float(control.full) / before
        assert ratio == pytest.approx(torch.tensor(0.05 * sign).exp().item(), rel=1e-5)


@pytest.mark.parametrize("schedule", ["ramp", "two_phase"])
def test_the_controller_waits_while_its_coefficient_is_not_felt(schedule):
    """In the first of two phases it grew a hundredfold, and the second killed every latent."""
    control = coefficient(sparsity_schedule=schedule)
    start = float(control.full)
    control.observe(torch.tensor(40.0), control.share(0.0))
    assert float(control.full) == start and float(control.at(0.0)) == 0.0
    control.observe(torch.tensor(40.0), control.share(0.95))
    assert float(control.full) > start


def test_two_phases_reconstruct_first_and_then_come_down_to_the_target():
    config = SAEConfig(
        d_in=16, d_sae=48, architecture="relu", target_l0=4.0, sparsity_coefficient=1.0
    )
    settings = train(
        n_steps=400,
        sparsity_schedule="two_phase",
        sparsity_start_fraction=0.25,
        controller_rate=0.02,
    )
    trainer = Trainer(SAE(config), settings)
    batches = [sparse_mixture(seed=i) for i in range(20)]
    logged = [trainer.step(batches[i % 20]) for i in range(400)]
    coefficients = [float(row["sparsity_coefficient"]) for row in logged]
    assert coefficients[:101] == [0.0] * 101 and min(coefficients[101:]) > 0
    l0 = torch.stack([row["l0"] for row in logged])
    assert l0[:100].min() > 12 and float(logged[99]["fvu"]) < 0.5
    assert l0[100:].min() > 1  # nothing wound up while it waited
    assert float(l0[-40:].mean()) == pytest.approx(4.0, rel=0.25)


def test_a_fixed_coefficient_is_never_moved():
    control = coefficient(target_l0=None)
    control.observe(torch.tensor(40.0))
    assert float(control.full) == 0.5 and not control.controlled


def test_a_coefficient_of_zero_trains_without_a_penalty():
    """The live check of its units took the logarithm of zero."""
    config = SAEConfig(d_in=16, d_sae=48, architecture="relu", sparsity_coefficient=0.0)
    run = fit(config, sparse_mixture(), train(n_steps=10), progress=False)
    total, error = run.history["total"], run.history["mse"]
    assert total.to_numpy() == pytest.approx(error.to_numpy())


def test_a_quadratic_target_is_left_to_its_penalty():
    config = SAEConfig(d_in=16, d_sae=48, architecture="jumprelu", target_l0=4.0)
    control = SparsityCoefficient(SAE(config), train())
    before = float(control.full)
    control.observe(torch.tensor(40.0))
    assert float(control.full) == before


# --- the loss-dependent schedule ----------------------------------------------------------


def test_the_loss_dependent_schedule_is_told_the_losses_of_a_run():
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    config = SAEConfig(d_in=16, d_sae=32, architecture="topk", k=1, aux_coefficient=0.0)

    def rates(schedule: str):
        settings = train(schedule=schedule, plateau_patience=0.05, batch_size=16)
        return fit(config, x, settings, progress=False).history["learning_rate"]

    # Batches of sixteen are too noisy for each tenth of the run to beat the best so far.
    cut = rates("loss_dependent")
    assert cut.iloc[-1] <= 0.5 * cut.max() and cut.max() == rates("warmup_constant").iloc[-1]


# --- precision ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_bf16_trains_and_keeps_its_weights_in_fp32(architecture):
    x = sparse_mixture(256)
    error = {}
    for precision in ("fp32", "bf16"):
        config = SAEConfig(d_in=16, d_sae=48, architecture=architecture)
        settings = train(n_steps=60, precision=precision, selection_warmup_fraction=0.2)
        trainer = Trainer(SAE(config), settings)
        logged = [trainer.step(x) for _ in range(60)]
        error[precision] = float(logged[-1]["fvu"])
        assert all(value.isfinite() for value in logged[-1].values())
        assert {p.dtype for p in trainer.sae.parameters()} == {torch.float32}
        moments = [
            value
            for state in trainer.optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.ndim
        ]
        assert moments and {m.dtype for m in moments} == {torch.float32}
    assert error["bf16"] < 0.8 and error["bf16"] == pytest.approx(error["fp32"], abs=0.1)


def test_bf16_rounds_the_passes_and_not_the_updates():
    x = sparse_mixture(256)
    plain, rounded = (
        Trainer(SAE(SAEConfig(d_in=16, d_sae=48, architecture="relu")), train(precision=precision))
        for precision in ("fp32", "bf16")
    )
    a, b = plain.step(x)["mse"], rounded.step(x)["mse"]
    assert a != b and float(a) == pytest.approx(float(b), rel=0.02)
    weights = rounded.sae.encoder_rows.detach()
    assert not torch.equal(weights, weights.bfloat16().float())


# --- resume -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*CONTROLLED, "topk", "batchtopk", "jumprelu"])
def test_a_run_goes_on_exactly_with_its_controller(kind):
    changes = CONTROLLED.get(kind, {"architecture": kind})
    config = SAEConfig(d_in=16, d_sae=48, **changes)
    settings = train(n_steps=40, retire_at=0.7, resample_every=0.2, schedule="loss_dependent")

    def trainer() -> Trainer:
        return Trainer(SAE(config), settings)

    def step(trainer: Trainer, i: int) -> None:
        total = trainer.step(sparse_mixture(64, seed=i))["total"]
        trainer.schedule.observe(float(total), trainer.fraction)

    straight, first, second = trainer(), trainer(), trainer()
    for i in range(40):
        step(straight, i)
    for i in range(13):
        step(first, i)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for i in range(13, 40):
        step(second, i)
    for (name, a), b in zip(
        straight.sae.state_dict().items(), second.sae.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert torch.equal(straight.sparsity.full, second.sparsity.full)
    assert straight.learning_rate() == second.learning_rate()
    assert torch.equal(straight.silent_examples, second.silent_examples)


# --- what a run keeps and logs --------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"architecture": "relu"}, {"decoder": "mlp"}])
def test_early_checkpoints_are_kept_ready_for_use(changes, tmp_path):
    x = sparse_mixture(256)
    config = SAEConfig(d_in=16, d_sae=48, **changes)
    settings = train(n_steps=30, batch_size=64, keep_checkpoints=[0.1, 0.5, 1.0])
    run = fit(config, x, settings, out=tmp_path / "run", progress=False)
    kept = tmp_path / "run" / "checkpoints"
    assert sorted(int(folder.name) for folder in kept.iterdir()) == [3, 15, 30]
    early, middle, last = (load_sae(kept / str(step)) for step in (3, 15, 30))
    assert not torch.equal(early.W_dec, middle.W_dec)
    assert torch.equal(last(x)[0], run.sae(x)[0])
    assert torch.equal(last.directions, run.sae.directions)
    l0 = (middle.encode(x) > 0).sum(dim=1).float().mean()
    assert l0 > 0


def test_a_checkpoint_kept_while_topk_selects_has_thresholds_for_its_target(tmp_path):
    """Those of a JumpReLU were still where they had been before the first step."""
    x = sparse_mixture(256)
    config = SAEConfig(d_in=16, d_sae=48, architecture="jumprelu", target_l0=4.0)
    settings = train(
        n_steps=80, batch_size=64, keep_checkpoints=[0.4], selection_warmup_fraction=0.5
    )
    fit(config, x, settings, out=tmp_path / "run", progress=False)
    kept = load_sae(tmp_path / "run" / "checkpoints" / "32")
    l0 = (kept.encode(x) > 0).sum(dim=1).float().mean()
    assert float(l0) == pytest.approx(4.0, rel=0.05)


def test_keeping_checkpoints_changes_no_number_of_the_run(tmp_path):
    x = sparse_mixture(256)
    config = SAEConfig(d_in=16, d_sae=48)
    kept = fit(
        config,
        x,
        train(n_steps=30, batch_size=64, keep_checkpoints=[0.2, 0.6]),
        out=tmp_path / "run",
        progress=False,
    )
    plain = fit(config, x, train(n_steps=30, batch_size=64), progress=False)
    assert torch.equal(kept.sae.W_dec, plain.sae.W_dec) and kept.card == plain.card


def test_checkpoints_without_a_folder_are_refused():
    with pytest.raises(ConfigError, match=r"keep_checkpoints = \[0.5\] without a folder"):
        fit(SAEConfig(d_in=16, d_sae=48), sparse_mixture(), train(keep_checkpoints=[0.5]))


def test_memory_is_logged_on_request_and_never_shrinks():
    config = SAEConfig(d_in=16, d_sae=48)
    x = sparse_mixture()
    logged = fit(config, x, train(n_steps=10, log_memory=True), progress=False).history
    memory = logged["memory_gb"].to_numpy()
    assert memory.min() > 0.05 and (memory[1:] >= memory[:-1]).all()
    assert "memory_gb" not in fit(config, x, train(n_steps=10), progress=False).history


def test_the_worst_example_of_a_batch_is_logged_beside_the_mean():
    x = sparse_mixture(256)
    sae = SAE(SAEConfig(d_in=16, d_sae=48, architecture="relu"))
    sae.fit_inputs(x)
    x[17] *= 50
    forward = sae.pass_through(x)
    each = (forward.target_scaled - forward.reconstruction_scaled).square().sum(dim=1).detach()
    logged = Trainer(sae, train()).step(x)
    assert int(each.argmax()) == 17
    for name, expected in (("worst_example", each.max()), ("fvu", each.mean())):
        assert float(logged[name]) == pytest.approx(float(expected / sae.target_variance), rel=1e-4)
