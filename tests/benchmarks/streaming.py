"""Training from a store on disk beside training from memory: speed, memory and mixing.

    python tests/benchmarks/streaming.py --out reports/results/streaming.json

Speed: steps of one SAE on batches from memory, from disk, and from disk with the files dropped
from the page cache before every round; the three in turn, in another order every round. Memory:
the most anonymous memory of a process that fits an SAE, streamed, in memory, and on a few rows in
memory (what program and model take). Mixing: pairs of a batch from one document or session, over
those of a full shuffle.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saebook.data.store import (
    Batches,
    BatchStream,
    ExampleStore,
    StoredExamples,
    StoreWriter,
    StreamedBatches,
)
from saebook.metrics import same_group_pairs
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer, fit

DOCUMENT = 512  # rows
DOCUMENTS = 20  # per session
MIB = 2**20
PARTS = ("mixing", "memory", "speed")
SPEED = {
    "large": {"d_in": 256, "d_sae": 4096, "batch": 4096, "k": 32, "rows": 2**19, "steps": 12},
    "small": {"d_in": 128, "d_sae": 1024, "batch": 1024, "k": 32, "rows": 2**20, "steps": 250},
}
MEMORY = {"d_in": 256, "d_sae": 1024, "batch": 1024, "k": 32, "steps": 800}


def write(path: Path, rows: int, d_in: int) -> ExampleStore:
    """bfloat16 activations of a planted dictionary; every tenth document is validation.

    Every session holds the same rows in another order: what is measured does not depend on them.
    """
    generator = torch.Generator().manual_seed(0)
    dictionary = torch.randn(4 * d_in, d_in, generator=generator)
    codes = torch.rand(DOCUMENT * DOCUMENTS, 4 * d_in, generator=generator)
    session = (torch.where(codes < 0.01, 100 * codes, 0.0) @ dictionary).to(torch.bfloat16)
    with StoreWriter(path, kind="activations", shard_rows=2**17) as writer:
        per_call = DOCUMENT * DOCUMENTS
        for start in range(0, rows, per_call):
            n = min(per_call, rows - start)
            documents = (start + np.arange(n)) // DOCUMENT
            writer.add(
                session.roll(start // per_call, 0)[:n],
                session=str(start // per_call),
                trial=documents,
                split=np.where(documents % 10 == 9, "validation", "train"),
            )
    return ExampleStore.open(path, verify=True)


def drop_cache(store: ExampleStore) -> None:
    """Have the next reads come from the disk."""
    for entry in store.manifest["shards"]:
        with (store.path / entry["file"]).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def finish_reading(stream: Batches) -> None:
    """Wait for the buffer that is read ahead, so that its cost falls to who asked for it."""
    if isinstance(stream, StreamedBatches) and stream._ahead is not None:
        stream._ahead[2].result()


def timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure_speed(folder: Path, size: dict[str, int], rounds: int) -> dict[str, Any]:
    store = write(folder, size["rows"], size["d_in"])
    stored = StoredExamples(store)
    row_bytes = stored.row_bytes
    # Some sixteen buffers an epoch, one or more a round.
    buffer = len(stored) // 16
    config = SAEConfig(
        d_in=size["d_in"], d_sae=size["d_sae"], architecture="topk", k=size["k"]
    ).for_data(counts=False)
    rows = store.tensor("train")
    sources: dict[str, Batches] = {
        "memory": BatchStream(rows, size["batch"]),
        "disk": StreamedBatches(stored, size["batch"], buffer_examples=buffer),
        "disk, not cached": StreamedBatches(stored, size["batch"], buffer_examples=buffer),
    }
    n_steps = size["steps"]
    trainers = {}
    for name, source in sources.items():
        sae = SAE(config, seed=0)
        sae.fit_inputs(rows[:: len(rows) // 10_000].float())
        trainers[name] = Trainer(sae, TrainConfig(device="cpu"), n_steps * (rounds + 1))
        for _ in range(n_steps // 4):
            trainers[name].step(next(source))

    def steps(name: str) -> None:
        for _ in range(n_steps):
            trainers[name].step(next(sources[name]))
        finish_reading(sources[name])

    times: dict[str, list[float]] = {name: [] for name in sources}
    names = list(sources)
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            if name == "disk, not cached":
                drop_cache(store)
            times[name].append(timed(lambda name=name: steps(name)))
    alone = reading_speed(store, stored, size["batch"], buffer)
    for source in sources.values():
        source.close()
    examples = n_steps * size["batch"]
    ratios = {
        name: sorted(a / b for a, b in zip(times["memory"], times[name], strict=True))
        for name in names[1:]
    }
    return {
        "size": size,
        "store_mb": round(len(store) * row_bytes / 1e6),
        "buffer_mb": round(buffer * row_bytes / 1e6),
        "rounds": rounds,
        "ms_per_step": {
            n: round(1e3 * statistics.median(t) / n_steps, 2) for n, t in times.items()
        },
        "speed_over_memory": {
            n: {"median": round(statistics.median(r), 3), "rounds": [round(x, 3) for x in r]}
            for n, r in ratios.items()
        },
        "needed_mb_per_s": round(examples * row_bytes / statistics.median(times["memory"]) / 1e6),
        "read_mb_per_s": alone,
    }


def reading_speed(
    store: ExampleStore, stored: StoredExamples, batch: int, buffer: int
) -> dict[str, int]:
    """Megabytes per second of a stream whose batches nobody uses."""
    speed = {}
    for name in ("disk", "disk, not cached"):
        if name == "disk, not cached":
            drop_cache(store)
        stream = StreamedBatches(stored, batch, buffer_examples=buffer, seed=1)

        def one_epoch(stream: StreamedBatches = stream) -> None:
            for _ in range(stream.batches_per_epoch):
                next(stream)

        speed[name] = round(len(stored) * stored.row_bytes / timed(one_epoch) / 1e6)
        stream.close()
    return speed


def anonymous_mb() -> float:
    """Anonymous memory of this process: what it holds itself, the page cache apart."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("no RssAnon in /proc/self/status: this measurement needs Linux")


