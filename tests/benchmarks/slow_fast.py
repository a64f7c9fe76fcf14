"""Does a temporal-contrastive term find slow features that reconstruction alone leaves out?

    python tests/benchmarks/slow_fast.py --work /tmp/slow_fast --out reports/results/temporal.json

Sixteen slow and eighty fast features in 96 dimensions, 72 latents: not all can be kept, and the
slow ones are half as strong. Each seed draws features, sequences, weights and batches anew; the
arms of a seed share them. Every arm is trained at several sparsities and interpolated to the FVU
that its base reaches at the middle one. Finished seeds are kept in the work folder, so that an
interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from saebook.data.simulate import KnownSequences, simulate_slow_fast
from saebook.evaluation import compare_at_fvu, paired_intervals, score_slow_fast
from saebook.models import SAEConfig
from saebook.training import TrainConfig, fit_many
from saebook.training.temporal import TemporalConfig

DATA: dict[str, Any] = {
    "length": 64,
    "d_in": 96,
    "n_slow": 16,
    "n_fast": 80,
    "slow_l0": 2.0,
    "fast_l0": 3.0,
    "slow_strength": 0.5,
    "dwell": 32.0,
    "noise": 0.05,
}
N_TRAIN, N_TEST = 256, 64  # sequences
D_SAE, PREFIX = 72, 0.25
TRAIN: dict[str, Any] = {
    "n_steps": 600,
    "batch_size": 256,
    "learning_rate": 3e-3,
    "retire_at": None,
    "n_logs": 5,
    "device": "cpu",
}
L1 = {"architecture": "relu", "sparsity_coefficient": (0.5, 1.0, 2.0)}
TOPK = {"architecture": "topk", "k": (4, 8, 16)}
# The published form: the first dictionary of a nested one, pairs of neighbours.
NESTED = {"architecture": "batchtopk", "prefixes": (18, 72), "k": (4, 8, 16)}
NEAR = {"window": 8, "prefix_fraction": PREFIX}
CONTRASTIVE = {"kind": "contrastive", "coefficient": 2.0, "queue_size": 1024, **NEAR}
SHUFFLED = "relu, contrastive, rows shuffled"
# By arm: the model with its curve, and its temporal term.
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "relu": (L1, None),
    "relu, contrastive": (L1, CONTRASTIVE),
    SHUFFLED: (L1, CONTRASTIVE),
    "relu, smoothness": (L1, {"kind": "smoothness", "coefficient": 1.0, **NEAR}),
    "relu, tsae": (L1, {"kind": "tsae", "coefficient": 1.0, **NEAR}),
    "topk": (TOPK, None),
    "topk, contrastive": (TOPK, CONTRASTIVE),
    "nested": (NESTED, None),
    "nested, tsae": (
        NESTED,
        {"kind": "tsae", "coefficient": 0.1, "window": 1, "prefix_fraction": PREFIX},
    ),
    "nested, contrastive": (NESTED, CONTRASTIVE),
}
SCORES = [
    "slow_recall", "slow_cosine", "slow_r", "fast_recall", "fast_cosine", "fast_r", "prefix_ac",
    "ac", "l0", "prefix_l0", "prefix_alive",
]  # fmt: skip


def base_of(arm: str) -> str:
    """The arm without a temporal term."""
    return arm.split(",")[0]


def train_curve(arm: str, known: KnownSequences, seed: int) -> list[dict[str, Any]]:
    """Train an arm at every sparsity of its curve, and score it on sequences left out."""
    model, temporal = ARMS[arm]
    (name, values), *_ = [
        (key, v) for key, v in model.items() if key in ("k", "sparsity_coefficient")
    ]
    fixed = {key: v for key, v in model.items() if key != name}
    n = N_TRAIN * DATA["length"]
    x = torch.from_numpy(known.x[:n])
    if arm == SHUFFLED:
        # The same rows, none beside the ones that it was recorded beside.
        x = x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    train = TrainConfig(**TRAIN, temporal=None if temporal is None else TemporalConfig(**temporal))
    configs = [
        SAEConfig(DATA["d_in"], D_SAE, reconstruction="mse", **fixed, **{name: value})
        for value in values
    ]
    groups = known.group[:n] if temporal else None
    members = [(config, train, seed) for config in configs]
    runs = fit_many(members, x, groups=groups, order_seed=seed, progress=False)
    rows = []
    for value, run in zip(values, runs, strict=True):
        scores = score_slow_fast(run.sae, known, n, prefix=round(PREFIX * D_SAE))
        last = run.history.iloc[-1]
        over = float(last.get("temporal_over_chance", float("nan")))
        rows.append({"arm": arm, "seed": seed, name: value, "over_chance": over, **scores})
    return rows


def study(arm: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """One arm under one seed; read back where it was finished before."""
    path = folder / f"{seed}.json"
    done: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    own = [row for row in done if row["arm"] == arm]
    if not own:
        known = simulate_slow_fast(N_TRAIN + N_TEST, seed=seed, **DATA)
        own = train_curve(arm, known, seed)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(done + own))
        partial.replace(path)
    return own


def summarise(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Paired differences to the base arm, at the FVU of its middle sparsity."""
    found = []
    for base in dict.fromkeys(map(base_of, ARMS)):
        part = pd.DataFrame(runs[runs["arm"].map(base_of) == base])
        key = "sparsity_coefficient" if base == "relu" else "k"
        middle = (part["arm"] == base) & (part[key] == ARMS[base][0][key][1])
        at = dict(part.loc[middle, ["seed", "fvu"]].to_numpy())
        table = paired_intervals(compare_at_fvu(part, SCORES, at, base=base))
        table.insert(1, "fvu", np.mean(list(at.values())))
        found += table.round(4).astype(object).where(table.notna(), None).to_dict("records")
    return found


def main() -> None:
    """Run the study and write its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of finished seeds")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the result")
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds (default 8)")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began = time.process_time()
    rows: list[dict[str, Any]] = []
    jobs = [(arm, seed) for arm in ARMS for seed in range(given.seeds)]
    with tqdm(jobs, desc="slow/fast", unit="curve") as bar:
        for arm, seed in bar:
            rows += study(arm, seed, given.work)
            middle = rows[-2]
            bar.set_postfix_str(
                f"{arm}: FVU {middle['fvu']:.3f}, slow recall {middle['slow_recall']:.2f}",
                refresh=False,
            )
    runs = pd.DataFrame(rows)
    print(f"{time.process_time() - began:.0f} s of CPU time in this call")
    rounded = runs.round(4).astype(object)
    result = {
        "what": "slow and fast features, fewer latents than features; differences to the base arm "
        "at matched FVU (margin 0.005), paired by seed",
        "n": f"{given.seeds} seeds of data, weights and batches: repetitions of a simulation, not "
        "animals",
        "data": {**DATA, "train_sequences": N_TRAIN, "test_sequences": N_TEST},
        "d_sae": D_SAE,
        "train": TRAIN,
        "arms": {
            arm: {"model": model, "temporal": temporal} for arm, (model, temporal) in ARMS.items()
        },
        "differences": summarise(runs),
        "runs": rounded.where(rounded.notna(), None).to_dict("records"),
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    partial = given.out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(given.out)
    shown = pd.DataFrame(result["differences"])
    print(shown[shown["score"].isin(["slow_recall", "slow_r", "fast_recall", "l0"])].to_string())


if __name__ == "__main__":
    main()
