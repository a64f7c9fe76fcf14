"""Co-smoothing of LFADS on simulated reaches, beside smoothing, GPFA and the true rates.

    python tests/benchmarks/lfads_reach.py --out reports/results/lfads_reach.json

A quarter of the units is held out: their spikes on test trials are predicted from those of the
others. Rates of held-out units are read out of smoothed units and of GPFA's factors by Poisson
regression; its strength, the width of the window and the number of factors are chosen on
validation trials. What cannot be predicted, each unit's own gain on a trial, is left out of the
true rates; a second row has it. No unit has a planted defect: a copy among the held-in units
would give a held-out one away.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from saebook.baselines import GPFA, GaussianSmoothing
from saebook.baselines.lfads import LFADS, LFADSConfig
from saebook.data import bin_spikes
from saebook.data.simulate import simulate_reach
from saebook.metrics import bits_per_spike

# The simulator's own step; bins are whole numbers of it, trials begin on it.
STEP_S = 0.005
FROM_S, TO_S = -0.3, 0.7
SIGMAS_S = (0.05, 0.08, 0.12, 0.2)
STRENGTHS = (1e-3, 1e-2, 1e-1)
# Of GPFA; each iteration of all trials takes about a second.
N_FACTORS = (8, 16)
N_ITERATIONS = 40
METHODS = ["true rates", "true rates with gain", "smoothing", "GPFA", "LFADS"]
SIZES = {"tiny": LFADSConfig.tiny, "compact": LFADSConfig.compact, "full": LFADSConfig}


class Data(NamedTuple):
    """One simulated session, aligned to the go cue.

    Counts and rates are [n_rows, n_units], spikes per bin, held-in units first.
    """

    counts: np.ndarray
    rates: np.ndarray
    rates_with_gain: np.ndarray
    trials: np.ndarray
    split: np.ndarray
    n_in: int

    def rows(self, *names: str) -> np.ndarray:
        return np.isin(self.split, names)


def load(seed: int, n_units: int, n_trials: int, bin_size_s: float, held_out: float, kind: str):
    """Simulate a session; a tenth of the trials is for validation, a fifth for the test."""
    simulation = simulate_reach(n_units, n_trials, seed, defects=False, kind=kind)
    assert simulation.trials is not None
    stop = simulation.interval.stop
    steps = bin_spikes(simulation.spike_times, STEP_S, 0.0, stop).astype(np.float64)
    gained, plain = (simulation.rates(STEP_S, gain=gain) * STEP_S for gain in (True, False))
    width = round(bin_size_s / STEP_S)
    n_bins = round((TO_S - FROM_S) / bin_size_s)
    first = np.round((simulation.trials["go_time"].to_numpy() + FROM_S) / STEP_S).astype(int)
    index = first[:, None] + np.arange(n_bins * width)  # [n_trials, n_steps]
    order = np.random.default_rng([seed, 1]).permutation(n_units)

    def aligned(values: np.ndarray) -> np.ndarray:
        return values[index][..., order].reshape(-1, width, n_units).sum(axis=1)

    place = np.random.default_rng([seed, 2]).permutation(n_trials) / n_trials
    split = np.select([place < 0.7, place < 0.8], ["train", "validation"], "test")
    return Data(
        aligned(steps),
        aligned(plain),
        aligned(gained),
        np.repeat(np.arange(n_trials), n_bins),
        np.repeat(split, n_bins),
        n_units - round(held_out * n_units),
    )


def score(data: Data, predicted: np.ndarray, split: str) -> float:
    """Bits per spike of the held-out units of a split, over their mean rates in training."""
    own, n_in = data.rows(split), data.n_in
    means = data.counts[data.rows("train"), n_in:].mean(axis=0).clip(1e-4)
    return bits_per_spike(
        torch.from_numpy(data.counts[own, n_in:]),
        torch.from_numpy(predicted[own].astype(np.float64)).clamp_min(1e-6),
        torch.from_numpy(means),
    )


def read_out(data: Data, latents: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Poisson regression of held-out units on latents: its validation score, rates, strength."""
    from sklearn.linear_model import PoissonRegressor

    train = data.rows("train")
    z = (latents - latents[train].mean(axis=0)) / latents[train].std(axis=0).clip(1e-6)
    best = (-np.inf, np.empty(0), 0.0)
    for alpha in STRENGTHS:
        model = PoissonRegressor(alpha=alpha, solver="newton-cholesky", max_iter=50)
        columns = data.counts[:, data.n_in :].T
        rates = np.stack([model.fit(z[train], y[train]).predict(z) for y in columns], axis=1)
        best = max(best, (score(data, rates, "validation"), rates, alpha), key=lambda b: b[0])
    return best


