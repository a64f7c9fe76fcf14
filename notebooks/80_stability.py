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
# # Would you find the same latents again?
#
# > Train again from another seed, on other trials, in another session, with more latents: what returns,
# > what would return by chance, and whether what returns is what is true.

# %% [markdown]
# **What you will learn.** How to say that two dictionaries hold the same latent, and what that finds among
# dictionaries that mean nothing; which latents return (frequent ones, useful ones, copies of single units?) and
# whether they are the true ones; whether what does not return at least lies in the same subspace; what other
# trials, other sessions and other sizes change; how to measure splitting and absorption; and how to keep a
# *consensus dictionary* of what most seeds agree on.
#
# **What it needs.** Nothing: sessions with known truth are simulated. With `recording_path` set, every part
# that asks for no truth and no second session runs on any NWB file with sorted units; halves of the session
# stand in for sessions.
#
# **How long.** At `smoke` 42 s beside another chapter, at `laptop` 3 min 46 s; `gpu` has not been timed.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file; empty: the simulated session
n_units: int = 40  # units of the simulated sessions
n_trials: int = 30  # trials of the simulated sessions
bin_size_s: float = 0.05  # width of a bin, s
min_rate_hz: float = 0.5  # units that fire less are dropped; in hippocampus 0.05 is usual
architectures: list[str] = ["batchtopk", "nested"]  # of topk, batchtopk, nested and relu
d_sae: int = 32  # latents
k: int = 4  # latents active in a bin
sizes: list[int] = [64]  # further numbers of latents
n_components: int = 16  # components of PCA, NMF and ICA
threshold: float = 0.7  # cosine from which two latents count as the same
n_seeds: int = 5  # seeds of each model
n_half_seeds: int = 2  # seeds of each model on each half of the session
n_sessions: int = 2  # simulated sessions of each animal
n_animals: int = 2  # simulated animals
n_features: int = 28  # features of the nested truth
d_in: int = 24  # width of the examples with nested truth
n_examples: int = 4096  # training examples with nested truth
n_nested_seeds: int = 3  # truths for splitting and absorption; a verdict needs three
n_steps: int = 160  # steps of a run
nested_steps: int = 100  # steps of a run on nested truth
batch_size: int = 256  # rows per step
learning_rate: float = 1e-2  # peak learning rate
seed: int = 0  # the first of the seeds

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("80_stability", globals())

# %%
import itertools
import math

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from tqdm.auto import tqdm

from saebook.baselines import ICA, NMF, PCA
from saebook.data import UnitCriteria, prepare, read_recording, simulate_dictionary
from saebook.data.simulate import simulate_reach
from saebook.errors import ParameterError
from saebook.evaluation import evaluate
from saebook.evaluation.stability import (
    absorption,
    compare_seeds,
    compare_sizes,
    condition_profiles,
    consensus,
    dictionary_from,
    dictionary_of,
    followed_features,
    match_over_units,
    match_profiles,
    nested_pairs,
    null_dictionary,
    splitting,
    stability_by,
    stitch,
    unstable_subspaces,
)
from saebook.metrics import latent_agreement, match_scores, mean_interval
from saebook.models import SAEConfig
from saebook.plots.architectures import plot_contestants
from saebook.plots.stability import (
    plot_angles,
    plot_classes,
    plot_matched_cosines,
    plot_session_matches,
    plot_shares,
)
from saebook.training import TrainConfig, fit, fit_many

if unknown := {"batchtopk", "nested"} - set(architectures):
    raise ParameterError(f"architectures = {architectures}: {sorted(unknown)} are needed below")
if unknown := set(architectures) - {"topk", "batchtopk", "nested", "relu"}:
    raise ParameterError(f"architectures holds {sorted(unknown)}: choose topk or relu besides")
if (
    n_half_seeds < 2
    or n_seeds < n_half_seeds
    or n_nested_seeds < 1
    or n_sessions < 2
    or n_animals < 1
):
    raise ParameterError(
        f"n_seeds = {n_seeds}, n_half_seeds = {n_half_seeds}, n_nested_seeds = {n_nested_seeds}, n_sessions = {n_sessions}, "
        f"n_animals = {n_animals}: give at least 2, 2 (and no more than n_seeds), 1, 2 and 1"
    )

