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
# # What does a healthy training run look like, and does it have phases?
#
# > One sparse autoencoder trained in full view: the algebra, the loop, the curves of a run that went
# > well, the scores that prove nothing, and a test of the claim that training passes through three
# > phases.

# %% [markdown]
# **What you will learn.** How a sparse autoencoder (SAE) is built and trained, step by step; which six
# curves to read before trusting a run; why a low reconstruction error on spikes is no success by
# itself; and whether the stages seen in training curves belong to the SAE or to the settings of
# its learning rate.
#
# **What it needs.** Nothing: a session with known truth is simulated. With `recording_path` set, any
# NWB file with sorted units runs; what needs the planted truth is then left out, and says so.
#
# **How long.** On one CPU core, under a minute at `smoke` and two and a half minutes at `laptop`;
# `gpu` settings have not been timed.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file; empty: the simulated session
n_units: int = 40  # units of the simulated session
n_trials: int = 40  # trials of the simulated session
bin_size_s: float = 0.05  # width of a bin, s
min_rate_hz: float = 0.5  # units that fire less are dropped; in hippocampus 0.05 is usual
d_sae: int = 128  # latents
k: int = 4  # latents active per bin, on average
n_steps: int = 250  # steps of the run in view
batch_size: int = 256  # bins per step
learning_rate: float = 3e-3  # peak learning rate
sweep_steps: int = 150  # steps of each run in the sweep over k
sweep_seeds: int = 2  # seeds of the sweep, and of the random dictionaries
n_seeds: int = 2  # seeds of the test for phases; at least 2
phase_steps: int = 150  # steps of each run in the test for phases
l1_strength: float = 0.25  # weight of the L1 term of the ReLU SAE, in units of √d_in
seed: int = 0  # of weights, batches, splits; the first of several

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("20_first_sae", globals())

# %%
import dataclasses
import math
import shutil

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from tqdm.auto import tqdm

from saebook.data import BatchStream, UnitCriteria, prepare, read_recording
from saebook.errors import ParameterError
from saebook.evaluation import (
    RandomDictionary,
    control_table,
    decoder_directions,
    evaluate,
    pca_control,
    recover_activity,
    recover_features,
    shuffle_control,
)
from saebook.metrics import choose_segments, fit_segments, mean_interval
from saebook.models import SAE, SAEConfig, calibrate_threshold, save_sae
from saebook.plots import plot_controls
from saebook.plots.runs import plot_run_health, plot_stages, plot_sweep
from saebook.training import TrainConfig, Trainer, fit, fit_many

if n_seeds < 2 or sweep_seeds < 1:
    raise ParameterError(
        f"n_seeds = {n_seeds}, sweep_seeds = {sweep_seeds}: the test for phases leaves one seed "
        "out, so it needs n_seeds of at least 2; the sweep needs at least 1"
    )

# %% [markdown]
# ## The data
#
# Spike counts in bins, divided into training, validation and test rows by trial (or in blocks of time
# where there are too few trials), with a gap between them. Training rows teach, validation rows are
# watched while the run goes on, test rows are used once for the scores at the end.

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
x_train = store.tensor("train").float()  # [n, d_in] counts
active_units = float((x_train > 0).sum(dim=1).float().mean())
sizes = store.manifest["rows_per_split"]
print(f"{len(store):,} bins x {store.d_in} units:", *(f"{n:,} {name}" for name, n in sizes.items()))
print(f"{active_units:.1f} of {store.d_in} units spike in a bin, on average")

# %% [markdown]
# ## The model, in five lines
#
# For one bin with counts $x \in \mathbb{R}^{d_{in}}$:
#
# $$
# \begin{aligned}
# \bar x &= g\,x && \text{scale: one factor } g\text{, so that } E\lVert\bar x\rVert^2 = d_{in} \\
# h &= (\bar x - b_{dec})\, W_{enc} + b_{enc} && d_{sae} \text{ pre-activations} \\
# f &= \mathrm{select}(\mathrm{ReLU}(h)) && \text{latents: about } k \text{ of them not zero} \\
# \hat{\bar x} &= f\, W_{dec} + b_{dec} && \text{the active directions, added up} \\
# L &= E\lVert \bar x - \hat{\bar x}\rVert^2 + \text{what keeps latents few and alive}
# \end{aligned}
# $$
#
# A *latent* is one entry of $f$; its row of $W_{dec}$ says which units it adds spikes to. Three rules
# select. `relu` keeps every positive pre-activation and pays $\lambda \sum_j f_j \lVert d_j\rVert$ for
# them (L1), so how many are active comes out of training. `topk` keeps the $k$ largest of each bin.
# `batchtopk`, used here, keeps the $k \cdot B$ largest of a batch of $B$ bins, so that a rich bin may
# use more than an empty one; after training, one threshold decides instead, and a bin's latents no
# longer depend on its company. Both TopK rules need no $\lambda$; they add **AuxK**, which lets dead
# latents reconstruct what the living ones missed, and is zero while none is dead. For the first half
# of a run `batchtopk` selects like `topk`, so that every bin teaches the dictionary alike; three
# quarters into it, latents that lower the error by next to nothing are *retired* for good.

