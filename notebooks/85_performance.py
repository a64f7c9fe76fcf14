# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How fast is a training step, and what bounds it?
#
# > A step of every architecture, timed in turn with the matrix products that no dense step can do
# > without; what it is made of; and what it costs to make the model larger.

# %% [markdown]
# **What you will learn.** Why most SAE training does three to five times more work than it has to, which
# of that work can be left out without changing one number, and from which density on leaving it out pays.
#
# **What it needs.** Nothing: examples are drawn. Close other programs, or believe only the ratios, which
# compare measurements taken in turn.
#
# **How long.** At `smoke` 41 s beside another chapter, at `laptop` 2 min 24 s beside another program; `gpu` has
# not been timed.

# %% tags=["parameters"]
d_in: int = 64  # width of the examples
d_sae: int = 1024  # latents
k: int = 16  # active latents per example
batch_size: int = 512  # examples per step
rounds: int = 3  # measurements of each step, in turn with its dense products
d_ins: list[int] = [128]  # further widths
d_saes: list[int] = [512]  # further numbers of latents
ks: list[int] = [64]  # further numbers of active latents
batch_sizes: list[int] = [1024]  # further batch sizes
densities: list[float] = [0.02, 0.1, 0.4]  # shares of active latents of a ReLU SAE
stack_sizes: list[int] = [1, 4]  # SAEs trained side by side
n_equal_steps: int = 30  # steps after which engines are compared number by number
seed: int = 0  # of the examples and weights

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("85_performance", globals())

# %%
import cProfile
import dataclasses
import json
import pstats
import subprocess
import sys

import pandas as pd
import torch
from IPython.display import display
from tqdm.auto import tqdm

from saebook.models import SAE, SAEConfig
from saebook.notebook.project import project_root
from saebook.plots.performance import plot_costs, plot_parts, plot_ratios, plot_stacks
from saebook.training import TrainConfig, Trainer
from saebook.training.engines.choosing import SPARSE_DENSITY
from saebook.training.speed import Workload, examples, full_step, measure
from saebook.training.speed.gpu.cases import Case, small_name
from saebook.training.speed.gpu.isolated import attempt

BASE = Workload(d_in, d_sae, batch_size, "topk", k)
on_cpu = chapter.device == "cpu"
SPARSE = "sparse" if on_cpu else "fused"  # leaves out what is zero, on this device
print(f"{chapter.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")

# %% [markdown]
# ## What a step has to do
#
# Forward, an SAE multiplies a batch $x$ [B, d_in] by the encoder and the latents $f$ [B, d_sae] by the
# decoder. Backward, it needs the gradients of $f$, of the decoder and of the encoder: three products more.
# All five are of the same size, $2 \cdot B \cdot d_{in} \cdot d_{sae}$ operations, and together they are
# the **floor** of a dense step. Autograd runs a sixth where `b_dec` is subtracted from the input, for the
# gradient of the input, although only its sum over the batch is wanted: a product with one vector.
#
# But of f nearly everything is zero. What is needed of four of the five products is then B · k of B · d_sae
# rows; only the encoder's forward product must be done in full, to learn which latents are active. Hence
# three ways (`TrainConfig.engine`):
#
# | engine | what it does |
# | --- | --- |
# | `dense` | autograd through plain matrices: the code to read, and the reference for the others |
# | `lean` | the five products and no sixth; a ReLU's latents, their sums and counts in one pass over memory |
# | `sparse` | the encoder's product part by part, each searched while in cache; then only the entries that are active |
# | `fused` | the same idea on a CUDA GPU, for TopK and BatchTopK: kernels that select and sum without waiting |
#
# `auto`, the default, takes `sparse` below a density of 0.1 and `lean` above it, and `dense` for small
# steps and for what the others don't take (losses that ask for every pre-activation). On a CUDA GPU it takes
# `fused` where that can be, and `dense` elsewhere.
#
# ## The same numbers
#
# Faster is worth nothing if it is something else. One SAE of each kind, trained by each engine from the
# same start on the same batches, in float64, where rounding can't hide a difference.

