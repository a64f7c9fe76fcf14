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
# # Does it help to have nearby moments agree?
#
# > Much of what a brain represents outlasts a bin, and an SAE looks at one bin at a time. A
# > temporal-contrastive term tells it which bins are neighbours. When does that find features that
# > reconstruction leaves out, what does it cost, and when does it only look as if it did?

# %% [markdown]
# **What you will learn.** What the term compares, and what keeps it honest: a queue of negatives, rows of
# the same trial left out. How to measure whether latents last, beside three things that last without having
# learned anything. Whether slow features that reconstruction leaves out are found, with known truth and at
# equal error; which settings that hangs on; how a smoothness penalty "wins" by switching latents off; and
# where the term does not help. Then a recording, where one more question has to be asked: has the code
# learned the clock?
#
# **What it needs.** Nothing: sequences with known features and a session are simulated. With
# `recording_path` set, the last part runs on any NWB file with sorted units.
#
# **How long.** At `smoke` 57 s beside another chapter, at `laptop` 4 min 6 s beside other work, on two cores; `gpu` has not been
# timed.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file for the last part; empty: the simulated session
n_units: int = 40  # units of the simulated session
n_trials: int = 30  # trials of the simulated session
bin_size_s: float = 0.05  # width of a bin of the recording, s
min_rate_hz: float = 0.5  # units that fire less are dropped; in hippocampus 0.05 is usual
d_in: int = 48  # width of the simulated activations
n_slow: int = 8  # slow features
n_fast: int = 40  # fast features
d_sae: int = 36  # latents: fewer than there are features
n_sequences: int = 160  # sequences of 64 rows, a fifth of them held out
slow_strength: float = 0.5  # strength of slow features relative to fast ones
coefficient: float = 2.0  # weight of the temporal-contrastive term
window: int = 8  # largest distance of a pair, rows
prefix_fraction: float = 0.25  # share of the latents that the term sees
queue_size: int = 512  # negatives from earlier batches
sparsities: list[float] = [0.5, 2.0]  # L1 coefficients: the curve of each arm
ks: list[int] = [4, 12]  # active latents of the TopK curves
windows: list[int] = [32]  # further windows
queue_sizes: list[int] = [1]  # further queues; 1 leaves negatives of the batch alone
coefficients: list[float] = [8.0]  # further weights of the term
prefixes: list[float] = [1.0]  # further shares of latents
with_counts: bool = False  # the same comparison on Poisson counts
session_d_sae: int = 48  # latents on the recording
session_sparsities: list[float] = [0.5, 2.0]  # L1 coefficients on the recording
session_windows_ms: list[float] = [400.0]  # largest distances of a pair on the recording, ms
n_steps: int = 200  # steps of a run
batch_size: int = 256  # rows per step
learning_rate: float = 3e-3  # peak learning rate
n_seeds: int = 1  # seeds of the main comparisons; a verdict needs three
n_ablation_seeds: int = 1  # seeds of each ablation
seed: int = 0  # the first of the seeds

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("50_temporal_contrastive", globals())

# %%
import dataclasses
import json
import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from tqdm.auto import tqdm

from saebook.data import StoredExamples, UnitCriteria, prepare, read_recording
from saebook.data.simulate import simulate_slow_fast
from saebook.data.store import bins_of_ms
from saebook.errors import ParameterError
from saebook.evaluation import (
    compare_at_fvu,
    consistency,
    decode_clock,
    evaluate,
    paired_intervals,
    recover_activity,
    score_slow_fast,
    temporal_consistency,
)
from saebook.losses import info_nce, info_nce_at_chance
from saebook.metrics import autocorrelation, decorrelation_time
from saebook.models import SAEConfig
from saebook.notebook.project import project_root
from saebook.plots.temporal import (
    plot_at_fvu,
    plot_autocorrelations,
    plot_paired_differences,
)
from saebook.training import TrainConfig, fit_many
from saebook.training.temporal import TEMPORAL, TemporalConfig
from saebook.training.temporal.contrastive import Contrastive

if n_seeds < 1 or n_ablation_seeds < 1 or len(sparsities) < 2 or len(session_sparsities) < 2:
    raise ParameterError(
        f"n_seeds = {n_seeds}, n_ablation_seeds = {n_ablation_seeds}, sparsities = {sparsities}, "
        f"session_sparsities = {session_sparsities}: at least one seed, and two points of a curve"
    )

