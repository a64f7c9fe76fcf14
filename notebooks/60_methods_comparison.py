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
# # Would PCA, LFADS or CEBRA have told you the same?
#
# > An SAE is one of many ways to describe a population by a few numbers. On the same spikes, splits and
# > budgets: where does it lead, where does it lose, and which scores would have misled you?

# %% [markdown]
# **What you will learn.** How to set methods of very different kinds side by side without deciding the
# outcome in advance: units that nobody sees, one rule for reading them out, trials that nobody trained on, a
# ceiling where the truth is known. Why bits per spike on a model's own input prove nothing. What changes
# between a world of sparse features and one of a few dense factors. Whether methods find the same in another
# session. And how to ask all this of your own recording.
#
# **What it needs.** Nothing: sessions with known truth are simulated. With `recording_path` set, the last part
# runs on any NWB file with sorted units, with or without trials and behaviour.
#
# **How long.** At `smoke` 38 s beside another chapter, at `laptop` 3 min 42 s; `gpu` settings, which give
# every method what its authors would, have not been timed.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file for the last part; empty: a simulated session, read as a file
n_units: int = 40  # units of the simulated sessions
n_trials: int = 50  # trials of the simulated sessions
bin_size_s: float = 0.05  # width of a bin, s
min_rate_hz: float = 0.5  # units of the recording that fire less are dropped
event: str = ""  # trials' event to cut around in the recording; empty: go, movement or start
window_from_s: float = -0.3  # beginning of a trial, s from its event
window_to_s: float = 0.7  # end of a trial, s from its event; stretches are as long
max_bins: int = 4000  # of a longer recording, about so many bins in evenly spaced trials
behaviour: str = ""  # series of the recording to decode; empty: a velocity, else the first
lag_s: float = 0.1  # how much later than the spikes a velocity is read, s
held_out: float = 0.25  # share of units that no method sees
n_components: int = 8  # dimensions, factors, clusters or latents of every method
d_sae: int = 96  # latents of the wide SAEs, which are beyond that budget
k: int = 3  # latents active per bin, of n_components
k_wide: int = 8  # latents active per bin, of d_sae
window: int = 5  # bins of the windowed SAE, an odd number
n_steps: int = 100  # steps of an SAE
batch_size: int = 256  # rows per step
learning_rate: float = 3e-3  # peak learning rate of the SAEs
smoothing_s: list[float] = [0.05, 0.1, 0.15]  # standard deviations to choose among, s
gpfa_iterations: int = 10  # iterations of EM at most
cebra_iterations: int = 20  # steps of CEBRA; its authors take thousands
cebra_batch: int = 128  # rows per step of CEBRA
slicetca_iterations: int = 60  # steps of sliceTCA
lfads_epochs: int = 15  # epochs of LFADS at most
lfads_size: str = "tiny"  # "tiny", "compact" or "full" networks
slow_on: list[str] = ["known truth"]  # of "known truth", "control", "recording": with slow methods
n_seeds: int = 1  # seeds; a verdict needs three
seed: int = 0  # the first of the seeds

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("60_methods_comparison", globals())

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from saebook.baselines import (
    GPFA,
    ICA,
    NMF,
    PCA,
    CEBRABehavior,
    CEBRATime,
    FactorAnalysis,
    GaussianSmoothing,
    KMeans,
    RawUnits,
    SliceTCA,
    TrueRates,
)
from saebook.baselines.lfads import LFADS, LFADSConfig
from saebook.data import UnitCriteria, prepare, read_recording
from saebook.data.simulate import simulate_reach
from saebook.errors import ParameterError, SelectionError
from saebook.evaluation import RandomDictionary, SAEMethod
from saebook.evaluation.comparison import (
    GROUPS,
    SCORES,
    compare_methods,
    consistency_table,
    fit_co_smoothing,
    paired_difference,
    recorded_comparison,
    simulated_comparison,
    summarise,
)
from saebook.metrics import bits_per_spike
from saebook.models import SAEConfig
from saebook.plots.comparison import plot_comparison
from saebook.training import TrainConfig, fit

PARTS = ("known truth", "control", "recording")
LFADS_SIZES = {"tiny": LFADSConfig.tiny, "compact": LFADSConfig.compact, "full": LFADSConfig}
if n_seeds < 1 or lfads_size not in LFADS_SIZES or not set(slow_on) <= set(PARTS):
    raise ParameterError(
        f"n_seeds = {n_seeds}, lfads_size = {lfads_size!r}, slow_on = {slow_on}: give at least one "
        f"seed, a size of {', '.join(LFADS_SIZES)}, and parts of {', '.join(PARTS)}"
    )