# %% [markdown]
# ## A session, and models of it
#
# Counts in bins, split by trial (by blocks of time where there are no trials). The SAEs all have about k active
# latents: `topk` (k in every bin), `batchtopk` (k on average over a batch), `relu` (an L1 penalty, steered towards k)
# and `nested` (Matryoshka: batchtopk of which a quarter and a half of the latents have to reconstruct alone).
# Seeds differ in their initial weights; the batches are the same for all, so that what differs below is the
# model's doing alone. Other data come further down.

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
x_train, x_test = store.tensor("train").float(), store.tensor("test").float()
planted = recording.ground_truth is not None
width = store.d_in
size = max(2, min(d_sae, len(x_train) // 10))
k_used = max(1, min(k, size // 2, int((x_train > 0).sum(1).float().mean() / 2)))
print(
    f"{recording.session}: {len(x_train):,} training and {len(x_test):,} test bins of "
    f"{1000 * bin_size_s:g} ms, {width} units; {size} latents, {k_used} active"
)
truth, feature_names = None, []
if planted:
    table = store.table("ground_truth_features").drop(columns=["session", "time"])
    feature_names = [str(name) for name in table.columns]
    truth = {s: torch.tensor(table.to_numpy()[store.rows(s)]).float() for s in ("train", "test")}
else:
    print("no planted truth in this recording: whether latents are true is left out")


# %%
def settings_of(n):
    """The contestants with n latents."""
    prefixes = tuple(sorted({max(k_used, n // 4), max(k_used, n // 2), n}))
    l1 = 0.35 * math.sqrt(width)  # where the search for the penalty sets out
    known = {
        "topk": {"architecture": "topk", "k": k_used},
        "batchtopk": {"k": k_used},
        "nested": {"k": k_used, "prefixes": prefixes if len(prefixes) > 1 else ()},
        "relu": {
            "architecture": "relu",
            "target_l0": float(k_used),
            "sparsity_coefficient": l1,
        },
    }
    return {name: known[name] for name in architectures}


TRAIN = TrainConfig(
    n_steps=n_steps,
    batch_size=batch_size,
    learning_rate=learning_rate,
    n_logs=2,
    device=chapter.device,
)
SEEDS = range(seed, seed + n_seeds)


def train_seeds(x, n=size, seeds=SEEDS, **settings):
    """One SAE per seed, side by side on the same batches."""
    config = SAEConfig(x.shape[1], n, reconstruction="mse", **settings)
    runs = fit_many([(config, TRAIN, s) for s in seeds], x, order_seed=seed, progress=False)
    return [run.sae.cpu() for run in runs]


models, dictionaries = {}, {}
jobs = list(settings_of(size).items()) + [
    (f"batchtopk, {n} latents", {"n": n, "k": k_used})
    for n in sizes
    if n != size and n * 10 <= len(x_train)
]
with tqdm(jobs, desc="models", unit="model") as bar:
    for name, settings in bar:
        models[name] = train_seeds(x_train, **settings)
        dictionaries[name] = [
            dictionary_of(sae, x_test, f"seed {s}") for s, sae in zip(SEEDS, models[name])
        ]
        card = evaluate(models[name][0], x_test, train_data=x_train)
        bar.set_postfix_str(f"{name}: FVU {card.fvu:.3f}, L0 {card.l0:.1f}", refresh=False)
        print(
            f"{name}: FVU {card.fvu:.3f}, L0 {card.l0:.1f}, {card.dead_fraction:.0%} silent on test "
            f"bins"
        )
if skipped := [n for n in sizes if n * 10 > len(x_train)]:
    print(f"{len(x_train):,} training bins are too few for {skipped} latents: left out")

# %% [markdown]
# The same for methods that are not SAEs. PCA has one solution, so that its seeds can't differ; NMF and ICA
# start at random too, and may or may not end in the same place. Their components are compared by decoder
# alone, those of PCA and ICA up to sign.

# %%
components = min(n_components, width, len(x_train) - 1)
# NMF's usual start is computed from the data, the same for every seed; a random one is its seed's.
METHODS = {"PCA": (PCA, {}, True), "NMF": (NMF, {"init": "random"}, False), "ICA": (ICA, {}, True)}


def fit_method(name, x, s):
    """Components of a method, with their activity on test bins."""
    method, start, either_sign = METHODS[name]
    fitted = method(n_components=components, random_state=s, **start).fit(x.numpy())
    activity = fitted.transform(x_test.numpy())
    return dictionary_from(fitted.components, activity, f"seed {s}", either_sign=either_sign)


if components >= 2:
    for name in METHODS:
        dictionaries[name] = [fit_method(name, x_train, s) for s in SEEDS]
print(f"{components} components each" if components >= 2 else "one unit: no components")

# %% [markdown]
# ## What counts as found again
#
# A latent has two directions: what it listens to (encoder), and what it adds (decoder). Match the latents of
# two seeds one-to-one, with the largest total cosine, once by decoder and once by encoder. A latent is
# **found** where both matches name the same partner and both cosines reach the threshold (after
# [Paulo and Belrose 2025](https://arxiv.org/abs/2501.16615), who found about a third of the latents of large
# SAEs to be shared between seeds).
#
# What would chance find? Three dictionaries that mean nothing, as large as the real one:
#
# * **random directions**: almost nothing matches in many dimensions;
# * **units shuffled**: each latent's weights dealt to other units. Few strong weights stay few and strong, and
#   two latents that each copy *one unit* match whenever it is the same one;
# * **latents shuffled**: each unit's weights dealt to other latents. Loud units stay loud, a pattern that all
#   latents share stays shared.

# %%
stability = {
    name: compare_seeds(ones, threshold=threshold)
    for name, ones in dictionaries.items()
    if min(map(len, ones)) > 0
}
tables = {name: found.table() for name, found in stability.items()}
# Without an encoder there is no second match to agree with.
tables |= {name: tables[name].drop(index="found") for name in METHODS if name in tables}
pd.concat(tables, names=["model", "matched"]).round(3)

# %%
shown = list(settings_of(size))
first = "batchtopk"
draws = {
    null: np.concatenate(
        [
            latent_agreement(
                a.decoder, null_dictionary(b, null, seed=i).decoder, threshold=threshold
            ).decoder_cosine.numpy()
            for i, (a, b) in enumerate(itertools.permutations(dictionaries[first], 2))
        ]
    )
    for null in stability[first].chance["null"].unique()
}
figure = plot_matched_cosines(
    {
        name: np.concatenate([m.decoder_cosine.numpy() for m in stability[name].matches.values()])
        for name in shown
    },
    {f"{null} ({first})": cosines for null, cosines in draws.items()},
    threshold,
)
chapter.save_figure(figure, "matched_cosines")
figure

# %%
LABELS = {"by_decoder": "by decoder", "found": "by decoder and encoder"}
intervals, points = [], []
for name, found in stability.items():
    points.append(found.pairs.assign(model=name))
    for score in LABELS:
        if score == "found" and name in METHODS:
            points[-1]["found"] = math.nan
            continue
        at = found.interval(score)
        intervals.append(
            {
                "model": name,
                "score": score,
                "mean": at.mean,
                "low": at.low,
                "high": at.high,
                **found.chance_of(score).to_dict(),
            }
        )
intervals, points = pd.DataFrame(intervals), pd.concat(points, ignore_index=True)
_ = chapter.save_table(points, "pairs_of_seeds")
figure = plot_shares(points, intervals, LABELS, controls=list(METHODS))
chapter.save_figure(figure, "seeds")
figure

# %% [markdown]
# A point is a pair of seeds; the bar is the mean over pairs with a 95 % jackknife interval over *seeds*, since
# pairs that share a seed are not independent. PCA at 1 is no praise: it has one solution, true or not. A method
# that returns the same thing every time may be wrong every time. And the nulls are not zero: what a model
# scores above *its own* nulls is what it can claim.
#
# ## Which latents return?

# %%
latents = []
for name in shown:
    rows = stability[name].latents.assign(model=name)
    if planted:
        followed = [
            followed_features(
                sae.encode(x_train).detach()[:, one.latent],
                truth["train"],
                one.activity,
                truth["test"],
                feature_names,
            )
            for sae, one in zip(models[name], dictionaries[name], strict=True)
        ]
        followed = pd.concat(followed, ignore_index=True)
        rows = rows.assign(feature=followed["feature"], r_truth=followed["r_test"])
    latents.append(rows)
latents = pd.concat(latents, ignore_index=True)
_ = chapter.save_table(latents, "latents")
PROPERTIES = {
    "density": "density\n(share of bins)",
    "usefulness": "usefulness (FVU lost\nwithout it)",
    "unit_cosine": "largest cosine\nwith a single unit",
}
classes = {
    column: {
        name: stability_by(latents[latents["model"] == name], column, n_bins=4) for name in shown
    }
    for column in PROPERTIES
}
figure = plot_classes(classes, PROPERTIES)
chapter.save_figure(figure, "which_return")
ranks = pd.DataFrame(
    {
        column: {name: table.attrs["spearman"] for name, table in by_model.items()}
        for column, by_model in classes.items()
    }
)
print("rank correlation with the share of other seeds that find a latent:")
display(ranks.round(2))
figure

# %% [markdown]
# The third panel is the one to be wary of. A latent that copies one unit has nowhere else to go: the axis of a
# unit is the same under every seed, and a dictionary of raw units would be perfectly stable. So what is stable is
# looked at twice, with and without the latents whose cosine with a single unit is 0.9 or above.

# %%
COPY = 0.9
rows = []
for name in shown:
    own = latents[latents["model"] == name]
    for label, part in (("all", own), ("no copies of a unit", own[own["unit_cosine"] < COPY])):
        if not len(part):
            continue
        row = {
            "model": name,
            "latents": label,
            "n": len(part),
            "share found": part["share_found"].mean(),
        }
        if planted:
            stable = part["share_found"] >= 0.5
            row |= {
                "r, found by most": part.loc[stable, "r_truth"].mean(),
                "r, by few": part.loc[~stable, "r_truth"].mean(),
                "rank correlation with r": part["share_found"].rank().corr(part["r_truth"].rank()),
            }
        rows.append(row)
copies = pd.DataFrame(rows)
copies.round(3)

# %% [markdown]
# *r* is the correlation of a latent with the true feature that it follows best, chosen on training bins and
# measured on test bins (only where the truth is known). So stability can be held against truth: are the latents
# that other seeds find also the truer ones?

# %%
if planted:
    truer = {}
    for name in shown:
        own = latents[latents["model"] == name]
        gaps = []
        for _, part in own.groupby("dictionary"):
            stable = part["share_found"] >= 0.5
            if stable.any() and (~stable).any():
                gaps.append(
                    part.loc[stable, "r_truth"].mean() - part.loc[~stable, "r_truth"].mean()
                )
        truer[name] = mean_interval(gaps) if gaps else None
        print(f"{name}: r of latents found by most seeds minus r of the others: {truer[name]}")
else:
    truer = {}
    print("no planted truth: left out")

# %% [markdown]
# ## Is the unstable part at least the same subspace?
#
# Latents that are not found may be another basis of the same few dimensions: rotated, not random. The subspace of
# each seed's unfound latents (the smallest that carries 90 % of what they contribute) is compared with the
# other seed's by principal angles: 0° is a common direction, 90° none. Two controls of the same dimensions:
# directions drawn at random, and directions drawn as the *data* are, since any model has to follow where the
# data lie.

# %%
unstable = {
    name: unstable_subspaces(
        stability[name], covariance=torch.cov(x_train.T).reshape(width, width), seed=seed
    )
    for name in shown
}
subspaces = pd.concat({name: found.pairs for name, found in unstable.items()}, names=["model"])
subspace_means = subspaces.groupby("model", sort=False).mean(numeric_only=True)
display(subspace_means.round(2))
if len(unstable[first].angles):
    figure = plot_angles(
        [a.numpy() for a in unstable[first].angles],
        {
            "random subspaces": [a.numpy() for a in unstable[first].random_angles],
            "drawn as the data": [a.numpy() for a in unstable[first].data_angles],
        },
    )
    chapter.save_figure(figure, "unstable_subspace")
    display(figure)
else:
    print("every latent is found: there is no unstable part")

# %% [markdown]
# *Overlap* is the share of the smaller subspace that lies in the other one; `by_theory` is its mean for random
# subspaces, max(p, q) / d. Where an overlap lies well above both controls, seeds agree on *where* the remaining
# activity lies and disagree on how to cut it up: read that subspace as a whole, and don't name its latents.
#
# ## Other data: halves of the session
#
# A new seed changes the model; other trials change the evidence. The training bins are cut into two halves in
# time, and each half gets its own models with the same seeds, compared on the same test bins. *Same seed*: only
# the data differ. *Other seed*: both do.

# %%
half = len(x_train) // 2
HALF_SEEDS = SEEDS[:n_half_seeds]
time_order = torch.as_tensor(np.argsort(store.index["time"].to_numpy()[store.rows("train")]))
halves = [x_train[time_order[:half]], x_train[time_order[half:]]]
usable_halves = half >= 10 * size
rows, half_models = [], {}
if usable_halves:
    for name, settings in tqdm(settings_of(size).items(), desc="halves", unit="model"):
        half_models[name] = [
            [
                dictionary_of(sae, x_test, f"half {h}, seed {s}")
                for s, sae in zip(HALF_SEEDS, train_seeds(part, seeds=HALF_SEEDS, **settings))
            ]
            for h, part in enumerate(halves)
        ]
    for name in METHODS if components >= 2 else []:
        half_models[name] = [[fit_method(name, part, s) for s in HALF_SEEDS] for part in halves]
    for name, (early, late) in half_models.items():
        for (i, a), (j, b) in itertools.product(enumerate(early), enumerate(late)):
            linear = a.encoder is None or b.encoder is None
            match = latent_agreement(
                a.decoder,
                b.decoder,
                None if linear else a.encoder,
                None if linear else b.encoder,
                threshold=threshold,
                either_sign=a.either_sign,
            )
            rows.append(
                {
                    "model": name,
                    "seeds": "same" if i == j else "other",
                    "i": i,
                    "j": j,
                    "by_decoder": float(match.by_decoder.double().mean()),
                    "found": float(match.found.double().mean()),
                }
            )
else:
    print(f"{half:,} bins a half are too few for {size} latents: left out")
across_halves = pd.DataFrame(rows, columns=["model", "seeds", "i", "j", "by_decoder", "found"])
if usable_halves:
    _ = chapter.save_table(across_halves, "across_halves")
    display(
        across_halves.pivot_table(
            index="model", columns="seeds", values=["by_decoder", "found"], sort=False
        ).round(3)
    )

# %% [markdown]
# For the SAEs *found* asks both directions, for PCA, NMF and ICA it can only ask the decoder. Compare like with
# like: the columns `by_decoder`. Here the methods with one solution lose their privilege: that solution is of the
# data, and with other data it is another one. And where an SAE's decoders agree and its encoders don't,
# `by_decoder` stays and `found` falls: what a latent adds is better determined than the weights that detect it.
#
# ## Another session
#
# Units come and go between days. Latents can be compared over the units that both sessions hold, identified by
# their ids; a latent is judged only where these carry at least half of its squared length. Two controls:
# *other units*, for which the second session's shared units are dealt anew, as if the ids were wrong; and
# *latents shuffled* within units. Where no unit is shared, between animals, what remains is what latents *do*:
# their mean activity around movement onset, for each direction, with the directions dealt anew as the control.
#
# The simulator gives sessions of one animal 60 % of their units in common, with weights perturbed by 10 %, and
# the same features everywhere, so every match can be checked: do both latents follow the same true feature?

# %%
BEFORE_S, AFTER_S = 0.8, 0.8


def open_session(animal, session):
    """A simulated session: its model, dictionary, unit ids, profiles and followed features."""
    simulated = simulate_reach(n_units, n_trials, seed, session=session, animal=animal)
    own = simulated.to_recording()
    name = f"animal {animal}, day {session}"
    kept = prepare(
        own,
        chapter.path / f"store_{animal}_{session}",
        bin_size_s=bin_size_s,
        criteria=UnitCriteria(min_rate_hz=min_rate_hz),
        seed=seed,
        overwrite=True,
        progress=False,
    )
    x = kept.tensor(None).float()
    sae = train_seeds(kept.tensor("train").float(), seeds=[seed], **settings_of(size)[kind])[0]
    one = dictionary_of(sae, x, name, usefulness=False)
    trials = own.trials
    direction = np.round(np.rad2deg(trials["direction"].to_numpy()) / 45).astype(int) % 8
    order = np.argsort(kept.index["time"].to_numpy(), kind="stable")
    times = kept.index["time"].to_numpy()[order]
    onset = np.searchsorted(times, trials["movement_onset_time"].to_numpy()) - 1
    profiles = condition_profiles(
        one.activity[torch.as_tensor(order)],
        onset,
        direction,
        8,
        round(BEFORE_S / bin_size_s),
        round(AFTER_S / bin_size_s),
    )
    true = kept.table("ground_truth_features").drop(columns=["session", "time"])
    at = {s: torch.as_tensor(kept.rows(s)) for s in ("train", "test")}
    values = torch.tensor(true.to_numpy()).float()
    follows = followed_features(
        one.activity[at["train"]],
        values[at["train"]],
        one.activity[at["test"]],
        values[at["test"]],
        [str(column) for column in true.columns],
    )
    return {
        "animal": animal,
        "one": one,
        "units": kept.features["unit"].tolist(),
        "profiles": profiles,
        "feature": follows["feature"].to_numpy(),
    }


kind = "nested"
opened = []
if not recording_path:
    every = list(itertools.product(range(n_animals), range(n_sessions)))
    for animal, session in tqdm(every, desc="sessions", unit="session"):
        opened.append(open_session(animal, session))
else:
    print("one recording: other sessions are left out; its halves, above, stand in for them")

# %%
rows = []
for a, b in itertools.combinations(opened, 2):
    pair = f"{a['one'].name} – {b['one'].name}"
    found_by = {}
    if a["animal"] == b["animal"]:
        found_by["over shared units"] = match_over_units(
            a["one"], b["one"], a["units"], b["units"], threshold=threshold, seed=seed
        )
    found_by[
        "by profiles, one animal" if a["animal"] == b["animal"] else "by profiles, two animals"
    ] = match_profiles(a["profiles"], b["profiles"], threshold=threshold, seed=seed)
    for way, found in found_by.items():
        pairs = found.pairs.numpy()
        same = a["feature"][pairs[:, 0]] == b["feature"][pairs[:, 1]]
        for control, shares in found.chance.items():
            rows.append(
                {
                    "way": way,
                    "pair": pair,
                    "share": found.share,
                    "control": control,
                    "chance": shares.mean(),
                    "chance_high": np.quantile(shares, 0.95),
                    "p": found.p(control),
                    "same feature": same.mean() if len(same) else math.nan,
                    "compared": found.n_shared,
                    "judged": len(found.judged_first),
                }
            )
sessions = pd.DataFrame(rows)
if len(sessions):
    _ = chapter.save_table(sessions, "sessions")
    display(sessions.groupby(["way", "control"], sort=False).mean(numeric_only=True).round(3))
    drawn = pd.concat(
        [
            part[part["pair"].isin(part["pair"].unique()[:8])]
            for _, part in sessions.groupby("way", sort=False)
        ]
    )
    figure = plot_session_matches(
        drawn.replace({"pair": {r"animal (\d), day (\d)": r"\1.\2"}}, regex=True)
    )
    chapter.save_figure(figure, "sessions")
    display(figure)

# %% [markdown]
# Pairs are named animal.day. *Same feature* is the share of matched pairs in which both latents follow the same
# true feature best. Latents that follow movement are all quiet before it and active after; the control shows how
# much of a match by profiles that common course explains.
#
# ## A larger dictionary
#
# Does each latent return among more latents, and is what the large one has besides *new*? Counterparts need
# not be one-to-one here: a latent may split. New is what has no counterpart in the small dictionary. Whether it
# *adds* anything is asked by stitching, without training again: put the new latents of the large SAE into the
# small one's reconstruction. If they hold what it lacks, the error falls; if they say again what it says
# already, in another way, it rises. Those that do return should raise it most (after
# [Leask et al. 2025](https://arxiv.org/abs/2502.04878)). As many latents of the large SAE taken at random are
# the control.

# %%
rows, stitched = [], []
for name in [other for other in models if other.startswith("batchtopk,")]:
    for i, j in itertools.product(range(n_seeds), range(n_seeds)):
        small, large = dictionaries[first][i], dictionaries[name][j]
        both = compare_sizes(small, large, threshold=threshold, n_draws=1)
        same_size = compare_sizes(small, dictionaries[first][j], threshold=threshold, n_draws=1)
        rows.append(
            {
                "model": name,
                "small": i,
                "large": j,
                **both.summary(),
                "kept, equal size": same_size.kept if i != j else math.nan,
            }
        )
        if i == j:
            scores = stitch(models[first][i], models[name][j], x_test, large, both.novel, seed=i)
            stitched.append({"model": name, "seed": i, **scores})
grown, stitched = pd.DataFrame(rows), pd.DataFrame(stitched)
if len(grown):
    _ = chapter.save_table(grown, "sizes")
    display(grown.groupby("model", sort=False).mean().drop(columns=["small", "large"]).round(3))
    display(stitched.groupby("model", sort=False).mean().drop(columns="seed").round(4))
else:
    print("no second size: left out")

# %%
stitch_verdicts = {}
for name, part in stitched.groupby("model", sort=False) if len(stitched) else []:
    for added, base in itertools.product(("novel", "returning"), ("small", "small + random")):
        gap = mean_interval(part[f"small + {added}"] - part[base])
        label = f"{name}, FVU of small + {added} minus {base}"
        if gap.n < 3:
            verdict = "under three seeds, no verdict"
        elif gap.low <= 0 <= gap.high:
            verdict = "no difference seen"
        else:
            verdict = "lower error" if gap.mean < 0 else "higher error"
        stitch_verdicts[label] = f"{gap}: {verdict}"
        print(f"{label}: {stitch_verdicts[label]}")

# %% [markdown]
# ## Splitting and absorption
#
# Two ways in which a dictionary disagrees with the truth without being wrong about where activity lies. They need
# a truth with *nested* features: a child ("fast left") is only ever active with its parent ("left").
#
# * **Splitting**: one true feature is covered by several latents that take turns. Counted for a feature where
#   two or more latents belong to it, hardly overlap, and each cover at least a tenth of it on test rows.
# * **Absorption** ([Chanin et al. 2024](https://arxiv.org/abs/2409.14507)): the parent's latent is silent where
#   the child's is active. The *rate* is the share of the child's rows where that happens. The *gap* is how much
#   oftener the parent is missed with a child than alone. A control keeps it honest: beside an *unrelated* feature
#   the parent's latent may be missed too, just because a sparse code is short of room.
#
# First on a known dictionary of families (a parent, two children, four grandchildren), with a plain and a nested
# SAE. *Independent* features are the second control: there the same pairs of columns are strangers, and
# whatever looks like absorption between them is crowding. Directions are known too, so recall stands beside.

# %%
N_TEST = 3000
NESTED_SIZE = 2 * n_features
NESTED_K = 4


def train_on_truth(known, settings, s):
    """An SAE on known examples, with what splitting and absorption need."""
    x = torch.from_numpy(known.x)
    config = SAEConfig(d_in, NESTED_SIZE, k=NESTED_K, reconstruction="mse", **settings)
    return fit(config, x[:n_examples], TRAIN_ON_TRUTH, seed=s, progress=False).sae.cpu()


TRAIN_ON_TRUTH = TrainConfig(
    n_steps=nested_steps,
    batch_size=batch_size,
    learning_rate=learning_rate,
    n_logs=2,
    device=chapter.device,
)
CONTENDERS = {
    "plain": {},
    "nested": {"prefixes": (NESTED_SIZE // 4, NESTED_SIZE // 2, NESTED_SIZE)},
}
rows = []
jobs = list(itertools.product(range(n_nested_seeds), ("nested", "linear"), CONTENDERS))
with tqdm(jobs, desc="known truth", unit="run") as bar:
    for s, kind_of_truth, name in bar:
        known = simulate_dictionary(
            n_examples + N_TEST,
            d_in,
            n_features,
            mean_l0=NESTED_K,
            noise=0.1,
            kind=kind_of_truth,
            seed=seed + s,
        )
        sae = train_on_truth(known, CONTENDERS[name], seed + s)
        features = torch.from_numpy(known.features)
        with torch.no_grad():
            z = sae.encode(torch.from_numpy(known.x))
        parts = z[:n_examples], features[:n_examples], z[n_examples:], features[n_examples:]
        split = splitting(*parts)
        if kind_of_truth == "nested":
            families = nested_pairs(known.parent)
        found = absorption(*parts, families)
        match = match_scores(
            sae.W_dec.detach(), torch.from_numpy(known.directions).float(), alive=(z > 0).any(0)
        )
        judged = split["judged"].to_numpy(bool)
        rows.append(
            {
                "model": f"{name} SAE",
                "truth": kind_of_truth,
                "seed": seed + s,
                "splitting": split["split"].to_numpy(bool)[judged].mean(),
                "absorption": found.rate,
                "gap": found.gap,
                "gap beside": found.gap_beside,
                "judged": found.n_judged,
                "recall": match.recall,
            }
        )
        bar.set_postfix_str(f"{name}: splitting {rows[-1]['splitting']:.2f}", refresh=False)
on_nested = pd.DataFrame(rows)
_ = chapter.save_table(on_nested, "splitting_and_absorption")
on_nested.groupby(["truth", "model"], sort=False).mean(numeric_only=True).drop(
    columns="seed"
).round(3)

# %%
labelled = on_nested.assign(
    model=on_nested["model"] + np.where(on_nested["truth"] == "nested", "", ", independent truth")
)
figure = plot_contestants(
    labelled,
    {
        "splitting": "splitting\nrate",
        "absorption": "absorption\nrate",
        "gap": "gap with\na child",
        "gap beside": "gap beside\nunrelated",
        "recall": "recall",
    },
    controls=[name for name in labelled["model"].unique() if name.endswith("independent truth")],
)
chapter.save_figure(figure, "splitting_and_absorption")
figure


# %%
def paired(score, first_model="nested SAE", second_model="plain SAE", truth_kind="nested"):
    """First minus second, paired over seeds, with a verdict."""
    part = on_nested[on_nested["truth"] == truth_kind]
    pairs = part.pivot_table(index="seed", columns="model", values=score, dropna=False)
    pairs = pairs.reindex(columns=[first_model, second_model]).dropna()
    if pairs.empty:
        return f"{score}: not measured"
    gap = mean_interval(pairs[first_model] - pairs[second_model])
    if gap.n < 3:
        verdict = "under three seeds, no verdict"
    elif gap.low <= 0 <= gap.high:
        verdict = "no difference seen"
    else:
        verdict = "higher" if gap.mean > 0 else "lower"
    return f"{score}, {first_model} minus {second_model}: {gap}: {verdict}"


nested_verdicts = [paired(score) for score in ("splitting", "absorption", "gap", "recall")]
for name in on_nested["model"].unique():
    part = on_nested[(on_nested["truth"] == "nested") & (on_nested["model"] == name)]
    beyond = (part["gap"] - part["gap beside"]).dropna()
    said = mean_interval(beyond) if len(beyond) else "not measured"
    nested_verdicts.append(f"{name}, gap with a child minus gap beside an unrelated one: {said}")
print("\n".join(nested_verdicts))

# %% [markdown]
# Only what the gap with a child has beyond the gap beside an unrelated feature, and what the absorption rate has
# beyond that between strangers, is absorption: the rest is a code that is short of room.
#
# And on the simulated session, which has two nested pairs of its own: a fast reach to the left within any
# reach to the left, a long wait within any wait. There features are smooth and overlap with others; a pair is
# judged only where some latent follows the parent (r ≥ 0.3 without the child) and ten test bins hold the child.

# %%
PAIRS = [("left", "fast_left"), ("waiting", "long_wait")]
rows = []
if planted and all(name in feature_names for pair in PAIRS for name in pair):
    numbered = [tuple(feature_names.index(name) for name in pair) for pair in PAIRS]
    for name in shown:
        for s, sae in zip(SEEDS, models[name], strict=True):
            with torch.no_grad():
                z = sae.encode(x_train), sae.encode(x_test)
            found = absorption(z[0], truth["train"], z[1], truth["test"], numbered, fewest=10)
            for pair, (_, row) in zip(PAIRS, found.pairs.iterrows(), strict=True):
                rows.append({"model": name, "pair": " > ".join(pair), "seed": s, **row})
in_session = pd.DataFrame(rows)
rows = []
for name in models if planted else []:
    for s, sae in zip(SEEDS, models[name], strict=True):
        with torch.no_grad():
            z = sae.encode(x_train), sae.encode(x_test)
        table = splitting(z[0], truth["train"], z[1], truth["test"])
        judged = table["judged"].to_numpy(bool)
        rate = table["split"].to_numpy(bool)[judged].mean() if judged.any() else math.nan
        rows.append({"model": name, "seed": s, "judged features": judged.sum(), "splitting": rate})
split_in_session = pd.DataFrame(rows)
if len(in_session):
    display(
        split_in_session.groupby("model", sort=False)[["judged features", "splitting"]]
        .mean()
        .round(2)
    )
    shown_pairs = in_session.groupby(["pair", "model"], sort=False)[
        ["judged", "r", "missed", "missed_alone", "missed_beside", "absorbed"]
    ]
    display(shown_pairs.mean().astype(float).round(2))
else:
    print("no nested features are known in this recording: left out")

# %% [markdown]
# ## What most seeds agree on
#
# The remedy that costs nothing but seeds: keep the latents that at least half of the seeds find, and average
# them into one **consensus dictionary**. Is it better? Where the truth is known: does each consensus latent
# follow a true feature better than the latents of a single seed do? *Precision* is the share of latents that
# follow some feature with r ≥ 0.5 on test bins; *features* is how many different ones that makes. An equally
# small choice from a single seed, of its most *useful* latents, is the control.

# %%
FOLLOWS = 0.5


def judged_by_truth(z_train, z_test):
    """Mean r, precision, and number of different features followed, of a set of latents."""
    if not z_train.shape[1]:
        return {"n": 0, "r": math.nan, "precision": math.nan, "features": 0}
    follows = followed_features(z_train, truth["train"], z_test, truth["test"], feature_names)
    good = follows["r_test"] >= FOLLOWS
    return {
        "n": len(follows),
        "r": follows["r_test"].mean(),
        "precision": good.mean(),
        "features": follows.loc[good, "feature"].nunique(),
    }


def consensus_activity(agreed, activities):
    """Mean over members of activity over its spread, [n, n_groups], from each seed's latents."""
    made = torch.zeros(len(activities[0]), len(agreed))
    for group, i, row in agreed.members.itertuples(index=False):
        own = activities[i][:, row]
        spread = float(dictionaries_now[i].activity[:, row].std())
        made[:, group] += own / max(spread, 1e-9) / int(agreed.n_found[group])
    return made


agreed, rows = {}, []
for name in shown:
    agreed[name] = consensus(stability[name])
    dictionaries_now = dictionaries[name]
    print(
        f"{name}: {len(agreed[name])} latents that at least half of {n_seeds} seeds hold, "
        f"{int((agreed[name].n_found == n_seeds).sum())} that all do"
    )
    if not planted:
        continue
    with torch.no_grad():
        z_train = [
            sae.encode(x_train)[:, one.latent]
            for sae, one in zip(models[name], dictionaries_now, strict=True)
        ]
    z_test = [one.activity for one in dictionaries_now]
    together = consensus_activity(agreed[name], z_train), consensus_activity(agreed[name], z_test)
    rows.append({"model": name, "latents": "consensus", "seed": -1, **judged_by_truth(*together)})
    for s, (a, b, one) in enumerate(zip(z_train, z_test, dictionaries_now, strict=True)):
        members = agreed[name].members
        inside = torch.zeros(len(one), dtype=torch.bool)
        inside[members.loc[members["dictionary"] == s, "row"].tolist()] = True
        useful = one.usefulness.argsort(descending=True)[: len(agreed[name])]
        for label, which in (
            ("one seed, all", torch.ones(len(one), dtype=torch.bool)),
            ("one seed, in the consensus", inside),
            ("one seed, not in it", ~inside),
            ("one seed, most useful", useful),
        ):
            scores = judged_by_truth(a[:, which], b[:, which])
            rows.append({"model": name, "latents": label, "seed": s, **scores})
by_truth = pd.DataFrame(rows)
if planted:
    _ = chapter.save_table(by_truth, "consensus_and_truth")
    display(
        by_truth.groupby(["model", "latents"], sort=False)[["n", "r", "precision", "features"]]
        .mean()
        .round(3)
    )

# %%
consensus_verdicts = {}
for name in shown if planted else []:
    own = by_truth[by_truth["model"] == name]
    table = own[own["seed"] >= 0].pivot_table(index="seed", columns="latents", values="r")
    for other in ("one seed, not in it", "one seed, most useful"):
        columns = ["one seed, in the consensus", other]
        gaps = table.reindex(columns=columns).dropna()
        if not len(gaps):
            consensus_verdicts[f"{name}, {other}"] = "not measured"
            continue
        gap = mean_interval(gaps[columns[0]] - gaps[other])
        verdict = (
            "under three seeds, no verdict"
            if gap.n < 3
            else "no difference seen"
            if gap.low <= 0 <= gap.high
            else "truer"
            if gap.mean > 0
            else "less true"
        )
        consensus_verdicts[f"{name}, {other}"] = f"{gap}: {verdict}"
        print(f"{name}: r in the consensus minus {other}: {gap}: {verdict}")
if planted:
    figure = plot_contestants(
        by_truth[by_truth["model"] == kind].assign(model=lambda t: t["latents"]),
        {"n": "latents", "r": "r with truth", "precision": "precision", "features": "features"},
        controls=["one seed, most useful"],
        title=f"{kind}: what most seeds agree on, and the rest",
    )
    chapter.save_figure(figure, "consensus")
    display(figure)

# %% [markdown]
# Without a truth there is another judge: data that took no part. Take the latents that the seeds of the *first
# half* agree on; does the *second half* find these more often than the others?

# %%
half_verdicts = {}
for name in shown if usable_halves else []:
    early, late = half_models[name]
    within = compare_seeds(early, threshold=threshold, nulls=())
    gaps = []
    for one in early:
        again = torch.stack(
            [
                latent_agreement(
                    one.decoder, b.decoder, one.encoder, b.encoder, threshold=threshold
                ).found
                for b in late
            ]
        )
        own = within.latents[within.latents["dictionary"] == one.name]
        stable = own["share_found"].to_numpy() >= 0.5
        share = again.double().mean(0).numpy()
        if stable.any() and (~stable).any():
            gaps.append({"stable": share[stable].mean(), "others": share[~stable].mean()})
    if not gaps:
        half_verdicts[name] = "all latents alike: nothing to compare"
    else:
        gaps = pd.DataFrame(gaps)
        gap = mean_interval(gaps["stable"] - gaps["others"])
        half_verdicts[name] = (
            f"{gaps['stable'].mean():.3f} of those that seeds agree on, {gaps['others'].mean():.3f} "
            f"of the others; difference {gap}"
        )
    print(f"{name}, found by the models of the other half: {half_verdicts[name]}")
if not usable_halves:
    print("no halves: left out")

# %% [markdown]
# ## The answer

# %%
for _, row in intervals[intervals["score"] == "found"].iterrows():
    nulls = row.drop(["model", "score", "mean", "low", "high"]).astype(float)
    at = f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    print(
        f"{row['model']}: {at} of the latents are found by another seed, {nulls.max():.2f} by "
        f"chance ({nulls.idxmax()})"
    )
for name in METHODS if components >= 2 else []:
    row = intervals[(intervals["model"] == name) & (intervals["score"] == "by_decoder")].iloc[0]
    print(f"{name}: {row['mean']:.2f} by decoder")
for name, row in subspace_means.iterrows():
    print(
        f"{name}, unstable part: overlap {row['overlap']:.2f}, {row['random']:.2f} of random "
        f"subspaces, {row['data']:.2f} of ones drawn as the data"
    )
for way, part in sessions.groupby("way", sort=False) if len(sessions) else []:
    chance = part.groupby("control")["chance"].mean()
    print(
        f"sessions, {way}: {part['share'].mean():.2f} found, {chance.max():.2f} by chance "
        f"({chance.idxmax()}); {part['same feature'].mean():.0%} of the pairs follow one feature"
    )
print(*nested_verdicts, sep="\n")
for what, verdict in consensus_verdicts.items():
    print(f"consensus against {what}: {verdict}")
for name, verdict in half_verdicts.items():
    print(f"other half, {name}: {verdict}")

# %% [markdown]
# **What to do with a recording.** Train five seeds, not one: side by side they cost less than five times one. Before
# you name a latent, look up how many seeds hold it, what its *own nulls* would hold, and whether it is a copy
# of one unit. Name what most seeds find; where the overlap above lies well over both controls, report the rest
# as a subspace. Then ask a harder question than another seed: the other half of the session, another session.
# A consensus of seeds costs training; so compare it, as above, with what costs nothing, the most useful latents
# of one seed: where that does as well, seeds have told you *which latents to trust*, and not given you better
# ones. Stability is necessary and not sufficient: PCA returns the same components from every seed, and so
# does a list of raw units. And don't look for the one true size: a larger dictionary keeps some
# latents, replaces others, and is itself less stable or more, as the table of seeds says.
#
# **What this does not show.** Thresholds are conventions: the curves above show what another would give. Seeds here
# share their batches. Sessions and truth are simulated; on a recording n counts repetitions of training, not
# animals.

# %%
chapter.save_metrics(
    {
        "found_batchtopk": stability[first].interval().mean,
        "found_by_chance_batchtopk": float(stability[first].chance_of().max()),
        "found_nested": stability[kind].interval().mean,
        "seeds": intervals.to_dict("records"),
        "which_return": ranks.to_dict("index"),
        "copies_of_units": copies.to_dict("records"),
        "truer": {name: str(gap) for name, gap in truer.items()},
        "unstable_subspace": subspace_means.to_dict("index"),
        "halves": across_halves.groupby(["model", "seeds"], sort=False)[["by_decoder", "found"]]
        .mean()
        .reset_index()
        .to_dict("records"),
        "sessions": sessions.to_dict("records"),
        "sizes": grown.to_dict("records"),
        "stitching": stitched.to_dict("records"),
        "stitch_verdicts": stitch_verdicts,
        "splitting_and_absorption": on_nested.to_dict("records"),
        "nested_verdicts": nested_verdicts,
        "nested_in_session": in_session.to_dict("records"),
        "splitting_in_session": split_in_session.to_dict("records"),
        "consensus": by_truth.to_dict("records"),
        "consensus_verdicts": consensus_verdicts,
        "other_half": half_verdicts,
        "n_seeds": n_seeds,
    }
)

# %% [markdown]
# **Next.** Set `n_seeds` to 10 and `sizes` to three values; or `recording_path` to your own file, and begin with
# the third panel of *Which latents return?*
