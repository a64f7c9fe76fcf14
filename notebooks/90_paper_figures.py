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
# # Which figures and tables go into the paper, and what made them?
#
# > Every comparison of this handbook as a figure at column width and a table in CSV and LaTeX, drawn from
# > the numbers that the other chapters saved, each with a caption and the command that made it.

# %% [markdown]
# **What you will learn.** How a figure stays tied to the run behind it, and what a reader needs beside it.
#
# **What it needs.** Runs of the other chapters: `make handbook` makes them before this one. A chapter that
# has not been run here is drawn from `reports/results/chapters/`, where the handbook keeps its own results,
# with device, versions and day; the first cell says which is which. Nothing is trained here.
#
# **How long.** Some 20 s at all settings, since it only draws.

# %% tags=["parameters"]
recording_path: str = ""  # the recording whose results are drawn; empty: the simulated session
results_of: list[str] = [
    "30",
    "40",
    "50",
    "55",
    "60",
    "70",
    "80",
    "85",
]  # chapters whose results are drawn

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("90_paper_figures", globals())

# %%
import pandas as pd
from IPython.display import display

from saebook.evaluation.comparison import SCORES
from saebook.notebook.paper import Paper, interval_table
from saebook.plots.architectures import plot_contestants
from saebook.plots.comparison import plot_comparison
from saebook.plots.discovery import plot_claims
from saebook.plots.performance import plot_ratios
from saebook.plots.stability import plot_shares
from saebook.plots.temporal import plot_paired_differences

paper = Paper(chapter)
found = {number: r for number in results_of if (r := paper.results(number)) is not None}

# %% [markdown]
# Widths are those of a printed page: one column 3.4 in, two columns 6.8 in, with type of 8 points in either.
# Every figure is saved as PDF, with its text as text, and as PNG. In those that compare models a dot is one
# run, an upright tick the mean of a row, the pale bar its 95 % interval over seeds (Student's t; none for a
# single seed), and grey marks a control. The captions repeat what a reader needs who sees the figure alone.


# %%
def seeds_of(runs):
    """How many seeds a comparison has, in words."""
    n = runs["seed"].nunique()
    return f"{n} seeds" if n > 1 else "one seed, so that nothing is decided"


# %% [markdown]
# ## Architectures

# %%
if "30" in found:
    source = found["30"]
    known = source.table("on_known_truth")
    known = known[known["kind"] == "linear"]
    figure = plot_contestants(
        known,
        {"recall": "features recovered (share)", "fvu": "FVU"},
        controls=["random directions", "PCA"],
        intervals=True,
    )
    caption = (
        "Architectures on a sparse dictionary that is known. Left: share of true features that "
        "a latent of its own matches (cosine at least 0.9). Right: fraction of variance "
        "unexplained, on held-out rows. Hollow points missed the L0 that was asked for, so that "
        f"their error is not comparable. {seeds_of(known).capitalize()}."
    )
    display(figure, paper.figure(figure, "architectures", caption, source))

# %%
if "30" in found:
    names = {"recall": "recall", "precision": "precision", "r": "r", "fvu": "FVU", "l0": "L0"}
    numbers, shown = interval_table(known, "model", names)
    caption = f"Architectures on a known dictionary: mean [95 % interval], {seeds_of(known)}."
    made = paper.table(numbers, "architectures", caption, source, shown=shown)
    display(shown.set_index("model"), made)

# %% [markdown]
# ## Losses

