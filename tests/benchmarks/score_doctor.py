"""Score the run doctor: recall per fault, and false alarms on sound runs.

    python tests/benchmarks/score_doctor.py --half setting     # while choosing thresholds
    python tests/benchmarks/score_doctor.py --out reports/results/doctor.json

Runs with even seeds are for setting the detectors' thresholds, runs with odd seeds for scoring.
A faulty run counts where its fault had an effect, and a sound one where it reached its L0 without
dense latents and beats the mean, on rows that the doctor never sees; the others are reported
apart. A sound run is a false alarm when any error or warning is found in it; notes are no alarms,
and don't count towards recall either.

The live checks, which see the history so far and no rows, are scored apart: a sound run is a false
alarm when they tell of anything at any moment, and their recall is over the faults that have a
live detector and are there while training goes on.

To try thresholds without training again, keep the evidence of a half and reuse it::

    python tests/benchmarks/score_doctor.py --half setting --keep setting.pickle
    python tests/benchmarks/score_doctor.py --half setting --reuse setting.pickle --verbose
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pickle
import platform
import statistics
import sys
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy
import torch
from doctor_cases import D_SAE, N_HELD_OUT, N_TRAIN, TRAIN, Case, healthy
from doctor_faults import NAMES, faults

import saebook
from saebook.errors import TrainingError
from saebook.training import TrainConfig
from saebook.training.doctor import DETECTORS, Evidence, Watch, examine, gather

HALVES = ("setting", "scoring")


def told_live(evidence: Evidence) -> dict[str, float]:
    """What the live checks tell while a run goes on, and after which share of it; no notes.

    They see the history row by row, as training shows it to them; of the model they use its
    settings, and whether its weights are finite.
    """
    sae, train = evidence.sae, evidence.train
    assert sae is not None and train is not None and train.n_steps is not None
    watch = Watch(sae, train, train.n_steps)
    told: dict[str, float] = {}
    rows = [{str(k): v for k, v in r.items()} for r in evidence.history.to_dict("records")]
    for i, row in enumerate(rows):
        for finding in watch.look(rows[: i + 1]):
            if finding.severity != "note":
                told[finding.name] = row["step"] / train.n_steps
    return told


def make(case: Case) -> tuple[dict[str, Any], Evidence | None]:
    """Make one run; what it is, and the evidence that it leaves, None where it was stopped."""
    outcome: dict[str, Any] = {
        "fault": case.fault,
        "severity": case.severity,
        "data": case.data,
        "architecture": case.architecture,
        "seed": case.seed,
        "half": case.half,
        "taken": True,
        "in_training": case.after is None,
    }
    torch.manual_seed(case.seed)
    try:
        run, rows = case.make()
    except TrainingError as error:
        named = "training rows" in str(error) and str(error).startswith("step ")
        stopped = ["not_finite"] if named else []
        return outcome | {"findings": stopped, "told": dict.fromkeys(stopped)}, None
    train = TrainConfig.from_dict(run.settings["train"])
    outcome["of_run"] = sorted(run.findings)
    if case.taken is not None:
        outcome["taken"] = bool(case.taken(run, rows))
    evidence = gather(
        run.sae, run.history, run.card, train, train.n_steps, rows.training, rows.held_out
    )
    return outcome, evidence


def judge(outcome: dict[str, Any], evidence: Evidence | None) -> dict[str, Any]:
    """The outcome, with what the detectors say of its evidence."""
    if evidence is None:
        return outcome
    diagnosis = examine(evidence)
    return outcome | {
        "told": told_live(evidence),
        "findings": [f.name for f in diagnosis if f.severity != "note"],
        "notes": [f.name for f in diagnosis if f.severity == "note"],
        "evidence": {f.name: f.evidence for f in diagnosis},
    }


def summary(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Recall per fault and false alarms of some runs."""
    recall, missed, not_taken = {}, [], Counter()
    others: dict[str, Counter[str]] = defaultdict(Counter)
    for fault, names in NAMES.items():
        of_fault = [o for o in outcomes if o["fault"] == fault]
        taken = [o for o in of_fault if o["taken"]]
        not_taken[fault] = len(of_fault) - len(taken)
        found = [o for o in taken if set(names) & set(o["findings"])]
        missed += [o for o in taken if not set(names) & set(o["findings"])]
        recall[fault] = {"found": len(found), "of": len(taken)}
        for outcome in taken:
            others[fault].update(outcome["findings"])
    meant = [o for o in outcomes if o["fault"] == "healthy"]
    sound = [o for o in meant if o["taken"]]
    alarms = [o for o in sound if o["findings"]]
    return {
        "faulty_runs": sum(r["of"] for r in recall.values()),
        "without_effect": {fault: n for fault, n in not_taken.items() if n},
        "recall": recall,
        "smallest_recall": min(
            (r["found"] / r["of"] for r in recall.values() if r["of"]), default=None
        ),
        "healthy_runs": len(sound),
        "false_alarms": len(alarms),
        "false_alarm_rate": len(alarms) / len(sound) if sound else None,
        "false_alarms_by_finding": Counter(name for o in alarms for name in o["findings"]),
        "findings_by_fault": {fault: dict(counter) for fault, counter in others.items()},
        "meant_to_be_healthy_and_not": [_short(o) for o in meant if not o["taken"]],
        "missed": [_short(o) for o in missed],
        "alarmed": [_short(o) for o in alarms],
    }


