"""SAEs trained side by side against the same SAEs trained alone."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saebook.errors import CheckpointError, ConfigError
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer, fit, fit_many
from saebook.training.stacking import SAEStack

D_IN, D_SAE, BATCH, N_STEPS = 12, 40, 64, 50
TRAIN = TrainConfig(n_steps=N_STEPS, batch_size=BATCH, device="cpu", dead_after_firings=2.0)


def configs(values: dict[str, tuple], **common: Any) -> list[SAEConfig]:
    """Settings that take their values in turn."""
    n = max((len(v) for v in values.values()), default=2)
    return [
        SAEConfig(d_in=D_IN, d_sae=D_SAE, **common, **{name: v[i] for name, v in values.items()})
        for i in range(n)
    ]


CASES = {
    "topk": configs({}, architecture="topk", k=4),
    "topk of several k": configs({"k": (2, 4, 7)}, architecture="topk"),
    "batchtopk of several k": configs({"k": (2, 4, 7)}, architecture="batchtopk"),
    "relu of several coefficients": configs(
        {"sparsity_coefficient": (0.1, 0.5, 1.0)}, architecture="relu"
    ),
    "relu of several targets": configs({"target_l0": (2.0, 5.0, 8.0)}, architecture="relu"),
    "leaky relu": configs({"target_l0": (2.0, 5.0)}, architecture="leaky_relu"),
    "jumprelu of several targets": configs({"target_l0": (2.0, 5.0)}, architecture="jumprelu"),
    "jumprelu, step penalty": configs(
        {"target_l0": (2.0, 5.0)}, architecture="jumprelu", sparsity="l0_step"
    ),
    "jumprelu, tanh": configs({"target_l0": (2.0, 5.0)}, architecture="jumprelu", sparsity="tanh"),
    "gated": configs({"sparsity_coefficient": (0.1, 1.0)}, architecture="gated"),
    "matryoshka of several weights": configs(
        {"prefix_weights": ((1.0, 1.0), (3.0, 1.0))},
        architecture="batchtopk",
        k=4,
        prefixes=(10, 40),
    ),
    "matryoshka, k per prefix": configs(
        {}, architecture="topk", prefixes=(10, 40), prefix_k=(2, 4)
    ),
    "matryoshka, weaker penalty per prefix": configs(
        {}, architecture="relu", prefixes=(10, 40), prefix_sparsity=(1.0, 0.5)
    ),
    "mlp decoder": configs({}, architecture="topk", k=4, decoder="mlp"),
    "free decoder": configs({}, architecture="topk", k=4, decoder_norm="free"),
    "ghost gradients": configs({}, architecture="relu", auxiliary="ghost"),
    "pre-activation loss": configs({}, architecture="jumprelu", auxiliary="preactivation"),
    "lmse": configs({}, architecture="topk", k=4, reconstruction="lmse"),
    "layer norm": configs({}, architecture="topk", k=4, input_scaling="layer_norm"),
    "several auxk coefficients": configs({"aux_coefficient": (0.1, 0.5)}, architecture="topk", k=1),
}


def examples(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(10 * BATCH, D_IN, generator=generator, dtype=dtype).relu()


def together_and_alone(
    settings: list[SAEConfig],
    train: TrainConfig = TRAIN,
    dtype: torch.dtype = torch.float64,
    factors: list[float] | None = None,
) -> tuple[Trainer[SAEStack], list[Trainer[SAE]], dict[str, Tensor], list[dict[str, Tensor]]]:
    """Trainers of a stack and of each member, after as many steps, and what their last returned."""
    x = examples(dtype)
    made = [SAE(config, seed=i).to(dtype) for i, config in enumerate(settings)]
    for sae in made:
        sae.fit_inputs(x)
    rates = [train.learning_rate * f for f in factors or [1.0] * len(made)]
    alone = [
        Trainer(sae, dataclasses.replace(train, learning_rate=rate), N_STEPS)
        for sae, rate in zip(copy.deepcopy(made), rates)
    ]
    stack = Trainer(SAEStack(made), train, N_STEPS, factors)
    batches = x.split(BATCH)
    for i in range(N_STEPS):
        batch = batches[i % len(batches)]
        losses = stack.step(batch)
        own = [trainer.step(batch) for trainer in alone]
    return stack, alone, losses, own


def largest_difference(stack: Trainer[SAEStack], alone: list[Trainer[SAE]]) -> float:
    """Of weights and buffers, relative to the largest of each."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-6))
        for member, single in zip(stack.members, alone, strict=True)
        for a, b in zip(member.state_dict().values(), single.sae.state_dict().values(), strict=True)
        if b.is_floating_point()
    )


