"""Values that are not finite: the first step that had one, its batch and the rows in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saebook.data.store import Batches
from saebook.training.doctor.evidence import Evidence
from saebook.training.doctor.finding import Finding

# Norm of a row, in medians, above which it is the likely culprit.
STANDS_OUT = 100.0
SHOWN_ROWS = 6
# What every term and weight reaches. Other columns may have gaps: FVU on data without variance,
# what is logged at some steps alone.
ALWAYS_FINITE = ("total", "grad_norm")


def first_bad_step(
    losses: Sequence[dict[str, Tensor]], last_step: int
) -> tuple[int, dict[str, float]] | None:
    """The first step whose total or gradient norm is not finite, and those values.

    Parameters
    ----------
    losses
        What consecutive steps returned, ``last_step`` the last of them. They are read from the
        device here, all at once.
    last_step
        Number of the last of them, from 1.

    Examples
    --------
    >>> one, bad = torch.tensor(1.0), torch.tensor(float("nan"))
    >>> steps = [{"total": one, "grad_norm": one}, {"total": bad, "grad_norm": bad}]
    >>> first_bad_step(steps, last_step=8)
    (8, {'total': nan, 'grad_norm': nan})
    """
    if not losses:
        return None
    values = torch.stack([torch.stack([row[n].double() for n in ALWAYS_FINITE]) for row in losses])
    bad = (~values.isfinite()).any(dim=1).nonzero().flatten()
    if not len(bad):
        return None
    index = int(bad[0])
    found = dict(zip(ALWAYS_FINITE, values[index].tolist(), strict=True))
    wrong = {name: value for name, value in found.items() if not math.isfinite(value)}
    return last_step - len(losses) + index + 1, wrong


def batch_rows(stream: Batches, step: int) -> Tensor:
    """Rows [batch] that made up the batch of a step, counted from 1.

    Examples
    --------
    >>> from saebook.data.store import BatchStream
    >>> stream = BatchStream(torch.arange(10.0)[:, None], batch_size=4, seed=3)
    >>> third = [next(stream) for _ in range(3)][-1].flatten()
    >>> batch_rows(stream, step=3).tolist() == third.long().tolist()
    True
    """
    return stream.examples_at(step)


def describe_bad_batch(rows: Tensor, stream: Batches, step: int, every: int = 1) -> str:
    """Name a batch's rows, and the one that stands out, or the likelier cause.

    Parameters
    ----------
    rows
        Training examples [n, ...], or every ``every``-th of them.
    stream
        That the batches came from.
    step
        Whose batch to look at, from 1.
    every
        Step between the examples that ``rows`` holds.
    """
    batch = batch_rows(stream, step).to(rows.device)
    norms = _norms(rows)
    of_batch = norms[batch] if every == 1 else _norms(stream.take(batch)).to(norms)
    median = float(norms.median())
    shown = ", ".join(map(str, batch[:SHOWN_ROWS].tolist())) + ", …" * (len(batch) > SHOWN_ROWS)
    named = f"Its batch is training rows {shown} ({len(batch)} of {stream.n_examples:,})"
    look = "Look at that row, and leave it out or scale per example"
    numbers = torch.arange(len(rows)) * every
    for among, found, where in (
        (batch, of_batch, "row"),
        (numbers, norms, "not of it, but training row"),
    ):
        worst, largest = int(among[int(found.argmax())]), float(found.max())
        if largest > STANDS_OUT * median:
            times = (
                f"{largest / median:.2g} times the median" if median > 0 else "all others' are 0"
            )
            return f"{named}; {where} {worst} has a norm of {largest:.3g}, {times}. {look}"
    return (
        f"{named}; no row stands out (the largest norm of all is {float(norms.max()):.3g}, the "
        f"median {median:.3g}), so the weights diverged. Lower the learning rate, or set clip_norm"
    )


def _norms(rows: Tensor) -> Tensor:
    return torch.cat([part.flatten(1).double().norm(dim=1) for part in rows.split(65_536)])


def not_finite(evidence: Evidence) -> Finding | None:
    """Find NaN or infinity in the losses of a run, or in its weights."""
    logged = evidence.history.filter(items=ALWAYS_FINITE)
    finite = np.isfinite(logged.to_numpy(dtype=float))
    if not finite.all():
        found = [name for name, column in zip(logged.columns, finite.T) if not column.all()]
        step = int(evidence.column("step").iloc[int(finite.all(axis=1).argmin())])
        measured = f"{', '.join(found)} not finite from the log at step {step:,} on"
    else:
        names = _weights_not_finite(evidence)
        if not names:
            return None
        measured = f"weights hold NaN or infinity: {', '.join(names)}"
    return Finding(
        "not_finite",
        "error",
        measured,
        "an extreme example, or a learning rate at which the weights diverged",
        "go back to the last finite checkpoint; look for extreme rows, lower the learning rate, "
        "and keep clip_norm",
    )


def _weights_not_finite(evidence: Evidence) -> list[str]:
    if evidence.sae is None:
        return []
    return [n for n, p in evidence.sae.named_parameters() if not bool(p.isfinite().all())]
