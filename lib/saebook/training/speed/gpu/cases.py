"""What is measured on a GPU, the most wanted first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from saebook.training.speed.workloads import LARGE, SMALL, Workload

MEMBERS = (1, 2, 4, 8, 16, 32, 64)
DEAD_SHARE = 0.1


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes
    ----------
    name
        By which it is asked for and reported.
    kind
        A name of :data:`saebook.training.speed.gpu.measuring.KINDS`.
    workload
        Model and batch, where the kind has one.
    engine, precision, capture
        Settings of a step. Of a product, ``precision`` is its kind.
    size
        Of matrices, or bytes to be copied; None: the usual.
    profiled
        Also name the kernels that take most of the time.
    """

    name: str
    kind: str
    workload: Workload | None = None
    engine: str = "auto"
    precision: str = "fp32"
    capture: str = "auto"
    size: int | None = None
    profiled: bool = False


def small_name(n: int, engine: str, precision: str, recorded: bool = True) -> str:
    """Name of a stack's case.

    Examples
    --------
    >>> small_name(64, "fused", "fp32")
    '64 small, fused fp32, recorded'
    """
    return f"{n} small, {engine} {precision}, {'recorded' if recorded else 'not recorded'}"


def large_name(architecture: str, engine: str, dead: bool = False) -> str:
    """Name of a large model's case.

    Examples
    --------
    >>> large_name("topk", "fused", dead=True)
    'large topk, fused bf16, dead latents'
    """
    return f"large {architecture}, {engine} bf16{', dead latents' if dead else ''}"


def cases_of(
    small: Workload, large: Workload, members: Sequence[int], size: int | None = None
) -> dict[str, Case]:
    """All measurements by name.

    Parameters
    ----------
    small
        Of a stack, one of its models; also the workload that SAELens trains.
    large
        Whose architecture is replaced by topk and batchtopk in turn.
    members
        Sizes of stacks, 1 for a single model.
    size
        See :class:`Case`; of the ceilings.
    """

    def steps_of_small(n: int, engine: str, precision: str, recorded: bool = True) -> Case:
        workload = dataclasses.replace(small, n_models=None if n == 1 else n)
        return Case(
            small_name(n, engine, precision, recorded),
            "step",
            workload,
            engine,
            precision,
            "always" if recorded else "never",
            profiled=n in (1, max(members)),
        )

    def steps_of_large(architecture: str, engine: str, dead: bool = False) -> Case:
        share = DEAD_SHARE if dead else 0.0
        workload = dataclasses.replace(large, architecture=architecture, dead=share)
        name = large_name(architecture, engine, dead)
        return Case(name, "step", workload, engine, "bf16", "never", profiled=True)

    ends = dict.fromkeys((min(members), max(members)))
    engines, precisions = ("fused", "dense"), ("fp32", "bf16")
    found = [
        *(Case(f"product {kind}", "product", precision=kind, size=size) for kind in ("bf16", "fp32", "tf32")),
        Case("copy", "copy", size=size),
        Case("encoder of large", "encoder", large, precision="bf16", size=size),
        *(steps_of_small(n, e, p) for p in precisions for n in ends for e in engines),
        *(steps_of_large(a, "fused") for a in ("topk", "batchtopk")),
        steps_of_large("batchtopk", "fused", dead=True),
        steps_of_large("topk", "dense"),
        Case("SAELens, small", "sae_lens", small),
        steps_of_small(1, "dense", "fp32", recorded=False),
        steps_of_small(1, "fused", "fp32", recorded=False),
        steps_of_large("batchtopk", "dense"),
        steps_of_large("batchtopk", "dense", dead=True),
        *(steps_of_small(n, e, "fp32") for n in members if n not in ends for e in engines),
        steps_of_small(max(members), "dense", "fp32", recorded=False),
        *(steps_of_small(n, e, "bf16") for n in members if n not in ends for e in engines),
        steps_of_small(1, "dense", "bf16", recorded=False),
        steps_of_small(max(members), "dense", "bf16", recorded=False),
    ]  # fmt: skip
    return {case.name: case for case in found}


CASES = cases_of(SMALL, LARGE, MEMBERS)
