"""Keep what a bench of training speed found, ours beside other libraries', as a published result.

    python tests/benchmarks/keep_speed.py peers.json --out reports/results/speed.json

Of several records the later ones replace workloads of the earlier. ``peers.json`` holds, per workload, the sizes and for each entry the median time of a step, its
ratio to five dense products in the same rounds, or why it was left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FLOOR = "floor-dense5"


def kept(records: list[dict[str, Any]], note: str) -> dict[str, Any]:
    """The part of records that is published: ratios, examples per second, and their setting."""
    last = records[-1]
    for record in records:
        if (record["machine"], record["threads"]) != (last["machine"], last["threads"]):
            raise SystemExit("records of different machines or threads can't stand side by side")
    workloads = {
        name: workload | {"when": record["when"]}
        for record in records
        for name, workload in record["workloads"].items()
    }
    ratios: dict[str, dict[str, float]] = {}
    speeds: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for name, workload in sorted(workloads.items()):
        size = workload["spec"]
        title = (
            f"{name} {size['arch']} {size['d_in']} × {size['d_sae']}, B {size['batch']}, "
            f"k {size['k']}"
        )
        measured = {e: v for e, v in workload["entries"].items() if "skipped" not in v}
        ratios[title] = {e: round(v["time_vs_floor5"], 3) for e, v in measured.items()}
        speeds[title] = {e: round(v["samples_per_s"]) for e, v in measured.items()}
        for entry, value in workload["entries"].items():
            if "skipped" in value:
                left_out[f"{name} {entry}"] = value["skipped"][:120]
    return {
        "what": "time of a full training step, each library's own trainer at its defaults, over "
        f"the time of five dense fp32 products ({FLOOR}) in the same rounds; medians",
        "note": note,
        "machine": f"{last['machine']['cpu']}, {last['machine']['cores']} cores",
        "threads": last["threads"],
        "when": {name: workload["when"] for name, workload in sorted(workloads.items())},
        "versions": last["versions"],
        "other_cores_busy": {n: w["other_cores_busy"] for n, w in sorted(workloads.items())},
        "rounds": {n: w["rounds"] for n, w in sorted(workloads.items())},
        "ratio_to_floor": ratios,
        "examples_per_s": speeds,
        "left_out": left_out,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("records", type=Path, nargs="+", help="what the bench wrote")
    parser.add_argument("--note", default="", help="what a reader has to know beside")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    records = [json.loads(path.read_text()) for path in arguments.records]
    content = kept(records, arguments.note)
    arguments.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