def fit_and_watch(path: Path, mode: str, resident_gb: float) -> dict[str, Any]:
    """Most anonymous memory of one `fit`; run in a process of its own."""
    store = ExampleStore.open(path)
    config = SAEConfig(
        d_in=MEMORY["d_in"], d_sae=MEMORY["d_sae"], architecture="topk", k=MEMORY["k"]
    )
    few = store.tensor(rows=np.arange(0, 2**14)) if mode == "few rows" else None
    # Streaming goes on through several buffers; in memory nothing comes after the beginning.
    train = TrainConfig(
        n_steps=MEMORY["steps"] if mode == "streamed" else 50,
        batch_size=MEMORY["batch"],
        device="cpu",
        resident_gb=1e6 if mode == "memory" else resident_gb,
    )
    peak, training, done = [anonymous_mb()], [0.0], threading.Event()

    def probe(trainer: Trainer) -> dict[str, float]:
        training[0] = max(training[0], anonymous_mb())
        return {}

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run = fit(config, store if few is None else few, train, probe=probe, progress=False)
    finally:
        done.set()
        watcher.join()
    return {
        "most_mb": round(max(peak[0], anonymous_mb())),
        "most_in_training_mb": round(training[0]),
        "n_steps": train.n_steps,
        "n_scored": run.card["n_examples"],
    }


