"""The temporal-contrastive term: values worked by hand, masks, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from saebook.losses import info_nce, info_nce_at_chance, same_sequence


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_cosines_give_the_logarithm_of_one_more_than_the_negatives():
    row = rand(1, 5)
    found = info_nce(row.expand(3, 5), row.expand(3, 5), 7 * row.expand(4, 5))
    assert found.item() == pytest.approx(math.log(5))
    assert info_nce_at_chance(torch.tensor([4, 4, 4])).item() == pytest.approx(math.log(5))


def test_it_is_cross_entropy_of_cosines_over_temperature():
    a, p, n = rand(6, 4), rand(6, 4, seed=1), rand(9, 4, seed=2)
    expected = 0.0
    for i in range(6):
        cosine = [torch.cosine_similarity(a[i], other, dim=0) / 0.3 for other in (p[i], *n)]
        expected -= torch.stack(cosine).log_softmax(dim=0)[0].item() / 6
    assert info_nce(a, p, n, temperature=0.3).item() == pytest.approx(expected)


def test_lengths_do_not_matter():
    a, p, n = rand(6, 4), rand(6, 4, seed=1), rand(9, 4, seed=2)
    longer = info_nce(a * rand(6, 1, seed=3).abs(), 5 * p, n * rand(9, 1, seed=4).abs())
    assert longer.item() == pytest.approx(info_nce(a, p, n).item())


def test_excluded_negatives_are_as_if_they_were_not_there():
    a, p, n = rand(6, 4), rand(6, 4, seed=1), rand(9, 4, seed=2)
    excluded = torch.zeros(6, 9, dtype=torch.bool)
    excluded[:, 5:] = True
    assert info_nce(a, p, n, excluded=excluded).item() == info_nce(a, p, n[:5]).item()
    assert info_nce(a, p, n, excluded=torch.ones_like(excluded)).item() == 0.0


def test_rows_without_an_active_latent_are_left_out():
    a, p, n = rand(6, 4), rand(6, 4, seed=1), rand(9, 4, seed=2)
    expected = info_nce(a[:4], p[:4], n[:7]).item()
    a[4], p[5], n[7:] = 0.0, 0.0, 0.0
    assert info_nce(a, p, n).item() == pytest.approx(expected)


@pytest.mark.parametrize("rows", [0, 3])
def test_no_usable_anchor_gives_zero_and_no_gradient(rows):
    a = torch.zeros(rows, 4, dtype=torch.float64, requires_grad=True)
    loss = info_nce(a, rand(rows, 4), rand(5, 4, seed=1))
    loss.backward()
    assert loss.item() == 0.0
    assert a.grad is not None and not a.grad.any()


def test_gradient_agrees_with_finite_differences():
    a, p, n = (rand(5, 4, seed=s).requires_grad_() for s in range(3))
    excluded = same_sequence(torch.arange(5) // 2, torch.arange(5) % 3)
    assert gradcheck(lambda *rows: info_nce(*rows, excluded=excluded, temperature=0.5), (a, p, n))


def test_a_silent_anchor_gets_no_gradient_and_spoils_no_other():
    a = rand(3, 4)
    a[1] = 0.0
    a.requires_grad_()
    info_nce(a, rand(3, 4, seed=1), rand(6, 4, seed=2)).backward()
    assert a.grad is not None and a.grad.isfinite().all()
    assert not a.grad[1].any() and a.grad[[0, 2]].all()