# %%
KINDS = {
    "topk": {"architecture": "topk", "k": 4},
    "batchtopk": {"architecture": "batchtopk", "k": 4},
    "nested": {"architecture": "topk", "k": 4, "prefixes": (16, 32, 64)},
    "relu": {"architecture": "relu"},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 4.0},
    "gated": {"architecture": "gated"},
}
small = Workload(16, 64, 256, "topk", 4)
x_small = examples(small, seed).double()


def trained(settings, engine):
    """All parameters after a few steps in float64, in one vector."""
    sae = SAE(SAEConfig(d_in=16, d_sae=64, **settings), seed=seed)
    sae.fit_inputs(x_small.float())
    how = TrainConfig(n_steps=n_equal_steps, device="cpu", engine=engine)
    trainer = Trainer(sae.double(), how)
    for step in range(n_equal_steps):
        trainer.step(x_small[step % 4 :: 4])
    return torch.cat([p.detach().flatten() for p in sae.parameters()])


rows = []
for kind, settings in KINDS.items():
    plain = trained(settings, "dense")
    for engine in ("lean", "sparse"):
        difference = (trained(settings, engine) - plain).norm() / plain.norm()
        rows.append({"model": kind, "engine": engine, "relative difference": float(difference)})
same = pd.DataFrame(rows).pivot_table(index="model", columns="engine", values="relative difference")
print(f"relative difference of all parameters after {n_equal_steps} steps")
same.style.format("{:.1e}")

# %% [markdown]
# ## Every architecture against the floor
#
# A full step: passes, losses, AuxK, clipping, optimiser, schedules, counters. Each is timed in turn with
# five bare products of its size, and their ratio is taken round by round, so that what else the machine
# does falls on both. Left of the line, a whole step takes less time than the products of a dense one alone.

# %%
WORKLOADS = {
    "topk": BASE,
    "batchtopk": dataclasses.replace(BASE, architecture="batchtopk"),
    "jumprelu": dataclasses.replace(BASE, architecture="jumprelu"),
    "jumprelu, 5 % active": dataclasses.replace(BASE, architecture="jumprelu", density=0.05),
    "jumprelu, 1 % active": dataclasses.replace(BASE, architecture="jumprelu", density=0.01),
    "relu": dataclasses.replace(BASE, architecture="relu"),
    "relu, 5 % active": dataclasses.replace(BASE, architecture="relu", density=0.05),
    "relu, 1 % active": dataclasses.replace(BASE, architecture="relu", density=0.01),
    "gated": dataclasses.replace(BASE, architecture="gated"),
}


def timed(workload, engine):
    """A row of measurements."""
    how = TrainConfig(device=chapter.device, engine=engine)
    return {"engine": engine, **dataclasses.asdict(measure(workload, how, rounds=rounds))}


rows = []
jobs = [(name, engine) for name in WORKLOADS for engine in ("dense", "auto")]
with tqdm(jobs, desc="workloads", unit="measurement") as bar:
    for name, engine in bar:
        rows.append({"workload": name, **timed(WORKLOADS[name], engine)})
        bar.set_postfix_str(f"{name}, {engine}: ratio {rows[-1]['ratio']:.2f}", refresh=False)
speeds = pd.DataFrame(rows)
_ = chapter.save_table(speeds, "workloads")
figure = plot_ratios(speeds)
chapter.save_figure(figure, "ratios")
display(figure)
shown = speeds.pivot_table(index="workload", columns="engine", values="ratio", sort=False)
shown["gain"] = shown["dense"] / shown["auto"]
shown.round(2)

# %% [markdown]
# ReLU, JumpReLU and Gated become sparse while they learn, and the engine follows: it looks at the density of
# the step before. What a ReLU SAE gains in the first steps, when half of its latents are active, is only
# what `lean` saves.
#
# ## What a step is made of
#
# Where the time of a TopK step goes, by Python's profiler, which sees whole products and compiled loops.

# %%
PARTS = {
    "products": ("addmm", "linear", "matmul", "mm"),
    "search, selection": (
        "largest_of_rows",
        "take_above",
        "keep_largest",
        "topk",
        "scatter",
        "sort",
    ),
    "sums over entries": ("sum_rows", "sum_columns", "products", "transpose", "index_add"),
    "backward pass": ("run_backward",),
    "optimiser, clipping": ("_fused_adam_", "_foreach_norm", "_foreach_mul_", "addcmul_", "div_"),
}


