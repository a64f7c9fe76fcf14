"""The score card: every number about one SAE on one data set, with its warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from saebook.metrics.identity import RawUnitControl, RawUnitSums
from saebook.metrics.reconstruction import ReconstructionSums
from saebook.metrics.sparsity import LatentSums, dead_fraction, dense_fraction

# The raw units at equal L0 come within this much FVU of the SAE: it compresses no better.
RAW_UNIT_MARGIN = 0.02
MANY_DEAD = 0.5
MANY_DENSE = 0.1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class ScoreCard:
    """Scores of one SAE on one split; prints as a table, in a notebook as HTML.

    Parameters
    ----------
    split : str
        Which rows were scored: ``"test"``, …, or ``"given"`` for a bare tensor.
    n_examples, d_in, d_sae : int
        Sizes. Dead latents are those silent on these ``n_examples``.
    fvu, explained_variance : float
        Over all values pooled; NaN where the data are constant.
    l0 : float
        Mean active latents per example.
    active_units : float
        Mean non-zero inputs per example: on counts, the units that spiked in a bin.
    empty_share : float
        Share of examples that are all zero.
    dead_fraction, dense_fraction : float
        Shares of latents never active, and active on more than half of the examples.
    retired_fraction : float
        Share of latents that training took out; they are not counted among the dead.
    l2_ratio, cosine : float
        Mean ‖x̂‖/‖x‖ and cosine over examples that are not all zero.
    r2_per_unit : Tensor
        [d_in] float64, NaN where a unit is constant.
    r2_per_example : dict
        Quantiles of the per-example R², ``n_defined`` and ``undefined_share`` (constant
        examples, empty bins among them).
    density : Tensor
        [d_sae] float64, share of examples on which each latent is active.
    raw_unit : RawUnitControl or None
        What copying as many raw units as latents were active would score; always there on
        counts, where the FVU of an SAE that sees its target means little alone.
    flags : dict
        Name of each warning to a sentence that explains it; empty where nothing was found.
    """

    split: str
    n_examples: int
    d_in: int
    d_sae: int
    fvu: float
    explained_variance: float
    l0: float
    active_units: float
    empty_share: float
    dead_fraction: float
    dense_fraction: float
    retired_fraction: float
    l2_ratio: float
    cosine: float
    r2_per_unit: Tensor = field(repr=False)
    r2_per_example: dict[str, float] = field(repr=False)
    density: Tensor = field(repr=False)
    raw_unit: RawUnitControl | None = field(repr=False)
    flags: dict[str, str]

    def density_summary(self) -> dict[str, float]:
        """Quantiles of the density of the latents that are not dead; NaN where all are."""
        return _quantiles(self.density[self.density > 0])

    def r2_per_unit_summary(self) -> dict[str, float]:
        """Quantiles of R² over units that are not constant, and how many are."""
        defined = self.r2_per_unit[~self.r2_per_unit.isnan()]
        return {**_quantiles(defined), "n_defined": len(defined)}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, None for NaN: ready for JSON."""
        raw = self.raw_unit
        return {
            "split": self.split,
            "n_examples": self.n_examples,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            **{name: _plain(getattr(self, name)) for name in _SCALARS},
            "raw_unit_fvu": None if raw is None else _plain(raw.fvu),
            "raw_unit_fill": None if raw is None else raw.fill,
            "r2_per_unit": [_plain(value) for value in self.r2_per_unit.tolist()],
            "r2_per_unit_summary": _plain_dict(self.r2_per_unit_summary()),
            "r2_per_example": _plain_dict(self.r2_per_example),
            "density_summary": _plain_dict(self.density_summary()),
            "flags": dict(self.flags),
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """The card as (score, value, remark) lines of text, in reading order."""
        raw = self.raw_unit
        unit, example = self.r2_per_unit_summary(), self.r2_per_example
        dens = self.density_summary()
        lines = [
            ("FVU", _text(self.fvu), "0 perfect, 1 the mean"),
            ("  raw units, same L0", _text(raw.fvu), f"control; other units at {raw.fill}")
            if raw is not None
            else None,
            ("Explained variance", _text(self.explained_variance), "1 - FVU"),
            ("L0", f"{self.l0:.2f}", f"of {self.d_sae} latents"),
            ("Active inputs", f"{self.active_units:.2f}", f"of {self.d_in} per example"),
            (
                "Dead latents",
                f"{self.dead_fraction:.1%}",
                f"silent on {self.n_examples:,} examples",
            ),
            ("Retired latents", f"{self.retired_fraction:.1%}", "taken out in training")
            if self.retired_fraction
            else None,
            ("Dense latents", f"{self.dense_fraction:.1%}", "active on > 50 % of examples"),
            ("Density, alive", f"{dens['q50']:.2g}", f"median; 5-95 % {_span(dens)}"),
            (
                "R² per unit",
                _text(unit["q50"]),
                f"median of {unit['n_defined']:.0f}; 5-95 % {_span(unit)}",
            ),
            (
                "R² per example",
                _text(example["q50"]),
                f"median; {example['undefined_share']:.1%} undefined",
            ),
            ("Empty examples", f"{self.empty_share:.1%}", "all inputs zero"),
            ("L2 ratio", _text(self.l2_ratio), "‖x̂‖/‖x‖, below 1 shrinks"),
            ("Cosine", _text(self.cosine), "of x and x̂"),
        ]
        return [line for line in lines if line is not None]

    def __str__(self) -> str:
        rows = self.rows()
        left = max(len(name) for name, _, _ in rows)
        middle = max(len(value) for _, value, _ in rows)
        title = f"Score card: {self.split} split, {self.n_examples:,} examples"
        lines = [title, "-" * len(title)]
        lines += [f"{name:<{left}}  {value:>{middle}}  {remark}" for name, value, remark in rows]
        lines += [f"! {name}: {sentence}" for name, sentence in self.flags.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        cell = "text-align:{}; padding:2px 12px 2px 0"
        body = "".join(
            f'<tr><td style="{cell.format("left")}">{escape(name).replace("  ", "&emsp;")}</td>'
            f'<td style="{cell.format("right")}"><b>{escape(value)}</b></td>'
            f'<td style="{cell.format("left")}; opacity:.7">{escape(remark)}</td></tr>'
            for name, value, remark in self.rows()
        )
        flags = "".join(
            f"<li><b>{escape(name)}</b>: {escape(sentence)}</li>"
            for name, sentence in self.flags.items()
        )
        return (
            f"<table><caption><b>Score card</b>: {escape(self.split)} split, "
            f"{self.n_examples:,} examples</caption><tbody>{body}</tbody></table>"
            + (f'<ul style="border-left:4px solid #D55E00">{flags}</ul>' if flags else "")
        )


_SCALARS = (
    "fvu",
    "explained_variance",
    "l0",
    "active_units",
    "empty_share",
    "dead_fraction",
    "dense_fraction",
    "retired_fraction",
    "l2_ratio",
    "cosine",
)


class CardSums:
    """Streaming sums behind a ``ScoreCard``; the card does not depend on the batches.

    Parameters
    ----------
    centre : Tensor, optional
        [d_in] mean of the training rows; where given, the raw-unit control is computed.
    positive_only : bool
        Count latents above zero as active (LeakyReLU) instead of non-zero ones.
    retired : Tensor, optional
        Booleans [d_sae]: latents that training took out.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> sums = CardSums(centre=x.mean(0))
    >>> sums.update(x, latents=x, reconstruction=x)
    >>> card = sums.card(split="test")
    >>> card.fvu, round(card.l0, 3), sorted(card.flags)
    (0.0, 0.667, ['identity', 'raw_units'])
    """

    def __init__(
        self,
        centre: Tensor | None = None,
        positive_only: bool = False,
        retired: Tensor | None = None,
    ) -> None:
        self._retired = 0.0 if retired is None else float(retired.float().mean())
        self.reconstruction = ReconstructionSums()
        self.latents = LatentSums(positive_only)
        self._raw = None if centre is None else RawUnitSums(centre)
        self._active_units = 0

    def update(self, x: Tensor, latents: Tensor, reconstruction: Tensor) -> None:
        """Add one batch: x and reconstruction [..., d_in], latents [..., d_sae]."""
        if not x.numel():
            return
        self.reconstruction.update(x, reconstruction)
        active = self.latents.update(latents)  # [n]
        flat = x.detach().reshape(-1, x.shape[-1])
        self._active_units += int((flat != 0).sum())
        if self._raw is not None:
            self._raw.update(flat, active)

    def card(self, split: str = "given") -> ScoreCard:
        """The card of everything added so far.

        Raises
        ------
        DataError
            No example was added.
        """
        sums = self.reconstruction
        density = self.latents.density().cpu()
        n = sums.n_examples
        per_example = sums.r2_per_example()
        defined = per_example[~per_example.isnan()].double()
        total = float(sums.squares_per_feature.sum())
        fields: dict[str, Any] = {
            "split": split,
            "n_examples": n,
            "d_in": len(sums.mean),
            "d_sae": len(density),
            "fvu": sums.fvu(),
            "explained_variance": sums.explained_variance(),
            "l0": self.latents.l0(),
            "active_units": self._active_units / n,
            "empty_share": sums.n_empty / n,
            "dead_fraction": max(0.0, dead_fraction(density) - self._retired),
            "retired_fraction": self._retired,
            "dense_fraction": dense_fraction(density),
            "l2_ratio": sums.l2_ratio(),
            "cosine": sums.cosine(),
            "r2_per_unit": sums.r2_per_feature().cpu(),
            "r2_per_example": {
                **_quantiles(defined),
                "n_defined": len(defined),
                "undefined_share": 1 - len(defined) / n,
            },
            "density": density,
            "raw_unit": None if self._raw is None else self._raw.control(total),
        }
        return ScoreCard(**fields, flags=_flags(fields))


def _flags(card: dict[str, Any]) -> dict[str, str]:
    flags = {}
    raw: RawUnitControl | None = card["raw_unit"]
    if math.isnan(card["fvu"]):
        flags["constant"] = "the data are constant: there is no variance to explain"
    if card["l0"] == 0:
        flags["silent"] = (
            "no latent is active on any example: check that the trained model is the one scored"
        )
    if card["fvu"] >= 1:
        flags["worse_than_mean"] = "the reconstruction is no better than the mean of the data"
    if raw is not None and card["d_sae"] >= card["d_in"] and card["l0"] >= card["active_units"]:
        flags["identity"] = (
            f"{card['d_sae']} latents and {card['l0']:.1f} active suffice to copy the "
            f"{card['active_units']:.1f} active units of a bin: a low FVU says nothing here; "
            "score held-out units, recovery or decoding, or lower k"
        )
    if raw is not None and raw.fvu <= card["fvu"] + RAW_UNIT_MARGIN:
        flags["raw_units"] = (
            f"copying as many raw units per bin scores FVU {raw.fvu:.3f}, the SAE "
            f"{card['fvu']:.3f}: its reconstruction alone is no sign of structure found"
        )
    if card["dead_fraction"] > MANY_DEAD:
        flags["dead"] = (
            f"{card['dead_fraction']:.0%} of latents never fire on {card['n_examples']:,} "
            "examples: lower d_sae or the learning rate, or revive dead latents"
        )
    if card["dense_fraction"] > MANY_DENSE:
        flags["dense"] = (
            f"{card['dense_fraction']:.0%} of latents are active on more than half of the "
            "examples: they carry an offset rather than a feature"
        )
    return flags


def _quantiles(values: Tensor) -> dict[str, float]:
    """Quantiles by sorting: ``torch.quantile`` refuses more than 16 million values."""
    ordered = values.double().sort().values
    points = {}
    for quantile in QUANTILES:
        name = f"q{round(100 * quantile):02d}"
        if not len(ordered):
            points[name] = math.nan
            continue
        place = quantile * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        points[name] = float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
    return points


def _plain(value: float) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain_dict(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in values.items()}


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _span(summary: dict[str, float]) -> str:
    if math.isnan(summary["q05"]):
        return "undefined"
    return f"{summary['q05']:.2g} to {summary['q95']:.2g}"