# %%
if "40" in found:
    source = found["40"]
    losses = source.table("reconstruction_by_sparsity")
    losses = losses.assign(
        model=losses["loss"].str.upper() + ", " + losses["rule"], matched=~losses["off_target"]
    )
    controls = pd.DataFrame(source.metrics["controls"]).T
    controls = controls.loc[["random dictionary", "PCA"]].astype(float)
    judged = pd.concat([losses, controls.rename_axis("model").reset_index().assign(matched=True)])
    judges = {
        "recall": "features recovered",
        "rate_r2": "R² with true rates",
        "held_out": "held-out bits/spike",
    }
    figure = plot_contestants(judged, judges, controls=list(controls.index), intervals=True)
    caption = (
        "Reconstruction losses and sparsity rules on simulated spike counts, by three judges that "
        "are none of the losses: features with a latent of their own, variance of the true rates "
        "explained, and information about units that the model never saw. Hollow points missed "
        f"the L0 that was asked for. {seeds_of(losses).capitalize()}; controls are means."
    )
    display(figure, paper.figure(figure, "losses", caption, source))

# %%
if "40" in found:
    numbers, shown = interval_table(judged, "model", {**judges, "l0": "L0"})
    caption = f"Losses and sparsity rules: mean [95 % interval], {seeds_of(losses)}."
    made = paper.table(numbers, "losses", caption, source, shown=shown)
    display(shown.set_index("model"), made)

# %% [markdown]
# ## A temporal term

# %%
if "50" in found:
    source = found["50"]
    matched = pd.DataFrame(source.metrics["at_matched_fvu"])
    matched = matched.astype(dict.fromkeys(["difference", "low", "high"], float))
    gains = {"slow_recall": "slow features", "fast_recall": "fast features", "l0": "L0"}
    figure = plot_paired_differences(matched, gains)
    n = int(matched["n_seeds"].max())
    caption = (
        "What a temporal term changes at equal reconstruction error: share of slow and of fast "
        "features recovered, and L0, minus those of the same SAE without the term, paired by seed, "
        f"with 95 % intervals ({n} seed{'s' if n > 1 else ', so no interval and no verdict'})."
    )
    display(figure, paper.figure(figure, "temporal", caption, source))

# %%
if "50" in found:
    shown = matched.pivot_table(index="arm", columns="score", values="difference", sort=False)
    caption = f"A temporal term at equal error: paired differences and their intervals, n = {n}."
    display(shown.round(3), paper.table(matched, "temporal", caption, source))

# %% [markdown]
# ## A language model

# %%
if "55" in found:
    source = found["55"]
    spliced = source.table("scores")
    spliced = spliced[spliced["delta_ce"].notna()]
    figure = plot_contestants(
        spliced,
        {"delta_ce": "Δloss (nats per token)", "explained_variance": "explained variance"},
        controls=["PCA", "frozen decoder", "random dictionary"],
        intervals=True,
    )
    caption = (
        "What splicing a reconstruction into a language model costs. Left: loss beyond the clean "
        "model's, on held-out documents. Right: variance of the activations explained. "
        f"{seeds_of(spliced).capitalize()}."
    )
    display(figure, paper.figure(figure, "language", caption, source))

# %%
if "55" in found:
    names = {"delta_ce": "Δloss", "ce_score": "CE score", "kl_score": "KL score"}
    names |= {"explained_variance": "explained variance", "l0": "L0"}
    numbers, shown = interval_table(spliced, "model", names)
    caption = (
        "An SAE spliced into a language model. CE score and KL score: share of zero ablation's "
        f"loss and divergence that is recovered. Mean [95 % interval], {seeds_of(spliced)}."
    )
    made = paper.table(numbers, "language", caption, source, shown=shown)
    display(shown.set_index("model"), made)

# %% [markdown]
# ## SAEs among other methods

# %%
WORLDS = {"known_truth": "sparse features", "control": "dense factors"}

if "60" in found:
    source = found["60"]
    shown_scores = {name: SCORES[name] for name in ("co_bps", "rate_r2", "decoding_r2")}
    for world, title in WORLDS.items():
        compared = source.table(world)
        figure = plot_comparison(compared, shown_scores, title=title)
        caption = (
            f"Methods on simulated {title}: information about units that no method saw, variance of "
            "the true rates explained, and decoding of the hand, on test trials. Methods that see "
            "one bin, several bins, or the test trials themselves stand apart; the dashed line is "
            f"the true rates. {seeds_of(compared).capitalize()}."
        )
        display(figure, paper.figure(figure, f"methods_{world}", caption, source))