# %%
d_sae_used = min(d_sae, max(8, min(4 * store.d_in, len(x_train) // 10)))
if d_sae_used < d_sae:
    print(
        f"d_sae lowered from {d_sae} to {d_sae_used}: at most four latents per unit, and ten "
        "training bins per latent"
    )
k_used = min(k, d_sae_used, max(1, int(active_units / 2)))
if k_used < k:
    print(f"k lowered from {k} to {k_used}: half as many latents as units that spike in a bin")
config = SAEConfig(
    d_in=store.d_in,
    d_sae=d_sae_used,
    architecture="batchtopk",
    k=k_used,
    reconstruction="mse",  # the loss in the formula, and in FVU; on counts lmse is the default
)
train = TrainConfig(
    n_steps=n_steps, batch_size=batch_size, learning_rate=learning_rate, device=chapter.device
)
print(config, train, sep="\n\n")

# %% [markdown]
# ## Training, in view
#
# A training run is a loop: draw a batch, take a step. The *step* computes the loss, clips the norm of
# the gradient, lets Adam move the weights, and puts the rows of $W_{dec}$ back to length 1 (without
# that, latents could grow by shrinking their directions). The learning rate warms up over the first
# 10 % of the run, stays, and falls on a cosine from 50 % on. The bar shows what matters:
#
# * **FVU**, fraction of variance unexplained: 0 is perfect, 1 is what the mean of the data scores;
# * **L0**, latents active per bin;
# * **dead**, share of latents that have not fired for long.

# %%
n_logs = min(100, n_steps)
log_every = n_steps // n_logs

sae = SAE(config, seed=seed)
sae.fit_inputs(x_train[:: -(-len(x_train) // 100_000)])  # g, and b_dec at the mean
stream = BatchStream(store, min(batch_size, len(x_train)), split="train", seed=seed)
trainer = Trainer(sae, train)

log = []
with tqdm(total=n_steps, unit="step") as bar:
    while trainer.step_number < n_steps:
        losses = trainer.step(next(stream))  # tensors: reading them would wait for the device
        if trainer.step_number % log_every == 0 or trainer.step_number == n_steps:
            row = {name: float(value) for name, value in losses.items()}
            log.append({"step": trainer.step_number, **row})
            bar.set_postfix_str(
                f"FVU {row['fvu']:.3f}, L0 {row['l0']:.1f}, dead {row['dead']:.0%}", refresh=False
            )
        bar.update()
calibrate_threshold(sae, x_train.to(trainer.device))  # what is active once there is no batch
in_view = pd.DataFrame(log)
in_view.iloc[[0, len(in_view) // 2, -1]].round(4)

# %% [markdown]
# The columns: `mse` is the squared error summed over units and averaged over bins, `auxk` the term
# for dead latents, `total` their weighted sum, and `grad_norm` the length of the gradient before
# clipping.
#
# ## The same with `fit`
#
# `fit` runs that loop, keeps checkpoints, and returns a `Run`: the SAE, its score card, the history
# and what looked odd. To see that an interruption costs nothing, this run is stopped in the middle
# and called again: it goes on from its last checkpoint. A *probe* is called at every log; this one
# scores the validation rows.

# %%
folder = chapter.checkpoints / "sae"
shutil.rmtree(folder, ignore_errors=True)  # so that this cell shows a whole run each time


x_validation = store.tensor("validation").float()


def watch(trainer):
    card = evaluate(trainer.sae, x_validation, counts=False)
    return {"validation_fvu": card.fvu, "validation_l0": card.l0}


def watch_and_stop(trainer):
    if trainer.step_number >= 0.55 * n_steps:
        raise KeyboardInterrupt
    return watch(trainer)


try:
    fit(config, store, train, out=folder, seed=seed, probe=watch_and_stop)
except KeyboardInterrupt:
    print("interrupted; left behind:", ", ".join(sorted(p.name for p in folder.iterdir())))
run = fit(config, store, train, out=folder, seed=seed, probe=watch)
print("finished:", ", ".join(sorted(p.name for p in folder.iterdir())))

# %%
both = in_view.merge(run.history, on="step", suffixes=("", "_fit"))
apart = max(
    float((both[name] - both[f"{name}_fit"]).abs().max()) for name in ("total", "fvu", "l0", "dead")
)
weights_apart = float((sae.W_dec - run.sae.W_dec).detach().abs().max())
print(
    f"loop and fit over {len(both)} logs: largest difference {apart:.1e}, "
    f"of decoder weights {weights_apart:.1e}"
)
assert len(both) == len(in_view) == len(run.history)
if chapter.device == "cpu":  # on a GPU sums may be taken in another order
    assert apart < 1e-5 and weights_apart < 1e-5
_ = chapter.save_table(run.history, "history")
sae = run.sae.cpu()
_ = save_sae(sae, chapter.path / "model")
# %% [markdown]
# ## What a healthy run looks like
#
# * **FVU** falls fast, then slowly, and does not jump. Validation follows the training batches at
#   some distance; a gap that widens is overfitting, or a recording that drifts.
# * **L0** sits at `k` from the first step: neither rule can do otherwise on training batches. On
#   validation rows, from the second half on, the threshold decides. During the run it is a moving
#   average over about a hundred steps that lags behind; after the run it is set on the training rows,
#   and what still differs says how alike the splits are.
# * **Dead latents** stay few, or come back; retired ones no longer count. Most of them dead: too high
#   a learning rate, or more latents than the data can feed.
# * The **gradient** shrinks or settles. If it grows, the run is about to go wrong.
# * The **learning rate** ends near zero: the last steps average over batches instead of chasing them.
# * FVU 1, the dashed line, is what the mean of the data scores.
# * `total` lies on `mse` except where AuxK is at work.

# %%
raw_validation = evaluate(sae, store, split="validation").raw_unit
ramp, warm, hold = (
    train.sparsity_ramp_fraction,
    train.warmup_fraction,
    train.hold_fraction,
)
figure = plot_run_health(
    run.history,
    target_l0=k_used,
    raw_unit_fvu=raw_validation.fvu,
    clip_norm=train.clip_norm,
    borders={"warm-up ends": warm * n_steps, "decay begins": hold * n_steps},
)
chapter.save_figure(figure, "healthy_run")
figure

# %%
last = run.history.iloc[-1]
late = run.history[run.history["step"] > 0.8 * n_steps]
late_gain = float(late["validation_fvu"].iloc[0] - late["validation_fvu"].iloc[-1])
trend = "still learning: a longer run would gain" if late_gain > 0.01 else "settled"
trend = "getting worse on rows that it does not see" if late_gain < -0.01 else trend
print(
    f"last training batches: FVU {late['fvu'].mean():.3f}; validation: {last['validation_fvu']:.3f}\n"
    f"gained on validation in the last fifth of the run: {late_gain:+.3f}"
    f" ({trend})"
)
print("findings:", "" if run.findings else "none")
for name, text in run.findings.items():
    print(f"  {name}: {text}")

# %% [markdown]
# ## Its score card, beside its controls
#
# Test rows, seen here for the first time. An SAE with more latents than units is scored on the very
# counts that it reads, so the FVU means nothing until it stands beside what needs no learning, at
# the same number of active parts per bin: the best *raw units*; *random directions*; *principal
# components* (dense, fitted on training rows). *SAE on shuffled units* shuffles each unit in time on
# its own: an SAE that had learned which units fire together would do much worse there.

# %%
card = evaluate(sae, store)
controls = control_table(sae, store, card=card, seeds=range(max(3, sweep_seeds)))
display(card)
figure = plot_controls(controls)
chapter.save_figure(figure, "controls")
figure

# %% [markdown]
# ## Recovery, where the truth is known
#
# In the simulated session the features that drive the units are known, so two sharper questions can be
# asked:
#
# * **by activity**: does a latent follow a planted feature in time? Each feature gets one latent, chosen
#   by correlation on training rows and scored on test rows;
# * **by direction**: does a decoder row point to the units that a feature adds spikes to? The true
#   direction of a feature is what it adds to the counts, found by regressing counts on the planted
#   features over training rows. (The rates were exponential in the weights, so the weights themselves
#   are not what an additive decoder could find.)
#
# Both have their nulls: *raw units* taken as latents (each points along its own axis), *random
# dictionaries*, *PCA* (components and their negatives), and for activity a ceiling, the *linear readout*
# fitted on training rows with the truth in hand: spikes of this many units say no more than that,
# linearly.

# %%
planted = recording.ground_truth is not None
if planted:
    table = store.table("ground_truth_features").drop(columns=["session", "time"])
    rows_train, rows_test = (torch.as_tensor(store.rows(s)) for s in ("train", "test"))
    truth = torch.tensor(table.to_numpy()).float()  # [n, n_features]
    varies = truth[rows_train].std(dim=0) > 0
    x = store.tensor().float()  # [n, d_in], every row, to be split as the truth is
    counts, features = x[rows_train].double(), truth[rows_train].double()  # so that sums repeat
    designed = F.pad(features[:, varies], (0, 1), value=1.0)
    effects = torch.linalg.lstsq(designed, counts).solution[:-1].float()  # [n_features, d_in]
    padded = F.pad(counts, (0, 1), value=1.0)
    readout = torch.linalg.lstsq(padded, features, driver="gelsd").solution.float()


def score_recovery(latents, directions):
    """Mean correlation and recall by activity, MMCS and recall by direction."""
    activity = recover_activity(
        latents[rows_train], truth[rows_train], latents[rows_test], truth[rows_test], n_shifts=1
    )
    if directions is None:
        return {"r": activity.mean_r, "recall at r 0.7": activity.recall}
    match = recover_features(directions, effects, seeds=range(1)).scores
    return {
        "r": activity.mean_r,
        "recall at r 0.7": activity.recall,
        "MMCS": match.mmcs_true,
        "recall at cosine 0.9": match.recall,
    }


if planted:
    components = pca_control(store).components.float()  # [d_in, d_in]
    projected = (x - x_train.mean(dim=0)) @ components.T
    references = {
        "raw units": score_recovery(x, torch.eye(store.d_in)),
        "PCA": score_recovery(
            torch.cat([projected, -projected], dim=1), torch.cat([components, -components])
        ),
        "linear readout (ceiling)": score_recovery(F.pad(x, (0, 1), value=1.0) @ readout, None),
    }
    drives = (store.table("ground_truth_mixing")[table.columns] != 0).sum()  # units per feature
    print(
        f"{int(varies.sum())} planted features vary in this session of {store.d_in} units; a feature "
        f"drives {drives.median():.0f} units (median)"
    )
else:
    references = {}
    print("no planted truth in this recording: recovery is left out")

# %% [markdown]
# ## The identity trap
#
# What happens when `k` rises towards the number of units that spike in a bin? The SAE can then give
# each spiking unit a latent of its own and copy the bin. The sweep trains one SAE per `k` and seed
# and scores the test rows. SAEs that differ in a number, not in shape, can be trained side by side:
# `fit_many` does so for every `k` of a seed, each as `fit` would train it alone.


# %%
def sparsities(active, d_sae):
    """Powers of two below the active units per bin, then just above them."""
    below = [2**i for i in range(1 if active > 4 else 0, 12) if 2**i < active]
    above = [math.ceil(active), math.ceil(1.5 * active)]
    return sorted({k for k in [*below, *above, k_used] if 1 <= k <= d_sae})


def random_scores(k, seed):
    """Recovery by a random dictionary with k active latents."""
    random = RandomDictionary(store.d_in, d_sae_used, k=k, seed=seed)
    random.fit(x_train, x_train.mean(dim=0))
    return score_recovery(random.encode(x), random.W_dec)


sweep = []
short = TrainConfig(
    n_steps=sweep_steps, batch_size=batch_size, learning_rate=learning_rate, device=chapter.device
)
tried = sparsities(active_units, d_sae_used)
for s in tqdm(range(sweep_seeds), desc="sweep over k", unit="stack"):
    members = [(dataclasses.replace(config, k=k), short, seed + s) for k in tried]
    runs = fit_many(members, store, order_seed=seed + s, progress=False)
    for k_swept, run in zip(tried, runs):
        trained = run.sae.cpu()
        scores = evaluate(trained, store)
        shuffled = shuffle_control(trained, store, seeds=[s])
        row = {
            "k": k_swept,
            "seed": seed + s,
            "fvu": scores.fvu,
            "l0": scores.l0,
            "shuffled": shuffled.fvu.mean,
            "raw units": scores.raw_unit.fvu,
        }
        if planted:
            with torch.no_grad():
                row |= score_recovery(
                    trained.encode(x), decoder_directions(trained)[scores.density > 0]
                )
            row |= {f"random {name}": v for name, v in random_scores(k_swept, s).items()}
        sweep.append(row)
sweep = pd.DataFrame(sweep)
_ = chapter.save_table(sweep, "sweep_over_k")
sweep.groupby("k").mean().drop(columns="seed").round(3)


# %%
def over_seeds(column):
    """Mean and interval over seeds, per k."""
    found = {k: mean_interval(group) for k, group in sweep.groupby("k")[column]}
    shown = sweep_seeds >= 3  # an interval from two seeds would cover the panel
    lines = [
        (k, i.mean, i.low if shown else i.mean, i.high if shown else i.mean)
        for k, i in found.items()
    ]
    return pd.DataFrame(lines, columns=["k", "mean", "low", "high"])


def level(value):
    """A control that does not depend on k."""
    ends = [sweep["k"].min(), sweep["k"].max()]
    return pd.DataFrame({"k": ends, "mean": value, "low": value, "high": value})


panels_shown = {
    "Error at its k": {
        "SAE": over_seeds("fvu"),
        "raw units": over_seeds("raw units"),
        "SAE, shuffled units": over_seeds("shuffled"),
    }
}
if planted:
    for title, score in {"Found by activity": "r", "Found by direction": "MMCS"}.items():
        panels_shown[title] = {
            "SAE": over_seeds(score),
            "raw units": level(references["raw units"][score]),
            "random dictionary": over_seeds(f"random {score}"),
        }
    panels_shown["Found by activity"]["linear readout"] = level(
        references["linear readout (ceiling)"]["r"]
    )
figure = plot_sweep(
    panels_shown,
    active_units=active_units,
    y_labels=["FVU", "correlation with features", "mean best cosine"][: len(panels_shown)],
)
chapter.save_figure(figure, "identity_trap")
figure

# %%
by_k = sweep.groupby("k").mean()
densest = by_k.index.max()
print(
    f"FVU {by_k['fvu'].iloc[0]:.3f} at k = {by_k.index[0]}, {by_k.loc[densest, 'fvu']:.3f} at "
    f"k = {densest}; on shuffled units {by_k['shuffled'].iloc[0]:.3f} and "
    f"{by_k.loc[densest, 'shuffled']:.3f}"
)
if planted:
    changes = {}
    for score in ("r", "MMCS"):
        ends = [sweep[sweep["k"] == k_end][score].to_numpy() for k_end in (k_used, densest)]
        changes[score] = mean_interval(ends[1] - ends[0])
        print(f"{score}, from k = {k_used} to k = {densest}: {changes[score]}")
    improves = [change.mean > 0 for change in changes.values()]
    trap = "recovery rose with it" if all(improves) else "recovery did not rise with it"
else:
    cost = by_k.loc[densest, "shuffled"] - by_k.loc[densest, "fvu"]
    trap = f"shuffling the units costs {cost:+.3f} there: " + (
        "what units do together hardly matters" if cost < 0.1 else "their co-activity is used"
    )
if by_k["fvu"].min() >= 1:
    trap = "no run of the sweep learned anything, so it says nothing about the trap"
print(f"verdict: at k = {densest} FVU is {by_k.loc[densest, 'fvu']:.3f}; {trap}")

# %% [markdown]
# An SAE with a low FVU at high `k` is a photocopier: it reproduces shuffled units about as well. Choose
# `k` well below the number of units that spike in a bin, and judge by something the spikes themselves
# don't give away: planted truth here, held-out units or behaviour in a recording.
#
# At the `k` of this chapter, over the seeds of the sweep:

# %%
if planted:
    own = sweep[sweep["k"] == k_used]
    names = list(references["raw units"])
    rows = {
        "SAE": {name: str(mean_interval(own[name])) for name in names},
        "random dictionary": {name: str(mean_interval(own[f"random {name}"])) for name in names},
    } | {
        model: {name: f"{value:.3f}" for name, value in scores.items()}
        for model, scores in references.items()
    }
    recovery = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    display(recovery)
    gain = {score: mean_interval(own[score] - references["raw units"][score]) for score in changes}
    for score, difference in gain.items():
        if len(own) < 3:
            word = "too few seeds to say"
        elif difference.low > 0:
            word = "better than raw units"
        else:
            word = "worse than raw units" if difference.high < 0 else "no better than raw units"
        print(f"{score}: SAE minus raw units {difference}: {word}")

# %% [markdown]
# Recall at fixed thresholds is low for everyone where even the ceiling lies below them: a bin of spikes
# is a noisy witness, and the mean correlation is the score to compare. Where the SAE is hardly
# better than raw units, that is no failure of training (the run was healthy): with features about
# as many as units, each driving a handful, single units are good detectors already. Where an SAE earns
# its place has to be shown against that bar, not assumed.
#
# ## Does training have phases?
#
# The working notes this handbook grew from say: "Generally 3 phases during SAE training: 1. Initial
# representation: Features are unspecialized, capturing general patterns. 2. Specialization: Features begin
# to capture specific patterns, sparsity increases. 3. Fine-tuning: Minor adjustments to specialized
# features for optimal reconstruction."
#
# That can be tested. Three curves are followed at every step, over several seeds: FVU, L0, and how far the
# decoder rows turn per step. Two architectures: `batchtopk`, and `relu` with L1, where L0 is free to
# move. Three schedules of the learning rate and of the L1 ramp:
#
# * **default**: warm-up 10 %, hold, cosine from 50 %; L1 ramped up over 5 %;
# * **constant**: the same peak rate throughout, no ramp. Phases that belong to the SAE must stay;
# * **late**: warm-up 30 %, cosine from 80 %, ramp 15 %. Phases made by the schedule must move.
#
# None of these runs begins with TopK or retires latents: both would put a border of their own there.

# %%
SCHEDULES = {
    "default": {},
    "constant": {"schedule": "constant", "sparsity_ramp_fraction": 0.0},
    "late": {"warmup_fraction": 0.3, "hold_fraction": 0.8, "sparsity_ramp_fraction": 0.15},
}
MODELS = {
    "batchtopk": {"k": k_used},
    "relu": {"sparsity_coefficient": l1_strength * math.sqrt(store.d_in)},
}
BORDERS = {"default": [0.05, 0.1, 0.5], "constant": [], "late": [0.15, 0.3, 0.8]}


class Rotation:
    """Mean angle by which decoder rows turned since the last log, degrees per step."""

    def __init__(self):
        self.rows, self.step = None, 0

    def __call__(self, trainer):
        rows = F.normalize(trainer.sae.W_dec.detach(), dim=1).clone()
        angle = float("nan")
        if self.rows is not None:
            # By the chord: the arc cosine of a number near 1 has no digits left.
            half_chord = ((rows - self.rows).norm(dim=1) / 2).clamp(max=1.0)
            angle = float(2 * torch.rad2deg(half_chord.asin()).mean())
        steps, self.step = trainer.step_number - self.step, trainer.step_number
        self.rows = rows
        return {"rotation": angle / steps}


histories = {}
jobs = [(m, s, n) for m in MODELS for s in SCHEDULES for n in range(n_seeds)]
for model, schedule, s in tqdm(jobs, desc="phases", unit="run"):
    watched = fit(
        SAEConfig(
            d_in=store.d_in,
            d_sae=d_sae_used,
            architecture=model,
            reconstruction="mse",
            **MODELS[model],
        ),
        store,
        TrainConfig(
            n_steps=phase_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            n_logs=phase_steps,
            selection_warmup_fraction=0.0,
            retire_at=None,
            device=chapter.device,
            **SCHEDULES[schedule],
        ),
        seed=seed + s,
        probe=Rotation(),
        progress=False,
    )
    histories[model, schedule, s] = watched.history
phases = pd.concat(histories, names=["model", "schedule", "seed"]).reset_index(level=[0, 1, 2])
_ = chapter.save_table(phases.reset_index(drop=True), "phases")
# %% [markdown]
# Each curve is averaged in 40 bins that are even on a logarithmic axis of steps, since training does
# most of its work early. FVU and rotation are taken as logarithms: a power law is then a straight line.

# %%
EDGES = np.geomspace(3.5, phase_steps + 0.5, 41)
CURVES = {"FVU": ("fvu", True), "L0": ("l0", False), "rotation (°/step)": ("rotation", True)}


def on_log_axis(history, column):
    """Means in bins of log step; bins without a step are dropped, the same for all runs."""
    place = np.digitize(history["step"], EDGES) - 1
    inside = place >= 0
    return history.loc[inside, column].groupby(place[inside]).mean()


drawn, tested = {}, {}
for model in MODELS:
    for label, (column, logarithmic) in CURVES.items():
        for schedule in SCHEDULES:
            runs = [on_log_axis(histories[model, schedule, s], column) for s in range(n_seeds)]
            held = runs[0].index.to_numpy()
            fraction = np.sqrt(EDGES[held] * EDGES[held + 1]) / phase_steps
            lines = np.stack([r.to_numpy() for r in runs])  # [n_seeds, n_bins]
            drawn.setdefault((model, label), {})[schedule] = (fraction, lines)
            values = np.log10(np.maximum(lines, 1e-12)) if logarithmic else lines
            tested[model, label, schedule] = (np.log10(fraction), values)

# %% [markdown]
# A *phase* would be a stretch of its own slope. So each curve is fitted by a line of 1 to 5 straight
# pieces, the knots placed as well as they can be. More pieces always fit better, and the noise of
# successive steps hangs together, so the number is not chosen on the curve that was fitted: the
# line is fitted to the mean of all seeds but one and scored on the seed left out. The fewest
# pieces within one standard error of the best are chosen. If the most pieces win, the curve bends
# smoothly and no number of phases is special.

# %%
MOST = 5
choices = {place: choose_segments(*curves, max_segments=MOST) for place, curves in tested.items()}


def breakpoints(place, n_segments):
    """Knots as fractions of the run, [n_seeds, n_segments - 1]; one fit per seed."""
    x, lines = tested[place]
    return np.stack([10 ** fit_segments(x, line, n_segments).knots for line in lines])


three = {place: breakpoints(place, 3) for place in tested}
summary = []
for (model, label, schedule), choice in choices.items():
    row = {"model": model, "curve": label, "schedule": schedule}
    if np.isnan(choice.unexplained).any():
        summary.append(row | {"pieces": "constant"})
        continue
    places = three[model, label, schedule]
    where = [mean_interval(np.log10(places[:, n])) for n in (0, 1)]
    row["pieces"] = f"≥ {MOST}" if choice.at_edge else str(choice.n_segments)
    row |= {f"left by {n}": f"{choice.unexplained[n - 1]:.1%}" for n in (1, 2, 3, MOST)}
    for name, interval in zip(("first", "second"), where, strict=True):
        low, high = (10 ** np.array([interval.low, interval.high])).clip(0, 1)
        row[f"{name} of 3"] = f"{10**interval.mean:.3f} [{low:.3f}, {high:.3f}]"
    summary.append(row)
summary = pd.DataFrame(summary).fillna("").set_index(["model", "curve", "schedule"])
print("pieces chosen on seeds left out; variance of the curve that n pieces leave unexplained;")
print(
    "knots of the best three pieces, fraction of the run, 95 % interval over seeds (they lie on a"
)
print("grid: an interval without width means that all seeds chose the same place)")
summary

# %%
knots = {
    (model, label): {
        schedule: 10 ** np.log10(three[model, label, schedule]).mean(axis=0)
        for schedule in SCHEDULES
        if summary.loc[(model, label, schedule), "pieces"] != "constant"
    }
    for model, label in drawn
}
figure = plot_stages(
    drawn,
    borders=BORDERS,
    breakpoints=knots,
    logarithmic=[label for label, (_, logarithmic) in CURVES.items() if logarithmic],
)
chapter.save_figure(figure, "phases")
figure

# %% [markdown]
# Thin lines are seeds, circles the knots of the best three pieces, ticks on the lower edge the
# borders of each schedule. Each curve then gets a verdict, by rules fixed beforehand:
#
# * **fixed by construction**: the curve is constant;
# * **phases**: three pieces are chosen under the default *and* the constant schedule, and both knots
#   lie within a factor of 1.5 of each other;
# * **made by the schedule**: a straight line leaves less than half as much of the curve unexplained once
#   the schedule is taken away (upper end of the interval over seeds), or three pieces are chosen
#   under the default but not at the same knots without it;
# * **not supported**: none of these.


# %%
def bend(place):
    """Share of each seed's curve that one straight line leaves unexplained, [n_seeds]."""
    x, lines = tested[place]
    straight = np.stack([fit_segments(x, line, 1).fitted for line in lines])
    return ((lines - straight) ** 2).mean(axis=1) / lines.var(axis=1)


def close(a, b):
    """Whether two pairs of knots agree within a factor of 1.5, in the mean over seeds."""
    return bool((np.abs(np.log(a).mean(axis=0) - np.log(b).mean(axis=0)) < np.log(1.5)).all())


verdicts = []
for model, label in drawn:
    places = {schedule: (model, label, schedule) for schedule in SCHEDULES}
    if any(np.isnan(choices[place].unexplained).any() for place in places.values()):
        verdicts.append({"model": model, "curve": label, "verdict": "fixed by construction"})
        continue
    ratio = mean_interval(bend(places["constant"]) / bend(places["default"]))
    default, constant = choices[places["default"]], choices[places["constant"]]
    stay = close(three[places["default"]], three[places["constant"]])
    chosen = [choice.n_segments == 3 for choice in (default, constant)]
    at_border = sum(
        min(abs(math.log(knot / border)) for border in BORDERS["default"]) < math.log(1.3)
        for knot in knots[model, label]["default"]
    )
    moved = np.log(three[places["late"]] / three[places["default"]]).mean(axis=1)
    if all(chosen) and stay:
        verdict = "phases"
    elif ratio.high < 0.5 or (chosen[0] and not stay):
        verdict = "made by the schedule"
    else:
        verdict = "not supported"
    if n_seeds < 3:
        verdict = f"({verdict}: under three seeds)"
    verdicts.append(
        {
            "model": model,
            "curve": label,
            "verdict": verdict,
            "bend left without schedule": str(ratio),
            "knots at its borders": f"{at_border} of 2",
            "knots the same without it": "yes" if stay else "no",
            "later under late, factor": f"{math.exp(mean_interval(moved).mean):.2f}",
        }
    )
verdicts = pd.DataFrame(verdicts).fillna("").set_index(["model", "curve"])
verdicts

# %% [markdown]
# And the claim that sparsity increases in a second phase? Under BatchTopK it cannot: L0 is `k` from the
# first step. Under L1 it is free to. What each of the three pieces contributes:

# %%
stages = []
for schedule in SCHEDULES:
    x, lines = tested["relu", "L0", schedule]
    nodes = np.log10(three["relu", "L0", schedule])
    ends = np.array(
        [
            np.interp([x[0], *node, x[-1]], x, fit_segments(x, line, 3).fitted)
            for node, line in zip(nodes, lines, strict=True)
        ]
    )  # [n_seeds, 4]: L0 at the start, at both knots, at the end
    for n, name in enumerate(("first", "second", "third")):
        stages.append(
            {
                "schedule": schedule,
                "piece": name,
                "L0 at its start": str(mean_interval(ends[:, n])),
                "at its end": str(mean_interval(ends[:, n + 1])),
                "change": mean_interval(ends[:, n + 1] - ends[:, n]).mean,
            }
        )
stages = pd.DataFrame(stages).set_index(["schedule", "piece"])
for schedule, part in stages["change"].groupby(level=0, sort=False):
    total = part.sum()
    steepest = part.idxmin()[1]
    fell = f", {part.min() / total:.0%} of it in the {steepest} piece" if total < -1 else ""
    print(f"{schedule}: L0 changed by {total:+.1f} over the run{fell}")
stages.round(2)

# %% [markdown]
# ## The answer
#
# What the runs above say, in one place:

# %%
print(f"{n_seeds} seeds, {phase_steps} steps, {recording.session}")
for (model, label), row in verdicts.iterrows():
    pieces = ", ".join(f"{s} {summary.loc[(model, label, s), 'pieces']}" for s in SCHEDULES)
    stays = "; its three-piece knots stay" if row["knots the same without it"] == "yes" else ""
    print(f"  {model}, {label}: {row['verdict']} (pieces: {pieces}{stays})")
supported = int(sum(v == "phases" for v in verdicts["verdict"]))
if n_seeds < 3:
    print("two seeds give no verdict: read the numbers, and run the laptop set")
elif supported:
    print(f"{supported} of {len(verdicts)} curves have three phases of their own")
else:
    print("no curve has three phases that stay when the schedule is taken away")

# %% [markdown]
# Read the table with the figure. Stages in a training curve are real as *descriptions*: any curve that
# starts flat, falls and levels off is well drawn by three lines. That is the notes' best case, L0 under
# L1: where its knots stay when the schedule is taken away, a plateau, a fall and a tail are a fair
# account of how L1 thins out latents, and sparsity does increase in the middle. But where seeds left
# out bear as many pieces as were tried, the bend is smooth and three is a way of drawing it. No curve is
# evidence for three processes unless the same few borders return when the learning rate does not
# change. How fast the decoder turns follows the learning rate most directly, since Adam's steps are about
# as long as the rate says: a "fine-tuning phase" that begins with the cosine is the cosine.
#
# What the test cannot see: phases in what latents *mean* rather than in these three curves, and borders
# that differ between latents and so average out.
#
# ## Before trusting a run
#
# `run.findings` holds what the library found odd by itself; empty is necessary, not sufficient. The list:

# %%
own = sweep[sweep["k"] == k_used]
widest = own["fvu"].max() - own["fvu"].min()
shuffled_fvu = controls.loc["SAE on shuffled units", "fvu"]
lines = [
    ("it has settled", f"{late_gain:+.3f} FVU in the last fifth", abs(late_gain) < 0.01),
    (
        "validation is near training",
        f"FVU {last['validation_fvu']:.3f} and {late['fvu'].mean():.3f}",
        last["validation_fvu"] - late["fvu"].mean() < 0.1,
    ),
    (
        "L0 is what was asked for",
        f"{card.l0:.2f}, k = {k_used}",
        abs(card.l0 - k_used) < 0.2 * k_used,
    ),
    ("few latents are dead", f"{card.dead_fraction:.0%}", card.dead_fraction < 0.5),
    ("few are always on", f"{card.dense_fraction:.0%} above 50 %", card.dense_fraction < 0.1),
    (
        "it could not copy the bin",
        f"L0 {card.l0:.1f}, {card.active_units:.1f} active units",
        card.l0 < card.active_units,
    ),
    (
        "it beats raw units",
        f"FVU {card.fvu:.3f} and {controls.loc['raw units', 'fvu']:.3f}",
        card.fvu < controls.loc["raw units", "fvu"] - 0.02,
    ),
    (
        "it needs co-activity",
        f"FVU {card.fvu:.3f}, {shuffled_fvu:.3f} on shuffled units",
        shuffled_fvu - card.fvu > 0.1,
    ),
    (f"{len(own)} seeds agree", f"FVU within {widest:.3f}", widest < 0.05),
]
checks = pd.DataFrame(lines, columns=["check", "measured", "passed"]).set_index("check")
for name, text in run.findings.items():
    print(f"finding {name}: {text}")
checks.assign(passed=checks["passed"].map({True: "yes", False: "no"}))

# %%
chapter.save_metrics(
    {
        "fvu": card.fvu,
        "raw_unit_fvu": controls.loc["raw units", "fvu"],
        "shuffled_fvu": shuffled_fvu,
        "l0": card.l0,
        "dead_fraction": card.dead_fraction,
        "phases_verdicts": {f"{m}, {c}": row["verdict"] for (m, c), row in verdicts.iterrows()},
        "pieces_chosen": {", ".join(place): row["pieces"] for place, row in summary.iterrows()},
        "recovery": {
            "sae": {name: own[name].mean() for name in references["raw units"]},
            **references,
        }
        if planted
        else {},
        "fvu_by_k": {str(k): row["fvu"] for k, row in by_k.iterrows()},
        "r_by_k": {str(k): row["r"] for k, row in by_k.iterrows()} if planted else {},
        "checks_passed": int(checks["passed"].sum()),
        "checks": len(checks),
        "findings": run.findings,
        "n_seeds": n_seeds,
    }
)

# %% [markdown]
# **Next.** Change `k`, `learning_rate` or `recording_path` in the parameters cell and run again. A learning
# rate ten times as high shows dead latents; one ten times as low, a run that has not settled.
