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
# # What do the latents stand for, and would we have said so of noise?
#
# > Every latent is set against every variable of the recording, and only what survives a test that
# > can fail is named. Beside it stands what would have been claimed without the test, what single
# > units and principal components show, and what is lost when a named latent is removed.

# %% [markdown]
# **What you will learn.** How to name latents by behaviour, events and kinds of trials; why rows of a
# recording are not independent, and which nulls respect that; how many latents a careless procedure
# would have named on data where nothing is true; and how to keep names with the recording.
#
# **What it needs.** Nothing: a session with position and velocity is simulated. With `recording_path`
# set, any NWB file with sorted units runs; without behaviour in it, latents are tried against trials
# and time alone, and the chapter says so.
#
# **How long.** At `smoke` 29 s beside another chapter, at `laptop` 41 s; `gpu` settings have not been
# timed.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file; empty: the simulated session
n_units: int = 40  # units of the simulated session
n_trials: int = 100  # trials of the simulated session
bin_size_s: float = 0.05  # width of a bin, s
min_rate_hz: float = 0.5  # units that fire less are dropped; in hippocampus 0.05 is usual
d_sae: int = 64  # latents
k: int = 6  # latents active per bin, on average
n_steps: int = 400  # training steps
batch_size: int = 256  # bins per step
learning_rate: float = 3e-3  # peak learning rate
false_discovery_rate: float = 0.05  # share of names that may be wrong, on average
n_rotations: int = 5  # rotations of the latents against behaviour, for the count of false claims
n_ablated: int = 12  # latents removed one at a time
seed: int = 0  # of weights, batches, splits and permutations

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("70_discover_latents", globals())

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.stats import t as student

from saebook.data import UnitCriteria, prepare, read_recording
from saebook.evaluation import (
    ablation_effects,
    attribute_latent,
    compare_codes,
    decode_variables,
    describe_latents,
    discover,
    discovery_variables,
    pca_control,
    peri_event,
    read_latents,
    tuning_curves,
    tuning_r2,
    write_latents,
)
from saebook.models import SAEConfig, save_sae
from saebook.plots import plot_latent_peth, plot_latent_tuning
from saebook.plots.discovery import (
    plot_ablation,
    plot_attribution,
    plot_claims,
    plot_codes,
    plot_null,
)
from saebook.training import TrainConfig, fit
from saebook.widgets import latent_explorer

# %% [markdown]
# ## The recording and one SAE
#
# Three tenths of the recording are kept for testing, since a p-value can be no smaller than the test
# rows allow.

# %%
source = chapter.recording_or_simulated(n_units, n_trials)
recording = read_recording(source)
store = prepare(
    recording,
    chapter.path / "store",
    bin_size_s=bin_size_s,
    criteria=UnitCriteria(min_rate_hz=min_rate_hz),
    fractions=(0.6, 0.1, 0.3),
    seed=seed,
    overwrite=True,
    progress=False,
)
train_rows, test_rows = store.rows("train"), store.rows("test")
facts = store.provenance["sessions"][0]
print(
    f"{store.d_in} of {facts['n_units_in_file']} units at {min_rate_hz:g} Hz or more, "
    f"{len(store):,} bins of {1000 * bin_size_s:g} ms; {len(train_rows):,} for training and "
    f"{len(test_rows):,} for testing, split by {facts['split_by']}"
)

