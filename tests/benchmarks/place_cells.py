"""Recovery of four place cells among a hundred units, over seeds, by plain and nested SAEs.

    python tests/benchmarks/place_cells.py --seeds 10 --out reports/results/place_cells.json

The recording is that of :func:`saebook.data.simulate.simulate_place_cells`: 600 s of running on a
track, a broad and a narrow field sharing one centre. Blocks of time choose the latents and others
judge them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saebook.data import prepare, read_recording, simulate_session
from saebook.data.simulate import true_fields
from saebook.evaluation import recover_fields
from saebook.models import SAEConfig
from saebook.training import TrainConfig, fit

PLACES = 25


def load(seed: int, bin_size_s: float, folder: Path):
    """Store, counts, place of each row and true fields of one recording."""
    path = simulate_session(folder / f"{seed}.nwb", kind="place_cells", seed=seed)
    recording = read_recording(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = prepare([path], folder / f"store-{seed}", bin_size_s=bin_size_s)
    run = recording.behavior["position"]
    position = np.interp(
        store.index["time"].to_numpy() + bin_size_s / 2, run.timestamps, run.data[:, 0]
    )
    edges = np.linspace(0, 1, PLACES + 1)
    place = np.clip(np.digitize(position, edges) - 1, 0, PLACES - 1)
    fields = true_fields(recording, (edges[:-1] + edges[1:]) / 2)
    assert recording.ground_truth is not None
    mixing = recording.ground_truth["mixing"]
    carriers = pd.Series({name: int(mixing[name].abs().to_numpy().argmax()) for name in fields})
    return store, place, fields, carriers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--bin", type=float, default=0.05)
    parser.add_argument("--d-sae", type=int, default=256)
    parser.add_argument("--k", type=int, default=None)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--reconstruction", default="auto")
    parser.add_argument("--out", default="")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            store, place, fields, carriers = load(seed, arguments.bin, Path(folder))
            counts = store.array()
            train, test = (store.rows(split) for split in ("train", "test"))
            d, k = arguments.d_sae, arguments.k
            plain = SAEConfig(store.d_in, d, k=k, reconstruction=arguments.reconstruction)
            sizes = (d // 8, d // 4, d // 2, d)
            nested = SAEConfig(
                store.d_in, d, k=k, prefixes=sizes, reconstruction=arguments.reconstruction
            )
            for name, config in (("plain", plain), ("matryoshka", nested)):
                settings = TrainConfig(n_steps=arguments.steps, batch_size=512)
                run = fit(config, store, settings, seed=seed, progress=False)
                with torch.no_grad():
                    latents = run.sae.encode(torch.from_numpy(counts).float()).numpy()
                for size in sizes:
                    found = recover_fields(
                        latents[:, :size], counts, place, fields, carriers, train, test
                    )
                    rows.append(
                        {"seed": seed, "model": name, "prefix": size, "n": found.n_recovered}
                        | {f"r_{f}": round(r, 3) for f, r in found.table["r_test"].items()}
                        | {"chance": round(float(found.table["chance"].to_numpy().max()), 3)}
                        | {"fvu": run.card["fvu"], "l0": run.card["l0"]}
                    )
                print(rows[-1], file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    print(table.groupby(["model", "prefix"])["n"].agg(["mean", "min", lambda n: (n == 4).sum()]))
    if arguments.out:
        content = {"settings": vars(arguments), "torch": torch.__version__, "rows": rows}
        Path(arguments.out).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