# %% [markdown]
# ## The term
#
# Take the first latents of a bin, a *prefix* $H$ of them, as a direction $h = f_H / \lVert f_H \rVert$. A
# second bin at most $W$ away in the same trial is its *positive*, $h^+$. Bins of other trials are
# *negatives*: those of the batch, and a queue of earlier ones. The loss is that of telling the positive from
# the negatives,
#
# $$
# L = -\log \frac{e^{h \cdot h^+ / \tau}}{e^{h \cdot h^+ / \tau} + \sum_j e^{h \cdot h_j / \tau}} ,
# \qquad \tau = 0.1 .
# $$
#
# If all cosines are equal, nothing is told from anything, and $L = \ln(1 + N)$ with $N$ negatives. That is
# the mark to read it against:

# %%
rows = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).relu() + 0.01)
nearby = F.normalize(rows + 0.1)
told = info_nce(rows, nearby, rows, excluded=torch.eye(6, dtype=torch.bool))
blind = info_nce(torch.ones(6, 4), torch.ones(6, 4), torch.ones(6, 4))
chance = info_nce_at_chance(torch.full((6,), 6))
print(f"positives beside their anchors: {told:.3f}; all alike: {blind:.3f} = ln 7 = {chance:.3f}")
assert math.isclose(blind, chance, rel_tol=1e-5)

# %% [markdown]
# Two things spoil it quietly. A bin of the anchor's own trial shares what varies slowly; taken for a
# negative, it asks the prefix to *forget* exactly that. And a queue written before the gradients are
# computed changes what they are (chapter 25 has that exhibit). The first attempts at this idea, in one of the
# working notes this handbook grew from, reported L0 = 0 in all five runs: they were most likely over after
# 48 steps of a 2,000-step warm-up, scored with weights that were not the trained ones. That was no test of
# the idea. Chapter 25 takes that log apart, chapter 55 replays it.
#
# In the library the term is a part of how a model is trained, not of what it is:

# %%
near = {"window": window, "prefix_fraction": prefix_fraction}
CONTRASTIVE = TemporalConfig(
    kind="contrastive", coefficient=coefficient, queue_size=queue_size, **near
)
print(CONTRASTIVE)
print("kinds:", ", ".join(TEMPORAL))

# %% [markdown]
# ## Slow features that are worth leaving out
#
# In each row a few of many sparse features are active, and x is the sum of their directions. Fast features
# are drawn anew at every row. Slow ones stay for 32 rows on average, and are half as strong. There are fewer
# latents than features, so that some must be left out; error alone leaves out the weak ones. Nothing in a
# single row tells slow from fast.