def part_of(function):
    """The part of a step that a function belongs to, by its name in a profile."""
    if function.startswith("<method "):
        name = function.split("'")[1]
    else:
        name = function.removeprefix("<built-in method ").rstrip(">").rsplit(".", 1)[-1]
    return next((part for part, names in PARTS.items() if name in names), "everything else")


def parts_of_step(engine, n_steps=10):
    """Milliseconds per step of each part, the process's own time of every function summed."""
    step = full_step(BASE, TrainConfig(device=chapter.device, engine=engine))
    for _ in range(3):
        step()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(n_steps):
        step()
    profile.disable()
    spent = dict.fromkeys([*PARTS, "everything else"], 0.0)
    for (_, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        spent[part_of(function)] += 1000 * own / n_steps
    return spent


if on_cpu:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # compiled loops then run where the profiler sees them
    parts = {engine: parts_of_step(engine) for engine in ("dense", "sparse")}
    torch.set_num_threads(threads)
    figure = plot_parts(parts)
    chapter.save_figure(figure, "parts")
    display(figure)
else:
    print("left out: Python's profiler doesn't see a GPU's kernels; `make bench` names them")

# %% [markdown]
# In the dense step, the three products of the backward pass hide in "backward pass", beside passes over
# arrays of size [B, d_sae]. In the sparse one, the encoder's product is what bounds it: nothing exact can do
# without it, and it is a fifth of the floor.
#
# ## What it costs to grow
#
# One size at a time, the others as in the parameters.

# %%
SIZES = {"d_in": d_ins, "d_sae": d_saes, "k": ks, "batch_size": batch_sizes}
rows = []
jobs = [
    (name, value, engine)
    for name, values in SIZES.items()
    for value in sorted({*values, getattr(BASE, name)})
    for engine in ("dense", SPARSE)
]
with tqdm(jobs, desc="sizes", unit="measurement") as bar:
    for name, value, engine in bar:
        workload = dataclasses.replace(BASE, **{name: value})
        rows.append({"varied": name, "value": value, **timed(workload, engine)})
        bar.set_postfix_str(
            f"{name} {value}, {engine}: {rows[-1]['step_ms']:.1f} ms", refresh=False
        )
costs = pd.DataFrame(rows)
_ = chapter.save_table(costs, "costs")
LABELS = {"d_in": "$d_{in}$", "d_sae": "$d_{sae}$", "k": "$k$", "batch_size": "batch size"}
figure = plot_costs(costs, LABELS)
chapter.save_figure(figure, "costs")
figure

# %% [markdown]
# ## Many SAEs at once
#
# A sweep trains dozens of small SAEs, and a small SAE is bound by the fixed cost of its operations rather
# than by what they compute. `fit_many` trains those of one shape side by side: they share their batches and
# their bookkeeping, and at the smallest sizes one vectorised pass does for all. At larger sizes each takes
# its own sparse step, in a thread of its own. Time of a step per SAE:

# %%
STACKED = {
    "a small recording": Workload(48, 256, 256, "batchtopk", 8),
    "a small language model": Workload(128, 1024, 1024, "batchtopk", 16),
}
rows = []
jobs = [(name, n) for name in STACKED for n in stack_sizes]
with tqdm(jobs, desc="stacks", unit="measurement") as bar:
    for name, n in bar:
        how = TrainConfig(device=chapter.device)
        taken = measure(dataclasses.replace(STACKED[name], n_models=n), how, rounds=rounds)
        each = {"step_ms": taken.step_ms / n, "floor_ms": taken.floor_ms / n}
        rows.append({"varied": name, "value": n, "engine": "auto", "ratio": taken.ratio, **each})
        bar.set_postfix_str(f"{n} of {name}: {each['step_ms']:.2f} ms each", refresh=False)
stacks = pd.DataFrame(rows)
_ = chapter.save_table(stacks, "stacks")
figure = plot_costs(stacks, {name: f"SAEs of {name}" for name in STACKED})
chapter.save_figure(figure, "stacks")
display(figure)
per_sae = stacks.pivot_table(index="varied", columns="value", values="step_ms", sort=False)
per_sae.rename_axis(index="ms per SAE", columns="SAEs side by side").round(2)

# %% [markdown]
# ## On a GPU
#
# There a step of a small SAE is bound by the host, which takes longer to ask for a hundred small operations
# than the GPU takes to do them. So such a step is recorded once (as a CUDA graph) and played back at one
# request: `TrainConfig(capture=…)`. Whatever changes from step to step lies on the GPU; what the host decides
# has a recording each. How the time of a whole stack grows with its members then says what the GPU itself
# is bound by: it is flat as long as there is room for more work at once. None of this has been timed on a GPU
# yet.

# %%
rows = []
jobs = (
    []
    if on_cpu
    else [(n, e, c) for e in ("dense", "fused") for c in (True, False) for n in stack_sizes]
)
with tqdm(jobs, desc="GPU", unit="measurement", disable=not jobs) as bar:
    for n, engine, recorded in bar:
        workload = dataclasses.replace(
            STACKED["a small language model"], n_models=None if n == 1 else n
        )
        name = small_name(n, engine, "fp32", recorded)
        capture = "always" if recorded else "never"
        found, _ = attempt(
            Case(name, "step", workload, engine, capture=capture), torch.device("cuda")
        )
        if "failed" in found:
            print(f"{name}: {found['failed']}")
            continue
        rows.append(
            {"members": n, "engine": engine, "recorded": recorded, "step_us": found["wall_us"]}
        )
if rows:
    on_gpu = pd.DataFrame(rows)
    _ = chapter.save_table(on_gpu, "gpu")
    figure = plot_stacks(on_gpu)
    chapter.save_figure(figure, "gpu")
    display(figure)
else:
    print("left out: no CUDA GPU was used here")

# %% [markdown]
# ## From which density on?
#
# A sum over few entries is cheap, but each entry costs more than it does in a dense product, which
# streams through memory. So there is a density above which leaving zeros out no longer pays. A ReLU SAE
# whose latents are set to be active in a given share of the examples, trained by either engine:

# %%
rows = []
engines = ("lean", "sparse") if on_cpu else ("dense",)  # a ReLU's entries are as many as they are
jobs = [(share, engine) for share in densities for engine in engines]
with tqdm(jobs, desc="densities", unit="measurement") as bar:
    for share, engine in bar:
        workload = dataclasses.replace(BASE, architecture="relu", density=share)
        rows.append({"varied": "density", "value": share, **timed(workload, engine)})
        bar.set_postfix_str(f"{share:.0%}, {engine}: {rows[-1]['step_ms']:.1f} ms", refresh=False)
crossing = pd.DataFrame(rows)
_ = chapter.save_table(crossing, "densities")
figure = plot_costs(crossing, {"density": "share of latents that are active"})
chapter.save_figure(figure, "densities")
display(figure)
wins = crossing.pivot_table(index="value", columns="engine", values="step_ms")
if on_cpu:
    paying = wins.index[wins["sparse"] < wins["lean"]]
    print(
        f"sparse is faster up to a density of {max(paying, default=0):g} of those tried here; the "
        f"rule changes at {SPARSE_DENSITY:g}"
    )

# %% [markdown]
# ## Memory
#
# The dense step holds several arrays of size [B, d_sae]; the sparse one a buffer for some rows, and the
# active entries. How far the resident size of a fresh process rises above what model, optimiser and data
# take (on Linux, which lets a process forget its peak):

# %%
CODE = """
import ctypes
import sys
from pathlib import Path
from saebook.training import TrainConfig
from saebook.training.speed import Workload, full_step

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000

def steps(workload, engine):
    step = full_step(workload, TrainConfig(device="cpu", engine=engine))
    ctypes.CDLL(None).malloc_trim(0)  # what making the model has freed
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return resident("VmHWM") - before

steps(Workload(8, 16, 32, "topk", 2), sys.argv[1])  # what is loaded once
print(steps(Workload({d_in}, {d_sae}, {batch_size}, "topk", {k}), sys.argv[1]))
"""
sizes = {"d_in": d_in, "d_sae": 4 * d_sae, "batch_size": 4 * batch_size, "k": k}
memory = {}
if on_cpu and sys.platform == "linux":
    for engine in ("dense", "sparse"):  # a process each: what one frees, it keeps
        command = [sys.executable, "-c", CODE.format(**sizes), engine]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            print(f"{engine}: not measured\n{done.stderr}")
            continue
        memory[engine] = float(done.stdout)
full = 4 * sizes["batch_size"] * sizes["d_sae"] / 1e6
state = 4 * 3 * 2 * d_in * sizes["d_sae"] / 1e6
print(f"at {sizes}: one array [B, d_sae] takes {full:.0f} MB, gradients and moments {state:.0f} MB")
for engine, megabytes in memory.items():
    print(f"{engine}: {megabytes:.0f} MB")

# %% [markdown]
# ## More data than memory
#
# A store larger than memory stays on disk. Its rows are read in contiguous chunks, in an order drawn for
# each epoch, by a thread that works ahead; a buffer of several hundred chunks is shuffled and cut into
# batches. Two things could go wrong, so both were measured (apart, since they take a large file): that
# training waits for the disk, and that a batch holds neighbours. The second is counted as pairs of one
# batch that come from the same document, over those of a full shuffle: 1 is perfect.

# %%
kept = project_root() / "reports" / "results" / "streaming.json"
if kept.is_file():
    record = json.loads(kept.read_text())
    speed = record["speed"]
    print(
        f"{record['machine']}, {record['threads']} threads, load {speed['load_before_and_after']}"
    )
    streamed = {
        name: {where: found["median"] for where, found in speed[name]["speed_over_memory"].items()}
        for name in ("large", "small")
    }
    print("speed of training from disk over that from memory:")
    display(pd.DataFrame(streamed).T.style.format("{:.2f}"))
    mixing = {
        name: {
            f"pairs of one {group}": found[group]["over_all"] for group in ("document", "session")
        }
        for name, found in record["mixing"].items()
        if isinstance(found, dict)
    }
    print("mixing, over a full shuffle's:")
    display(pd.DataFrame(mixing).T.style.format("{:.2f}"))
    needs = record["memory"]
    above = {name: most["most_mb"] for name, most in needs["above_few_rows_mb"].items()}
    print(
        f"a training split of {needs['training_split_mb']} MB with {needs['resident_mb']} MB allowed: "
        f"{above['streamed']} MB more than a run on a few rows takes; in memory, {above['memory']} MB"
    )
else:
    print(f"no record of streaming at {kept.name}")

# %% [markdown]
# ## Beside other libraries
#
# Measured apart, since each wants an environment of its own: full steps of every library's own trainer, in
# rounds, on one machine, beside the same floor. Below 1 is faster than five dense products.

# %%
kept = project_root() / "reports" / "results" / "speed.json"
if kept.is_file():
    record = json.loads(kept.read_text())
    print(f"{record['machine']}, {record['threads']} threads; {record['versions']}")
    print(record["note"])
    beside = pd.DataFrame(record["ratio_to_floor"]).T
    display(beside.style.format("{:.2f}", na_rep="–"))
else:
    print(f"no record of other libraries at {kept.name}")

# %% [markdown]
# Libraries not only do the dense products: they sort whole batches to select, make new arrays of size
# [B, d_sae] at every turn, which the system clears each time, and pay for the gradient of an input that no
# one asked for. An exact TopK step needs one product of five.
#
# **What bounds us now.** The encoder's product, a fifth of the floor, for whatever selects exactly; in
# small models the fixed cost of some hundred small operations. Products in bfloat16 need a processor that
# has instructions for them, which this measurement may not have had: run it on yours.

# %%
chapter.save_metrics(
    {
        "engines_agree_to": float(same.max().max()),
        "n_equal_steps": n_equal_steps,
        "workloads": len(WORKLOADS),
    }
)

# %% [markdown]
# **Next.** `make bench` times the standard sizes, and on a CUDA GPU sets what it finds beside what was asked; `TrainConfig(engine="dense")` trains by the plain code,
# if you want to see for yourself that nothing changes but the time.