def measure_memory(folder: Path, allowed_mb: int) -> dict[str, Any]:
    d_in = MEMORY["d_in"]
    # Of its rows nine tenths are trained on; those alone are four times what is allowed.
    rows = -(-4 * allowed_mb * 10**6 * 10 // (9 * 2 * d_in))
    store = write(folder, rows, d_in)
    found = {}
    for mode in ("few rows", "streamed", "memory"):
        call = [sys.executable, __file__, "--watch", mode, "--allowed-mb", str(allowed_mb)]
        done = subprocess.run(
            [*call, "--folder", str(folder)], capture_output=True, text=True, check=True
        )
        found[mode] = json.loads(done.stdout.splitlines()[-1])
    return {
        "size": MEMORY,
        "training_split_mb": round(store.manifest["rows_per_split"]["train"] * 2 * d_in / 1e6),
        "resident_mb": allowed_mb,
        "fits": found,
        "above_few_rows_mb": {
            mode: {k: v - found["few rows"][k] for k, v in values.items() if k.endswith("_mb")}
            for mode, values in found.items()
            if mode != "few rows"
        },
    }


def measure_mixing(folder: Path, batch: int = 4096, n_batches: int = 20) -> dict[str, Any]:
    """Share of pairs of a batch from one document or session, and over that of all examples."""
    stored = StoredExamples(write(folder, 2**21, MEMORY["d_in"]))
    rows = stored.rows(np.arange(len(stored)))
    groups = {
        "document": torch.from_numpy(rows // DOCUMENT),
        "session": torch.from_numpy(rows // (DOCUMENT * DOCUMENTS)),
    }
    row_bytes = stored.row_bytes
    shuffles: dict[str, Batches] = {
        f"buffer {mib} MiB, chunks of 128": StreamedBatches(
            stored, batch, buffer_examples=mib * MIB // row_bytes, chunk_examples=128
        )
        for mib in (4, 16, 64, 256)
    }
    default = StreamedBatches(stored, batch)
    shuffles[f"default buffer, chunks of {default.chunk_examples}"] = default
    shuffles["full shuffle"] = BatchStream(torch.zeros(len(stored), 1), batch)
    found: dict[str, Any] = {"batch": batch, "examples": len(stored)}
    for name, shuffle in shuffles.items():
        steps = np.linspace(1, shuffle.batches_per_epoch, n_batches).astype(int).tolist()
        taken = [shuffle.examples_at(step) for step in steps]
        found[name] = {}
        for group, labels in groups.items():
            share = statistics.mean(same_group_pairs(labels[numbers]) for numbers in taken)
            over = share / same_group_pairs(labels)
            found[name][group] = {"share": round(share, 5), "over_all": round(over, 3)}
        if isinstance(shuffle, StreamedBatches):
            found[name]["chunks_per_buffer"] = shuffle.buffer_examples // shuffle.chunk_examples
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where to write the result")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="measure these; others stay as --out has them",
    )
    parser.add_argument("--note", default="", help="what a reader has to know beside")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--allowed-mb", type=int, default=256, help="resident_gb of the fit")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.watch:
        allowed_gb = arguments.allowed_mb / 1e3
        print(json.dumps(fit_and_watch(arguments.folder, arguments.watch, allowed_gb)))
        return
    if arguments.out is None:
        parser.error("--out is needed")
    measures: dict[str, Callable[[Path], Any]] = {
        "mixing": measure_mixing,
        "memory": lambda folder: measure_memory(folder, arguments.allowed_mb),
        "speed": lambda folder: {
            name: measure_speed(folder / name, size, arguments.rounds)
            for name, size in SPEED.items()
        },
    }
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for part in arguments.parts:
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            measured = measures[part](Path(folder, part))
        load = [round(before, 2), round(os.getloadavg()[0], 2)]
        when = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        found[part] = {"when": when, "load_before_and_after": load} | measured
    content = found | {
        "what": "training an SAE on a store that stays on disk, beside the same store in memory: "
        "speed of steps (medians and all rounds, memory = 1), most anonymous memory of a process, "
        "and pairs of a batch from one document or session over those of a full shuffle",
        "note": arguments.note,
        "machine": processor(),
        "threads": arguments.threads,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    arguments.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
