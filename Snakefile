"""Chapters × recordings with one parameter set, each run through papermill.

`make handbook` is `snakemake --profile profiles/local` with a lock and a report around it;
config: nwb=[files], params=smoke|laptop|gpu, chapters=[names].
"""

import os
import sys
from functools import partial
from pathlib import Path

from saebook.commands.screen import criteria_values
from saebook.notebook.execution import ENGINE, engine_identity
from saebook.notebook.project import chapter_sources
from saebook.notebook.runs import (
    NO_RECORDING,
    SIMULATED,
    fingerprint,
    planned_runs,
    read_json,
    reads_results,
    set_values,
)
from saebook.notebook.simulated import simulated_path

SAEBOOK = f"{sys.executable} -m saebook"
RUNS = "reports/runs"
PARAMS = str(config.get("params") or "laptop")
NWB = [str(path) for path in config.get("nwb") or []]
CHAPTERS = [str(name) for name in config.get("chapters") or []]
DEFAULT = str(simulated_path().relative_to(Path.cwd()))

# Runs stop by themselves when this process is gone.
os.environ.setdefault(ENGINE, engine_identity())
os.environ["SAEBOOK_ROOT"] = os.getcwd()


def recordings():
    """Usable recordings by key; asking for them makes Snakemake screen the files first."""
    if not NWB:
        return {SIMULATED: {"path": "", "content": ""}}
    return read_json(Path(checkpoints.screen.get().output[0]))["usable"]


def recording(wildcards):
    if wildcards.recording in (SIMULATED, NO_RECORDING):
        return {"path": "", "content": ""}
    return recordings()[wildcards.recording]


def recording_file(wildcards):
    if wildcards.recording == SIMULATED:
        return [DEFAULT]
    path = recording(wildcards)["path"]
    return [path] if path else []


def recording_options(wildcards):
    found = recording(wildcards)
    if not found["path"]:
        return []
    content = ["--recording-key", wildcards.recording, "--recording-content", found["content"]]
    return ["--recording", found["path"], *content]


def content(chapter, wildcards):
    values = set_values(chapter, wildcards.params)
    return fingerprint(chapter, values, recording(wildcards)["content"])


def results_read(chapter, wildcards):
    """Results that a chapter draws, as far as they are made here."""
    read, keys = reads_results(chapter), (wildcards.recording, NO_RECORDING)
    return [
        f"{RUNS}/{other}/{key}-{wildcards.params}/metrics.json"
        for other, key in (planned_runs(recordings(), CHAPTERS) if read else [])
        if other in read and key in keys
    ]


def finished(wildcards):
    return [
        f"{RUNS}/{chapter}/{key}-{PARAMS}/metrics.json"
        for chapter, key in planned_runs(recordings(), CHAPTERS)
    ]


wildcard_constraints:
    recording=r"[A-Za-z0-9_.-]+",
    params=r"[A-Za-z0-9_]+",


localrules:
    all,


rule all:
    input:
        finished,


rule simulate:
    output:
        DEFAULT,
    shell:
        "{SAEBOOK} simulate"


checkpoint screen:
    output:
        f"{RUNS}/recordings.json",
    params:
        files=[[path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in NWB],
        criteria=criteria_values(PARAMS) if NWB else {},
        paths=NWB,
    shell:
        "{SAEBOOK} screen --params {PARAMS} --out {output} -- {params.paths:q}"


# The notebook is in the same folder, undeclared: Snakemake empties declared logs of jobs it starts
# and deletes declared outputs of jobs that fail, and a failed notebook holds the traceback.
# One rule a chapter: each has its place in the order, and its resources can be set by name.
for position, name in enumerate(chapter_sources()):

    rule:
        name:
            f"chapter_{name}"
        input:
            recording_file,
            partial(results_read, name),
        output:
            f"{RUNS}/{name}/{{recording}}-{{params}}/metrics.json",
        params:
            chapter=name,
            content=partial(content, name),
            options=recording_options,
        priority: 100 - position
        # A constant, since float32 sums depend on it.
        threads: 1
        resources:
            gpu=int(PARAMS == "gpu"),
        shell:
            "{SAEBOOK} run {params.chapter} --params {wildcards.params} --threads 1"
            " {params.options:q}"
