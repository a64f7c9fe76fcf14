"""Recorded steps: what was recorded once and is played back does what a step would.

No GPU is needed: operations are noted on a CPU, with the very tensors they read and wrote, and
playing repeats them there, as a CUDA graph does. A number that the host put into a recording, or
a tensor that it exchanged for another, shows as a difference.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saebook.errors import ConfigError
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer, captured, fit
from saebook.training.captured import FIRST_STEPS, CapturedSteps
from saebook.training.dead import Dead
from saebook.training.dials import ROWS, Dials
from saebook.training.stacking import SAEStack

N_STEPS = 40
X = torch.rand(64, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CASES = {
    "topk": {"architecture": "topk", "k": 4},
    "batchtopk": {"k": 4},
    "nested": {"k": 4, "prefixes": (8, 32)},
    "relu to a target": {"architecture": "relu", "target_l0": 4.0},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 4.0},
    "gated": {"architecture": "gated"},
    "leaky_relu": {"architecture": "leaky_relu"},
    "mlp": {"k": 4, "decoder": "mlp"},
    "a k for each prefix": {"prefixes": (8, 32), "prefix_k": (2, 4), "architecture": "topk"},
    "ghost": {"architecture": "relu", "auxiliary": "ghost"},
    "preactivation": {"architecture": "jumprelu", "auxiliary": "preactivation", "target_l0": 4.0},
    "per example": {"k": 4, "input_scaling": "layer_norm"},
}


class _Noting(TorchDispatchMode):
    """Notes every operation with its arguments and results, and what it wrote over."""

    def __init__(self):
        super().__init__()
        self.noted, self.before = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = dict(zip((a.name for a in func._schema.arguments), args)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(given.get(argument.name)):
                    storage = tensor.untyped_storage()
                    self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        made = func(*args, **kwargs)
        self.noted.append((func, args, kwargs, made))
        return made


def _refuse(*given, **settings):
    raise AssertionError(f"a number of the host is sent to the device: {given} {settings}")


class Operations:
    """Records on a CPU. What recording itself changed is undone: a GPU only notes."""

    def __init__(self, device: torch.device):
        del device

    def run(self, work):
        return work()

    def record(self, work):
        with _Noting() as mode, ExitStack() as stack:
            for owner, name in (
                (torch, "tensor"),
                (torch, "as_tensor"),
                (torch.Tensor, "new_tensor"),
            ):
                stack.enter_context(mock.patch.object(owner, name, _refuse))
            made = work()
        for storage, value in mode.before.values():
            storage.copy_(value)
        return made, partial(_play, mode.noted)


@torch.no_grad()
def _play(noted) -> None:
    for func, args, kwargs, made in noted:
        again = func(*args, **kwargs)
        for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
            if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                # Some operations change only the shape of a result, after it was made.
                old.copy_(new.reshape(old.shape))


@pytest.fixture
def recording(monkeypatch):
    """Steps on a CPU are recorded too."""
    monkeypatch.setitem(captured.RECORDERS, "cpu", Operations)


def all_tensors(trainer: Trainer) -> list[torch.Tensor]:
    found = [*trainer.sae.parameters(), *trainer.sae.buffers(), trainer.silent_examples]
    found += [trainer.alive, trainer.retirement.totals, trainer.retirement.retired]
    found += [trainer.sparsity.full, trainer.sparsity.l0]
    found += [v for state in trainer.optimizer.state.values() for v in state.values()]
    return found


def trained(settings: dict, recorded: bool, n_models: int = 1, **train):
    """Weights and logs of a run, and its trainer."""
    made = [SAE(SAEConfig(d_in=12, d_sae=32, **settings), seed=i).double() for i in range(n_models)]
    for sae in made:
        sae.fit_inputs(X)
    capture = "always" if recorded else "never"
    config = TrainConfig(
        n_steps=N_STEPS, device="cpu", engine="dense", capture=capture, dead_after_firings=0.5
    )
    config = TrainConfig.from_dict(config.to_dict() | train)
    trainer: Trainer[Any]
    trainer = Trainer(made[0], config) if n_models == 1 else Trainer(SAEStack(made), config)
    logs = []
    for step in range(N_STEPS):
        batch = X.roll(step, dims=0)[: 48 if step % 7 else 32]
        logs.append(trainer.step(batch))
    return trainer, logs


def test_the_recorder_of_these_tests_plays_what_it_noted(recording):
    total, x = torch.zeros(3), torch.ones(3)
    recorder = Operations(torch.device("cpu"))
    made, play = recorder.record(lambda: {"sum": total.add_(x) * 2})
    assert total.tolist() == [0, 0, 0]
    x.fill_(5.0)
    play()
    assert total.tolist() == [5, 5, 5] and made["sum"].tolist() == [10, 10, 10]


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("n_models", [1, 2])
@pytest.mark.parametrize("name", list(CASES))
def test_recorded_steps_are_the_steps(name, n_models):
    plain, told = trained(CASES[name], False, n_models)
    played, logs = trained(CASES[name], True, n_models)
    assert played.n_recordings >= 2
    for one, other in zip(told, logs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(
                other[key], one[key], rtol=1e-6, atol=1e-9, check_dtype=False
            )
    for one, other in zip(all_tensors(plain), all_tensors(played), strict=True):
        # The learning rate is a float32 on the device.
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize(
    "train",
    [
        {"sparsity_schedule": "two_phase"},
        {"resample_every": 0.25},
        {"schedule": "loss_dependent"},
        {"cycle_amplitude": 0.5},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"clip_norm": 0.05},
    ],
    ids=str,
)
def test_whatever_changes_with_the_step_reaches_a_recording(train):
    settings = CASES["relu to a target"]
    plain, _ = trained(settings, False, **train)
    played, _ = trained(settings, True, **train)
    assert played.n_recordings
    for one, other in zip(all_tensors(plain), all_tensors(played), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.usefixtures("recording")
def test_a_member_that_is_frozen_stays_as_it_is():
    trainer, _ = trained(CASES["topk"], True, 2)
    before = [member.encoder_rows.clone() for member in trainer.members]
    trainer.freeze(0)
    for _ in range(FIRST_STEPS + 3):
        trainer.step(X[:48])
    assert trainer.members[0].encoder_rows.equal(before[0])
    assert not trainer.members[1].encoder_rows.equal(before[1])


def test_a_frozen_number_would_be_found():
    rate = [1.0]
    weight, steps = torch.zeros(()), CapturedSteps(Operations(torch.device("cpu")))

    def step(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"weight": weight.add_(x * rate[0]).clone()}

    for _ in range(FIRST_STEPS + 1):
        steps.take("", step, torch.ones(()))
    rate[0] = 100.0
    assert float(steps.take("", step, torch.ones(()))["weight"]) == FIRST_STEPS + 2


def test_a_number_sent_to_the_device_would_be_found():
    steps = CapturedSteps(Operations(torch.device("cpu")))
    for _ in range(FIRST_STEPS):
        steps.take("", lambda x: {"x": x * x.new_tensor(2.0)}, torch.ones(()))
    with pytest.raises(AssertionError, match="number of the host"):
        steps.take("", lambda x: {"x": x * x.new_tensor(2.0)}, torch.ones(()))


def test_what_is_played_later_leaves_earlier_results_alone():
    steps = CapturedSteps(Operations(torch.device("cpu")))
    made = [
        steps.take("", lambda x: {"twice": 2 * x.sum()}, torch.full((2,), float(i)))
        for i in range(FIRST_STEPS + 4)
    ]
    assert [float(m["twice"]) for m in made] == [4.0 * i for i in range(FIRST_STEPS + 4)]
    assert steps.n_recordings == 1


def test_what_cannot_be_recorded_is_done_all_the_same():
    class Refusing(Operations):
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    steps = CapturedSteps(Refusing(torch.device("cpu")))
    for _ in range(FIRST_STEPS):
        steps.take("", lambda x: {"x": x}, torch.ones(1))
    with pytest.warns(RuntimeWarning, match=r"not permitted when stream is capturing\), so each"):
        assert float(steps.take("", lambda x: {"x": x}, torch.ones(1))["x"]) == 1.0
    assert float(steps.take("", lambda x: {"x": x}, torch.full((1,), 3.0))["x"]) == 3.0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "the device is cpu"),
        ({"optimizer": "lamb"}, "optimizer='lamb'"),
        ({"engine": "sparse"}, "engine='sparse'"),
    ],
)
def test_always_is_refused_where_it_cannot_be(settings, why, monkeypatch):
    if settings:
        monkeypatch.setitem(captured.RECORDERS, "cpu", Operations)
    train = TrainConfig(n_steps=2, device="cpu", capture="always", **settings)
    with pytest.raises(ConfigError, match=rf"capture='always': .*{why}.*capture='auto'"):
        Trainer(SAE(SAEConfig(d_in=4, d_sae=8, k=2)), train)


@pytest.mark.usefixtures("recording")
def test_a_trainer_that_is_given_another_state_records_anew():
    trainer, _ = trained(CASES["relu to a target"], True)
    plain, _ = trained(CASES["relu to a target"], False)
    kept = copy.deepcopy(plain.state_dict())
    trainer.load_state_dict(kept)
    assert not trainer.n_recordings
    for _ in range(FIRST_STEPS + 4):
        trainer.step(X[:48])
        plain.step(X[:48])
    assert trainer.n_recordings
    for one, other in zip(all_tensors(plain), all_tensors(trainer), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.usefixtures("recording")
def test_a_recorded_run_goes_on_where_it_stopped(tmp_path):
    """With the plain steps of the checkpoint's other half: what is kept is the same."""
    x, config = X.float(), SAEConfig(d_in=12, d_sae=32, k=4)
    train = TrainConfig(n_steps=20, batch_size=32, device="cpu", engine="dense", capture="never")
    whole = fit(config, x, train, progress=False)
    stops = {"at": 11}

    def stop(trainer):
        if trainer.step_number >= stops["at"]:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fit(config, x, train, out=tmp_path / "run", probe=stop, progress=False)
    again = TrainConfig.from_dict(train.to_dict() | {"capture": "auto"})
    resumed = fit(config, x, again, out=tmp_path / "run", progress=False)
    torch.testing.assert_close(resumed.sae.W_dec, whole.sae.W_dec, rtol=1e-4, atol=1e-5)


def test_dials_show_each_step_its_numbers():
    def numbers(step: int) -> list[float]:
        return [0.5 * step, -float(step)]

    plain, device = Dials(numbers), Dials(numbers, torch.device("cpu"))
    rate = device.rates[0]
    for step in (0, 1, 7, ROWS - 1, ROWS, ROWS + 9, 3):
        plain.turn(step)
        device.turn(step)
        assert plain.rates == [0.5 * step] and plain.share == -step
        assert float(rate) == 0.5 * step and float(device.share) == -step


def test_dials_that_follow_the_loss_ask_at_every_step():
    rate = [1.0]
    dials = Dials(lambda step: [rate[0], 1.0], torch.device("cpu"), foreseeable=False)
    dials.turn(0)
    rate[0] = 0.25
    dials.turn(1)
    assert float(dials.rates[0]) == 0.25


def test_dead_rows_of_a_stack_are_found_for_each_member():
    mask = torch.tensor([[False, True, False], [True, False, True]])
    rows, are_dead = torch.func.vmap(lambda m: Dead(m, (2, 2)).rows())(mask)
    assert rows.tolist() == [[1, 0], [0, 2]] and are_dead.tolist() == [[True, False], [True, True]]
