"""Measure the training step: beside its matrix products, or beside what is asked of a GPU.

On a CPU a ratio below 1 means that a full step (passes, losses, clipping, optimiser, counters)
takes less time than five dense matrix products of its size. Close other programs first; with
--threads 1 the processor-time column can be read on a busy machine too.

On a CUDA GPU (--device cuda, or auto where there is one) what the device can do at most is
measured first, then steps of small SAEs, alone and stacked, recorded and not, by every engine, and
of a large one with its memory and its kernels; a table of what was asked and what was found comes
last. They are measured in another process, so what fails is reported and the rest goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook bench``."""
    parser.add_argument("--workloads", nargs="*", help="names (default: all; --list shows them)")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.add_argument("--rounds", type=int, help="CPU: step and floor in turn, this often (7)")
    parser.add_argument("--threads", type=int, help="threads (default: torch's)")
    parser.add_argument("--engine", help="CPU: auto (default), dense, lean or sparse")
    parser.add_argument("--precision", help="CPU: fp32 (default) or bf16")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    parser.add_argument(
        "--seconds", type=float, help="GPU: begin no measurement after so many (default: 300)"
    )
    parser.add_argument("--out", type=Path, help="JSON file for results, machine and versions")


def execute(options: argparse.Namespace) -> int:
    """Print one line per workload as it is measured."""
    import torch

    from saebook.errors import ParameterError
    from saebook.training import resolve_device
    from saebook.training.speed import WORKLOADS
    from saebook.training.speed.gpu import CASES

    if options.list:
        print("on a CPU:")
        for name, workload in WORKLOADS.items():
            print(f"  {name:42s} {workload}")
        print("on a CUDA GPU:")
        for name, case in CASES.items():
            print(f"  {name:42s} {case.workload or case.kind}")
        return 0
    if options.threads is not None and options.threads < 1:
        raise ParameterError("--threads must be at least 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    on_gpu = resolve_device(options.device).type == "cuda"
    known: Mapping[str, Any] = CASES if on_gpu else WORKLOADS
    unknown = [name for name in options.workloads or () if name not in known]
    if unknown:
        kind = "GPU" if on_gpu else "CPU"
        names = ", ".join(map(repr, known))
        raise ParameterError(
            f"no workload is named {unknown[0]!r} on a {kind}: choose from {names}"
        )
    wanted = {name: known[name] for name in options.workloads or known}
    return _on_gpu(options, wanted) if on_gpu else _beside_products(options, wanted)


def _beside_products(options: argparse.Namespace, workloads: Mapping[str, Any]) -> int:
    """Steps in turn with the products of their size."""
    import dataclasses

    from saebook.errors import ParameterError
    from saebook.training import TrainConfig
    from saebook.training.speed import measure

    if options.seconds is not None:
        raise ParameterError("--seconds is for a GPU's measurements; name fewer --workloads")
    rounds = 7 if options.rounds is None else options.rounds
    if rounds < 1:
        raise ParameterError("--rounds must be at least 1")
    train = TrainConfig(
        device=options.device,
        engine=options.engine or "auto",
        precision=options.precision or "fp32",
    )
    print(
        f"{'workload':24s} {'step':>9s} {'floor':>9s} {'ratio':>6s} {'cpu':>6s} {'examples/s':>11s}"
    )
    rows = {}
    for name, workload in workloads.items():
        speed = measure(workload, train, rounds=rounds)
        rows[name] = dataclasses.asdict(speed) | dataclasses.asdict(workload)
        print(
            f"{name:24s} {speed.step_ms:6.1f} ms {speed.floor_ms:6.1f} ms {speed.ratio:6.2f} "
            f"{speed.cpu_ratio:6.2f} {speed.examples_per_s:11,.0f}",
            flush=True,
        )
    if options.out:
        _save_beside_products(options.out, rows, train)
        print(f"results: {options.out}")
    return 0


def _on_gpu(options: argparse.Namespace, cases: Mapping[str, Any]) -> int:
    """What was asked of a GPU beside what it does."""
    from saebook.errors import ParameterError
    from saebook.training.speed.gpu import measure_all, summary
    from saebook.training.speed.gpu.machine import describe
    from saebook.training.speed.gpu.table import WHOLE_S

    for name in ("rounds", "engine", "precision"):
        if getattr(options, name) is not None:
            raise ParameterError(
                f"--{name} is for a CPU's workloads: a GPU's have their own, and --list names them"
            )
    about = describe(options.device)
    print(f"{about['device']}, driver {about['driver']}, {about['versions']}")
    so_far: dict[str, Any] = {}

    def each(case: Any, found: dict[str, Any]) -> None:
        so_far[case.name] = found
        print(f"{len(so_far):2d}/{len(cases)} {case.name:42s} {_told(found)}", flush=True)
        if options.out:
            rows = [row.to_dict() for row in summary(so_far)]
            _save(options.out, about | {"asked": rows, "measurements": so_far})

    most_s = WHOLE_S if options.seconds is None else options.seconds
    results = measure_all(list(cases.values()), options.device, most_s=most_s, each=each)
    print(f"\n{'':40s} {'asked':>10s} {'measured':>10s}")
    marks = {None: "", True: "met", False: "missed"}
    for row in summary(results):
        asked = "–" if row.asked is None else f"{row.relation} {row.asked:.3g}"
        measured = "–" if row.measured is None else f"{row.measured:.3g}"
        print(
            f"{row.what:40s} {asked:>10s} {measured:>10s} {row.unit:3s} {marks[row.met]:7s}{row.case}"
        )
    if options.out:
        print(f"results: {options.out}")
    return 0 if any("failed" not in found for found in results.values()) else 1


def _told(found: Mapping[str, Any]) -> str:
    """A measurement in one line."""
    for reason in ("failed", "left_out"):
        if reason in found:
            return f"{reason.replace('_', ' ')}: {found[reason]}"
    if "wall_us" not in found:
        return ", ".join(
            f"{name} {value:.4g}" for name, value in found.items() if _is_number(value)
        )
    between = found["device_us"]
    parts = [
        f"{found['wall_us']:.0f} µs",
        "" if between is None else f"{between:.0f} between events",
        f"{found['asking_us']:.0f} to ask",
    ]
    if "profile" in found and "busy_us" in found["profile"]:
        parts.append(f"{found['profile']['busy_us']:.0f} in kernels")
    if "peak_memory_gb" in found:
        parts.append(f"{found['peak_memory_gb']:.2f} GB of {found['memory_needed_gb']:.2f}")
    if found.get("warnings"):
        parts.append(f"warned: {found['warnings'][0]}")
    return ", ".join(part for part in parts if part)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _save_beside_products(path: Path, rows: dict, train: Any) -> None:
    import platform

    import torch

    content = {
        "what": "full training steps beside five dense matrix products of their size, in turn",
        "device": _processor(),
        "threads": torch.get_num_threads(),
        "engine": train.engine,
        "precision": train.precision,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "workloads": rows,
    }
    _save(path, content)


def _save(path: Path, content: dict) -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
