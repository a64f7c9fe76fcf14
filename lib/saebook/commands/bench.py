"""Measure the training step, beside the matrix products that no dense step can do without.

A ratio below 1 means that a full step (passes, losses, clipping, optimiser, counters) takes less
time than five dense matrix products of its size. Close other programs first; with --threads 1 the
processor-time column can be read on a busy machine too.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook bench``."""
    parser.add_argument("--workloads", nargs="*", help="names (default: all; --list shows them)")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.add_argument("--rounds", type=int, default=7, help="step and floor in turn, this often")
    parser.add_argument("--threads", type=int, help="threads (default: torch's)")
    parser.add_argument(
        "--engine", default="auto", help="auto (default), dense, fused, lean or sparse"
    )
    parser.add_argument("--precision", default="fp32", help="fp32 (default) or bf16")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    parser.add_argument("--out", type=Path, help="JSON file for results, machine and versions")


def execute(options: argparse.Namespace) -> int:
    """Print one line per workload as it is measured."""
    import dataclasses

    import torch

    from saebook.errors import ParameterError
    from saebook.training import TrainConfig
    from saebook.training.speed import WORKLOADS, measure

    if options.list:
        for name, workload in WORKLOADS.items():
            print(f"{name:24s} {workload}")
        return 0
    unknown = [name for name in options.workloads or () if name not in WORKLOADS]
    if unknown:
        known = ", ".join(map(repr, WORKLOADS))
        raise ParameterError(f"no workload is named {unknown[0]!r}: choose from {known}")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        raise ParameterError("--rounds and --threads must be at least 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    train = TrainConfig(device=options.device, engine=options.engine, precision=options.precision)
    print(
        f"{'workload':24s} {'step':>9s} {'floor':>9s} {'ratio':>6s} {'cpu':>6s} {'examples/s':>11s}"
    )
    rows = {}
    for name in options.workloads or WORKLOADS:
        speed = measure(WORKLOADS[name], train, rounds=options.rounds)
        rows[name] = dataclasses.asdict(speed) | dataclasses.asdict(WORKLOADS[name])
        print(
            f"{name:24s} {speed.step_ms:6.1f} ms {speed.floor_ms:6.1f} ms {speed.ratio:6.2f} "
            f"{speed.cpu_ratio:6.2f} {speed.examples_per_s:11,.0f}",
            flush=True,
        )
    if options.out:
        _save(options, rows, train.device)
        print(f"results: {options.out}")
    return 0


def _save(options: argparse.Namespace, rows: dict, device: str) -> None:
    import json
    import platform

    import torch

    from saebook.training import resolve_device

    on_gpu = resolve_device(device).type == "cuda"
    content = {
        "what": "full training steps beside five dense matrix products of their size, in turn",
        "device": torch.cuda.get_device_name() if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "engine": options.engine,
        "precision": options.precision,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "workloads": rows,
    }
    partial = options.out.with_name(f"{options.out.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(options.out)


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
