"""Collecting activations, beside a bare forward pass that ends at the same block.

Rounds of both are interleaved in one process; the ratio is of processor time and of wall time.

    python tests/benchmarks/collection.py [--model smollm2] [--layer 14] [--tokens 4096]
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from saebook.language import (
    MaskRule,
    Site,
    TokenBatch,
    collect_activations,
    language_model,
    read_activations,
    token_batches,
)

RESULT = Path(__file__).resolve().parents[2] / "reports" / "results" / "collection.json"


def timed(work) -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--tokens", type=int, default=4096, help="read in each round")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm, site = language_model(options.model), Site(options.layer)
    cutting = {"context": options.context, "batch_size": options.batch_size}
    n_batches = max(1, options.tokens // (options.context * options.batch_size))
    batches = [b for b, _ in zip(token_batches(lm, "moby_dick", **cutting), range(n_batches))]
    folder = Path(tempfile.mkdtemp())

    def read(batch: TokenBatch) -> torch.Tensor:
        inputs = {name: value.to(lm.device) for name, value in batch.inputs().items()}
        return read_activations(lm.model, inputs, site)

    # As many rows as the mask rule keeps of these batches: one more would take another pass.
    n_rows = sum(int(MaskRule().keep(batch, read(batch)).sum()) for batch in batches)

    def bare() -> None:
        for batch in batches:
            read(batch)

    def collecting() -> None:
        collect_activations(
            lm, "moby_dick", layer=options.layer, out=folder / "store", n_tokens=n_rows,
            progress=False, **cutting,
        )  # fmt: skip

    rounds = []
    for number in range(options.rounds):
        (bare_wall, bare_cpu), (wall, cpu) = timed(bare), timed(collecting)
        shutil.rmtree(folder / "store")
        rounds.append((bare_wall, bare_cpu, wall, cpu))
        print(f"round {number + 1}: wall {bare_wall / wall:.1%}, processor {bare_cpu / cpu:.1%}")
    shutil.rmtree(folder)
    median = np.median(np.array(rounds), axis=0)
    result = {
        "speed_of_bare_forward": {
            "wall": float(np.median([r[0] / r[2] for r in rounds])),
            "processor": float(np.median([r[1] / r[3] for r in rounds])),
        },
        "rows_per_s": {"bare": n_rows / median[0], "collecting": n_rows / median[2]},
        "rows_per_processor_s": {"bare": n_rows / median[1], "collecting": n_rows / median[3]},
        "includes": "reading and cutting the text, masking, index, writing and checksums",
        "settings": {
            "model": lm.name, "layer": options.layer, "d_model": lm.d_model, "rows": n_rows,
            "rounds": options.rounds, "threads": options.threads, **cutting,
        },
        "machine": {
            "device": str(lm.device), "machine": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "torch": torch.__version__,
        },
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    entries = json.loads(options.out.read_text()) if options.out.exists() else {}
    entries[f"{lm.name}, layer {options.layer}, {lm.device.type}"] = result
    options.out.write_text(json.dumps(entries, indent=1) + "\n")
    print(json.dumps(result["speed_of_bare_forward"]), json.dumps(result["rows_per_s"]))


if __name__ == "__main__":
    main()
