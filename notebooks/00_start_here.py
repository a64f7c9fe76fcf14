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
# # What can an SAE find in my recording?
#
# > Five minutes from a recording to one latent that can be read, with the checks that tell a
# > finding from a copy of a single unit.

# %% [markdown]
# **What you will learn.** A sparse autoencoder (SAE) describes each short bin of spike counts by a
# few active *latents* out of many; each latent stands for a set of units that fire together. You
# train one, see why its reconstruction error alone says little about spikes, pick one latent by a
# rule fixed beforehand, and test it on rows that had no say in the choice.
#
# **What it needs.** Nothing: without a file of yours, a session with known truth is simulated. With
# `recording_path` set, any NWB file with sorted units will do; trials and behaviour are used where
# the file has them.
#
# **How long.** On one CPU core, half a minute at `smoke` and under a minute at `laptop`; `gpu` trains
# a larger session, for a machine with a GPU, and has not been timed.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file; empty: the simulated session
n_units: int = 60  # units of the simulated session
n_trials: int = 100  # trials of the simulated session
bin_size_s: float = 0.05  # width of a bin, s
min_rate_hz: float = 0.5  # units that fire less are dropped; in hippocampus 0.05 is usual
d_sae: int = 64  # latents
k: int = 6  # latents active per bin, on average
n_steps: int = 800  # training steps
batch_size: int = 512  # bins per step
learning_rate: float = 3e-3  # peak learning rate
n_shifts: int = 499  # circular shifts of the null
seed: int = 0  # of weights, batches, splits and shifts

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("00_start_here", globals())

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from saebook.data import UnitCriteria, prepare, read_recording, select_units
from saebook.evaluation import (
    RandomDictionary,
    candidate_variables,
    control_table,
    decoder_directions,
    evaluate,
    pca_control,
    recover_activity,
    score_tuning,
    tuning_table,
)
from saebook.models import SAEConfig, save_sae
from saebook.plots import (
    dropped_per_rule,
    plot_controls,
    plot_decoder_weights,
    plot_raster,
    plot_tuning_claim,
)
from saebook.training import TrainConfig, fit
from saebook.widgets import latent_explorer

# %% [markdown]
# ## The recording
#
# One line reads a file: spike times per unit, trials, behaviour and the span that was observed.

# %%
recording = read_recording(chapter.recording_or_simulated(n_units, n_trials))
recording

# %% [markdown]
# A few seconds of it. Each row is a unit, each mark a spike; coloured lines are trial events.

# %%
if recording.trials is not None:
    begin = float(recording.trials["start_time"].iloc[0]) - 0.5
    events = {
        name.removesuffix("_time").replace("_", " "): recording.trials[name].dropna().to_numpy()
        for name in recording.trials.columns
        if name in ("start_time", "go_time", "stimulus_time", "outcome_time")
    }
else:
    begin, events = recording.interval.start + 0.25 * recording.duration, {}
begin = max(begin, recording.interval.start)
end = min(begin + 10.0, recording.interval.stop)
figure = plot_raster(recording.spike_times, start=begin, stop=end, events=events)
chapter.save_figure(figure, "raster")
figure

# %% [markdown]
# ## Units kept, and why
#
# Units that fire too rarely, or whose spikes come closer together than one cell can manage, would
# teach the SAE about sorting errors. Chapter 10 shows what each rule removes and how sure it can be.

# %%
criteria = UnitCriteria(min_rate_hz=min_rate_hz)
_, quality = select_units(recording, criteria)
broken = ", ".join(f"{rule}: {n}" for rule, n in dropped_per_rule(quality).items())
print(
    f"{int(quality['kept'].sum())} of {len(quality)} units kept; dropped for {broken or 'nothing'}"
)
columns = ["n_spikes", "rate_hz", "isi_violations_ratio", "verdict", "kept", "reason"]
quality.loc[quality["kept"].sort_values(kind="stable").index, columns].head(8).round(3)

# %% [markdown]
# ## Counts
#
# `prepare` counts the spikes of the kept units in bins and divides time into training, validation
# and test rows: by trial where there are enough of them, else in blocks, with a gap between. The
# test rows are used once, at the end.

# %%
store = prepare(
    recording,
    chapter.path / "store",
    bin_size_s=bin_size_s,
    criteria=criteria,
    fractions=(0.6, 0.1, 0.3),
    seed=seed,
    overwrite=True,
    progress=False,
)
facts = store.provenance["sessions"][0]
train_rows, test_rows = store.rows("train"), store.rows("test")
print(
    f"{len(store):,} bins of {1000 * bin_size_s:g} ms x {store.d_in} units, "
    f"{facts['zero_fraction']:.0%} of the counts are zero\n"
    f"{len(train_rows):,} training and {len(test_rows):,} test bins, split by {facts['split_by']}, "
    f"{facts['guard_s']:.2g} s between them"
)