@pytest.mark.parametrize("case", sorted(CASES))
def test_each_member_learns_as_it_would_alone(case):
    stack, alone, losses, own = together_and_alone(CASES[case])
    assert stack.engine.names == ["dense"] * len(alone)
    assert largest_difference(stack, alone) < 1e-9
    for name, values in losses.items():
        expected = torch.stack([single[name] for single in own]).to(values)
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-9)
    for i, trainer in enumerate(alone):
        begun = SAE(trainer.sae.config, seed=i).W_dec
        assert float((trainer.sae.W_dec - begun).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("case", ["batchtopk of several k", "jumprelu of several targets"])
def test_in_single_precision_they_agree_to_rounding(case):
    stack, alone, _, _ = together_and_alone(CASES[case], dtype=torch.float32)
    assert largest_difference(stack, alone) < 1e-4


@pytest.mark.parametrize("engine", ["sparse", "lean"])
@pytest.mark.parametrize("case", ["batchtopk of several k", "jumprelu of several targets"])
def test_members_may_each_have_an_engine_of_their_own(case, engine):
    train = dataclasses.replace(TRAIN, engine=engine)
    stack, alone, _, _ = together_and_alone(CASES[case], train)
    assert stack.engine.names == [engine] * len(alone)
    assert largest_difference(stack, alone) < 1e-9


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing_but_rounding(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train = dataclasses.replace(TRAIN, engine="sparse")
        stack, alone, _, _ = together_and_alone(CASES["topk of several k"], train)
    finally:
        torch.set_num_threads(before)
    assert largest_difference(stack, alone) < 1e-9


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "lamb"},
        {"optimizer": "muon"},
        {"optimizer": "nadam", "weight_decay": 0.01},
        {"optimizer": "sgd", "learning_rate": 1e-3},
        {"clip_norm": 0.01},
        {"clip_norm": None},
        {"resample_every": 0.1},
        {"retire_at": None},
    ],
)
def test_whatever_the_training_does_it_does_to_each(changes):
    train = dataclasses.replace(TRAIN, **changes)
    stack, alone, _, _ = together_and_alone(CASES["relu of several coefficients"], train)
    assert largest_difference(stack, alone) < 1e-9


def test_each_member_has_its_learning_rate():
    stack, alone, _, _ = together_and_alone(CASES["topk of several k"], factors=[0.5, 1.0, 2.0])
    assert largest_difference(stack, alone) < 1e-9
    assert len(stack.optimizer.param_groups) == 3


def test_lower_precision_reaches_every_engine():
    train = dataclasses.replace(TRAIN, precision="bf16")
    for engine in ("dense", "sparse"):
        _, _, losses, own = together_and_alone(
            CASES["topk of several k"], dataclasses.replace(train, engine=engine), torch.float32
        )
        full = together_and_alone(
            CASES["topk of several k"], dataclasses.replace(TRAIN, engine=engine), torch.float32
        )[2]
        expected = torch.stack([single["mse"] for single in own])
        torch.testing.assert_close(losses["mse"], expected, rtol=0.03, atol=0.0)
        assert not torch.equal(losses["mse"], full["mse"])


def test_a_stack_can_be_taken_apart():
    stack, _, _, _ = together_and_alone(CASES["topk"])
    before = stack.sae.W_dec.detach().clone()
    first, second = stack.sae.separate()
    with torch.no_grad():
        first.W_dec.zero_()
    assert torch.equal(second.W_dec, before[1]) and torch.equal(stack.sae.W_dec, before)


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        ({"d_sae": 40}, {"d_sae": 80}, "differ in d_sae"),
        ({"architecture": "topk"}, {"architecture": "batchtopk"}, "differ in architecture"),
        ({"decoder_norm": "free"}, {"decoder_norm": "unit"}, "differ in decoder_norm"),
    ],
)
def test_what_has_another_shape_is_refused(one, two, message):
    made = [SAE(SAEConfig(**({"d_in": D_IN, "d_sae": 40} | changes))) for changes in (one, two)]
    with pytest.raises(ConfigError, match=message):
        SAEStack(made)


def test_a_stack_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        SAEStack([])
    with pytest.raises(ConfigError, match="at least one"):
        fit_many([], examples())


# --- whole runs ---------------------------------------------------------------------------