# %%
if "60" in found:
    for world, title in WORLDS.items():
        compared = source.table(world)
        names = {name: SCORES[name] for name in ("co_bps", "rate_r2", "decoding_r2", "mcc")}
        numbers, shown = interval_table(compared, "method", names)
        caption = f"Methods on simulated {title}: mean [95 % interval], {seeds_of(compared)}."
        made = paper.table(numbers, f"methods_{world}", caption, source, shown=shown)
        display(shown.set_index("method"), made)

# %% [markdown]
# ## What latents stand for

# %%
if "70" in found:
    source = found["70"]
    claims = pd.DataFrame(source.metrics["claims"]).set_index("procedure")
    figure = plot_claims(claims)
    caption = (
        "Latents that would be named after a variable, by procedure, each a step stricter than the "
        "one above; beside it the same count with latents moved in time against behaviour, where "
        f"every claim is false. {source.metrics['n_units']} units, {source.metrics['n_bins']:,} bins."
    )
    display(figure, paper.figure(figure, "discovery", caption, source))

# %%
if "70" in found:
    named = pd.DataFrame(source.metrics["found"])
    columns = [
        c for c in ("latent", "variable", "score_train", "score_test", "p", "q") if c in named
    ]
    caption = "Discovered latents: variable, score on training and on test rows, p and q."
    made = paper.table(named[columns], "discovery", caption, source)
    display(named[columns].round(4), made)

# %% [markdown]
# ## Stability

# %%
if "80" in found:
    source = found["80"]
    ways = {"by_decoder": "by decoder", "found": "by decoder and encoder"}
    means = pd.DataFrame(source.metrics["seeds"])
    figure = plot_shares(
        source.table("pairs_of_seeds"), means, ways, controls=["PCA", "NMF", "ICA"]
    )
    caption = (
        "Share of latents that another seed finds again, a point per pair of seeds, with 95 % "
        "jackknife intervals over seeds, beside the shares of dictionaries that mean nothing."
    )
    display(figure, paper.figure(figure, "stability", caption, source))

# %%
if "80" in found:
    caption = "Share of latents found again by another seed: means, intervals and chance levels."
    display(means.round(3), paper.table(means, "stability", caption, source))

# %% [markdown]
# ## Speed

# %%
if "85" in found:
    source = found["85"]
    speeds = source.table("workloads")
    figure = plot_ratios(speeds)
    caption = (
        "Time of a training step over that of the five dense products it takes without using "
        "sparsity. `dense` computes every latent; `auto` leaves out those that are zero."
    )
    display(figure, paper.figure(figure, "speed", caption, source))

# %%
if "85" in found:
    columns = ["workload", "engine", "ratio", "cpu_ratio", "step_ms", "examples_per_s", "l0"]
    caption = "Training steps: time, and its ratio to five dense products timed in turn with it."
    made = paper.table(speeds[columns], "speed", caption, source)
    display(speeds[columns].set_index("workload").round(2), made)

# %% [markdown]
# ## What there is

# %%
if paper.missing:
    print(f"left out, since their chapters have no results here: {', '.join(paper.missing)}")
chapter.save_metrics(
    {
        "figures": sum(item.kind == "figure" for item in paper.items),
        "tables": sum(item.kind == "table" for item in paper.items),
        "left_out": len(paper.missing),
        "captions": {f"{item.kind} {item.name}": item.caption for item in paper.items},
    }
)
listed = pd.DataFrame([vars(item) for item in paper.items], columns=["kind", "name", "commands"])
listed

# %% [markdown]
# **What to take away.** A figure without its command can't be made again, and a mean without its interval
# can't be compared. `paper.json` in the run folder keeps caption, command, device, versions and day of each;
# `python -m saebook publish` copies figures, tables and the numbers they were drawn from into `reports/`.
