"""Threads: how many a step may use, and that it gives back what it was allowed."""

from __future__ import annotations

import threading

import pytest
import torch

from saebook.models import SAE, SAEConfig
from saebook.models.sparse.threads import n_threads, one_torch_thread, run_each
from saebook.training import TrainConfig, Trainer

MUCH_WORK = 1e9


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def steps(d_sae: int, n: int = 3) -> Trainer:
    sae = SAE(SAEConfig(d_in=64, d_sae=d_sae, k=8))
    trainer = Trainer(sae, TrainConfig(n_steps=n, device="cpu", engine="sparse"))
    x = torch.rand(512, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(n):
        trainer.step(x)
    return trainer


@pytest.mark.usefixtures("two_threads")
def test_torch_works_alone_and_loops_do_not():
    with one_torch_thread():
        assert torch.get_num_threads() == 1
        assert n_threads(MUCH_WORK) == 2
        workers = run_each([threading.get_ident, threading.get_ident])
        assert threading.get_ident() not in workers
    assert torch.get_num_threads() == n_threads(MUCH_WORK) == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_gives_the_threads_back():
    with pytest.raises(ZeroDivisionError), one_torch_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == n_threads(MUCH_WORK) == 2


def test_with_one_thread_there_is_nothing_to_leave():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_torch_thread():
            assert n_threads(MUCH_WORK) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("d_sae", "during"), [(1024, 1), (8192, 2)])
def test_only_small_steps_leave_torch_one_thread(monkeypatch, d_sae, during):
    seen = []
    inner = Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda *args: (seen.append(torch.get_num_threads()), inner(*args))[1]
    )
    steps(d_sae)
    assert seen == [during] * 3
    assert torch.get_num_threads() == 2


def test_threads_change_no_number_of_a_small_step():
    def weights(n: int) -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try:
            return steps(1024).sae.W_dec.detach()
        finally:
            torch.set_num_threads(before)

    assert torch.allclose(weights(1), weights(2), atol=1e-6)