# %%
LENGTH = 64
DATA = {
    "length": LENGTH,
    "d_in": d_in,
    "n_slow": n_slow,
    "n_fast": n_fast,
    "slow_l0": n_slow / 8,
    "fast_l0": 3 * n_fast / 80,
    "slow_strength": slow_strength,
    "dwell": 32.0,
}
n_train = (4 * n_sequences // 5) * LENGTH
prefix = CONTRASTIVE.width(d_sae)
SEEDS = range(seed, seed + n_seeds)
ABLATION_SEEDS = range(seed, seed + n_ablation_seeds)
known = {
    s: simulate_slow_fast(n_sequences, seed=s, **DATA)
    for s in range(seed, seed + max(n_seeds, n_ablation_seeds))
}
first = known[seed]
print(
    f"{n_train:,} training rows of {n_slow} slow and {n_fast} fast features in {d_in} dimensions, "
    f"{d_sae} latents, the first {prefix} of them the prefix"
)

# %% [markdown]
# ## Measuring what lasts
#
# For a latent: its **autocorrelation** within sequences, the **decorrelation time** at which that falls to
# 1/e, and the **information** that its being active gives of its being active later, as a share of the
# entropy. A finite sample makes independent activity look informative, so the mean over circular shifts is
# taken off, which keep both sides' own autocorrelation. On features whose Markov chain we know:

# %%
held_out = slice(n_train, None)
group_test = torch.from_numpy(first.group[held_out])
active = torch.from_numpy((first.features > 0).astype(np.float32))
measured = autocorrelation(active, torch.from_numpy(first.group), max_lag=24)
slow_rows = torch.from_numpy(first.is_slow)
for lag in (1, 8, 24):
    by_theory = float(torch.from_numpy(first.persistence[first.is_slow] ** lag).mean())
    found = {name: float(measured[lag, which].nanmean()) for name, which in
             (("slow", slow_rows), ("fast", ~slow_rows))}  # fmt: skip
    print(
        f"lag {lag:2}: slow {found['slow']:.3f} (theory {by_theory:.3f}), fast {found['fast']:+.3f}"
    )

# %% [markdown]
# A latent that is always on, or never, is perfectly smooth and means nothing: those are counted and left
# out. And a mean that looks high proves nothing beside three baselines, which we shall put in every table:
# the same latents with rows **shuffled** in time, the **input's own** autocorrelation, and a **random
# dictionary** at the same L0, which lasts as its input does.
#
# ## Training
#
# A ReLU SAE with an L1 penalty, with and without the term, at several penalties: each arm is a *curve*. Since
# whatever is asked of latents besides reconstruction costs error, arms are compared at the same FVU, by
# straight lines between the points of their curves, and seed by seed. The third arm is the control that
# matters most: the same term on the same rows *in shuffled order*, so that "neighbours" are strangers.

# %%
L1 = {"architecture": "relu", "sparsity_coefficient": sparsities}
TOPK = {"architecture": "topk", "k": ks}
TRAIN = TrainConfig(
    n_steps=n_steps,
    batch_size=batch_size,
    learning_rate=learning_rate,
    retire_at=None,
    n_logs=5,
    device=chapter.device,
)


def train_curve(arm, temporal, s, model=L1, shuffled=False, data=known):
    """Train one arm at every sparsity of its curve; its models, and a row of scores for each."""
    truth = data[s]
    x, groups = torch.from_numpy(truth.x[:n_train]), truth.group[:n_train]
    if shuffled:
        x = x[torch.randperm(n_train, generator=torch.Generator().manual_seed(s))]
    *fixed, (name, values) = model.items()
    train = dataclasses.replace(TRAIN, temporal=temporal)
    members = [
        (SAEConfig(d_in, d_sae, reconstruction="mse", **dict(fixed), **{name: value}), train, s)
        for value in values
    ]
    runs = fit_many(
        members, x, groups=None if temporal is None else groups, order_seed=s, progress=False
    )
    rows = [
        {
            "arm": arm,
            "seed": s,
            "setting": value,
            **score_slow_fast(run.sae.cpu(), truth, n_train, prefix=prefix),
            "over chance": run.history.iloc[-1].get("temporal_over_chance", np.nan),
        }
        for value, run in zip(values, runs, strict=True)
    ]
    return [run.sae for run in runs], rows


def train_arms(arms, seeds, **how):
    """Curves of all arms under all seeds: scores in a table, models of the first seed."""
    models, table = {}, []
    jobs = [(arm, s) for s in seeds for arm in arms]
    with tqdm(jobs, unit="curve") as bar:
        for arm, s in bar:
            saes, rows = train_curve(arm, s=s, **(how | arms[arm]))
            table += rows
            models.setdefault(arm, saes)
            middle = rows[len(rows) // 2]
            bar.set_postfix_str(
                f"{arm}: FVU {middle['fvu']:.3f}, L0 {middle['l0']:.1f}, "
                f"slow recall {middle['slow_recall']:.2f}",
                refresh=False,
            )
    return models, pd.DataFrame(table)


MAIN = {
    "base": {"temporal": None},
    "contrastive": {"temporal": CONTRASTIVE},
    "contrastive, rows shuffled": {"temporal": CONTRASTIVE, "shuffled": True},
}
models, main = train_arms(MAIN, SEEDS)
_ = chapter.save_table(main, "known_truth")
main.groupby(["arm", "setting"], sort=False).mean().drop(columns="seed").round(3)

# %% [markdown]
# *Recall*: share of features with a latent of their own (one-to-one over all features) at cosine ≥ 0.9. *r*: a
# latent is chosen for each feature by correlation on training rows, and scored on sequences left out. The
# target is the FVU of the base at its middle penalty, seed by seed:

# %%
SCORES = ["slow_recall", "slow_r", "fast_recall", "fast_r", "prefix_ac", "l0"]


def targets_of(runs, base="base"):
    """FVU of the base arm at the middle of its curve, by seed."""
    of_base = runs[runs["arm"] == base]
    settings = sorted(set(of_base["setting"]))
    return of_base[of_base["setting"] == settings[len(settings) // 2]].set_index("seed")["fvu"]


def differences(runs, base="base"):
    """Paired differences to the base at matched FVU."""
    return paired_intervals(compare_at_fvu(runs, SCORES, targets_of(runs, base), base=base))


def verdict(table, arm, score):
    """What an interval of paired differences says, for at least three seeds."""
    row = table[(table["arm"] == arm) & (table["score"] == score)].iloc[0]
    if row["n"] == 0:
        return "no matched FVU"
    text = f"{row['difference']:+.3f}"
    if np.isfinite(row["low"]):
        text += f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    if row["n"] < 3:
        return f"{text}, under three seeds: no verdict"
    side = "higher" if row["low"] > 0 else "lower" if row["high"] < 0 else "no difference seen"
    return f"{text}, {side} (n = {row['n']:.0f} of {row['n_seeds']:.0f} seeds)"


at_equal_fvu = differences(main)
display(at_equal_fvu.round(3))
for arm in list(MAIN)[1:]:
    for score in ("slow_recall", "fast_recall"):
        print(f"{arm}, {score.replace('_', ' ')}: {verdict(at_equal_fvu, arm, score)}")

# %%
PANELS = {
    "slow_recall": "recall, slow features",
    "fast_recall": "recall, fast features",
    "slow_r": "r, slow features",
    "prefix_ac": "autocorrelation of the\nprefix, one row apart",
    "l0": "L0",
    "prefix_l0": "L0 of the prefix",
}
figure = plot_at_fvu(main, PANELS, setting="setting", target=float(targets_of(main).mean()))
chapter.save_figure(figure, "at_equal_fvu")
figure

# %% [markdown]
# Read downwards along the dashed line. n counts seeds, each with features, sequences and weights of its
# own: repetitions of a simulation, not animals. What slow features win has a price: the latents they take
# are lost to fast ones, and L0 rises, because only an active prefix has a direction. With shuffled rows the
# price is paid for nothing: there is nothing to tell from anything, and the prefix ends always on.
#
# Do latents last longer than without having learned anything? Of each arm, the run of the first seed that
# comes nearest to the target:

# %%
middle = len(sparsities) // 2


def nearest(runs, arm, s=seed):
    """Place on its curve of an arm's run that comes nearest to the target FVU."""
    off = (runs[(runs["arm"] == arm) & (runs["seed"] == s)]["fvu"] - targets_of(runs)[s]).abs()
    return int(off.to_numpy().argmin())


tables = {
    arm: temporal_consistency(
        models[arm][nearest(main, arm)],
        first.x[held_out],
        first.group[held_out],
        prefix=prefix,
        train_data=first.x[:n_train],
        max_lag=24,
    )
    for arm in ("base", "contrastive")
}
pd.concat(tables).round(3)

# %%
with torch.no_grad():
    codes = {
        arm: models[arm][nearest(main, arm)].encode(torch.from_numpy(first.x[held_out]))
        for arm in ("base", "contrastive")
    }
lasting = {
    f"{arm}, {part}": consistency(code[:, rows], group_test, max_lag=24).curve.numpy()
    for arm, code in codes.items()
    for part, rows in (("prefix", slice(0, prefix)), ("others", slice(prefix, None)))
}
own = autocorrelation(torch.from_numpy(first.x[held_out]), group_test, max_lag=24).nanmean(1)
order = torch.randperm(len(group_test), generator=torch.Generator().manual_seed(0))
shuffled = consistency(codes["contrastive"][order], group_test, max_lag=24).curve.numpy()
figure = plot_autocorrelations(
    lasting, controls={"input": own.numpy(), "time-shuffled": shuffled}, unit="rows"
)
chapter.save_figure(figure, "autocorrelation")
figure

# %% [markdown]
# ## What it hangs on
#
# One setting changed at a time, each arm a curve of its own and compared with the base at matched FVU. *Own
# sequence not masked* is the mistake of the first attempts; here it costs one new term: a class that says how,
# and a name in the registry.


# %%
class Unmasked(Contrastive):
    """The same, with each row a sequence of its own: its neighbours become negatives."""

    def __call__(self, latents):
        n = len(latents.group)
        start = self.queue.n_added * n
        own = torch.arange(start, start + n, device=latents.group.device)
        return super().__call__(dataclasses.replace(latents, group=own))


TEMPORAL["unmasked"] = Unmasked


def changed(**settings):
    """The contrastive arm with one setting changed."""
    return {"temporal": dataclasses.replace(CONTRASTIVE, **settings)}


ABLATIONS = (
    {"base": {"temporal": None}, "as above": {"temporal": CONTRASTIVE}}
    | {f"window {w}": changed(window=w) for w in windows}
    | {
        "batch negatives only" if size == 1 else f"queue of {size}": changed(queue_size=size)
        for size in queue_sizes
    }
    | {"own sequence not masked": changed(kind="unmasked")}
    | {f"coefficient {c:g}": changed(coefficient=c) for c in coefficients}
    | {f"prefix of {p:.0%}": changed(prefix_fraction=p) for p in prefixes}
)
done = {"base": "base", "as above": "contrastive"}
reused = main[main["arm"].isin(done.values()) & main["seed"].isin(ABLATION_SEEDS)].replace(
    {"arm": {old: new for new, old in done.items()}}
)
missing = [s for s in ABLATION_SEEDS if s not in SEEDS]
_, ablated = train_arms({a: v for a, v in ABLATIONS.items() if a not in done}, ABLATION_SEEDS)
if missing:
    _, rest = train_arms({a: ABLATIONS[a] for a in done}, missing)
    reused = pd.concat([reused, rest])
ablated = pd.concat([reused, ablated], ignore_index=True)
_ = chapter.save_table(ablated, "ablations")
ablation_table = differences(ablated)
shown = {
    "slow_recall": "slow recall,\nminus base",
    "fast_recall": "fast recall,\nminus base",
    "l0": "L0,\nminus base",
}
figure = plot_paired_differences(ablation_table, shown)
chapter.save_figure(figure, "ablations")
figure

# %%
for arm in list(ABLATIONS)[1:]:
    print(f"{arm}: slow recall {verdict(ablation_table, arm, 'slow_recall')}")
n_own = float(
    np.mean([(first.group[:n_train] == g).mean() for g in np.unique(first.group[:n_train])])
)
print(f"share of rows that are of an anchor's own sequence: {n_own:.2%}")

# %% [markdown]
# How much masking matters depends on that last number. With hundreds of sequences few negatives are false;
# with a recording of thirty trials, or a document cut into few contexts, every batch is full of them.
#
# ## Three ways to be consistent
#
# The published temporal SAE (T-SAE, arXiv 2511.05541) compares each row with its batch by raw products. A
# plain smoothness penalty, $\lVert f - f^+ \rVert^2$, has no negatives at all, and so a cheap way out: a
# prefix that is never active never changes.

# %%
VARIANTS = {
    "tsae": {"temporal": TemporalConfig(kind="tsae", coefficient=1.0, **near)},
    "smoothness 1": {"temporal": TemporalConfig(kind="smoothness", coefficient=1.0, **near)},
    "smoothness 100": {"temporal": TemporalConfig(kind="smoothness", coefficient=100.0, **near)},
}
_, variants = train_arms(VARIANTS, ABLATION_SEEDS)
variants = pd.concat(
    [ablated[ablated["arm"].isin(["base", "as above"])], variants], ignore_index=True
).replace({"arm": {"as above": "contrastive"}})
columns = ["fvu", "l0", "prefix_l0", "prefix_alive", "prefix_ac", "slow_recall", "slow_r", "fast_r"]
of_middle = variants[variants["setting"] == sparsities[middle]]
of_middle.groupby("arm", sort=False)[columns].mean().round(3)

# %% [markdown]
# Look at `prefix_alive` and `prefix_l0` before `prefix_ac`. By the penalty's own measure the strongest
# smoothness wins; what it did is in those two columns. That is why latents that are hardly ever on are
# counted, and not averaged.
#
# ## Where it helps less
#
# With TopK, only the few latents of an example that are selected get gradients, from the term as from the
# error. An anchor and a positive whose selected prefix latents don't overlap can't be drawn together: their
# product is zero, and so is its gradient. A ReLU SAE starts dense, and its prefix sees everything before
# sparsity sets in. That is an argument; the same comparison, TopK throughout, is the test:

# %%
_, topk = train_arms(
    {"base": {"temporal": None}, "contrastive": {"temporal": CONTRASTIVE}},
    ABLATION_SEEDS,
    model=TOPK,
)
topk_table = differences(topk)
display(topk.groupby(["arm", "setting"], sort=False)[[*columns, "over chance"]].mean().round(3))
for score in ("slow_recall", "fast_recall"):
    print(f"topk, {score.replace('_', ' ')}: {verdict(topk_table, 'contrastive', score)}")

# %% [markdown]
# `over chance` is the term over $\ln(1+N)$ at the end of training: near 1 it has told nothing from anything.

# %%
counts_table = None
if with_counts:
    as_counts = {
        s: simulate_slow_fast(n_sequences, seed=s, observed="counts", mean_rate_hz=20.0, **DATA)
        for s in ABLATION_SEEDS
    }
    _, on_counts = train_arms(
        {arm: MAIN[arm] for arm in ("base", "contrastive")}, ABLATION_SEEDS, data=as_counts
    )
    counts_table = differences(on_counts)
    print("through Poisson counts at 20 Hz and 50 ms, at matched FVU:")
    for score in ("slow_recall", "slow_r", "fast_r"):
        print(f"  {score.replace('_', ' ')}: {verdict(counts_table, 'contrastive', score)}")
else:
    print("Poisson counts of the same features: left out at this size (with_counts)")

# %% [markdown]
# ## The full study
#
# The same experiment at its full size, run once by `tests/benchmarks/slow_fast.py`, with every arm under every
# seed: ReLU and TopK, and the nested BatchTopK of the published form. Differences are to the arm's own base,
# at matched FVU (margin 0.005). No arm's coefficient was tuned, so that this ranks architectures and says
# whether each kind of term works, not which term is best.

# %%
path = project_root() / "reports" / "results" / "temporal.json"
full = json.loads(path.read_text()) if path.exists() else None
if full is None:
    print("reports/results/temporal.json is not here: run tests/benchmarks/slow_fast.py")
else:
    of_full = pd.DataFrame(full["differences"]).astype({"difference": float, "low": float})
    print(full["n"])
    figure = plot_paired_differences(
        of_full.astype({"high": float}),
        {
            "slow_recall": "slow recall,\nminus base",
            "fast_recall": "fast recall,\nminus base",
            "l0": "L0,\nminus base",
        },
    )
    chapter.save_figure(figure, "full_study")
    display(figure)
    sizes = np.array([full["data"]["n_slow"], full["data"]["n_fast"]])
    by_arm = of_full.set_index(["arm", "score"])["difference"]
    for arm in of_full["arm"].unique():
        print(f"{arm}: slow recall {verdict(of_full, arm, 'slow_recall')}")
        won, lost = by_arm[arm][["slow_recall", "fast_recall"]] * sizes
        print(
            f"    features found: {won:+.1f} slow, {lost:+.1f} fast; r of slow ones {verdict(of_full, arm, 'slow_r')}"
        )

# %% [markdown]
# ## A recording
#
# Pairs are bins of one trial (where there are no trials, of one unbroken stretch), within a split. Windows are
# given in ms.

# %%
recording = read_recording(chapter.recording_or_simulated(n_units, n_trials))
store = prepare(
    recording,
    chapter.path / "store",
    bin_size_s=bin_size_s,
    criteria=UnitCriteria(min_rate_hz=min_rate_hz),
    seed=seed,
    overwrite=True,
    progress=False,
)
planted = recording.ground_truth is not None


def runs_of(split):
    """Lengths of the unbroken stretches of a split, and the stretch of each row."""
    lengths = StoredExamples(store, split, within_trials=True).run_lengths
    return lengths, torch.arange(len(lengths)).repeat_interleave(torch.from_numpy(lengths))


lengths = {split: runs_of(split)[0] for split in ("train", "test")}
longest = int(lengths["test"].max(initial=0))
reasons = []
if len(lengths["train"]) < 2 or lengths["train"].max() < 2:
    reasons.append("the training rows are one stretch, so that there are no negatives")
if longest < 4:
    reasons.append("no stretch of the test rows is four bins long")
if store.d_in < 2:
    reasons.append("one unit only")
print(
    f"{recording.session}: {len(store):,} bins of {1000 * bin_size_s:g} ms x {store.d_in} units; "
    f"{len(lengths['train'])} training stretches, median {np.median(lengths['train']):g} bins"
)
print("left out: " + "; ".join(reasons) if reasons else "every part below runs")

# %%
session_prefix = CONTRASTIVE.width(session_d_sae)
max_lag = max(min(20, longest - 2), 1)
x_test, x_train = store.tensor("test").float(), store.tensor("train").float()
_, test_group = runs_of("test")
clock_time = store.index["time"].to_numpy()
in_order = np.argsort(clock_time, kind="stable")
every_row = store.tensor(None).float()[torch.from_numpy(in_order)]
clock_time = clock_time[in_order]
enough_clock = len(np.unique(clock_time)) == len(clock_time) and np.ptp(clock_time) > 60
truth = slow_truth = None
if planted:
    named = store.table("ground_truth_features").drop(columns=["session", "time"])
    truth = {n: torch.tensor(named.to_numpy()[store.rows(n)]).float() for n in ("train", "test")}
    lasts = decorrelation_time(
        autocorrelation(truth["test"], test_group, max_lag=max_lag), bin_size_s
    )
    slow_truth = (lasts > 10 * bin_size_s).numpy()
    print(
        f"planted features that last over {10 * bin_size_s:g} s: "
        f"{', '.join(str(name) for name in named.columns[slow_truth])}"
    )


def clock(code):
    """R² of elapsed time from a code over the whole session; NaN where that is too short."""
    return decode_clock(code.numpy(), clock_time, n_shifts=39).r2 if enough_clock else math.nan


@torch.no_grad()
def score_session(sae):
    """What lasts, what it costs, and whether the prefix knows the time."""
    card = evaluate(sae, store)
    latents = sae.encode(x_test)
    found = consistency(latents[:, :session_prefix], test_group, max_lag=max_lag)
    row = {
        "fvu": card.fvu,
        "raw_units_fvu": card.raw_unit.fvu if card.raw_unit else math.nan,
        "l0": card.l0,
        "prefix_ac": found.at(1),
        "prefix_information": found.information,
        "prefix_l0": found.l0,
        "prefix_alive": found.n_latents,
        "clock_r2": clock(sae.encode(every_row)[:, :session_prefix]),
    }
    if truth is not None:
        followed = recover_activity(
            sae.encode(x_train), truth["train"], latents, truth["test"], n_shifts=0
        ).features["r_test"]
        row["slow_r"] = float(np.nan_to_num(followed[slow_truth]).mean())
        row["fast_r"] = float(np.nan_to_num(followed[~slow_truth]).mean())
    return row


def train_session(arm, temporal):
    """One arm's curve on the recording under every seed, all in one stack."""
    train = dataclasses.replace(TRAIN, temporal=temporal)
    settings = [(value, s) for s in SEEDS for value in session_sparsities]
    how = {"architecture": "relu", "reconstruction": "mse"}
    members = [
        (SAEConfig(store.d_in, session_d_sae, sparsity_coefficient=value, **how), train, s)
        for value, s in settings
    ]
    runs = fit_many(members, store, order_seed=seed, progress=False)
    rows = [
        {
            "arm": arm,
            "seed": s,
            "setting": value,
            **score_session(run.sae.cpu()),
            "over chance": run.history.iloc[-1].get("temporal_over_chance", np.nan),
        }
        for (value, s), run in zip(settings, runs, strict=True)
    ]
    return [run.sae for run in runs[: len(session_sparsities)]], rows


# %%
SESSION = {"base": None} | {
    f"{ms:g} ms": dataclasses.replace(CONTRASTIVE, window=bins_of_ms(ms, bin_size_s))
    for ms in session_windows_ms
}
session, session_models = [], {}
for arm in tqdm([] if reasons else list(SESSION), desc="recording", unit="arm"):
    session_models[arm], rows = train_session(arm, SESSION[arm])
    session += rows
session = pd.DataFrame(session)
if len(session):
    display(session.groupby(["arm", "setting"], sort=False).mean().drop(columns="seed").round(3))

# %% [markdown]
# An SAE's error on the very spikes that it was computed from can be won by copying them:
# `raw_units_fvu` is that of as many raw units as it has latents active. So equal FVU stands here for equal
# budget, not for equal insight; what counts is the planted features, where there are any.
#
# And before any praise of the prefix, `prefix_alive`: latents that are neither silent nor always on. Where
# neighbours share little that can be seen, the cheapest way down is a prefix whose latents are on all the
# time, or never, at `over chance` near 1.

# %%
SESSION_SCORES = [
    name
    for name in (
        "prefix_ac",
        "prefix_information",
        "prefix_alive",
        "clock_r2",
        "slow_r",
        "fast_r",
        "l0",
    )
    if name in session and session[name].notna().any()
]
session_table = None
if len(session):
    session_table = paired_intervals(
        compare_at_fvu(session, SESSION_SCORES, targets_of(session), base="base")
    )
    for arm in list(SESSION)[1:]:
        for score in SESSION_SCORES:
            print(f"{arm}, {score.replace('_', ' ')}: {verdict(session_table, arm, score)}")
    labels = {
        "prefix_ac": "autocorrelation of the\nprefix, one bin apart",
        "prefix_alive": "latents of the prefix\nthat are alive",
        "slow_r": "r, slow features",
        "fast_r": "r, fast features",
        "clock_r2": "elapsed time from the\nprefix, R²",
        "l0": "L0",
    }
    figure = plot_at_fvu(
        session,
        {name: label for name, label in labels.items() if name in SESSION_SCORES},
        setting="setting",
        target=float(targets_of(session).mean()),
    )
    chapter.save_figure(figure, "recording")
    display(figure)

# %% [markdown]
# Here n counts seeds of weights and batches on *one* recording: an interval over them says how much the
# training varies, and nothing of other animals.
#
# ### Has it learned the clock?
#
# Whatever drifts over a session tells trials apart, and negatives come from other trials: drift lowers the
# term as well as a slow variable of the brain does, all the more where there are few and long stretches. So elapsed time is decoded from averages of 5 s
# (shorter in short sessions), blocks of the session left out, beside the same code shifted in time and the
# raw units. A prefix that decodes the clock better than the units do has learned drift.

# %%
clocks = {}
if enough_clock and not reasons:
    with torch.no_grad():
        codes = {
            f"{arm}, {part}": sae[nearest(session, arm)].encode(every_row)[:, rows]
            for arm, sae in session_models.items()
            for part, rows in (
                ("prefix", slice(0, session_prefix)),
                ("others", slice(session_prefix, None)),
            )
        } | {"raw units": every_row, "spikes of all units": every_row.sum(1, keepdim=True)}
    for name, code in codes.items():
        found = decode_clock(code.numpy(), clock_time, n_shifts=39)
        clocks[name] = {"R²": found.r2, "shifted, median": np.median(found.null), "p": found.p}
    display(pd.DataFrame(clocks).T.round(3))
else:
    print("the clock is left out: " + ("; ".join(reasons) or "under a minute, or time repeats"))

# %%
if len(session):
    chosen = list(SESSION)[-1]
    display(
        pd.concat(
            {
                arm: temporal_consistency(
                    session_models[arm][nearest(session, arm)],
                    x_test,
                    test_group,
                    prefix=session_prefix,
                    train_data=x_train,
                    max_lag=max_lag,
                    step=bin_size_s,
                )
                for arm in ("base", chosen)
            }
        ).round(3)
    )

# %% [markdown]
# Decorrelation times are in seconds here. Spikes are noisy: most of what a single count holds is gone in the
# next bin, whatever drove it, so that autocorrelations are far below those of the rates.
#
# ## The answer
#
# The term does what it is meant to where three things come together: slow features that are weaker than
# what competes with them, a code that is dense while it learns, and neighbours that visibly share something. Then
# slow features are found that reconstruction leaves out. It gives nothing for free: at equal error fast
# features are lost, more of them than slow ones are won in the full study, and L0 is higher. Where latents are
# selected from the start it helps less (TopK: r of slow features rises, recall not beyond its interval), and
# in the nested BatchTopK form nothing was seen of it, with the published term or ours. On spikes a prefix that
# lasts may be one that drifts, or one that is always on; neither shows in its autocorrelation.

# %%
print(f"{n_seeds} seeds, {n_steps} steps; known truth at matched FVU, minus the base:")
verdicts = {
    "slow features found": verdict(at_equal_fvu, "contrastive", "slow_recall"),
    "slow features followed, r": verdict(at_equal_fvu, "contrastive", "slow_r"),
    "with rows shuffled": verdict(at_equal_fvu, "contrastive, rows shuffled", "slow_recall"),
    "paid by fast features": verdict(at_equal_fvu, "contrastive", "fast_recall"),
    "paid in L0": verdict(at_equal_fvu, "contrastive", "l0"),
    "with TopK": verdict(topk_table, "contrastive", "slow_recall"),
}
if counts_table is not None:
    verdicts["through Poisson counts, r"] = verdict(counts_table, "contrastive", "slow_r")
if session_table is not None:
    last = list(SESSION)[-1]
    alive = session.groupby("arm")["prefix_alive"].mean()
    verdicts[f"{recording.session}: prefix lasts"] = (
        f"{verdict(session_table, last, 'prefix_ac')}, with {alive[last]:.1f} of {session_prefix} "
        f"prefix latents alive ({alive['base']:.1f} in the base)"
    )
    for name, score in (("slow features", "slow_r"), ("clock", "clock_r2")):
        if score in SESSION_SCORES:
            verdicts[f"{recording.session}: {name}"] = verdict(session_table, last, score)
if full is not None:
    for arm in ("relu, contrastive", "topk, contrastive", "nested, tsae"):
        verdicts[f"full study, {arm}"] = verdict(of_full, arm, "slow_recall")
for what, said in verdicts.items():
    print(f"  {what}: {said}")

# %%
by_score = at_equal_fvu.set_index(["arm", "score"])
chapter.save_metrics(
    {
        "slow_recall_difference": by_score.loc[("contrastive", "slow_recall"), "difference"],
        "fast_recall_difference": by_score.loc[("contrastive", "fast_recall"), "difference"],
        "shuffled_slow_recall_difference": by_score.loc[
            ("contrastive, rows shuffled", "slow_recall"), "difference"
        ],
        "verdicts": verdicts,
        "at_matched_fvu": at_equal_fvu.to_dict("records"),
        "ablations": ablation_table.to_dict("records"),
        "topk": topk_table.to_dict("records"),
        "session": [] if session_table is None else session_table.to_dict("records"),
        "clock": clocks,
        "n_seeds": n_seeds,
    }
)