SEEDS = range(seed, seed + n_seeds)
WINDOW_S = (window_from_s, window_to_s)

# %% [markdown]
# ## The same data for all
#
# Trials are cut around the go cue and dealt into training, validation and test trials. A share of the units is
# *held out*: no method sees them, and each has to predict them from the others (*co-smoothing*). What a method
# learns, it learns on training trials. What is chosen (a penalty, a number of neighbours, a width of
# smoothing, an epoch to stop at) is chosen on validation trials. Scores are of test trials.
#
# Two worlds are simulated, both a reach to eight targets. In the first, **sparse** features (a movement
# direction, a go cue, a reward, …) drive units, each feature a few of them. In the second, the **control**,
# eight **dense** factors rotate all the time and drive every unit: nothing is sparse there, and an SAE should
# not win.


# %%
def sparse_world(seed):
    session = simulate_reach(n_units, n_trials, seed, defects=False)
    return simulated_comparison(
        session,
        name="known truth",
        bin_size_s=bin_size_s,
        window_s=WINDOW_S,
        lag_s=lag_s,
        held_out=held_out,
        seed=seed,
    )


def dense_world(seed):
    session = simulate_reach(n_units, n_trials, seed, defects=False, kind="dense_control")
    return simulated_comparison(
        session,
        name="control",
        bin_size_s=bin_size_s,
        window_s=WINDOW_S,
        lag_s=lag_s,
        held_out=held_out,
        seed=seed,
    )


first = sparse_world(seed)
print(first)
print("to decode:", first.behaviour_name)

# %% [markdown]
# ## A score that proves nothing
#
# *Bits per spike* say how much better rates predict spikes than each unit's mean rate does. On the very
# spikes that a method has just seen, they reward seeing them. Here for smoothing with ever narrower windows,
# beside the true rates, which nothing honest can beat:

# %%
inputs, targets = torch.as_tensor(first.inputs), torch.as_tensor(first.targets)
true_rates = torch.as_tensor(first.rates)
held = torch.as_tensor(first.held_out)
own = {"true rates": bits_per_spike(inputs, true_rates[:, ~held])}
for sigma_s in (0.15, 0.05, 0.02):
    smoothing = GaussianSmoothing(sigma_s=sigma_s, bin_size_s=bin_size_s).fit(first.inputs)
    rates = torch.as_tensor(smoothing.reconstruct(first.inputs, first.trials)).clamp_min(1e-4)
    own[f"smoothed, {1000 * sigma_s:.0f} ms"] = bits_per_spike(inputs, rates)
own["the counts themselves"] = bits_per_spike(inputs, inputs.double().clamp_min(1e-4))
for name, bits in own.items():
    print(f"{name:<24} {bits:6.3f} bits/spike on its own input")
assert own["the counts themselves"] > own["true rates"]

# %% [markdown]
# Copying wins, over the truth itself. So this score is not among those below. On the *held-out* units nothing
# can be copied, and the true rates are the ceiling.
#
# ## One interface, and one rule for reading out
#
# Every method has `fit`, `transform` and `reconstruct`, and `transform` gives one row of latents per bin:

# %%
train, validation, test = (first.rows(part) for part in ("train", "validation", "test"))
pca = PCA(n_components=n_components, random_state=seed)
pca.fit(first.inputs[train], first.trials[train])
latents = pca.transform(first.inputs, first.trials)
readout = fit_co_smoothing(
    (latents[train], first.targets[train]), (latents[validation], first.targets[validation])
)
predicted = torch.as_tensor(readout.rates(latents[test]))
print(f"latents {latents.shape}; readouts, bits/spike on validation trials: {readout.tried}")
print(f"held-out units of test trials: {bits_per_spike(targets[test], predicted):.3f} bits/spike")

# %% [markdown]
# How held-out units are read from latents could decide the whole comparison. Dense coordinates suit a Poisson
# regression with an exponential (`log-linear`). Rates suit the same on their logarithms, which is how the
# Neural Latents Benchmark treats smoothing. Latents that are *parts*, like an SAE's, suit a nonnegative sum
# (`additive`). None of these is right for all, so each method is read by whichever does best on validation
# trials; the two last need latents that are never negative. The column `readout` says which one it was.
#
# Behaviour is read with ridge regression on the benchmark's grid of penalties, and with k-nearest neighbours
# by cosine, as CEBRA's authors do: its embedding lies on a sphere.
#
# ## Methods
#
# All get the same number of dimensions, `n_components`. Exceptions are named: raw units and smoothing have as
# many as there are units, and *wide* SAEs are what SAEs usually are, wider than their input. A random
# dictionary is an SAE that learned nothing.


