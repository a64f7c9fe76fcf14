"""Faults of rows, weights and modes, and the list of all faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from doctor_cases import (
    ACTIVATIONS,
    MOSTLY_COPIES,
    Case,
    Rows,
    copied_share,
    fvu_of,
    l0_and_density,
    rescored,
    with_weights,
)
from doctor_settings import (
    barely_trained,
    coefficient_too_strong,
    coefficient_too_weak,
    dead_by_learning_rate,
    decoder_norms,
    dense,
    extreme_rows,
    inputs_off_scale,
    l0_away_from_target,
    leaks,
    silent,
)
from torch import Tensor

from saebook.models import SAE
from saebook.training import Run, Trainer

MOST_PAIRS = 7
# Findings that name each fault; any one of them counts.
NAMES = {
    "barely_trained": ("barely_trained",),
    "inputs_off_scale": ("inputs_off_scale",),
    "extreme_rows": ("extreme_rows",),
    "coefficient_too_strong": ("coefficient_off_scale",),
    "coefficient_too_weak": ("coefficient_off_scale",),
    "silent": ("silent",),
    "dead_by_learning_rate": ("dead", "silent"),
    "decoder_norms": ("decoder_norms",),
    "l0_away_from_target": ("l0_away_from_target",),
    "dense": ("dense",),
    "leaks": ("leaks",),
    "not_finite": ("not_finite",),
    "inference_differs": ("inference_differs",),
    "other_weights": ("other_weights",),
    "worse_than_mean": ("worse_than_mean",),
    "duplicates": ("duplicates",),
    "validation_drift": ("validation_drift",),
    "batch_dependent": ("batch_dependent",),
}


def faults() -> list[Case]:
    """Every faulty run: of each fault an even choice, both seeds of each."""
    chosen = []
    for make in MAKERS:
        cases = make()
        pairs = [cases[i : i + 2] for i in range(0, len(cases), 2)]
        every = len(pairs) / min(len(pairs), MOST_PAIRS)
        kept = [pairs[int(i * every)] for i in range(min(len(pairs), MOST_PAIRS))]
        chosen += [case for pair in kept for case in pair]
    return chosen


def not_finite() -> list[Case]:
    """Rates that diverge, and single rows that overflow."""

    def plant(size: float) -> Callable[[Rows], Rows]:
        def change(x: Tensor) -> Tensor:
            x = x.float().clone()
            x[len(x) // 2 + 1] = size
            return x

        return lambda rows: Rows(change(rows.training), rows.held_out, rows.fresh)

    cases = [
        Case(
            "not_finite", f"rate {rate:g}", data, architecture, seed,
            train={"learning_rate": rate, "clip_norm": None},
        )
        for rate in (1e12, 1e30)
        for data, architecture in (("dictionary", "leaky_relu"), ("nested", "relu"))
        for seed in (10, 11)
    ]  # fmt: skip
    cases += [
        Case(
            "not_finite", f"a row of {size:g}", data, architecture, seed,
            model={"input_scaling": "none"}, rows=plant(size),
        )
        for size in (1e20, 1e30)
        for data, architecture in (("dictionary", "topk"), ("nested", "relu"))
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def inference_differs() -> list[Case]:
    """A threshold that lags behind."""
    return [
        Case(
            "inference_differs", f"threshold x {factor:g}", data, "batchtopk", seed, model=changes,
            after=with_weights(lambda sae, factor=factor: sae.threshold.mul_(factor)),
            taken=lambda run, rows: abs(l0_and_density(run, rows.fresh)[0] / 4.0 - 1) > 0.15,
        )
        for factor in (0.5, 0.7, 1.4, 2.0)
        for data, changes in (
            ("dictionary", {}), ("counts", {}), ("nested", {"prefixes": [16, 32, 64]}),
        )
        for seed in (10, 11)
    ]  # fmt: skip


def other_weights() -> list[Case]:
    """Zero weights, fresh ones, latents in another order, inputs in another order."""

    def zero(sae: SAE) -> None:
        for parameter in sae.parameters():
            parameter.zero_()

    def fresh(run: Run, rows: Rows) -> tuple[Run, Rows]:
        sae = SAE(run.sae.config, seed=99)
        sae.fit_inputs(rows.training[::4].float())
        if hasattr(sae, "threshold") and sae.config.architecture == "batchtopk":
            sae.threshold.copy_(run.sae.threshold)
        return rescored(dataclasses.replace(run, sae=sae.eval()), rows)

    def shuffled(sae: SAE) -> None:
        sae.W_dec.copy_(sae.W_dec.roll(1, dims=0))

    def reversed_inputs(run: Run, rows: Rows) -> tuple[Run, Rows]:
        return rescored(run, rows.changed(lambda x: x.flip(1)))

    ways = {
        "zero": with_weights(zero),
        "fresh": fresh,
        "latents in another order": with_weights(shuffled),
        "inputs in another order": reversed_inputs,
    }
    return [
        Case("other_weights", name, data, architecture, seed, after=after)
        for name, after in ways.items()
        for data, architecture in (
            ("dictionary", "batchtopk"), ("counts_wide", "topk"),
            ("nested", "relu"), ("dictionary_wide", "jumprelu"),
        )
        for seed in (10, 11)
    ]  # fmt: skip


def worse_than_mean() -> list[Case]:
    """Reconstructions of the wrong size or offset, and rates that throw weights about."""

    def taken(run: Run, rows: Rows) -> bool:
        return fvu_of(run, rows.fresh) > 1

    cases = [
        Case(
            "worse_than_mean", name, data, architecture, seed, after=with_weights(change),
            taken=taken,
        )
        for name, change in (
            ("decoder x 4", lambda sae: sae.W_dec.mul_(4)),
            ("offset", lambda sae: sae.b_dec.add_(3)),
        )
        for data, architecture in (("dictionary", "topk"), ("counts", "batchtopk"))
        for seed in (10, 11)
    ]  # fmt: skip
    cases += [
        Case(
            "worse_than_mean", f"rate {rate:g}", data, "batchtopk", seed,
            train={"learning_rate": rate, "schedule": "constant"}, taken=taken,
        )
        for rate in (1.0, 10.0)
        for data in ("dictionary", "nested")
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def duplicates() -> list[Case]:
    """Latents that are copies of others; a dictionary eight times too wide."""

    def copies(share: float) -> Callable[[Trainer], dict[str, float]]:
        @torch.no_grad()
        def probe(trainer: Trainer) -> dict[str, float]:
            n = int(share * trainer.sae.config.d_sae / 2)
            for name, parameter in trainer.sae.named_parameters():
                if name != "b_dec":
                    parameter[-n:] = parameter[:n]
            return {}

        return probe

    def taken(run: Run, rows: Rows) -> bool:
        return copied_share(run, rows.fresh) > MOSTLY_COPIES

    cases = [
        Case(
            "duplicates", f"{share:.0%} copied", data, architecture, seed, probe=copies(share),
            taken=taken,
        )
        for share in (0.8, 1.0)
        for data, architecture in (
            ("dictionary", "relu"), ("nested", "topk"), ("counts", "batchtopk"),
            ("dictionary_wide", "jumprelu"),
        )
        for seed in (10, 11)
    ]  # fmt: skip

    def fewer_features(n: int) -> Callable[[Rows], Rows]:
        def change(rows: Rows) -> Rows:
            d_in = rows.training.shape[1]
            directions = torch.randn(n, d_in, generator=torch.Generator().manual_seed(7))
            generator = torch.Generator().manual_seed(8)

            def draw(x: Tensor) -> Tensor:
                on = torch.rand(len(x), n, generator=generator) < 0.3
                return (torch.rand(len(x), n, generator=generator) + 0.5) * on @ directions

            return rows.changed(draw)

        return change

    cases += [
        Case(
            "duplicates", "8 features for 64 latents", "dictionary", architecture, seed,
            rows=fewer_features(8), taken=taken,
        )
        for architecture in ("relu", "leaky_relu", "topk")
        for seed in (10, 11)
    ]  # fmt: skip
    return cases


def validation_drift() -> list[Case]:
    """Held-out rows whose units changed gain or were lost; and a training set learnt by heart."""

    def gains(strength: float) -> Callable[[Rows], Rows]:
        def change(rows: Rows) -> Rows:
            n = rows.training.shape[1]
            factor = 1 + strength * torch.linspace(-1, 1, n)[torch.randperm(n)]
            return dataclasses.replace(rows, held_out=rows.held_out.float() * factor)

        return change

    def lost(share: float) -> Callable[[Rows], Rows]:
        def change(rows: Rows) -> Rows:
            kept = (torch.arange(rows.training.shape[1]) % round(1 / share) != 0).float()
            return dataclasses.replace(rows, held_out=rows.held_out.float() * kept)

        return change

    def other_directions(rows: Rows) -> Rows:
        return dataclasses.replace(rows, held_out=rows.held_out.flip(1))

    def few(rows: Rows) -> Rows:
        return dataclasses.replace(rows, training=rows.training[:150])

    def taken(run: Run, rows: Rows) -> bool:
        return fvu_of(run, rows.held_out) > fvu_of(run, rows.training) + 0.05

    ways = {
        "gains ± 80 %": gains(0.8),
        "a third of the units lost": lost(1 / 3),
        "other directions": other_directions,
        "150 training rows": few,
    }
    return [
        Case("validation_drift", name, data, architecture, seed, rows=change, taken=taken)
        for name, change in ways.items()
        for data, architecture in (("dictionary", "topk"), ("nested", "batchtopk"))
        for seed in (10, 11)
    ]


class BatchNormed(SAE):
    """Pre-activations normalised by the batch, as in a museum of failures."""

    def pre_activations(self, x: Tensor) -> Tensor:
        """Normalised over all examples."""
        h = super().pre_activations(x)
        flat = h.reshape(-1, h.shape[-1])
        spread = flat.std(dim=0, correction=0).clamp_min(1e-3)
        return (h - flat.mean(dim=0)) / spread + 0.5


def batch_dependent() -> list[Case]:
    """Batch normalisation, and BatchTopK in training mode."""

    def batch_norm(run: Run, rows: Rows) -> tuple[Run, Rows]:
        run.sae.__class__ = BatchNormed
        return rescored(run, rows)

    def training_mode(run: Run, rows: Rows) -> tuple[Run, Rows]:
        run.sae.train()
        return run, rows

    cases = [
        Case("batch_dependent", "batch normalisation", data, architecture, seed, after=batch_norm)
        for data, architecture in (("dictionary", "relu"), ("counts", "topk"), ("nested", "topk"))
        for seed in (10, 11)
    ]
    cases += [
        Case("batch_dependent", "training mode", data, "batchtopk", seed, after=training_mode)
        for data in (*ACTIVATIONS, "counts")
        for seed in (10, 11)
    ]
    return cases


MAKERS: tuple[Callable[[], list[Case]], ...] = (
    barely_trained,
    inputs_off_scale,
    extreme_rows,
    coefficient_too_strong,
    coefficient_too_weak,
    silent,
    dead_by_learning_rate,
    decoder_norms,
    l0_away_from_target,
    dense,
    leaks,
    not_finite,
    inference_differs,
    other_weights,
    worse_than_mean,
    duplicates,
    validation_drift,
    batch_dependent,
)