# %% [markdown]
# ## One SAE
#
# The encoder turns a bin's counts into latents, all but about `k` of them zero; the decoder adds up
# one direction over units for each active latent. The bar shows three numbers to watch: **FVU**,
# the fraction of variance unexplained (0 is perfect, 1 is what the mean scores); **L0**, how many
# latents are active per bin; and how many are **dead**, silent for long. The loss is the squared
# error, which is what FVU counts; chapter 40 sets other losses beside it. Late in the run, latents
# that explain next to nothing are *retired*: taken out, so that fewer are left to look at.

# %%
k_used = min(k, d_sae, max(1, store.d_in // 4))
if k_used < k:
    print(f"k lowered from {k} to {k_used}: with {store.d_in} units, {k} latents could copy them")
config = SAEConfig(
    d_in=store.d_in, d_sae=d_sae, architecture="batchtopk", k=k_used, reconstruction="mse"
)
settings = TrainConfig(n_steps=n_steps, batch_size=batch_size, learning_rate=learning_rate)
run = fit(config, store, settings, seed=seed)
sae = run.sae.cpu()
save_sae(sae, chapter.path / "model")
chapter.save_table(run.history, "history")
for name, finding in run.findings.items():
    print(f"{name}: {finding}")

# %% [markdown]
# ## Its score card, and why it proves nothing yet
#
# The SAE is scored on the very spikes that it reads. With more latents than units it could copy
# each active unit into a latent of its own and reach FVU 0 without learning anything about the
# brain. So the score stands beside what needs no learning at all, at the same number of active
# parts per bin: the best *raw units*, *random directions*, and the first *principal components*
# (as many as the SAE has active latents; they are dense, and the same for every bin). "SAE on
# shuffled units" asks whether the SAE uses what units do together: there each unit was shuffled in
# time on its own, and an SAE that only copies does as well as before.

# %%
card = evaluate(sae, store)
controls = control_table(sae, store, card=card, seeds=range(3))
display(card)
figure = plot_controls(controls)
chapter.save_figure(figure, "controls")
figure

# %%
sae_fvu, raw_fvu = controls.loc["SAE", "fvu"], controls.loc["raw units", "fvu"]
shuffled_fvu = controls.loc["SAE on shuffled units", "fvu"]
better = "below" if sae_fvu < raw_fvu else "not below"
print(
    f"FVU {sae_fvu:.3f} at L0 {card.l0:.1f}, {better} the {raw_fvu:.3f} of as many raw units; "
    f"{shuffled_fvu:.3f} once units are shuffled.\n"
    "Whether a latent means anything has to be asked of something other than these spikes."
)

# %% [markdown]
# ## One latent, chosen by a rule
#
# What could a latent be named after? After whatever else the file holds: columns of behaviour and
# time from trial events, alone or split by a kind of trial. For each latent and each variable, the
# score is the share of the latent's variance that the tuning curve explains, cross-validated inside
# the training rows. The pair with the highest score is the candidate. It is one pair out of many,
# so its own training score is too good: only the test rows count.

# %%
variables = candidate_variables(recording, store)
named = variables[0].kind != "population"
if not named:
    print(
        "No trials and no behaviour in this file, so nothing outside the spikes can name a latent.\n"
        "Left is the rate of the whole population, which is made of the same spikes: what follows\n"
        "shows the method, and is no finding."
    )


def activity_of(encode) -> tuple[np.ndarray, np.ndarray]:
    """Activity on training and test rows, [n, m] each."""
    with torch.no_grad():
        counts = (store.tensor(split, dtype=torch.float32) for split in ("train", "test"))
        return tuple(encode(x).numpy().astype(float) for x in counts)


latents = activity_of(sae.encode)
scores = tuning_table(latents[0], variables, train_rows)
latent, column = np.unravel_index(np.argmax(scores.to_numpy()), scores.shape)
latent, variable = int(latent), variables[column]
print(
    f"{len(variables)} variables x {d_sae} latents; best on training rows: "
    f"latent {latent} and {variable.name} ({scores.iloc[latent, column]:.0%} explained)"
)
scores.max().sort_values(ascending=False).head(6).rename("best latent explains").to_frame().round(3)

# %% [markdown]
# ## Does it hold on the test rows, and is it more than one unit?
#
# The curve fitted on training rows predicts the test rows: `r2` is the share of variance it explains
# there (below 0: worse than their mean), with a 95 % interval over stretches of time. Two questions
# are put to it:
#
# - *Could slow drift alone give this?* The test activity is shifted in time, around the end, by at
#   least twice its autocorrelation time; p counts how often a shifted copy correlates as well with
#   the prediction, and "shifted r" is the 95th percentile of those.
# - *Did it take an SAE?* Single units, principal components and random directions are chosen for the
#   same variable in the same way on training rows, and scored on the same test rows.

# %%
pca = pca_control(store)
random = RandomDictionary(store.d_in, d_sae, k=k_used, seed=seed)
training = store.tensor("train", dtype=torch.float32)
random.fit(training, training.mean(0))
rivals = {
    "SAE latent": latents,
    "best unit": activity_of(lambda x: x),
    "best component": activity_of(lambda x: x.double() @ pca.components.T),
    "best random direction": activity_of(random.encode),
}
names = store.features["unit"].tolist()
claims, rows = {}, {}
for name, (on_train, on_test) in rivals.items():
    own = tuning_table(on_train, [variable], train_rows)[variable.name]
    best = latent if name == "SAE latent" else int(own.argmax())
    claim = score_tuning(
        on_train[:, best], on_test[:, best], variable, train_rows, test_rows,
        bin_size_s=bin_size_s, n_shifts=n_shifts, seed=seed,
    )  # fmt: skip
    claims[name] = claim
    rows[name] = {
        "which": names[best] if name == "best unit" else best,
        "training": own[best],
        "r2": claim.r2,
        "low": claim.low,
        "high": claim.high,
        "r": claim.r,
        "shifted r": np.quantile(claim.null, 0.95) if len(claim.null) else np.nan,
        "p": claim.p,
    }
table = pd.DataFrame.from_dict(rows, orient="index")
table.round(3)


# %%
def span(low: float, high: float) -> str:
    """An interval, or why there is none."""
    known = np.isfinite(low) and np.isfinite(high)
    return f"[{low:.3f}, {high:.3f}]" if known else "[too few independent stretches]"


claim, unit = claims["SAE latent"], claims["best unit"]
gain = claim.r2 - unit.r2
pairs = claim.resampled - unit.resampled
gain_low, gain_high = np.nanquantile(pairs, [0.025, 0.975]) if len(pairs) else (np.nan, np.nan)
holds = claim.p <= 0.05 and claim.r2 > 0
if not holds:
    verdict = f"does not hold: {variable.name} does not predict latent {latent} on test rows"
elif not named:
    verdict = f"names nothing: latent {latent} follows the population it is made of"
elif gain_low > 0:
    verdict = f"holds, and latent {latent} is cleaner than the best single unit"
elif gain_high < 0:
    verdict = f"holds, but the best single unit is cleaner than latent {latent}"
else:
    verdict = f"holds, but latent {latent} cannot be told from the best single unit"
print(
    f"Latent {latent} and {variable.name}: {claim.r2:.2f} of the test variance explained "
    f"{span(claim.low, claim.high)},\np = {claim.p:.3f} over {len(claim.null)} shifts of at "
    f"least {claim.shortest_shift_s:.2g} s.\n"
    f"Gain over unit {table.loc['best unit', 'which']}: {gain:+.3f} {span(gain_low, gain_high)}."
    f"\nVerdict: {verdict}."
)

# %%
figure = plot_tuning_claim(claim, variable, table, title=f"Latent {latent} on test rows")
chapter.save_figure(figure, "latent_tuning")
figure

# %% [markdown]
# **Reading it.** On the left, the latent's mean activity against the variable; outside the grey band
# it is more than drift would give. On the right, the share of test variance explained. Intervals that
# overlap do not settle a comparison: the paired gain printed above does, because it resamples the same
# stretches for both.

# %% [markdown]
# ## Which units define it?
#
# The latent's decoder direction: what one unit of activity adds to each neuron's expected count. One
# tall bar is a latent that mostly copies one neuron; several mean that it pools neurons. Where the
# session is simulated, the planted feature that best matches the latent on training rows stands
# beside it. The two are not the same quantity: a planted weight multiplies a unit's rate, while the
# decoder adds spikes, so a quiet or a silenced unit weighs little in the decoder whatever its planted
# weight.

# %%
direction = decoder_directions(sae)[latent].numpy()
share = float((direction**2).max() / (direction**2).sum()) if direction.any() else 1.0
truth, truth_name, truth_r = None, "", float("nan")
if recording.ground_truth is not None:
    planted = store.table("ground_truth_features").drop(columns=["session", "time"])
    on_train, on_test = planted.to_numpy()[train_rows], planted.to_numpy()[test_rows]
    followed = [
        np.corrcoef(latents[0][:, latent], feature)[0, 1]
        for feature in on_train.T
        if feature.std() > 0
    ]
    varied = [name for name, feature in zip(planted.columns, on_train.T) if feature.std() > 0]
    truth_name = varied[int(np.argmax(followed))]
    feature = on_test[:, planted.columns.get_loc(truth_name)]
    truth_r = float(np.corrcoef(latents[1][:, latent], feature)[0, 1])
    truth = store.table("ground_truth_mixing")[truth_name].to_numpy()
    print(f"Planted feature that matches: {truth_name}, r = {truth_r:.2f} on test rows")
print(f"{share:.0%} of the squared weight lies on one unit")
figure = plot_decoder_weights(direction, names, truth=truth, truth_name=truth_name)
chapter.save_figure(figure, "decoder_weights")
figure

# %% [markdown]
# ## Against the planted truth
#
# On the simulated session every feature is known, so the whole dictionary can be judged: each feature
# gets one latent, chosen on training rows, and r is taken on test rows. Single units are matched in
# the same way. A bin of 50 ms holds few spikes of each unit, so Poisson noise bounds r for both.

# %%
recovery = {}
if recording.ground_truth is None:
    print("Left out: this recording has no planted truth.")
else:
    for name in ("SAE latent", "best unit"):
        of_train, of_test = (torch.from_numpy(x) for x in rivals[name])
        found = recover_activity(
            of_train, on_train, of_test, on_test, feature_names=planted.columns
        )
        chance = found.shifted_interval("mean_r")
        recovery[name] = {
            "mean r": found.mean_r,
            "share with r ≥ 0.7": found.recall,
            "features": found.n_features,
            "mean r, shifted": chance.mean,
        }
    display(pd.DataFrame.from_dict(recovery, orient="index").round(3))

# %% [markdown]
# ## Look around
#
# Every latent on the test rows: when it is active, what it follows (grey: what chance gives), trial by
# trial, which units make it, and their spikes at its strongest moments. Sort the table by clicking on
# a heading, choose a latent from it, or go on to one that is active together with it; the share
# explained is that of training rows. In a page without a kernel you see the chosen latent as a still
# figure; open the chapter in JupyterLab for the rest.

# %%
best = pd.DataFrame({"variable": scores.idxmax(axis=1), "explained": scores.max(axis=1)})
explorer = latent_explorer(
    sae, store, variables, table=best, recording=recording, latent=latent, variable=variable.name
)
explorer

# %%
# A latent set against the population it is made of has a score, but no claim to report.
chapter.save_metrics(
    {
        "test_variance_explained": claim.r2 if named else None,
        "p": claim.p if named else None,
        "gain_over_best_unit": gain if named else None,
        "fvu": sae_fvu,
        "fvu_raw_units": raw_fvu,
        "l0": card.l0,
        "dead_fraction": card.dead_fraction,
        "verdict": verdict,
        "variable": variable.name,
        "latent": latent,
        "interval": [claim.low, claim.high],
        "gain_interval": [float(gain_low), float(gain_high)],
        "rivals": {name: float(r2) for name, r2 in table["r2"].items()},
        "weight_on_one_unit": share,
        "planted_feature": truth_name or None,
        "planted_feature_r": truth_r if truth_name else None,
        "recovery": recovery,
        "n_units": store.d_in,
        "n_bins": len(store),
    }
)

# %% [markdown]
# ## The answer
#
# One latent was tried, on one recording, from one seed: that is a demonstration, not a result.

# %%
if named and holds:
    print(
        f"On rows it never saw, {variable.name} explains {claim.r2:.2f} {span(claim.low, claim.high)} "
        f"of the variance of latent {latent} (p = {claim.p:.3f})."
    )
    print(f"The claim {verdict}: a gain of {gain:+.3f} {span(gain_low, gain_high)}.")
elif named:
    print(f"The best claim on training rows {verdict} (p = {claim.p:.3f}).")
    print("From this recording, at these settings, no latent can be named.")
else:
    print(
        "In this recording nothing outside the spikes can name a latent: it has no trials or behaviour."
    )
    print(
        f"The SAE's FVU of {sae_fvu:.3f} against {raw_fvu:.3f} for raw units is all that can be said."
    )
if recovery:
    print(
        f"Over all planted features, latents reach a mean r of {recovery['SAE latent']['mean r']:.2f} "
        f"and single units {recovery['best unit']['mean r']:.2f}."
    )

# %% [markdown]
# **Next.** [Chapter 10](10_prepare_nwb.ipynb) prepares your own file with care: which units to trust,
# which bin size. [Chapter 20](20_first_sae.ipynb) trains an SAE in view and shows what a healthy run
# looks like, over several seeds.