# %%
def sae(width, k, window=1, architecture="batchtopk"):
    """Maker of an SAE of single bins, or of windows of bins."""

    def make(data, seed):
        def train(x):
            config = SAEConfig(
                d_in=x.shape[-1],
                d_sae=width,
                architecture=architecture,
                k=min(k, width),
                reconstruction="pkl",  # Poisson: these are counts
                seq_len=window,
                target="all" if window > 1 else "last",
            )
            settings = TrainConfig(
                n_steps=n_steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                device=chapter.device,
            )
            return fit(config, x, settings, seed=seed, progress=False).sae.cpu()

        about = {"d_sae": width, "k": k, "window": window, "architecture": architecture}
        about |= {"n_steps": n_steps, "batch_size": batch_size, "learning_rate": learning_rate}
        return SAEMethod(train, window=window, settings=about | {"seed": seed})

    return make


def random_dictionary(width, k):
    """Maker of an SAE of random directions."""

    def make(data, seed):
        def untrained(x):
            sae = RandomDictionary(x.shape[1], width, k=min(k, width), seed=seed)
            sae.fit(x, x.mean(dim=0))
            return sae

        return SAEMethod(untrained, settings={"random": True, "d_sae": width, "k": k, "seed": seed})

    return make


def fast_methods(n):
    """Those that take moments: with n dimensions, latents or clusters each."""
    return {
        "raw units": lambda data, seed: RawUnits(),
        "PCA": lambda data, seed: PCA(n_components=n, random_state=seed),
        "factor analysis": lambda data, seed: FactorAnalysis(n_components=n, random_state=seed),
        "ICA": lambda data, seed: ICA(n_components=n, random_state=seed),
        "NMF": lambda data, seed: NMF(n_components=n, random_state=seed),
        "k-means": lambda data, seed: KMeans(n_clusters=n, random_state=seed),
        "SAE": sae(n, k),
        "random dictionary": random_dictionary(n, k),
        "SAE, wide": sae(d_sae, k_wide),
        "random dictionary, wide": random_dictionary(d_sae, k_wide),
        "smoothing": [
            lambda data, seed, s=s: GaussianSmoothing(sigma_s=s, bin_size_s=data.bin_size_s)
            for s in smoothing_s
        ],
        "SAE of windows": sae(n, k, window),
        "SAE of windows, wide": sae(d_sae, k_wide, window),
    }


