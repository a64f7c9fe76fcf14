"""Does discovery hold what it promises? Nothing found where nothing is, and what is planted found.

    python tests/benchmarks/discovery_nulls.py --work /tmp/nulls --out reports/results/discovery_nulls.json

Each repeat simulates a session of its own, with its drifting and lost units and its slow arousal,
and trains a small SAE on it. *Null*: the latents are set against behaviour and trials rotated by
more than 60 s (even repeats) or those of the session before (odd ones), with a slow AR(1) signal
and a drifting one among the variables. Any discovery is a false one. *Planted*: the variables are
the planted features themselves, half of them in place and half from the other session; a
discovered latent that is named after one of the latter is a false discovery. For comparison, the
same without taking drift out, and with an uncorrected p. Finished repeats are kept in the work
folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from saebook.data import UnitCriteria, prepare
from saebook.data.simulate import simulate_reach
from saebook.evaluation.discovery import Discovery, discover, discovery_variables
from saebook.evaluation.variables import Variable, stepped
from saebook.models import SAEConfig
from saebook.training import TrainConfig, fit

BIN_S = 0.05
SETTINGS: dict[str, Any] = {
    "n_units": 60,
    "n_trials": 150,
    "bin_size_s": BIN_S,
    "fractions": (0.6, 0.1, 0.3),
    "d_sae": 64,
    "k": 8,
    "n_steps": 300,
    "q": 0.05,
    "shortest_rotation_s": 60.0,
}
# In place in the second part; the others come from another session there.
PLANTED = [f"{what}_{angle:03d}" for what in ("prepare", "move") for angle in range(0, 360, 45)]


class Session:
    """A simulated session: latents, variables, true features, rows."""

    def __init__(self, seed: int) -> None:
        simulation = simulate_reach(SETTINGS["n_units"], SETTINGS["n_trials"], seed)
        recording = simulation.to_recording()
        with tempfile.TemporaryDirectory() as folder:
            store = prepare(
                recording, f"{folder}/store", bin_size_s=BIN_S, seed=seed, progress=False,
                criteria=UnitCriteria(min_rate_hz=0.5), fractions=SETTINGS["fractions"],
            )  # fmt: skip
            config = SAEConfig(
                d_in=store.d_in, d_sae=SETTINGS["d_sae"], architecture="batchtopk",
                k=SETTINGS["k"], reconstruction="mse",
            )  # fmt: skip
            settings = TrainConfig(
                n_steps=SETTINGS["n_steps"], batch_size=256, learning_rate=3e-3, device="cpu",
                n_logs=2,
            )  # fmt: skip
            sae = fit(config, store, settings, seed=seed, progress=False).sae
            with torch.no_grad():
                self.latents = sae.encode(store.tensor(dtype=torch.float32)).numpy()
            self.train, self.test = store.rows("train"), store.rows("test")
            self.trial = store.index["trial"].to_numpy()
            self.variables, _ = discovery_variables(recording, store)
            table = store.table("ground_truth_features").drop(columns=["session", "time"])
        train = np.zeros(len(self.latents), dtype=bool)
        train[self.train] = True
        self.features = {
            name: stepped(name, "continuous", table[name].to_numpy(float), "", train, 12)
            for name in table.columns
            if table[name].to_numpy()[train].std() > 0
        }
        self.variables += distractors(len(self.latents), train, seed)


def distractors(n: int, train: np.ndarray, seed: int) -> list[Variable]:
    """A slow AR(1) signal and one that drifts, related to nothing."""
    from scipy.signal import lfilter

    rng = np.random.default_rng([seed, 7])
    keep = np.exp(-BIN_S / 30.0)
    slow = lfilter([np.sqrt(1 - keep**2)], [1.0, -keep], rng.normal(size=n + 4000))[4000:]
    drift = np.linspace(0, rng.choice([-3.0, 3.0]), n) + 0.5 * rng.normal(size=n)
    return [
        stepped("slow", "continuous", np.asarray(slow), "", train, 12),
        stepped("drifting", "continuous", drift, "", train, 12),
    ]


def cut(variable: Variable, n: int) -> Variable:
    """The first n rows of a variable."""
    trial = None if variable.trial is None else variable.trial[:n]
    return replace(variable, values=variable.values[:n], group=variable.group[:n], trial=trial)


def tried(latents: np.ndarray, variables: list[Variable], of: Session, **more: Any) -> Discovery:
    n = len(latents)
    train, test = of.train[of.train < n], of.test[of.test < n]
    return discover(
        latents, [cut(v, n) for v in variables], train, test, bin_size_s=BIN_S, q=SETTINGS["q"],
        progress=False, **more,
    )  # fmt: skip


def repeat(seed: int, session: Session, before: Session) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 11])
    n = min(len(session.latents), len(before.latents))
    result: dict[str, Any] = {"seed": seed, "kind": "rotated" if seed % 2 == 0 else "other session"}
    if seed % 2 == 0:
        shortest = round(SETTINGS["shortest_rotation_s"] / BIN_S)
        offset = int(rng.integers(shortest, len(session.latents) - shortest))
        latents, of = np.roll(session.latents, offset, axis=0), session
        result["rotation_s"] = offset * BIN_S
    else:
        latents, of = session.latents[:n], before
    null = tried(latents, of.variables, of)
    named: Any = null.found[["variable", "p", "attainable", "method"]]
    p = null.table["p"].to_numpy(float)
    result["null"] = {
        "tested": null.n_tested,
        "discovered": len(null.found),
        "uncorrected": int((p < 0.05).sum()),
        "p": np.sort(p[np.isfinite(p)])[:20].tolist(),
        "named": named.to_dict("records"),
    }
    shifts_of_drift = tried(latents, of.variables, of, drift_degree=-1)
    result["null_with_drift"] = {"discovered": len(shifts_of_drift.found)}

    mixed = [
        session.features[name] if name in PLANTED else before.features[name]
        for name in session.features
        if name in before.features
    ]
    found = tried(session.latents[:n], mixed, session)
    names: Any = found.found["variable"]
    false = int((~names.isin(PLANTED)).sum())
    result["planted"] = {
        "tested": found.n_tested,
        "discovered": len(names),
        "false": false,
        "proportion_false": false / max(len(names), 1),
        "power": len(set(names) & set(PLANTED)) / len(PLANTED),
        "missed": sorted(set(PLANTED) - set(names)),
        "named_after_others": names[~names.isin(PLANTED)].tolist(),
    }
    return result


def upper_bound(hits: int, n: int) -> float:
    """Upper end of the exact 95 % interval of a share (Clopper-Pearson, two-sided)."""
    from scipy.stats import beta

    return 1.0 if hits == n else float(beta.ppf(0.975, hits + 1, n - hits))


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    n = len(results)
    any_found = {
        name: sum(r[name]["discovered"] > 0 for r in results)
        for name in ("null", "null_with_drift")
    }
    uncorrected = sum(r["null"]["uncorrected"] > 0 for r in results)
    planted = [r["planted"] for r in results]
    return {
        "repeats": n,
        "sessions": n,
        "repeats_with_a_false_discovery": any_found["null"],
        "share": any_found["null"] / n,
        "share_upper_95": upper_bound(any_found["null"], n),
        "share_without_taking_drift_out": any_found["null_with_drift"] / n,
        "share_without_correction": uncorrected / n,
        "planted_proportion_false": float(np.mean([p["proportion_false"] for p in planted])),
        "planted_power": float(np.mean([p["power"] for p in planted])),
        "planted_discovered": float(np.mean([p["discovered"] for p in planted])),
        "tested": float(np.mean([r["null"]["tested"] for r in results])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="folder of finished repeats")
    parser.add_argument("--out", type=Path, help="JSON file for the summary")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="first repeat, to divide the work")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    last: tuple[int, Session] | None = None
    results, begin = [], time.process_time()
    for seed in tqdm(range(given.first, given.first + given.repeats), unit="repeat"):
        path = given.work / f"{seed:04d}.json"
        if not path.is_file():
            before = last[1] if last and last[0] == seed - 1 else Session(10_000 + seed - 1)
            session = Session(10_000 + seed)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(repeat(seed, session, before)) + "\n", encoding="utf-8")
            partial.replace(path)
            last = seed, session
        results.append(json.loads(path.read_text(encoding="utf-8")))
    made_with = {"python": platform.python_version(), "torch": torch.__version__}
    found = {"settings": SETTINGS, "device": "cpu", "versions": made_with, **summary(results)}
    print(json.dumps(found, indent=1), f"{time.process_time() - begin:.0f} s of CPU time")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
