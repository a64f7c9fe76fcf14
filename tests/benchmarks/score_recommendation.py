"""How close the recommended settings come to the best of a grid, on counts with known features.

    python tests/benchmarks/score_recommendation.py --work /tmp/recommendation \
        --out reports/results/recommendation.json

Twenty simulated settings, none of which the rules were made from: 20 to 1,000 units, 2,000 to
1,000,000 bins, 1 to 20 Hz. (With ``--fitting``, twenty others, from which they were made.) On each, the recommendation and every point of the grid train on the
same rows; recovery is the mean correlation of true features with their one-to-one latents, chosen
on some held-out rows and scored on others. Finished trainings are kept in the work folder, so that
an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from saebook.data.simulate import KnownExamples, simulate_counts
from saebook.evaluation import recover_activity
from saebook.models import SAEConfig
from saebook.training import TrainConfig, fit, recommend_config

SCORED_ROWS = 4000
GRID = {"d_sae": (128, 256, 512), "k": (4, 8), "reconstruction": ("mse", "lmse")}


@dataclass(frozen=True)
class Setting:
    """One recording to be: what a person knows of it, and what they don't."""

    n_units: int
    n_examples: int
    mean_rate: float
    n_features: int
    mean_l0: float
    seed: int

    def draw(self) -> KnownExamples:
        """Counts with known features; the last rows are for choosing latents and scoring."""
        return simulate_counts(
            self.n_examples + 2 * SCORED_ROWS,
            self.n_units,
            self.n_features,
            mean_rate_hz=self.mean_rate,
            mean_l0=self.mean_l0,
            seed=self.seed,
        )


def draw_settings(n: int, fitting: bool = False) -> list[Setting]:
    """A Latin hypercube over sizes, rates, superposition and density, logarithmic each."""
    seed = 7 if fitting else 20
    rng = np.random.default_rng(seed)

    def spread(low: float, high: float) -> np.ndarray:
        return low * (high / low) ** ((rng.permutation(n) + 0.5) / n)

    units, rates = np.geomspace(20, 1000, n), spread(1, 20)
    examples, ratio, l0 = spread(2000, 1_000_000), spread(0.3, 1.5), spread(2, 8)
    return [
        Setting(
            n_units=round(units[i]),
            n_examples=round(examples[i]),
            mean_rate=round(float(rates[i]), 2),
            n_features=max(round(ratio[i] * units[i]), 3 * round(l0[i])),
            mean_l0=round(float(l0[i]), 1),
            seed=(2000 if fitting else 1000) + i,
        )
        for i in range(n)
    ]


def recovery(known: KnownExamples, config: SAEConfig, train: TrainConfig) -> dict[str, Any]:
    """Train, then score against the true features."""
    x, features = torch.from_numpy(known.x), torch.from_numpy(known.features)
    n = len(x) - 2 * SCORED_ROWS
    began = time.process_time()
    run = fit(config, x[:n], train, seed=0, progress=False, validation=x[n:])
    with torch.no_grad():
        latents = run.sae.encode(x[n:])
    chosen, scored = slice(n, n + SCORED_ROWS), slice(n + SCORED_ROWS, None)
    found = recover_activity(
        latents[:SCORED_ROWS], features[chosen], latents[SCORED_ROWS:], features[scored], n_shifts=1
    )
    return {
        "mean_r": round(found.mean_r, 4),
        "recall": round(found.recall, 4),
        "by_chance": round(found.shifted_interval("mean_r").mean, 4),
        "cpu_s": round(time.process_time() - began, 1),
    }


def raw_units(known: KnownExamples) -> float:
    """The same score of the units themselves."""
    x, features = torch.from_numpy(known.x), torch.from_numpy(known.features)
    first, second = slice(-2 * SCORED_ROWS, -SCORED_ROWS), slice(-SCORED_ROWS, None)
    found = recover_activity(x[first], features[first], x[second], features[second], n_shifts=1)
    return round(found.mean_r, 4)


def study(setting: Setting, folder: Path) -> dict[str, Any]:
    """Recommendation and grid on one setting; finished trainings are read back."""
    path = folder / f"{setting.seed}.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"grid": {}}
    known = setting.draw()
    advice = recommend_config(setting.n_units, setting.n_examples, setting.mean_rate)
    wanted = {"recommended": advice.config}
    for values in itertools.product(*GRID.values()):
        changes = dict(zip(GRID, values, strict=True))
        wanted[json.dumps(changes)] = advice.variant(**changes)
    done["raw_units"] = raw_units(known)
    for name, config in wanted.items():
        settings = config.to_dict() | {"train": advice.train.to_dict()}
        if done["grid"].get(name, {}).get("settings") == settings:
            continue
        done["grid"][name] = recovery(known, config, advice.train) | {"settings": settings}
        path.write_text(json.dumps(done))
        print(setting.seed, name, done["grid"][name]["mean_r"], flush=True)
    scores = {name: entry["mean_r"] for name, entry in done["grid"].items() if name in wanted}
    best = max(scores, key=lambda name: scores[name])
    return {
        **vars(setting),
        "recommended": scores["recommended"],
        "best": scores[best],
        "best_settings": best,
        "short_of_best": round(scores[best] - scores["recommended"], 4),
        "raw_units": done["raw_units"],
        "by_chance": done["grid"]["recommended"]["by_chance"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--settings", type=int, default=20, help="how many (20)")
    parser.add_argument("--fitting", action="store_true", help="the settings rules are made from")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of settings to run now")
    parser.add_argument("--work", type=Path, required=True, help="folder of finished trainings")
    parser.add_argument("--out", type=Path, help="where the summary goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    settings = draw_settings(arguments.settings, arguments.fitting)
    numbers = arguments.only or range(len(settings))
    rows = [study(settings[i], arguments.work) for i in numbers]
    short = [row["short_of_best"] for row in rows]
    worst = max(rows, key=lambda row: row["short_of_best"])
    print(f"short of the grid's best: median {median(short):.3f}, worst {max(short):.3f} ({worst})")
    if arguments.out:
        content = {
            "what": "recovery (mean r) short of the best of the grid, per setting",
            "grid": GRID,
            "median": median(short),
            "worst": max(short),
            "settings": rows,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "device": "cpu, 1 thread",
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