def live_summary(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Recall and false alarms of what was told while training went on."""
    live = {name for name, detector in DETECTORS.items() if detector.live}
    recall, missed = {}, []
    for fault, names in NAMES.items():
        taken = [o for o in outcomes if o["fault"] == fault and o["taken"] and o["in_training"]]
        if not live & set(names) or not taken:
            continue
        found = [o for o in taken if set(names) & set(o["told"])]
        missed += [o for o in taken if not set(names) & set(o["told"])]
        # A run that was stopped has no share.
        shares = [min(o["told"][n] or 0 for n in names if n in o["told"]) for o in found]
        shares = [share for share in shares if share]
        recall[fault] = {
            "found": len(found),
            "of": len(taken),
            "median_share_of_run": statistics.median(shares) if shares else None,
        }
    sound = [o for o in outcomes if o["fault"] == "healthy" and o["taken"]]
    alarms = [o for o in sound if o["told"]]
    return {
        "recall": recall,
        "smallest_recall": min((r["found"] / r["of"] for r in recall.values()), default=None),
        "healthy_runs": len(sound),
        "false_alarms": len(alarms),
        "false_alarm_rate": len(alarms) / len(sound) if sound else None,
        "false_alarms_by_finding": Counter(name for o in alarms for name in o["told"]),
        # What a run keeps as its findings is what diagnosing it says, notes among them.
        "kept_with_the_run_unlike_its_diagnosis": sum(
            o["of_run"] != sorted(o["evidence"])
            for o in outcomes
            if o["in_training"] and "evidence" in o
        ),
        "missed": [_short(o, "told") for o in missed],
        "alarmed": [_short(o, "told") for o in alarms],
    }


def _short(outcome: dict[str, Any], found: str = "findings") -> str:
    name = "{fault}, {severity}, {data}, {architecture}, seed {seed}".format(**outcome)
    return f"{name}: {', '.join(outcome[found]) or 'nothing'}"


def show(name: str, result: dict[str, Any]) -> None:
    """Print a summary."""
    print(f"\n{name}: {result['healthy_runs']} sound runs, {result.get('faulty_runs')} faulty ones")
    for fault, counted in result["recall"].items():
        share = f"{counted['found'] / counted['of']:.2f}" if counted["of"] else "  - "
        apart = result.get("without_effect", {}).get(fault, 0)
        note = f"  ({apart} without effect)" if apart else ""
        print(f"  {fault:<24}{share}  {counted['found']:>3} of {counted['of']}{note}")
    if result["healthy_runs"]:
        print(f"  false alarms: {result['false_alarms']} ({result['false_alarm_rate']:.1%})")
    for what in ("missed", "alarmed", "meant_to_be_healthy_and_not"):
        for line in result.get(what, ()):
            print(f"    {what.replace('_', ' ')}: {line}")


def main() -> None:
    """Make the runs, print and write the scores."""
    parser = argparse.ArgumentParser(description="Score the run doctor.")
    parser.add_argument("--half", choices=(*HALVES, "both"), default="both")
    parser.add_argument("--only", nargs="*", help="faults, or healthy")
    parser.add_argument("--keep", type=Path, help="write the evidence here, as a pickle")
    parser.add_argument(
        "--reuse", type=Path, nargs="*", help="evidence kept before; trains nothing"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print the evidence of every run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    begin = time.process_time()
    made: list[tuple[dict[str, Any], Evidence | None]] = []
    if arguments.reuse:
        made = [pair for file in arguments.reuse for pair in pickle.loads(file.read_bytes())]
    else:
        cases = [
            case
            for case in (*healthy(), *faults())
            if arguments.half in ("both", case.half)
            and (not arguments.only or case.fault in arguments.only)
        ]
        for i, case in enumerate(cases):
            made.append(make(case))
            if i % 20 == 19:
                print(f"{i + 1} of {len(cases)} runs", file=sys.stderr)
            if arguments.keep and i % 20 == 19:
                arguments.keep.write_bytes(pickle.dumps(made))
    if arguments.keep:
        arguments.keep.write_bytes(pickle.dumps(made))
    outcomes = [judge(*pair) for pair in made]
    seconds = time.process_time() - begin
    for outcome in outcomes if arguments.verbose else ():
        print(_short(outcome), outcome.get("evidence"), outcome["taken"])
    halves = [half for half in HALVES if arguments.half in ("both", half)]
    results = {}
    for half in halves:
        of_half = [o for o in outcomes if o["half"] == half]
        results[half] = summary(of_half) | {"live": live_summary(of_half)}
        show(half, results[half])
        show(f"{half}, live", results[half]["live"])
    print(f"\n{len(outcomes)} runs, {seconds:.0f} CPU seconds")
    if arguments.out:
        report = {
            "made_by": "tests/benchmarks/score_doctor.py",
            "versions": {
                "saebook": saebook.__version__,
                "torch": str(torch.__version__),
                "numpy": numpy.__version__,
                "python": platform.python_version(),
            },
            "settings": {
                "train": dataclasses.asdict(TRAIN),
                "d_sae": D_SAE,
                "training_rows": N_TRAIN,
                "held_out_rows": N_HELD_OUT,
            },
            "halves": results,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
