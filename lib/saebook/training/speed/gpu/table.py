"""All measurements of a GPU, and what was asked beside what was found."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saebook.training.speed.gpu.cases import MEMBERS, Case, large_name, small_name
from saebook.training.speed.gpu.isolated import Measurer, attempt
from saebook.training.speed.gpu.measuring import Found

# Seconds: of a whole table, after which what is left is left out; and of one case.
WHOLE_S = 300.0
ONE_S = 75.0
ONE_SMALL_US = 120.0
STACK_RATIO = 4.0
STACK_US = 600.0
OVER_SAE_LENS = 15.0
ENCODER_SHARE = 0.6
LARGE_STEP_MS = 26.0
ENGINES = ("fused", "dense")


@dataclass(frozen=True)
class Row:
    """A number that was asked for.

    Attributes
    ----------
    what
        It is of.
    relation
        ``"≤"`` or ``"≥"``.
    asked, measured
        Numbers; None where there is none.
    unit
        Of both.
    case
        Measurement that it was taken from.
    """

    what: str
    relation: str
    asked: float | None
    measured: float | None
    unit: str
    case: str = ""

    @property
    def met(self) -> bool | None:
        """Whether what was measured is what was asked for; None where either is missing."""
        if self.asked is None or self.measured is None:
            return None
        if self.relation == "≤":
            return self.measured <= self.asked
        return self.measured >= self.asked

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"met": self.met}


def measure_all(
    cases: Sequence[Case],
    device: str,
    *,
    most_s: float = WHOLE_S,
    isolated: bool = True,
    each: Callable[[Case, Found], None] = lambda case, found: None,
) -> dict[str, Found]:
    """Measure every case, whatever becomes of the others.

    Parameters
    ----------
    cases
        In this order.
    device
        Name of the device.
    most_s
        Seconds after which no further one is begun.
    isolated
        In a process of their own.
    each
        Told of each case and what was found.

    Returns
    -------
    dict
        By name; ``failed`` with the reason, or ``left_out``, where there is no number.
    """
    results: dict[str, Found] = {}
    measurer = Measurer(device) if isolated else None
    start = time.monotonic()
    try:
        for case in cases:
            if time.monotonic() - start > most_s:
                found: Found = {"left_out": f"{most_s:.0f} s were over"}
            elif measurer is None:
                found, _ = attempt(case, torch.device(device))
            else:
                found = measurer(case, ONE_S)
            results[case.name] = found
            each(case, found)
    finally:
        if measurer is not None:
            measurer.close()
    return results


def summary(results: Mapping[str, Found], members: Sequence[int] = MEMBERS) -> list[Row]:
    """What was asked beside what was measured, by the fastest engine.

    Parameters
    ----------
    results
        Of :func:`measure_all`.
    members
        Sizes of stacks, of which the largest has a limit.

    Examples
    --------
    >>> rows = summary({"1 small, fused fp32, recorded": {"wall_us": 110.0}})
    >>> rows[0].what, rows[0].asked, rows[0].measured, rows[0].met
    ('step of one small SAE, fp32', 120.0, 110.0, True)
    """
    rows, most = [], max(members)
    for precision in ("fp32", "bf16"):
        one, name = _fastest(results, [small_name(1, e, precision) for e in ENGINES])
        rows.append(Row(f"step of one small SAE, {precision}", "≤", ONE_SMALL_US, one, "µs", name))
        many, name = _fastest(results, [small_name(most, e, precision) for e in ENGINES])
        limit = None if one is None else max(STACK_RATIO * one, STACK_US)
        rows.append(Row(f"step of {most} stacked, {precision}", "≤", limit, many, "µs", name))
        lens = results.get("SAELens, small", {}).get("wall_us")
        faster = None if lens is None or one is None else lens / one
        rows.append(Row(f"times SAELens' speed, {precision}", "≥", OVER_SAE_LENS, faster, ""))
    share = results.get("encoder of large", {}).get("share_of_peak")
    rows.append(Row("encoder's product, share of peak", "≥", ENCODER_SHARE, share, ""))
    for architecture in ("topk", "batchtopk"):
        for dead in (False, True):
            names = [large_name(architecture, e, dead) for e in ENGINES]
            if not any(name in results for name in names):
                continue
            us, name = _fastest(results, names)
            ms = None if us is None else us / 1000
            kind = f"a large {architecture}{', a tenth dead' if dead else ''}"
            rows.append(Row(f"step of {kind}", "≤", LARGE_STEP_MS, ms, "ms", name))
            if us is None or "peak_memory_gb" not in results[name]:
                continue
            here = results[name]
            needed, peak = here["memory_needed_gb"], here["peak_memory_gb"]
            rows.append(Row(f"memory of {kind}", "≤", needed, peak, "GB", name))
    return rows


def _fastest(results: Mapping[str, Found], names: Sequence[str]) -> tuple[float | None, str]:
    times = {n: results[n]["wall_us"] for n in names if "wall_us" in results.get(n, {})}
    if not times:
        return None, ""
    name = min(times, key=lambda n: times[n])
    return times[name], name