def members(n_steps: int = 60, **changes: Any) -> list[tuple[SAEConfig, TrainConfig, int]]:
    train = TrainConfig(n_steps=n_steps, batch_size=BATCH, device="cpu", **changes)
    return [(config, train, i) for i, config in enumerate(CASES["batchtopk of several k"])]


def test_runs_are_those_of_fit():
    x = examples(torch.float32)
    runs = fit_many(members(), x, order_seed=5, validation=x[:100], progress=False)
    for (config, train, seed), run in zip(members(), runs, strict=True):
        alone = fit(config, x, train, seed=seed, order_seed=5, validation=x[:100], progress=False)
        assert run.settings == alone.settings
        assert run.history.columns.tolist() == alone.history.columns.tolist()
        np.testing.assert_allclose(run.history["fvu"], alone.history["fvu"], rtol=1e-3)
        assert run.card["fvu"] == pytest.approx(alone.card["fvu"], rel=1e-3)
        assert run.sae.threshold == pytest.approx(alone.sae.threshold, rel=1e-3)
        assert not run.sae.training and run.card["split"] == "validation"


def test_a_diverged_member_is_told_of_and_the_others_go_on_as_without_it():
    x = examples(torch.float32)
    plain = members(clip_norm=None)
    train = dataclasses.replace(plain[0][1], learning_rate=1e30)
    with_one = [plain[0], (plain[1][0], train, 1), plain[2]]
    runs = fit_many(with_one, x, progress=False)
    for i in (0, 2):
        alone = fit(plain[i][0], x, plain[i][1], seed=i, order_seed=0, progress=False)
        np.testing.assert_allclose(runs[i].history["fvu"], alone.history["fvu"], rtol=1e-3)
        assert "not_finite" not in runs[i].findings
    found = runs[1].findings["not_finite"]
    assert "weights diverged" in found and "the other SAEs did" in found
    assert len(runs[1].history) < len(runs[0].history) and not runs[1].card
    assert all(bool(p.isfinite().all()) for p in runs[1].sae.parameters())


def test_an_interrupted_call_goes_on_exactly(tmp_path, monkeypatch):
    x = examples(torch.float32)
    undisturbed = fit_many(members(), x, out=tmp_path / "a", progress=False)

    saved = []

    def save_then_stop(*args: Any, **more: Any) -> None:
        original(*args, **more)
        saved.append(1)
        if len(saved) == 4:
            raise KeyboardInterrupt

    # The package has a function of that name, which hides the module from `import`.
    module = importlib.import_module("saebook.training.fit_many")
    original = module.save_checkpoint
    monkeypatch.setattr(module, "save_checkpoint", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        fit_many(members(), x, out=tmp_path / "b", progress=False)
    monkeypatch.setattr(module, "save_checkpoint", original)
    runs = fit_many(members(), x, out=tmp_path / "b", progress=False)
    for run, other in zip(runs, undisturbed, strict=True):
        assert torch.equal(run.sae.W_dec, other.sae.W_dec)
        assert run.history.equals(other.history)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["0", "1", "2"]


def test_finished_runs_are_read_back_and_others_refused(tmp_path):
    x = examples(torch.float32)
    runs = fit_many(members(), x, out=tmp_path, progress=False)
    record = tmp_path / "1" / "run.json"
    changed = json.loads(record.read_text())
    changed["card"]["fvu"] = 0.125
    record.write_text(json.dumps(changed))
    again = fit_many(members(), x, out=tmp_path, progress=False)
    assert again[1].card["fvu"] == 0.125 and torch.equal(again[0].sae.W_dec, runs[0].sae.W_dec)
    with pytest.raises(CheckpointError, match=r"train\.n_steps = 60 there, 80 here"):
        fit_many(members(n_steps=80), x, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "loss_dependent"}, "follows the loss of one run"),
        ({"keep_checkpoints": (0.5,)}, "one by one with fit"),
    ],
)
def test_what_needs_a_run_of_its_own_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        fit_many(members(**changes), examples(torch.float32), progress=False)


def test_training_settings_may_differ_in_learning_rate_alone():
    one, two, _ = members()
    slower = dataclasses.replace(two[1], learning_rate=1e-4)
    runs = fit_many([one, (two[0], slower, 1)], examples(torch.float32), progress=False)
    assert max(runs[1].history["learning_rate"]) == pytest.approx(1e-4)
    assert max(runs[0].history["learning_rate"]) == pytest.approx(one[1].learning_rate)
    with pytest.raises(ConfigError, match="differ in beta1"):
        other = dataclasses.replace(two[1], beta1=0.5)
        fit_many([one, (two[0], other, 1)], examples(torch.float32), progress=False)
