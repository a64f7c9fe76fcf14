"""Two processes with one thread each, against one process with two threads: time of a step.

    python tests/benchmarks/processes.py --out reports/results/processes.json

Both take whole training steps of one SAE on the same batches, in rounds one after the other, the
idle ones waiting. Beside the ratio of wall-clock times stands the processor time of both processes
over that of one thread alone, which other work on the machine changes less: what it exceeds 1 by is
work that two processes do twice, or to tell each other. Last, what sending the gradients alone takes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from saebook.data.store import BatchStream
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer
from saebook.training.distributed import find_processes

D_IN, D_SAE, BATCH, K = 256, 4096, 4096, 32
N_ROWS, N_TRUE = 4 * BATCH, 2048
N_PROCESSES = 2


def examples() -> torch.Tensor:
    """Sparse mixtures of random directions, with noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(N_TRUE, D_IN, generator=generator)
    active = torch.rand(N_ROWS, N_TRUE, generator=generator) < K / N_TRUE
    strength = torch.rand(N_ROWS, N_TRUE, generator=generator)
    return (active * strength) @ directions + 0.1 * torch.randn(N_ROWS, D_IN, generator=generator)


def work(architecture: str, n_threads: int, shards: bool) -> None:
    """Take as many steps as each line of the input asks for, and say how long they took."""
    torch.set_num_threads(n_threads)
    processes = find_processes()
    x = examples()
    sae = SAE(SAEConfig(D_IN, D_SAE, architecture, k=K), seed=0)
    sae.fit_inputs(x)
    # The architecture's own selection from the start, and no schedule that ends.
    train = TrainConfig(
        n_steps=10**6, selection_warmup_fraction=0.0, device="cpu", shard_optimizer=shards
    )
    trainer = Trainer(sae, train, processes=processes)
    stream = BatchStream(x, BATCH, seed=0)
    for line in sys.stdin:
        before, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            trainer.step(processes.share(next(stream)))
        found = [time.perf_counter() - before, time.process_time() - used, 0.0]
        if processes.size > 1:
            gradients = [torch.zeros(D_SAE, D_IN) for _ in range(2)]
            dist.barrier()
            before = time.perf_counter()
            for gradient in gradients:
                dist.all_reduce(gradient)
            found[2] = time.perf_counter() - before
        print(json.dumps(found), flush=True)


class Workers:
    """Processes that wait for a line each."""

    def __init__(self, n: int, architecture: str, n_threads: int, shards: bool = False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(n)}
        self._all = [
            subprocess.Popen(
                [sys.executable, __file__, "--work", architecture, str(n_threads), str(shards)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ
                | {"OMP_NUM_THREADS": str(n_threads)}
                | (together | {"RANK": str(rank)} if n > 1 else {}),
            )
            for rank in range(n)
        ]

    def take(self, n_steps: int) -> tuple[float, float, float]:
        """Wall-clock and processor time of a step (ms), and of sending its gradients alone."""
        for process in self._all:
            assert process.stdin is not None
            print(n_steps, file=process.stdin, flush=True)
        found = []
        for process in self._all:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("a worker ended")
            found.append(json.loads(line))
        wall = max(each[0] for each in found) / n_steps * 1e3
        processor_time = sum(each[1] for each in found) / n_steps * 1e3
        return wall, processor_time, max(each[2] for each in found) * 1e3

    def end(self) -> None:
        for process in self._all:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._all:
            process.wait(timeout=60)


def measure(architecture: str, rounds: int, n_steps: int) -> dict[str, Any]:
    """Steps of all of them in turn."""
    workers = {
        "one process": Workers(1, architecture, N_PROCESSES),
        "one process, one thread": Workers(1, architecture, 1),
        "two processes": Workers(N_PROCESSES, architecture, 1),
        "two processes, optimiser sharded": Workers(N_PROCESSES, architecture, 1, shards=True),
    }
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in workers}
    try:
        for one in workers.values():
            one.take(3)
        for _ in range(rounds):
            for name, one in workers.items():
                times[name].append(one.take(n_steps))
    finally:
        for one in workers.values():
            one.end()

    def ratios(name: str, which: int, to: str) -> dict[str, Any]:
        pairs = zip(times[name], times[to], strict=True)
        each = sorted(round(a[which] / b[which], 3) for a, b in pairs)
        return {"median": round(statistics.median(each), 3), "rounds": each}

    # The rounds that other work on the machine disturbed least.
    least = {name: min(t[0] for t in ts) for name, ts in times.items()}
    many = [name for name in workers if name.startswith("two")]
    return {
        "size": {"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH, "k": K, "steps": n_steps},
        "ms_per_step": {
            n: round(statistics.median(t[0] for t in ts), 1) for n, ts in times.items()
        },
        "least_ms_per_step": {name: round(value, 1) for name, value in least.items()},
        "least_time_over_least_of_one_process": {
            name: round(least[name] / least["one process"], 3) for name in many
        },
        "time_over_one_process": {name: ratios(name, 0, "one process") for name in many},
        "processor_time_over_one_thread": {
            name: ratios(name, 1, "one process, one thread") for name in many
        },
        "ms_sending_gradients_alone": round(
            statistics.median(t[2] for t in times["two processes"]), 1
        ),
    }


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where to write the result")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6, help="per round")
    parser.add_argument("--note", default="", help="what a reader has to know beside")
    parser.add_argument("--architectures", nargs="+", default=["topk", "batchtopk"])
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        architecture, n_threads, shards = arguments.work
        work(architecture, int(n_threads), shards == "True")
        return
    found: dict[str, Any] = {
        "what": "time of a training step of two gloo processes with a thread each, over that of "
        "one process with two threads; rounds of each in turn",
        "note": arguments.note,
        "machine": machine(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    for architecture in arguments.architectures:
        before = os.getloadavg()[0]
        measured = measure(architecture, arguments.rounds, arguments.steps)
        load = [round(before, 2), round(os.getloadavg()[0], 2)]
        when = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        found[architecture] = {"when": when, "load_before_and_after": load} | measured
        print(json.dumps(found[architecture], indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