def slow_methods(n):
    """Those that need training of their own."""
    cebra = {
        "output_dimension": n,
        "model_architecture": "offset5-model",
        "max_iterations": cebra_iterations,
        "batch_size": cebra_batch,
        "device": chapter.device,
    }
    network = LFADS_SIZES[lfads_size](max_epochs=lfads_epochs)
    return {
        "GPFA": lambda data, seed: GPFA(
            x_dim=n, bin_size_s=data.bin_size_s, em_max_iters=gpfa_iterations
        ),
        "CEBRA-Time": lambda data, seed: CEBRATime(random_state=seed, **cebra),
        "CEBRA-Behaviour": lambda data, seed: CEBRABehavior(random_state=seed, **cebra),
        "LFADS": lambda data, seed: LFADS(
            n_components=n, config=network, random_state=seed, device=chapter.device
        ),
        "sliceTCA": lambda data, seed: SliceTCA(
            number_components=(n // 4, n - 2 * (n // 4), n // 4),
            random_state=seed,
            max_iter=slicetca_iterations,
            device=chapter.device,
        ),
    }


CEILING = {
    "true rates": lambda data, seed: TrueRates(
        rates=data.rates[:, ~data.held_out], trials=data.trials
    )
}


def methods_for(part, n):
    """The methods that run on one part of this chapter; says which don't."""
    slow = slow_methods(n)
    if part not in slow_on:
        print(f"{part}: left out for time: {', '.join(slow)} (see slow_on)")
        slow = {}
    return {**fast_methods(n), **slow, **(CEILING if part != "recording" else {})}


# %% [markdown]
# *Single bin* methods see one bin. *Temporal* ones see its neighbours, which makes any of them better at
# predicting a slow signal, before it understands anything. So the two are never ranked together. sliceTCA
# can describe only the trials that it was fitted on, test trials included: *transductive*, and apart from both.
#
# ## Known truth: sparse features

# %%
SHOWN = ["co_bps", "rate_r2", "psth_r2", "decoding_r2", "decoding_r2_knn"]
IDENTITY = ["mcc", "mcc_spearman", "disentanglement", "completeness", "informativeness"]
HEADLINES = ["co_bps", "decoding_r2", "mcc"]


def show(table, scores):
    """One table per group: mean over seeds, ± half its 95 % interval."""
    summary = summarise(table, scores)
    for group in GROUPS:
        of = summary[summary["group"] == group]
        if of.empty:
            continue
        half = (of["high"] - of["low"]) / 2
        text = [
            f"{mean:.3f}" + (f" ± {h:.3f}" if np.isfinite(h) else "")
            for mean, h in zip(of["mean"], half, strict=True)
        ]
        wide = of.assign(text=text).pivot_table(
            "text", ["method", "n_components"], "score", aggfunc="first", sort=False
        )
        print(group)
        display(wide[[score for score in scores if score in wide]].fillna(""))
    for name, note in table.loc[table["note"] != "", ["method", "note"]].drop_duplicates().values:
        print(f"{name}: {note}")


known = compare_methods(
    sparse_world,
    methods_for("known truth", n_components),
    seeds=SEEDS,
    out=chapter.checkpoints / "known_truth",
)
_ = chapter.save_table(known, "known_truth")
show(known, SHOWN)

# %%
drawn = {name: SCORES[name] for name in (*SHOWN, "mcc")}
figure = plot_comparison(known, drawn, title="sparse features")
chapter.save_figure(figure, "known_truth")
figure

# %% [markdown]
# Points are seeds: each has a session, held-out units and initial weights of its own. Bars are 95 % intervals
# of the mean, the dashed line is the true rates. The PSTHs are averages over the few test trials of each
# condition, so that the truth itself is far from 1 there: read them against the line.
#
# The scores above ask what can be *predicted*. An SAE claims something else: that its latents *are* the
# features. **MCC** pairs each true feature with one latent (on training trials) and averages the correlations
# (on test trials). **Disentanglement** is high where each latent serves one feature, **completeness** where each
# feature needs one latent, both from a lasso; **informativeness** is how well that lasso does. More latents
# raise MCC by chance alone: compare rows of equal width, and each SAE with its random dictionary.

# %%
show(known, IDENTITY)

# %% [markdown]
# ## The control: eight dense factors
#
# The same task, units, trials and methods; only what drives the units is another. A method that wins here *and*
# there is good at predicting spikes. One that wins only there profits from sparseness.

# %%
control = compare_methods(
    dense_world,
    methods_for("control", n_components),
    seeds=SEEDS,
    out=chapter.checkpoints / "control",
)
_ = chapter.save_table(control, "control")
show(control, [*SHOWN, "mcc"])
figure = plot_comparison(control, {name: SCORES[name] for name in HEADLINES}, title="dense factors")
chapter.save_figure(figure, "control")
figure

# %% [markdown]
# ## Who leads where?
#
# Differences are taken seed by seed, since methods of one seed share a session. An interval of under three seeds
# is no verdict.


# %%
def verdict(interval):
    """What an interval of paired differences says."""
    if interval.n < 3:
        return "no verdict"
    return "ahead" if interval.low > 0 else "behind" if interval.high < 0 else "undecided"


def compared(table, scores):
    """Paired differences of the pairs of methods that the table has, a row per pair and score."""
    rows = []
    for one, other in PAIRS:
        for score in scores:
            both = table[table["method"].isin([one, other])].dropna(subset=[score])
            if both["method"].nunique() < 2:
                continue
            found = paired_difference(table, one, other, score)
            ends = {"low": found.low, "high": found.high, "n": found.n}
            rows.append(
                {"pair": f"{one} − {other}", "score": score, "difference": found.mean}
                | ends
                | {"verdict": verdict(found)}
            )
    columns = ["pair", "score", "difference", "low", "high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def show_differences(found):
    """A row per pair, a column per score."""
    if found.empty:
        return
    spans = [
        f" [{low:+.3f}, {high:+.3f}]" if n > 1 else ""
        for low, high, n in zip(found["low"], found["high"], found["n"], strict=True)
    ]
    text = [
        f"{difference:+.3f}{span} {verdict}"
        for difference, span, verdict in zip(
            found["difference"], spans, found["verdict"], strict=True
        )
    ]
    wide = found.assign(text=text).pivot_table("text", "pair", "score", aggfunc="first", sort=False)
    display(wide.fillna(""))


PAIRS = [
    ("SAE", "random dictionary"),
    ("SAE", "PCA"),
    ("SAE", "NMF"),
    ("SAE, wide", "random dictionary, wide"),
    ("SAE, wide", "raw units"),
    ("SAE of windows", "smoothing"),
    ("SAE of windows", "GPFA"),
    ("SAE of windows", "LFADS"),
    ("LFADS", "smoothing"),
    ("LFADS", "GPFA"),
    ("CEBRA-Behaviour", "CEBRA-Time"),
]
in_sparse, in_dense = compared(known, HEADLINES), compared(control, HEADLINES)
print("sparse features")
show_differences(in_sparse)
print("dense factors")
show_differences(in_dense)

# %% [markdown]
# ## In another session, the same?
#
# CEBRA's authors ask whether embeddings of different sessions agree up to a linear map: test and validation
# trials are averaged by target and time, and the averages of one session fitted to another's. A fit of many
# dimensions is never at 0, so *chance*, with shuffled labels, stands beside it. The sessions are those of the
# seeds: other units, other trials, the same task.

# %%
if n_seeds > 1:
    consistency = consistency_table(
        chapter.checkpoints / "known_truth",
        sparse_world,
        list(dict.fromkeys(known["method"])),
        list(SEEDS),
    )
    consistency["over chance"] = consistency["consistency"] - consistency["chance"]
    _ = chapter.save_table(consistency, "consistency")
    display(consistency.round(3).sort_values("over chance", ascending=False))
else:
    consistency = pd.DataFrame()
    print("one seed is one session: consistency needs at least two (n_seeds)")

# %% [markdown]
# ## A recording
#
# By default another simulated session, taken through the file, the quality rules and the splits of chapter 10,
# with its bad units; with `recording_path` your own. There is no truth to compare with, so identity scores are
# gone, and what is left depends on the file. Seeds change the held-out units and the methods' random states;
# trials and splits stay.

# %%
recording = read_recording(chapter.recording_or_simulated(n_units, n_trials, seed=seed + 100))
store = prepare(
    recording,
    chapter.path / "store",
    bin_size_s=bin_size_s,
    criteria=UnitCriteria(min_rate_hz=min_rate_hz),
    seed=seed,
    overwrite=True,
    progress=False,
)


def recorded(seed):
    return recorded_comparison(
        recording,
        store,
        event=event,
        window_s=WINDOW_S,
        behaviour=behaviour,
        lag_s=lag_s,
        held_out=held_out,
        max_bins=max_bins,
        seed=seed,
    )


on_file, n_used = None, n_components
try:
    on_file = recorded(seed)
except SelectionError as problem:
    print("the recording can't be used for a comparison, so it is left out:", problem)
if on_file is not None:
    print(on_file)
    print("to decode:", on_file.behaviour_name or "nothing")
    for note in on_file.notes:
        print("note:", note)
    n_inside = on_file.inputs.shape[1]
    n_used = max(1, min(n_components, n_inside // 2))
    if n_used < n_components:
        print(f"n_components lowered from {n_components} to {n_used}: half of {n_inside} units")

# %%
on_recording, figure = known.iloc[:0], None
if on_file is not None:
    makers = methods_for("recording", n_used)
    if "sliceTCA" in makers and not on_file.natural_trials:
        makers.pop("sliceTCA")
        print("sliceTCA is left out: it slices trials of a task, and there are none")
    if "CEBRA-Behaviour" in makers and on_file.behaviour is None:
        makers.pop("CEBRA-Behaviour")
        print("CEBRA-Behaviour is left out: there is no behaviour")
    on_recording = compare_methods(
        recorded, makers, seeds=SEEDS, out=chapter.checkpoints / "recording"
    )
    _ = chapter.save_table(on_recording, "recording")
    show(on_recording, SHOWN)
    measured = [n for n in ("co_bps", "psth_r2", "decoding_r2") if on_recording[n].notna().any()]
    figure = plot_comparison(
        on_recording, {name: SCORES[name] for name in measured}, title="the recording"
    )
    chapter.save_figure(figure, "recording")
figure

# %%
in_recording = compared(on_recording, HEADLINES[:2])
show_differences(in_recording)

# %% [markdown]
# ## What it cost
#
# Seconds to fit, on this machine and beside whatever else it did (means over all fits; several settings of one
# method added up). They depend on how long each was allowed to train, which is a choice of this chapter, not
# of the methods: at small settings CEBRA and LFADS stop far short of where their authors let them go.

# %%
seconds = pd.concat([known, control, on_recording]).groupby("method", sort=False)["seconds"].mean()
display(seconds.round(2).to_frame())

# %% [markdown]
# ## The answer


# %%
def leader(table, group, score):
    """The method with the largest mean of a score in its group, beside the ceiling."""
    summary = summarise(table, [score])
    of = summary[(summary["group"] == group) & (summary["method"] != "true rates")]
    if of.empty:
        return "–"
    best = of.loc[of["mean"].idxmax()]
    top = summary.loc[summary["method"] == "true rates", "mean"]
    share = f", {best['mean'] / top.iloc[0]:.0%} of the true rates'" if len(top) else ""
    return f"{best['method']} ({best['mean']:.3f}{share})"


for name, table in (("sparse", known), ("dense", control), ("recording", on_recording)):
    for group in GROUPS[:2]:
        for score in ("co_bps", "decoding_r2", "mcc"):
            if table[score].notna().any():
                print(f"{name:<10} {group:<11} {SCORES[score]:<26} {leader(table, group, score)}")

# %%
for name, found in (("sparse", in_sparse), ("dense", in_dense), ("recording", in_recording)):
    for row in found.itertuples():
        if row.verdict in ("ahead", "behind") and "SAE" in row.pair:
            print(
                f"{name}: {row.pair}, {SCORES[row.score]}: {row.difference:+.3f} "
                f"[{row.low:+.3f}, {row.high:+.3f}], {row.verdict} (n = {row.n})"
            )
if n_seeds < 3:
    print(f"{n_seeds} seed(s): what is printed above are examples, no verdicts; give n_seeds = 3")


def records(table):
    """Rows for metrics.json, without what a clock measured."""
    plain = table.drop(columns=["seconds"], errors="ignore").astype(object)
    return plain.where(plain.notna(), None).to_dict("records")


def score_of(method, score, table=known):
    return float(table.loc[table["method"] == method, score].mean())


def share_of_ceiling(method):
    return score_of(method, "co_bps") / score_of("true rates", "co_bps")


chapter.save_metrics(
    {
        "sae_share_of_ceiling": share_of_ceiling("SAE"),
        "pca_share_of_ceiling": share_of_ceiling("PCA"),
        "smoothing_share_of_ceiling": share_of_ceiling("smoothing"),
        "sae_mcc": score_of("SAE", "mcc"),
        "pca_mcc": score_of("PCA", "mcc"),
        "known_truth": records(known),
        "control": records(control),
        "recording": records(on_recording),
        "consistency": records(consistency),
        "own_input_bits_per_spike": own,
    }
)

# %% [markdown]
# What to take from it, at the settings of `laptop` (three sessions, about a thousand training bins each):
#
# * **Dimension and time come first.** The largest differences are between methods that see neighbouring bins and
#   those that see one, and between few dimensions and all units. Smoothed units, with no learning at all, are as
#   hard to beat as anything here. A comparison that leaves them out, or ranks an SAE of single bins against GPFA
#   or LFADS, has shown nothing about SAEs.
# * **At equal dimension an SAE predicts about what PCA and NMF predict**, in both worlds: no interval of paired
#   differences leaves zero on either side. It does learn: its random dictionary is behind it. It is not the better
#   summary, and on dense factors it is not visibly the worse one either; the control was built for PCA to win,
#   and with three sessions that cannot be told.
# * **Dense dynamics are for GPFA and LFADS**: GPFA leads on average in co-smoothing on the control, LFADS in
#   decoding there, where it passes smoothing beyond its interval. On the sparse world neither passes smoothing with so few trials and so short a
#   training.
# * **Sparse features were there, and the wide SAE did not find them.** Its MCC is *below* that of a random
#   dictionary of its size. Why is not shown here: the bins are few, and a random dictionary of that width has a
#   direction near everything. Chapter 30 shows what it takes to recover planted features.
# * **What returns in another session** is the average course of the trial: methods that see time carry over best.
#   Beyond a hundred dimensions chance alone fits nearly everything, so consistency of wide codes proves nothing.
# * **CEBRA's place here is not its best.** It stops after a small part of its usual training, it is not made to
#   predict spikes, and ridge on a sphere is not its readout. Its own column is kNN.
#
# Nothing about cortex follows from two simulations, one of which favours sparse models by design. On a recording
# of your own, start from the same three questions: does it beat smoothed units on neurons that nobody saw; does it
# beat its own random dictionary; and would the interval survive more seeds?