def smoothing(data: Data, bin_size_s: float) -> tuple[float, dict]:
    """Regression on logarithms of smoothed held-in counts."""
    x = data.counts[:, : data.n_in]
    found = []
    for sigma in SIGMAS_S:
        method = GaussianSmoothing(sigma_s=sigma, bin_size_s=bin_size_s).fit(x, data.trials)
        found.append((*read_out(data, np.log(method.transform(x, data.trials) + 1e-2)), sigma))
    _, rates, alpha, sigma = max(found, key=lambda f: f[0])
    return score(data, rates, "test"), {"sigma_s": sigma, "alpha": alpha}


def gpfa(data: Data, bin_size_s: float) -> tuple[float, dict]:
    """Regression on GPFA's factors."""
    x, train = data.counts[:, : data.n_in], data.rows("train")
    found = []
    for n in N_FACTORS:
        method = GPFA(x_dim=n, bin_size_s=bin_size_s, em_max_iters=N_ITERATIONS)
        method.fit(x[train], data.trials[train])
        found.append((*read_out(data, method.transform(x, data.trials)), n))
    _, rates, alpha, n = max(found, key=lambda f: f[0])
    return score(data, rates, "test"), {"x_dim": n, "iterations": N_ITERATIONS, "alpha": alpha}


def lfads(data: Data, config: LFADSConfig, seed: int) -> tuple[float, dict]:
    """Rates of LFADS' own read-out, and what training took."""
    n, fitted = data.n_in, data.rows("train", "validation")
    method = LFADS(config=config, random_state=seed, progress=True, device="auto")
    wall, cpu = time.perf_counter(), time.process_time()
    counts, trials = data.counts[fitted], data.trials[fitted]
    validation = data.split[fitted] == "validation"
    method.fit(counts[:, :n], trials, targets=counts, validation=validation)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    history = method.history
    test = data.rows("test")
    rates = np.ones((len(data.counts), data.counts.shape[1] - n))
    rates[test] = method.rates(data.counts[test, :n], data.trials[test])[:, n:]
    return score(data, rates, "test"), {
        "epochs": len(history),
        "best_epoch": int(history.index.to_numpy()[history["best"].to_numpy(bool)][0]),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "cpu_s_per_epoch": round(cpu / len(history), 3),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def measure(method: str, seed: int, config: LFADSConfig, arguments: argparse.Namespace) -> dict:
    """Score of one method on one session."""
    width = arguments.bin
    data = load(seed, arguments.units, arguments.trials, width, arguments.held_out, arguments.kind)
    truth = score(data, data.rates[:, data.n_in :], "test")
    if method == "smoothing":
        bits, details = smoothing(data, width)
    elif method == "GPFA":
        bits, details = gpfa(data, width)
    elif method == "LFADS":
        bits, details = lfads(data, config, seed)
    else:
        gained = method == "true rates with gain"
        rates = data.rates_with_gain if gained else data.rates
        bits, details = score(data, rates[:, data.n_in :], "test"), {}
    row = {"seed": seed, "method": method, "bits": round(bits, 4), "share": round(bits / truth, 4)}
    return row | details


def kept_rows(path: Path, content: dict) -> list[dict]:
    """Rows of an earlier run with the same settings."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    same = all(found.get(name) == value for name, value in content.items())
    return found["rows"] if same else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kind", default="reach", choices=("reach", "dense_control"))
    parser.add_argument("--units", type=int, default=80)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--bin", type=float, default=0.02)
    parser.add_argument("--held-out", type=float, default=0.25)
    parser.add_argument("--size", choices=SIZES, default="compact")
    parser.add_argument("--set", nargs="*", default=[], help="changes to it, as name=value")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--out", default="", help="rows found there are kept")
    arguments = parser.parse_args()
    changes = {name: json.loads(value) for name, value in (s.split("=") for s in arguments.set)}
    config = SIZES[arguments.size](**changes)
    asked = ("kind", "units", "trials", "bin", "held_out", "size")
    content = {
        "settings": {name: getattr(arguments, name) for name in asked},
        "config": config.to_dict(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
    }
    rows = []
    for seed in arguments.seeds:
        for method in arguments.methods:
            row = measure(method, seed, config, arguments)
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
            if arguments.out:
                out = Path(arguments.out)
                own = seed, method
                rows = [r for r in kept_rows(out, content) if (r["seed"], r["method"]) != own]
                rows.append(row)
                rows.sort(key=lambda r: (r["seed"], METHODS.index(r["method"])))
                out.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")
    scores = pd.DataFrame(rows).groupby("method", sort=False)[["bits", "share"]]
    print(scores.agg(["mean", "min", "max"]).round(3))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
