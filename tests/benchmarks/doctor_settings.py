"""Faults of settings: how each is brought about, how strongly, and when it took effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from doctor_cases import WITH_K, Case, Rows, fvu_of, l0_and_density
from torch import Tensor

from saebook.training import Run


def barely_trained() -> list[Case]:
    """Learning rates, or warm-ups, under which nothing moves."""
    settings: dict[str, dict[str, Any]] = {
        "rate 1e-6": {"learning_rate": 1e-6},
        "rate 1e-5": {"learning_rate": 1e-5},
        "rate 5e-5": {"learning_rate": 5e-5},
        "48 steps, all warm-up": {
            "n_steps": 48,
            "warmup_fraction": 1.0,
            "hold_fraction": 1.0,
            "learning_rate": 3e-4,
        },
    }
    return [
        Case("barely_trained", name, data, architecture, seed, train=train)
        for name, train in settings.items()
        for data, architecture in (("dictionary", "relu"), ("counts", "batchtopk"))
        for seed in (10, 11)
    ]


def _times(factor: float) -> Callable[[Rows], Rows]:
    return lambda rows: rows.changed(lambda x: x.float() * factor)


def inputs_off_scale() -> list[Case]:
    """Raw units without scaling, and rows that come in other units than those fitted on."""
    cases = [
        Case(
            "inputs_off_scale", f"x {factor:g}, unscaled", data, "relu", seed,
            model={"input_scaling": "none", "sparsity_coefficient": 0.4}, rows=_times(factor),
        )
        for factor in (0.01, 0.1, 20.0, 100.0)
        for data in ("dictionary", "nested")
        for seed in (10, 11)
    ]  # fmt: skip
    cases += [
        Case(
            "inputs_off_scale", f"judged x {factor:g}", "dictionary_wide", architecture, seed,
            after=lambda run, rows, factor=factor: (run, _times(factor)(rows)),
        )
        for factor in (0.5, 3.0)
        for architecture in ("topk", "jumprelu")
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def extreme_rows() -> list[Case]:
    """A few rows of massive norm."""

    def plant(factor: float, every: int) -> Callable[[Rows], Rows]:
        def change(x: Tensor) -> Tensor:
            x = x.float().clone()
            x[::every] = x[0] / x[0].norm() * x.norm(dim=1).median() * factor
            return x

        return lambda rows: rows.changed(change)

    return [
        Case(
            "extreme_rows", f"1 in {every} of norm x {factor:g}", data, architecture, seed,
            rows=plant(factor, every),
        )
        for factor, every in ((30.0, 300), (150.0, 300), (150.0, 1000))
        for data, architecture in (("dictionary", "topk"), ("nested", "relu"))
        for seed in (10, 11)
    ]  # fmt: skip


def coefficient_too_strong() -> list[Case]:
    """λ as another convention would give it: times d_in, the batch, or both."""
    return [
        Case(
            "coefficient_too_strong", name, data, architecture, seed,
            model={"sparsity_coefficient": 0.4 * factor},
        )
        for name, factor in (("d_in", 20), ("batch", 128), ("d_in x batch", 2560))
        for data in ("dictionary", "nested")
        for architecture in ("relu", "gated", "leaky_relu")
        for seed in (10, 11)
    ][:24]  # fmt: skip


def coefficient_too_weak() -> list[Case]:
    """λ of another convention, the other way round."""
    return [
        Case(
            "coefficient_too_weak", f"/ {factor:g}", data, architecture, seed,
            model={"sparsity_coefficient": 0.4 / factor},
        )
        for factor in (1e3, 1e5)
        for data in ("dictionary_wide", "nested")
        for architecture in ("relu", "leaky_relu")
        for seed in (10, 11)
    ]  # fmt: skip


def silent() -> list[Case]:
    """Everything dies: by λ at three strengths, by thresholds out of reach."""

    def taken(run: Run, rows: Rows) -> bool:
        return l0_and_density(run, rows.fresh)[0] < 0.05

    cases = [
        Case(
            "silent", f"coefficient {coefficient:g}", data, architecture, seed,
            model={"sparsity_coefficient": coefficient}, taken=taken,
        )
        for coefficient in (1e2, 1e4)
        for data in ("dictionary", "counts")
        for architecture in ("relu", "gated")
        for seed in (10, 11)
    ]  # fmt: skip
    cases += [
        Case(
            "silent", "threshold 50", data, "jumprelu", seed,
            model={"threshold_init": 50.0, "target_l0": 4.0}, taken=taken,
        )
        for data in ("dictionary", "nested")
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def dead_by_learning_rate() -> list[Case]:
    """Learning rates that kill, where nothing revives."""

    def taken(run: Run, rows: Rows) -> bool:
        _, density = l0_and_density(run, torch.cat([rows.training, rows.fresh]))
        return float((density == 0).double().mean()) > 0.3

    return [
        Case(
            "dead_by_learning_rate", f"rate {rate:g}", data, architecture, seed,
            model={"auxiliary": "none"} if architecture in WITH_K
            else {"sparsity_coefficient": 0.3},
            train={"learning_rate": rate}, taken=taken,
        )
        for rate in (0.1, 0.2, 0.4, 0.8)
        for data, architecture in (
            ("dictionary", "relu"), ("dictionary_wide", "topk"), ("counts", "batchtopk"),
        )
        for seed in (10, 11)
    ]  # fmt: skip


def decoder_norms() -> list[Case]:
    """A plain L1 with free norms; weight decay that shrinks every row."""

    def taken(run: Run, rows: Rows) -> bool:
        norms = run.sae.W_dec.detach().norm(dim=1)
        start = run.sae.config.selection.decoder_init_norm
        return not 0.5 < float(norms.mean()) / start < 1.5

    free = {"sparsity": "l1", "decoder_norm": "free"}
    cases = [
        Case(
            "decoder_norms", f"plain L1 x {strength:g}", data, architecture, seed,
            model=free | {"sparsity_coefficient": 0.4 * strength}, taken=taken,
        )
        for strength in (0.5, 2.0, 5.0)
        for data in ("dictionary", "nested")
        for architecture in ("relu", "leaky_relu")
        for seed in (10, 11)
    ]  # fmt: skip
    cases += [
        Case(
            "decoder_norms", f"weight decay {decay:g}", "dictionary_wide", "topk", seed,
            model={"decoder_norm": "free"},
            train={"weight_decay": decay, "optimizer": "adamw"}, taken=taken,
        )
        for decay in (6.0, 20.0)
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def l0_away_from_target() -> list[Case]:
    """A controller too slow to arrive; a k that the data can't fill; a penalty too weak."""

    def taken(run: Run, rows: Rows) -> bool:
        wanted = run.sae.config.k or run.sae.config.target_l0 or 1.0
        found = l0_and_density(run, rows.fresh)[0]
        return not 0.5 < found / wanted < 2.0

    cases = [
        Case(
            "l0_away_from_target", f"slow controller from {start:g}", data, architecture, seed,
            model={"target_l0": 4.0, "sparsity_coefficient": start},
            train={"controller_rate": 1e-4}, taken=taken,
        )
        for start in (1e-3, 3.0)
        for data, architecture in (
            ("dictionary", "relu"), ("counts", "leaky_relu"), ("nested", "gated"),
        )
        for seed in (10, 11)
    ]  # fmt: skip

    def one_hot(rows: Rows) -> Rows:
        return rows.changed(
            lambda x: torch.eye(x.shape[1])[x.argmax(dim=1) % 8] * x.norm(dim=1, keepdim=True)
        )

    cases += [
        Case(
            "l0_away_from_target", f"k {k}, one unit at a time", "dictionary", "topk", seed,
            model={"k": k}, rows=one_hot, taken=taken,
        )
        for k in (60, 64)
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def dense() -> list[Case]:
    """More active latents than sparse features need: a large k, a weak penalty."""

    def taken(run: Run, rows: Rows) -> bool:
        l0, density = l0_and_density(run, rows.fresh)
        on = density > 0.5
        return float(density[on].sum()) > 0.5 * l0 or float(on.double().mean()) > 0.15

    cases = [
        Case("dense", f"k {k}", data, architecture, seed, model={"k": k}, taken=taken)
        for k in (30, 44)
        for data in ("dictionary", "counts")
        for architecture in WITH_K
        for seed in (10, 11)
    ]
    cases += [
        Case(
            "dense", f"coefficient {coefficient:g}", data, architecture, seed,
            model={"sparsity_coefficient": coefficient}, taken=taken,
        )
        for coefficient in (0.01, 0.03)
        for data in ("dictionary", "nested")
        for architecture in ("relu", "leaky_relu")
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def leaks() -> list[Case]:
    """Slopes below zero through which latents reconstruct that L0 does not count."""

    @torch.no_grad()
    def taken(run: Run, rows: Rows) -> bool:
        x = rows.fresh.double()
        made = run.sae.decode(run.sae.encode(rows.fresh.float()).clamp_min(0.0)).double()
        without = float((x - made).square().sum() / (x - x.mean(dim=0)).square().sum())
        return without > fvu_of(run, rows.fresh) + 0.05

    return [
        Case(
            "leaks", f"leak {leak:g}", data, "leaky_relu", seed,
            model={"leak": leak, "sparsity_coefficient": 0.4}, taken=taken,
        )
        for leak in (0.1, 0.2, 0.3, 0.5)
        for data in ("dictionary", "nested")
        for seed in (10, 11)
    ]  # fmt: skip