# %%
k_used = min(k, d_sae, max(1, store.d_in // 3))
if k_used < k:
    print(f"k lowered from {k} to {k_used}: with {store.d_in} units, {k} latents could copy them")
config = SAEConfig(
    d_in=store.d_in, d_sae=d_sae, architecture="batchtopk", k=k_used, reconstruction="mse"
)
settings = TrainConfig(
    n_steps=n_steps, batch_size=batch_size, learning_rate=learning_rate, device=chapter.device
)
run = fit(config, store, settings, seed=seed)
sae = run.sae.cpu()
save_sae(sae, chapter.path / "model")
counts = store.tensor(dtype=torch.float32)  # [n_bins, n_units]
with torch.no_grad():
    latents = sae.encode(counts).numpy()  # [n_bins, d_sae]
card = run.card
print(f"FVU {card['fvu']:.3f}, L0 {card['l0']:.1f}, {card['dead_fraction']:.0%} dead")

# %% [markdown]
# ## What a latent could stand for
#
# Columns of behaviour; for a plane also speed and direction of motion; time from each event of the
# trials, alone and split by kind of trial; the kinds themselves. What cannot be used is listed with
# the reason.

# %%
variables, notes = discovery_variables(recording, store)
print(*notes, sep="\n")
pd.DataFrame(
    {
        "variable": [v.name for v in variables],
        "kind": [v.kind for v in variables],
        "groups": [v.n_groups for v in variables],
        "known in": [f"{(v.group >= 0).mean():.0%} of bins" for v in variables],
    }
)

# %% [markdown]
# ## One test per latent
#
# **Choose on training rows.** Each latent gets the variable that explains most of its variance,
# cross-validated. Having tried them all costs nothing later, because other rows decide.
#
# **Score on test rows.** The tuning curve of the training rows predicts the test rows, and r is the
# correlation of prediction and activity.
#
# **Compare with a null that keeps what rows share.** Neighbouring bins resemble each other, so
# thousands of rows may be worth a few dozen. For behaviour and events, the prediction is moved along
# the recording by *every* offset that is longer than twice the autocorrelation time, so that both
# signals stay as slow as they were; a cubic in time is taken out of both first, since two signals that
# merely drift agree at no other offset. For kinds of trials, labels are permuted among neighbouring
# trials. An event split by kind of trial has to pass both.
#
# **Small p.** Beyond the 90th percentile of the null, p is read from a generalised Pareto tail fitted
# to it, if that fits; else it is counted, and can't fall below the share of offsets left out.
#
# **Many latents.** Benjamini-Hochberg holds the share of wrong names at the rate asked for.
#
# A discovered latent may still have a test score below 0: its curve has the right shape, which is what
# r asks for, but the wrong height, as where rates drift between training and test.

# %%
found = discover(
    latents,
    variables,
    train_rows,
    test_rows,
    bin_size_s=bin_size_s,
    q=false_discovery_rate,
    seed=seed,
    notes=notes,
)
print(found.report())
_ = chapter.save_table(found.table.reset_index(), "discovery")
columns = ["variable", "preferred", "score_train", "score_test", "p", "q", "density"]
best = found.found[columns].head(15).round({"score_train": 3, "score_test": 3, "density": 3})
best.assign(p=best["p"].map("{:.1e}".format), q=best["q"].map("{:.1e}".format))

# %% [markdown]
# ## A score inside its null
#
# The latent with the highest test score among those discovered, or, if there is none, among those
# tested. Grey: what the same latent and the same prediction give when they are moved apart.

# %%
tested = found.table[found.table["p"].notna()]
pool = found.found if len(found.found) else tested
shown = int(pool["score_test"].idxmax()) if len(pool) else None
if shown is None:
    print("No latent varies in both training and test rows: there is nothing to test.")
else:
    score = found.score(shown)
    print(
        f"latent {shown} and {found.variable(shown).name}: r = {score.r:.3f}, p = {score.p:.2g} "
        f"({score.method}), {score.r2:.1%} of the test variance explained"
    )
    figure = plot_null(score, title=f"Latent {shown}:\n{found.variable(shown).name}")
    chapter.save_figure(figure, "null")
    display(figure)

# %% [markdown]
# ## What would have been claimed without all this
#
# Four procedures, from careless to the one above, each with the number of latents that it names. Then
# the same again with the latents moved against behaviour by more than 60 s (or a fifth of the
# recording, where that is less): whatever is named now is named falsely. A score counts as
# significant without a null if its p from Student's t, all rows taken for independent, is below 0.05.


# %%
def p_if_independent(r, n):
    """p of a correlation over n rows, one-sided, if rows were independent."""
    r = np.clip(np.nan_to_num(r), -0.999999, 0.999999)
    return student.sf(r * np.sqrt((n - 2) / (1 - r**2)), n - 2)


def claims(activity, discovery):
    """Latents that each procedure names."""
    n_train, n_test = len(train_rows), len(test_rows)
    on_train = activity[train_rows].astype(float)
    in_sample = np.zeros(activity.shape[1])
    for v in variables:
        own = v.group[train_rows]
        curves = tuning_curves(on_train, own, v.n_groups)
        in_sample = np.fmax(in_sample, tuning_r2(curves, on_train, own))
    p, r = discovery.table["p"], discovery.table["r"]
    return {
        "best variable, in sample": int((p_if_independent(in_sample**0.5, n_train) < 0.05).sum()),
        "test rows, as if independent": int((p_if_independent(r, n_test)[p.notna()] < 0.05).sum()),
        "test rows against the null": int((p < 0.05).sum()),
        "… corrected for many latents": int(discovery.table["discovered"].sum()),
    }


shortest = min(round(60 / bin_size_s), len(store) // 5)
offsets = np.linspace(shortest, len(store) - shortest, n_rotations + 2)[1:-1].astype(int)
rotated = []
for offset in offsets:
    moved = np.roll(latents, offset, axis=0)
    null = discover(
        moved, variables, train_rows, test_rows, bin_size_s=bin_size_s, q=false_discovery_rate,
        seed=seed, progress=False,
    )  # fmt: skip
    rotated.append(claims(moved, null))
as_recorded = claims(latents, found)
table = pd.DataFrame({"recorded": as_recorded, "rotated": pd.DataFrame(rotated).mean()})
table.insert(0, "of latents", len(tested))
display(table.round(1))
figure = plot_claims(table)
chapter.save_figure(figure, "claims")
figure

# %% [markdown]
# The grey bars are means over rotations of one recording, which are not independent of each other;
# how often the last procedure errs over two hundred simulated recordings is measured by
# `tests/benchmarks/discovery_nulls.py`.
#
# ## Named latents
#
# One figure per kind of variable that was discovered, of the latent with the highest test score.
# *Preferred* rows are those where the training curve lies in the upper half of its range. **Coverage**:
# share of preferred rows in which the latent is active. **Specificity**: share of the other rows in
# which it is not. **Selectivity**: (peak - mean) / (peak + mean) of the curve. **AUROC**: how well
# activity tells preferred rows from others, ties half. **Information**: bits about the variable,
# corrected for the bias of few rows.

# %%
described = describe_latents(found)
described.head(12).round(3)

# %%
if described.empty:
    print("No latent was discovered: nothing is named, and no figure drawn.")
for kind, rows in found.found.groupby("kind", sort=False):
    latent = int(rows["score_test"].idxmax())
    variable = found.variable(latent)
    title = f"Latent {latent}: {variable.name}"
    if variable.kind == "event":
        matrix, condition = peri_event(latents[test_rows, latent], variable, test_rows)
        labels = [variable.conditions[c] for c in condition] if variable.conditions else None
        event = variable.name.split(", by ")[0].removesuffix("_time").replace("_", " ")
        figure = plot_latent_peth(
            matrix, variable.centres, condition=labels, event=event, title=title
        )
    elif variable.kind == "categorical":
        curve = tuning_curves(
            latents[test_rows, latent], variable.group[test_rows], variable.n_groups
        )
        print(title, dict(zip(variable.conditions, curve.round(3).tolist(), strict=True)))
        continue
    else:
        circular = variable.kind == "circular"
        values = variable.values[test_rows]
        figure = plot_latent_tuning(
            np.radians(values) if circular else values, latents[test_rows, latent],
            name=variable.name, unit="" if circular else variable.unit, circular=circular,
            title=title,
        )  # fmt: skip
    chapter.save_figure(figure, f"named_{kind}")
    display(figure)

# %% [markdown]
# ## Would units or principal components have shown it?
#
# For each variable, the best single unit and the best component are chosen on training rows and scored
# on test rows as latents are. There are more latents than units, and the best of many is better than
# the best of few: so scores are compared *at equal numbers*, the mean over draws of as many candidates
# as the smallest code has. A component has an advantage here: it averages the noise of all units in
# every bin, while a sparse latent listens to a few and is silent most of the time.

# %%
components = pca_control(store).components.float()
centred = counts - counts[torch.as_tensor(train_rows)].mean(dim=0)
codes = {
    "SAE latents": latents,
    "units": counts.numpy(),
    "components": (centred @ components.T).numpy(),
}
against = compare_codes(codes, variables, train_rows, test_rows, bin_size_s=bin_size_s, seed=seed)
_ = chapter.save_table(against, "codes")
figure = plot_codes(against)
chapter.save_figure(figure, "codes")
figure

# %%
equal = against.pivot_table(index="variable", columns="code", values="score_equal")
worth = equal.max(axis=1) > 0.02  # below, nobody explains anything
wins = (equal[worth].idxmax(axis=1)).value_counts()
print(
    f"{int(worth.sum())} of {len(equal)} variables are explained to more than 2 % by any code; best:",
    ", ".join(f"{name} {n}" for name, n in wins.items()) or "none",
)
numbers = against.groupby("code", sort=False)["candidates"].first()
print("candidates:", ", ".join(f"{n} {name}" for name, n in numbers.items()))
as_found = {
    name: int(
        discover(
            code, variables, train_rows, test_rows, bin_size_s=bin_size_s, q=false_discovery_rate,
            seed=seed, progress=False,
        ).table["discovered"].sum()
    )
    for name, code in codes.items()
    if name != "SAE latents"
}  # fmt: skip
print(
    f"discovered: {len(found.found)} of {found.n_tested} SAE latents, "
    + ", ".join(f"{n} of {codes[name].shape[1]} {name}" for name, n in as_found.items())
)

# %% [markdown]
# ## Decoding from all latents and from one
#
# Ridge regression on test rows: R², for events and categories balanced accuracy rescaled so that chance
# is 0. "One" is the single best latent or unit of the table above. A latent that carries its variable
# alone comes close to all of them; usually a variable is spread over many.

# %%
single = {
    name: dict(zip(rows["variable"], rows["dimension"], strict=True))
    for name, rows in against.groupby("code")
    if name != "components"
}
decoded = decode_variables(codes, variables, train_rows, test_rows, single=single)
_ = chapter.save_table(decoded.reset_index(), "decoding")
decoded.sort_values("SAE latents", ascending=False).head(12).round(3)

# %% [markdown]
# ## Removing a latent
#
# A readout of the variable is fitted on all latents; then one latent is set to zero on test rows. Beside
# it, latents that are active as often are removed instead. A cost that is no larger than theirs means
# that others carry the same.

# %%
chosen = [int(i) for i in found.found.sort_values("score_test", ascending=False).index[:n_ablated]]
effects = ablation_effects(sae, counts, found, chosen)
if chosen:
    figure = plot_ablation(effects)
    chapter.save_figure(figure, "ablation")
    display(figure, effects.round(4))
else:
    print("No latent was discovered, so none is removed.")

# %% [markdown]
# ## Which units make it?
#
# *Reading*: the gradient of the latent times the input, averaged over the bins where it is active; for
# this encoder each unit's own part. *Writing*: the decoder's weights. The two need not agree: a latent
# may be switched on by a few telling units and stand for what many do.

# %%
if shown is not None and (latents[train_rows, shown] > 0).any():
    names = store.features["unit"].tolist()
    attributed = attribute_latent(
        sae, counts[torch.as_tensor(train_rows)], shown, unit_names=names, bin_size_s=bin_size_s
    )
    figure = plot_attribution(attributed, title=f"What switches latent {shown} on")
    chapter.save_figure(figure, "attribution")
    display(figure)
    print(f"the first unit makes {attributed['share'].iloc[0]:.0%} of what latent {shown} reads")

# %% [markdown]
# ## Look for yourself
#
# Sort the list by p or by score, filter it, and see for each latent what the table can't say: when it is
# active, over which trials, at which moments, together with which others.

# %%
explorer = latent_explorer(sae, store, variables, table=found, recording=recording, latent=shown)
explorer

# %% [markdown]
# ## Names that stay with the recording
#
# Latents, decoder and the table above go into a copy of the NWB file; the original is only read.

# %%
written = write_latents(
    sae, source, chapter.path / "with_latents.nwb", data=store, discovery=found.table,
    overwrite=True,
)  # fmt: skip
back = read_latents(written)
same = np.allclose(back.activations[:], latents, atol=1e-5)
kept = back.discovery
print(f"{written.name}: activations as written: {same}; {len(kept)} rows of findings")
assert same and kept["discovered"].tolist() == found.table["discovered"].tolist()

# %%
spatial = [
    v.name
    for v in variables
    if "position" in v.name.lower() and not v.name.endswith((" speed", " direction"))
]
of_place = found.found[found.found["variable"].isin(spatial)]
chapter.save_metrics(
    {
        "discovered": len(found.found),
        "tested": found.n_tested,
        "claimed_in_sample": int(table["recorded"].iloc[0]),
        "falsely_claimed_in_sample": float(table["rotated"].iloc[0]),
        "falsely_discovered": float(table["rotated"].iloc[-1]),
        "discovered_positions": len(of_place),
        "best_position_score": float(of_place["score_test"].max()) if len(of_place) else None,
        "discovered_units": as_found["units"],
        "discovered_components": as_found["components"],
        "smallest_attainable_p": float(tested["attainable"].min()) if len(tested) else None,
        "claims": table.reset_index(names="procedure").to_dict("records"),
        "codes": against.to_dict("records"),
        "decoding": decoded.reset_index().to_dict("records"),
        "ablation": effects.reset_index().to_dict("records"),
        "found": found.found.reset_index().to_dict("records"),
        "n_units": store.d_in,
        "n_bins": len(store),
    }
)

# %% [markdown]
# ## The answer

# %%
first, last = table.iloc[0], table.iloc[-1]
print(
    f"{len(found.found)} of {found.n_tested} latents follow a variable on rows that chose nothing, at a "
    f"false-discovery rate of {false_discovery_rate:g}.\nIn sample, {first['recorded']:.0f} would have "
    f"been named, and {first['rotated']:.0f} where nothing is true; the tested procedure named "
    f"{last['rotated']:.1f} there."
)
if spatial:
    if len(of_place):
        top = of_place.loc[of_place["score_test"].idxmax()]
        print(
            f"Of these, {len(of_place)} follow{'s' * (len(of_place) == 1)} position; the best has "
            f"{top['score_test']:.1%} of its test variance explained by {top['variable']} "
            f"(p = {top['p']:.2g})."
        )
    else:
        print("None of them follows position: at these settings, no latent is spatially tuned.")
if int(worth.sum()):
    print(
        f"At equal numbers of candidates, latents are the best code for "
        f"{int(wins.get('SAE latents', 0))} of {int(worth.sum())} variables, single units for "
        f"{int(wins.get('units', 0))} and components for {int(wins.get('components', 0))}."
    )
print("One recording and one seed: chapter 80 asks whether latents come back with another seed.")

# %% [markdown]
# **Next.** Chapter 80 asks which latents come back with another seed, another session, another size;
# chapter 60 sets SAEs beside PCA, LFADS, CEBRA and others on the same data.
