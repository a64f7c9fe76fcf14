"""How long discovery takes on many latents, variables and bins.

    python tests/benchmarks/discovery_speed.py --out reports/results/discovery_speed.json

Latents are sparse, as an SAE's are, and half of them follow one of the variables. Variables are
continuous, circular, categories of trials, events and events split by a condition. CPU time is
that of all threads; on a quiet machine of two cores the wall time lies between half of it and all
of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from saebook.evaluation.discovery import discover
from saebook.evaluation.variables import Variable, stepped

BIN_S = 0.05
TRIAL_BINS = 80
N_LAGS = 15


def variables_of(n_rows: int, n: int, train: np.ndarray, rng: np.random.Generator) -> list:
    """A mixture of kinds."""
    trial = np.arange(n_rows) // TRIAL_BINS
    lag = np.arange(n_rows) % TRIAL_BINS
    found = []
    for i in range(n):
        if i % 5 < 2:
            values = gaussian_filter1d(rng.normal(size=n_rows), rng.integers(5, 40))
            found.append(stepped(f"signal {i}", "continuous", values, "", train, 12))
        elif i % 5 == 2:
            turns = np.cumsum(rng.normal(size=n_rows) * 0.2)
            angle = (turns + np.pi) % (2 * np.pi) - np.pi
            found.append(stepped(f"angle {i}", "circular", angle, "rad", train, 12))
        else:
            kind = rng.integers(0, 4, int(trial[-1]) + 1)[trial]
            names = ("a", "b", "c", "d")
            if i % 5 == 3:
                centres = np.arange(4.0)
                found.append(
                    Variable(
                        f"kind {i}", "categorical", kind * 1.0, kind, centres, "", names, trial
                    )
                )
                continue
            since = (lag - rng.integers(0, 40)) // 2
            inside = (since >= 0) & (since < N_LAGS)
            split = i % 10 == 9
            group = np.where(inside, kind * N_LAGS + since if split else since, -1)
            found.append(
                Variable(
                    f"event {i}",
                    "event",
                    np.where(inside, since * 0.1, np.nan),
                    group,
                    np.arange(N_LAGS) * 0.1,
                    "s",
                    names if split else (),
                    trial,
                )
            )
    return found


def latents_of(n_rows: int, m: int, variables: list, rng: np.random.Generator) -> np.ndarray:
    """[n_rows, m] sparse activity, half of it following a variable."""
    latents = np.empty((n_rows, m), np.float32)
    for j in range(m):
        drive = rng.normal(size=n_rows).astype(np.float32)
        if j % 2:
            variable = variables[j % len(variables)]
            drive += variable.group == rng.integers(0, variable.n_groups)
        latents[:, j] = np.maximum(drive - 2.0, 0.0)
    return latents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--variables", type=int, default=50)
    parser.add_argument("--bins", type=int, default=100_000)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = np.arange(given.bins)
    trial = rows // TRIAL_BINS
    is_test = rng.permutation(int(trial[-1]) + 1)[trial] < 0.3 * (int(trial[-1]) + 1)
    variables = variables_of(given.bins, given.variables, ~is_test, rng)
    latents = latents_of(given.bins, given.latents, variables, rng)
    cpu, wall = time.process_time(), time.perf_counter()
    found = discover(latents, variables, rows[~is_test], rows[is_test], bin_size_s=BIN_S)
    result = {
        "latents": given.latents,
        "variables": given.variables,
        "bins": given.bins,
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "discovered": len(found.found),
        "discovered_without_a_variable": int((found.found.index.to_numpy() % 2 == 0).sum()),
        "device": "cpu",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    print(found.report(), json.dumps(result, indent=1), sep="\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
