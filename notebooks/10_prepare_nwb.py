# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which units and which bins should an SAE see?
#
# > A sparse autoencoder (SAE) learns whatever is regular in the matrix it is given: neurons, but
# > also two neurons sorted into one unit, one neuron sorted into two, a unit that fades away, and
# > a split that lets it see the answers. This chapter goes from an NWB file to a matrix of counts
# > that deserves to be learnt from, and shows at each step what the choice costs.

# %% [markdown]
# **You will learn**
#
# 1. what is in a recording: its clock, its faults, and what a reader should tell you about both;
# 2. what each quality rule removes, what it cannot decide, and what it never sees;
# 3. how bin size trades sparsity against signal, with the working notes' "50 ms gives about 0.8
#    sparsity at about 10 Hz" put to the test;
# 4. how train, validation and test are kept apart in time, and what leaks when they are not;
# 5. what `prepare` writes, and how to go on with several files;
# 6. whether a window of several bins could help an SAE on this recording at all.
#
# **You need** an NWB file with units (trials, behaviour and planted truth are used where they are
# there), or nothing: without a file the chapter simulates a session whose every defect is known.
#
# **It takes** under a minute at smoke settings, a minute at laptop settings and 11 minutes at the
# settings of `gpu.yaml`, on one CPU core (the last on a busy one); nothing here uses a GPU.
#
# Words: a *unit* is one spike train of the sorter, a *bin* one row of the matrix, a *cell* one unit
# in one bin. *The working notes* are the notes that this handbook grew from.

# %% tags=["parameters"]
recording_path: str = ""  # NWB file; empty: the simulated session
n_units: int = 60  # units of the simulated session
n_trials: int = 150  # trials of the simulated session
bin_size_s: float = 0.05  # width of a bin, s
min_rate_hz: float = 0.5  # rate floor, Hz; about 0.05 in hippocampus
max_isi_violations: float = 0.1  # limit of the measure isi_metric
isi_threshold_s: float = 0.002  # refractory period, s
isi_metric: str = "ratio"  # ratio (Hill), fraction or contamination (Llobet)
labels: list[str] = ["good"]  # sorter labels kept; empty: any
undecided: str = "keep"  # keep or drop units with too few spikes to decide
bin_sizes_ms: list[float] = [10.0, 20.0, 50.0, 100.0, 200.0]  # bin sizes compared, ms
align_to: str = ""  # trials column with a time, s; empty: movement onset, go cue or start
condition_column: str = ""  # trials column of conditions; empty: the one with most values
history_bins: list[int] = [1, 2, 4, 8]  # bins of history tried
n_folds: int = 3  # block splits for the history test
n_check_units: int = 60  # simulated units per share of foreign spikes
n_halvings: int = 10  # random halvings behind the signal variance
n_nuisances: int = 8  # nuisance signals per time constant in the leakage test
max_history_units: int = 60  # units in the history test; of more, so many are drawn
guard_s: float = 0.0  # gap between splits, s; 0: measured by prepare
seed: int = 0  # of every draw in this chapter

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("10_prepare_nwb", globals())

# %%
import tempfile
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.sparse import csr_array
from scipy.stats import binomtest, norm
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from saebook.data import (
    ExampleStore,
    Recording,
    UnitCriteria,
    assign_splits,
    bin_spikes,
    isi_violations_ratio,
    prepare,
    read_recording,
    select_units,
    simulate_dataset,
    windows,
)
from saebook.data.simulate.spiking import SAMPLING_RATE_HZ, add_foreign, poisson_train
from saebook.data.spikes.quality import measure_units, observed_pieces, poisson_interval
from saebook.errors import SelectionError
from saebook.metrics import mean_interval
from saebook.plots import (
    GREY,
    LIGHT_GREY,
    PALETTE,
    horizontal_line,
    panels,
    plot_raster,
    plot_unit_quality,
    vertical_line,
)

SPLIT_COLOURS = {
    "train": PALETTE["blue"],
    "validation": PALETTE["orange"],
    "test": PALETTE["vermillion"],
    "guard": LIGHT_GREY,
}


pd.set_option("display.max_colwidth", None)
told: set[str] = set()


def tell(caught: list[warnings.WarningMessage]) -> None:
    """Print warnings as part of the story, each once, without the folder of the file."""
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        if message not in told:
            print("warning:", message.replace(f"{path.parent}/", ""))
    told.update(str(warning.message) for warning in caught)


# %% [markdown]
# ## 1. Reading a recording
#
# A reader that repairs a file silently is worse than one that stops. This one reads every train,
# sets aside units whose spike times cannot be right (unsorted, not a number, empty, past the
# recording's end), and says what it survived.

# %%
path = chapter.recording_or_simulated(n_units, n_trials)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    recording = read_recording(path)
tell(caught)
recording

# %% [markdown]
# **Its own clock.** Nothing guarantees that a recording begins at zero, or that spikes, trials and
# behaviour were observed over the same span. The clock is never shifted: a spike time here is the
# spike time in the file, and bin 0 begins where observation began.

# %%
clocks = [("observed", 0, recording.interval.start, recording.interval.stop, np.nan)]
first = min(times[0] for times in recording.spike_times)
last = max(times[-1] for times in recording.spike_times)
clocks.append(("spikes", recording.n_spikes, first, last, np.nan))
tables = {"trials": recording.trials, **recording.intervals}
for name, table in tables.items():
    if table is not None and len(table):
        ends = table["start_time"].min(), table["stop_time"].max()
        clocks.append((name, len(table), *ends, np.nan))
for name, series in recording.behavior.items():
    step = float(np.median(np.diff(series.timestamps))) if len(series) > 1 else np.nan
    ends = np.nanmin(series.timestamps), np.nanmax(series.timestamps)
    clocks.append((name, len(series), *ends, 1 / step))
clocks = pd.DataFrame(clocks, columns=["what", "n", "first (s)", "last (s)", "sampling (Hz)"])
print(f"the span observed was taken from: {recording.interval_source}")
clocks.set_index("what").round(3)

# %%
for name, lines in {
    "units set aside": [f"unit {u}: {row.reason}" for u, row in recording.faults.iterrows()],
    "notes": list(recording.notes),
    "columns of units": [", ".join(map(str, recording.units.columns))],
    "columns of trials": [] if recording.trials is None else [", ".join(recording.trials)],
}.items():
    print(f"{name}: {'; '.join(lines) or 'none'}")

# %% [markdown]
# Look at the spikes before any number: stripes across all units are an artefact, a unit that stops
# half way was lost, and two identical rows are one neuron twice.

# %%
stretch_s = min(10.0, recording.duration)
begin = recording.interval.start
events = {}
if recording.trials is not None and len(recording.trials):
    begin = float(recording.trials["start_time"].iloc[0])
    begin = min(max(begin, recording.interval.start), recording.interval.stop - stretch_s)
    events = {"trial starts": recording.trials["start_time"].to_numpy()}
by_rate = np.argsort([-len(times) for times in recording.spike_times], kind="stable")
figure = plot_raster(
    recording.spike_times,
    start=begin,
    stop=begin + stretch_s,
    events=events,
    unit_order=by_rate.tolist(),
    title=f"{recording.n_units} units, fastest first",
)
chapter.save_figure(figure, "raster")
figure

# %% [markdown]
# ## 2. What each quality rule removes
#
# Three rules are in force, each computed from the trains themselves: a floor on the mean rate, a
# limit on short intervals between spikes, and, where the file has them, the sorter's labels. A
# file's own quality columns are compared with what its trains give, and disagreement is told.

# %%
criteria = UnitCriteria(
    min_rate_hz=min_rate_hz,
    max_isi_violations=max_isi_violations,
    isi_threshold_s=isi_threshold_s,
    isi_metric=isi_metric,
    labels=tuple(labels) or None,
    undecided=undecided,
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    selected, quality = select_units(recording, criteria)
tell(caught)
usable = quality[quality["verdict"] != "faulty"]
print(f"{len(quality)} units in the file, {len(usable)} usable, {selected.n_units} kept")
shown = ["n_spikes", "rate_hz", "n_violations", "isi_violations_ratio", "verdict", "kept", "reason"]
quality[shown].sort_values("kept", key=lambda kept: kept.astype(bool)).head(12).round(3)

# %% [markdown]
# Each rule **alone** says what it would remove by itself; **in sequence**, what is left after it
# and those above it. The order changes only who gets the credit, not who is kept. A unit that *only
# this rule* removes is the one to look at before you tighten or loosen the rule.

# %%
no_rule = replace(criteria, min_rate_hz=None, max_isi_violations=None, labels=None)


def kept_under(rules: UnitCriteria) -> np.ndarray:
    """Which usable units these rules keep, [n_units] of bool; none is an answer here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _, table = select_units(recording, rules)
        except SelectionError:
            return np.zeros(recording.n_units, bool)
    return table.loc[table["verdict"] != "faulty", "kept"].to_numpy(bool)


rules = {
    f"rate ≥ {min_rate_hz:g} Hz": {"min_rate_hz": min_rate_hz},
    f"ISI {isi_metric} ≤ {max_isi_violations:g}": {"max_isi_violations": max_isi_violations},
    f"label {' or '.join(labels) or 'any'}": {"labels": tuple(labels) or None},
}
alone = {name: kept_under(replace(no_rule, **rule)) for name, rule in rules.items()}
rows, left = [], np.ones(recording.n_units, bool)
for name, kept in alone.items():
    others = np.all([mask for other, mask in alone.items() if other != name], axis=0)
    left = left & kept
    rows.append((name, (~kept).sum(), (others & ~kept).sum(), left.sum()))
present = kept_under(replace(no_rule, min_presence_ratio=0.9))
rows.append(("presence ≥ 0.9 (off)", (~present).sum(), (left & ~present).sum(), np.nan))
assert left.sum() == selected.n_units, "rules one by one must end where all of them end"
columns = ["rule", "removes alone", "only this rule", "left in sequence"]
per_rule = pd.DataFrame(rows, columns=columns).set_index("rule").astype("Int64")
if not usable["label"].astype(bool).any():
    print("this file has no sorter labels, so the label rule removes nothing")
per_rule

# %% [markdown]
# ### Short intervals: pass, fail or undecided
#
# A neuron cannot fire twice within its refractory period, so a short interval holds at least one
# spike of something else. The **Hill ratio** divides the number of short intervals by what a train
# of this rate could hold: `n_v T / (2 N² t_r)`, 0 for a clean unit, 0.5 on average for a Poisson
# train that has no refractory period at all. N² stands in the denominator, and that is the
# difficulty: in a quiet unit a single chance violation is worth a great deal.

# %%
duration_s = float(np.diff(observed_pieces(recording)).sum())


def ratio_of(n_violations: float, rate_hz: np.ndarray) -> np.ndarray:
    return isi_violations_ratio(n_violations, rate_hz * duration_s, duration_s, isi_threshold_s)


def rate_at_limit(n_violations: float) -> float:
    """Rate at which so many violations give exactly the limit of 0.1, Hz."""
    return float(np.sqrt(n_violations / (2 * 0.1 * isi_threshold_s * duration_s)))


none_high = float(poisson_interval(0)[1])
one_violation_hz, none_passes_hz = rate_at_limit(1), rate_at_limit(none_high)
print(f"this recording: {duration_s:,.0f} s, refractory period {1000 * isi_threshold_s:g} ms")
for rate in (0.5, 1.0, 2.0, 5.0, 10.0):
    print(f"  at {rate:4.1f} Hz one short interval is a ratio of {float(ratio_of(1, rate)):.3f}")
print(f"one short interval exceeds 0.1 in every unit slower than {one_violation_hz:.2f} Hz")
print(
    f"zero seen is compatible with {none_high:.2f} expected (95 % Poisson interval), so a unit "
    f"without any passes for certain only above {none_passes_hz:.2f} Hz"
)

# %% [markdown]
# So the count gets its Poisson interval, and the interval decides: wholly below the limit is a
# *pass*, wholly above a *fail*, across it *undecided*. Undecided units are kept unless you ask
# otherwise, since "not shown to be clean" is not "shown to be contaminated". The dotted curve
# is what one violation amounts to at each rate: where it lies above the limit, a single spike does.

# %%
figure = plot_unit_quality(
    quality,
    min_rate_hz=min_rate_hz,
    max_isi_violations=max_isi_violations if isi_metric == "ratio" else None,
)
scatter = figure.axes[1]
low_hz, high_hz = scatter.get_xlim()
top = scatter.get_ylim()[1]
curve_hz = np.geomspace(low_hz, high_hz, 200)
scatter.plot(curve_hz, ratio_of(1, curve_hz), color=GREY, linestyle=":", linewidth=1.2, zorder=1)
scatter.set(xlim=(low_hz, high_hz), ylim=(-0.001, top))
chapter.save_figure(figure, "unit_quality")
figure

# %%
verdicts = usable["verdict"].value_counts().reindex(["pass", "undecided", "fail"], fill_value=0)
over = usable["isi_violations_ratio"].astype(float) > max_isi_violations
print("verdicts of all usable units:", verdicts.to_dict())
print(
    f"ratio over {max_isi_violations:g} taken at face value: {int(over.sum())} units; of these "
    f"{int((over & (usable['verdict'] == 'fail')).sum())} fail beyond chance"
)
for choice in ("keep", "drop"):
    n_kept = int(kept_under(replace(criteria, undecided=choice)).sum())
    print(f'undecided="{choice}" keeps {n_kept} of {recording.n_units} usable units')

# %% [markdown]
# ### Three measures that are easily confused
#
# The working notes say "isi_violations at 2 ms (> 0.1, a sign of contamination)" without saying of
# what. Three numbers go by that name: the plain **fraction** of intervals that are short, the Hill
# **ratio**, and **Llobet's contamination**, the share of foreign spikes that the ratio implies.

# %%
rows = []
for metric, column in {
    "fraction": "isi_violations_fraction",
    "ratio": "isi_violations_ratio",
    "contamination": "contamination",
}.items():
    rule = replace(no_rule, max_isi_violations=max_isi_violations, isi_metric=metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = select_units(recording, replace(rule, undecided="keep"))[1]
            found = table["verdict"].value_counts()
        except SelectionError:
            found = pd.Series({"fail": recording.n_units})
    values = usable[column].astype(float)
    n_over = int((values > max_isi_violations).sum())
    rows.append((metric, values.median(), n_over, *(found.get(v, 0) for v in verdicts.index)))
columns = ["measure", "median", f"over {max_isi_violations:g}", *verdicts.index]
pd.DataFrame(rows, columns=columns).set_index("measure").round(4)

# %% [markdown]
# Which of them finds contaminated units? That needs trains whose foreign share is known. Here are
# some, at the **rates of the units kept above and the length of this recording**: an own neuron
# with a refractory period of 2 to 3 ms, plus spikes of others at random times. If foreign spikes
# make up a share c of a train, the ratio to expect is c - c²/2, so a limit of 0.1 on the ratio is
# a limit on c that can be computed; units with less are *meant* to pass.

# %%
rng = np.random.default_rng(seed)
foreign_shares = (0.0, 0.05, 0.1, 0.2, 0.4)
rates = selected.units.index.map(usable["rate_hz"]).to_numpy(float)
trains, planted = [], []
for share in foreign_shares:
    for rate in rng.choice(np.maximum(rates, 5 / duration_s), n_check_units):
        dead = int(rng.integers(61, 91))  # samples of 1/30,000 s
        own = poisson_train(np.array([rate * (1 - share)]), duration_s, 0.0, dead, rng)
        merged, _ = add_foreign(own, share, 0.0, duration_s, rng)
        trains.append(merged / SAMPLING_RATE_HZ)
        planted.append(share)
check = Recording.from_spike_times(trains, interval=(0.0, duration_s), times_in_seconds=True)
planted = np.array(planted)

poisson_trains = [
    poisson_train(np.array([rate]), duration_s, 0.0, 0, rng) / SAMPLING_RATE_HZ
    for rate in np.full(n_check_units, 10.0)
]
poisson_check = Recording.from_spike_times(poisson_trains, interval=(0.0, duration_s))
poisson_ratio = measure_units(poisson_check, isi_threshold_s)["isi_violations_ratio"].mean()
print(f"a Poisson train without any refractory period has a ratio of {poisson_ratio:.2f} (mean)")
limit_share = 1 - np.sqrt(1 - 2 * 0.1)
print(f"a ratio of 0.1 is a foreign share of {limit_share:.1%}")
for share in foreign_shares:
    print(f"  foreign share {share:4.0%}: ratio to expect {share - share**2 / 2:.3f}")

# %%
at_limit = UnitCriteria(
    min_rate_hz=None, max_isi_violations=0.1, isi_threshold_s=isi_threshold_s, labels=None
)
checked = select_units(check, at_limit)[1]
flagged = {
    "fraction > 0.1": checked["isi_violations_fraction"] > 0.1,
    "ratio > 0.1": checked["isi_violations_ratio"] > 0.1,
    "contamination > 0.1": checked["contamination"] > 0.1,
    "ratio: fail": checked["verdict"] == "fail",
    "ratio: fail or undecided": checked["verdict"] != "pass",
}
flagged = pd.DataFrame(flagged).set_index(planted[checked["file_row"].to_numpy(int)])
shares = flagged.groupby(level=0).mean()
shares.index = [f"{share:.0%} foreign" for share in shares.index]
print(f"share of {n_check_units} units flagged, at the rates and length of this recording")
shares.style.format("{:.0%}")

# %%
figure, (axes,) = panels(1, 1, width=5.4, height=2.9)
styles = ["s--", "o-", "^-", "D-", "D:"]
colours = [PALETTE[c] for c in ("black", "sky", "green", "vermillion", "orange")]
for number, (name, style, colour) in enumerate(zip(flagged, styles, colours, strict=True)):
    points = []
    for share in foreign_shares:
        hits = flagged.loc[[share], name]
        ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        points.append((hits.mean(), hits.mean() - ends.low, ends.high - hits.mean()))
    mean, low, high = np.array(points).T
    at = 100 * np.array(foreign_shares) + 0.25 * (number - 2)
    bars = np.maximum([low, high], 0)
    axes.errorbar(at, 100 * mean, 100 * bars, fmt=style, color=colour, label=name, capsize=2)
vertical_line(axes, 100 * limit_share)
axes.annotate("limit", (100 * limit_share + 0.4, 22), rotation=90, fontsize=7.5, color="#666666")
axes.set(xlabel="foreign spikes (% of the train)", ylabel="units flagged (%)", ylim=(-3, 103))
axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="flagged by")
chapter.save_figure(figure, "isi_measures")
figure

# %%
above = flagged[flagged.index > limit_share]
below = flagged[flagged.index < limit_share]
miss = 1 - above.mean()
false_alarm = below.mean()
print("units above the limit that are missed, and units below it that are flagged:")
for name in flagged:
    print(f"  {name:<26} missed {miss[name]:4.0%}   flagged wrongly {false_alarm[name]:4.0%}")

# %% [markdown]
# Read the rows as a trade. The plain fraction flags next to nothing at a limit of 0.1: in a train
# of ordinary rate even foreign spikes seldom fall within 2 ms of another one, so an
# "ISI violations < 0.1" that was computed as a fraction is hardly a rule. The ratio at face value
# catches most contaminated units, and by chance also slow ones with little contamination. The
# verdict *fail* seldom accuses wrongly and is often silent; *undecided* is where it is silent, and
# keeping those units is a decision to live with some contamination. The control is the point at
# 0 % foreign: nothing is wrong with those units, so a rule that flags them punishes low rates.

# %% [markdown]
# ### Against planted defects
#
# The simulated session has contaminated, slow, drifting, lost and duplicated units in it, and says
# which. The table sets the rules against that truth.

# %%
truth = None
if recording.ground_truth is None:
    print("left out: this recording has no planted truth, so nobody knows which units are bad")
else:
    truth = recording.ground_truth["units"].loc[usable.index]
    strength = truth["true_contamination"].map("{:.0%}".format)
    defect = truth["true_defect"].where(
        truth["true_defect"] != "contaminated", "contaminated " + strength
    )
    facts = pd.DataFrame({"planted": defect, "units": 1, "rate (Hz)": usable["rate_hz"]})
    for word in verdicts.index:
        facts[word] = usable["verdict"] == word
    for name, kept in alone.items():
        facts[f"removed: {name}"] = ~kept
    facts["presence < 0.9"] = ~present
    facts["kept"] = usable["kept"].astype(bool)
    confusion = facts.groupby("planted").agg(
        {c: "median" if c == "rate (Hz)" else "sum" for c in facts if c != "planted"}
    )
    display(confusion.round(2))

# %%
if truth is not None:
    # Duplicates are left out: their jitter of ±0.3 ms can make a short interval of a legal one.
    clean = truth["true_defect"].isin(["none", "drifting", "lost", "low_rate"])
    bad = truth["true_contamination"] > limit_share
    slow = truth["true_defect"] == "low_rate"
    accused = int((clean & (usable["verdict"] == "fail")).sum())
    if isi_threshold_s <= 0.002:  # the shortest refractory period planted
        assert not accused, "a clean unit can't fail"
    print(f"uncontaminated units that fail on short intervals: {accused} of {int(clean.sum())}")
    print(
        f"contaminated beyond the limit and kept: {int((bad & facts['kept']).sum())} of "
        f"{int(bad.sum())}; without the label rule "
        f"{int((bad & (usable['verdict'] != 'fail')).sum())} of {int(bad.sum())}"
    )
    print(f"slow units kept: {int((slow & facts['kept']).sum())} of {int(slow.sum())}")
    for word in ("drifting", "lost", "duplicate"):
        these = truth["true_defect"] == word
        print(f"{word} units kept: {int((these & facts['kept']).sum())} of {int(these.sum())}")

# %% [markdown]
# One session has too few bad units for a rate of misses; the simulated trains above give that rate.
# What the table shows is *which kinds* no rule is looking for: a unit that drifts keeps its rate
# and its refractory period, and a duplicate is as good a unit as its original. Presence (off by
# default, since a place cell or a unit tuned to one epoch is rightly absent elsewhere) finds units
# that were lost, and not those that fade.

# %% [markdown]
# ### The rate floor depends on the area
#
# The notes' 0.5 Hz is a cortical habit. Many principal cells of hippocampus fire below that on
# average, and only in their place field; a floor of 0.5 Hz removes most of the cells that make the
# recording worth having. Slow units cost little (their columns are mostly zero) and say little.

# %%
print("guidance: hippocampus about 0.05 Hz, cortex 0.5 Hz")
rows = []
for floor in sorted({0.02, 0.05, 0.1, 0.2, 0.5, 1.0, min_rate_hz}):
    kept = kept_under(replace(criteria, min_rate_hz=floor))
    n_spikes = int(sum(len(recording.spike_times[i]) for i in np.flatnonzero(kept)))
    rows.append((floor, int(kept.sum()), 100 * n_spikes / recording.n_spikes))
floors = pd.DataFrame(rows, columns=["floor (Hz)", "units kept", "spikes kept (%)"])
floors.set_index("floor (Hz)").round(1)

# %% [markdown]
# ### What no rule sees: one neuron, two units
#
# A sorter that splits one neuron leaves two trains that agree to a fraction of a millisecond. Each
# is clean, so both pass. To an SAE they are the strongest regularity there is: a latent for the
# pair. And a unit whose twin is in the room is predicted almost perfectly from "the others", which
# spoils every held-out-unit score. So compare trains: of the smaller unit's spikes, which share has
# a spike of the other within about 1 ms, and how many would by chance?


# %%
def shared_spikes(
    trains: list[np.ndarray], start: float, slot_s: float = 0.001
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each unit's spikes (rows) with a spike of another (columns) in a near slot."""
    slots = [np.unique(((times - start) / slot_s).astype(np.int64)) + 1 for times in trains]
    unit = np.repeat(np.arange(len(trains)), [len(s) for s in slots])
    slot = np.concatenate(slots)
    shape = (len(trains), int(slot.max()) + 2)
    now = csr_array((np.ones(len(slot), np.float32), (unit, slot)), shape=shape)
    near = csr_array(shape, dtype=np.float32)
    for shift in (-1, 0, 1):
        moved = csr_array((np.ones(len(slot), np.float32), (unit, slot + shift)), shape=shape)
        near = near.maximum(moved)
    n = np.array([len(s) for s in slots], float)
    share = (now @ near.T).toarray() / n[:, None]
    chance = np.broadcast_to(near.sum(axis=1) / shape[1], share.shape)
    return share, chance


share, chance = shared_spikes(recording.spike_times, recording.interval.start)
first, second = np.triu_indices(recording.n_units, 1)
smaller_first = share[first, second] >= share[second, first]
small = np.where(smaller_first, first, second)
large = np.where(smaller_first, second, first)
ids = recording.units.index.to_numpy()
pairs = pd.DataFrame(
    {
        "unit": ids[small],
        "twin": ids[large],
        "shared": share[small, large],
        "by chance": chance[small, large],
        "both kept": left[small] & left[large],
        "spikes": [len(recording.spike_times[i]) for i in small],
    }
)
# With fewer spikes, a handful of coincidences would look like a twin.
pairs = pairs[pairs["spikes"] >= 20].sort_values("shared", ascending=False)
twins = pairs[pairs["shared"] >= 0.5]
print(
    f"{len(pairs):,} pairs of units; {len(twins)} share half of the smaller unit's spikes or more"
)
pairs.head(5).round(3)

# %%
if truth is not None:
    copies = truth[truth["true_duplicate_of"] >= 0]
    wanted = {frozenset((int(u), int(t))) for u, t in copies["true_duplicate_of"].items()}
    found = {frozenset((int(u), int(t))) for u, t in zip(twins["unit"], twins["twin"])}
    assert wanted <= found, f"planted pairs {wanted}, found {found}"
    print(
        f"planted pairs: {len(wanted)}, found: {len(wanted & found)}, "
        f"others found: {len(found - wanted)}; no quality rule removed either of a pair"
        if twins["both kept"].all()
        else f"planted pairs: {len(wanted)}, found: {len(wanted & found)}"
    )

# %%
figure, (spread, lags) = panels(1, 2, height=2.5)
if len(pairs):
    edges = np.linspace(0, 1, 41)
    spread.hist(pairs["shared"], edges, color=PALETTE["blue"])
    spread.set_yscale("symlog", linthresh=1)
    vertical_line(spread, 0.5, "twins beyond")
    spread.set(xlabel="share of the smaller unit's spikes", ylabel="pairs of units")
    spread.set_title("Spikes shared within about 1 ms")
    top = pairs.iloc[0]
    a, b = (recording.spike_times[int(np.flatnonzero(ids == top[c])[0])] for c in ("unit", "twin"))
    low, high = np.searchsorted(b, a - 0.01), np.searchsorted(b, a + 0.01)
    of = np.repeat(np.arange(len(a)), high - low)
    partner = np.arange(len(of)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    difference = b[np.repeat(low, high - low) + partner] - a[of]
    lags.hist(1000 * difference, np.linspace(-10, 10, 81), color=PALETTE["vermillion"])
    lags.set(xlabel="lag (ms)", ylabel="pairs of spikes")
    lags.set_title(f"Units {top['unit']} and {top['twin']}: {top['shared']:.0%} shared")
    chapter.save_figure(figure, "twins")
else:
    print("left out: there are no two units with enough spikes")
figure if len(pairs) else None

# %% [markdown]
# `recording.keep(mask)` drops the one with fewer spikes. From here on, whatever predicts a unit
# from the others uses these *distinct* units.

# %%
drop = set()
for row in twins[twins["both kept"]].itertuples():
    if row.unit not in drop and row.twin not in drop:
        drop.add(row.unit)
distinct = selected.keep(~selected.units.index.isin(list(drop)))
print(f"{selected.n_units} units kept by the rules, {distinct.n_units} of them distinct")

# %% [markdown]
# ## 3. Bin size against sparsity
#
# Narrow bins keep time, wide bins keep counts away from zero. How many cells hold nothing follows
# largely from rates: a Poisson unit at rate r is silent in a bin of width w with probability
# exp(-r w). The null line below is the mean of that over this recording's units. What lies above it
# is real clustering of spikes in time (bursts, tuning, slow changes of rate); what lies below,
# regularity.

# %%
start, stop = recording.interval.start, recording.interval.stop
unit_rates = np.array([len(times) for times in selected.spike_times]) / duration_s
mean_rate_hz = float(unit_rates.mean())
rows = []
for width in sorted({*(b / 1000 for b in bin_sizes_ms), bin_size_s}):
    counts = bin_spikes(selected.spike_times, width, start, stop)
    active = counts > 0
    rows.append(
        {
            "bin_size_s": width,
            "bins": len(counts),
            "zero_share": 1 - active.mean(),
            "poisson": np.exp(-unit_rates * width).mean(),
            "equal_rates": np.exp(-mean_rate_hz * width),
            "active_units": active.sum(1).mean(),
            "empty_share": 1 - active.any(1).mean(),
            "largest": int(counts.max()),
        }
    )
sparsity = pd.DataFrame(rows).set_index("bin_size_s")
print(
    f"{selected.n_units} units, mean rate {mean_rate_hz:.2f} Hz, median {np.median(unit_rates):.2f}"
)
sparsity.round(3)

# %%
figure, (zeros, active) = panels(1, 2, height=2.6)
milliseconds = 1000 * sparsity.index.to_numpy()
for column, style, colour, label in (
    ("zero_share", "o-", PALETTE["blue"], "this recording"),
    ("poisson", "--", PALETTE["vermillion"], "Poisson, its rates"),
    ("equal_rates", ":", GREY, "Poisson, all at the mean rate"),
):
    zeros.plot(milliseconds, 100 * sparsity[column], style, color=colour, label=label)
zeros.set(ylabel="cells without a spike (%)", ylim=(0, 102))
zeros.legend(loc="lower left")
active.plot(milliseconds, sparsity["active_units"], "o-", color=PALETTE["green"])
active.set(ylabel="active units per bin", ylim=(0, None))
for axes in (zeros, active):
    axes.set_xscale("log")
    axes.set_xlabel("bin size (ms)")
    axes.set_xticks(milliseconds, [f"{m:g}" for m in milliseconds])
    axes.xaxis.set_minor_locator(NullLocator())
    vertical_line(axes, 1000 * bin_size_s, "in use" if axes is active else "")
chapter.save_figure(figure, "bin_sparsity")
figure

# %% [markdown]
# The right panel bounds what an SAE can be asked for: with more latents active per example than
# units active per bin, it can copy the bin unit by unit and reconstruct perfectly without having
# learnt anything.
#
# ### The claim: "50 ms gives about 0.8 sparsity per unit at about 10 Hz"
#
# At 10 Hz and 50 ms a cell expects half a spike. If all units fired at 10 Hz, Poisson says what
# share of cells is empty. If rates are skewed, as they are in every recording, most units lie far
# below the mean and the share is higher at the same mean. Rates are closely lognormal, with a
# spread σ of log rate.

# %%
spikes_per_cell = 10.0 * 0.05
quantiles = norm.ppf((np.arange(4000) + 0.5) / 4000)


def lognormal_zero_share(sigma: float, mean: float = spikes_per_cell) -> float:
    """Share of empty cells of Poisson units with lognormal rates, mean count per cell fixed."""
    return float(np.exp(-mean * np.exp(sigma * quantiles - sigma**2 / 2)).mean())


sigma = float(np.log(unit_rates).std(ddof=1)) if len(unit_rates) > 1 else 0.0
needed = brentq(lambda s: lognormal_zero_share(s) - 0.8, 0.1, 6.0)
rescaled = unit_rates * spikes_per_cell / mean_rate_hz
claim = {
    "Poisson, every unit at 10 Hz": np.exp(-spikes_per_cell),
    f"Poisson, lognormal rates, this recording's σ = {sigma:.2f}": lognormal_zero_share(sigma),
    "Poisson, this recording's rates scaled to a mean of 10 Hz": np.exp(-rescaled).mean(),
}
matched_s = spikes_per_cell / mean_rate_hz
try:
    matched = bin_spikes(selected.spike_times, matched_s, start, stop)
    measured = float((matched == 0).mean())
    claim[f"this recording in bins of {1000 * matched_s:.0f} ms (same mean count)"] = measured
except SelectionError:
    measured = np.nan
    print(f"left out: no bin of {matched_s:.1f} s fits into this recording")
for name, value in claim.items():
    print(f"{value:.3f}  {name}")
print(f"0.800  needs lognormal rates with σ = {needed:.2f}")
print(f"0.800  or, with equal rates, {-np.log(0.8) / 0.05:.2f} Hz instead of 10 Hz")

# %%
figure, (axes,) = panels(1, 1, width=4.6, height=2.7)
spreads = np.linspace(0, max(2.5, needed * 1.1), 60)
zero = [lognormal_zero_share(s) for s in spreads]
axes.plot(spreads, zero, color=PALETTE["vermillion"], label="Poisson, lognormal rates")
axes.plot(0, claim["Poisson, every unit at 10 Hz"], "s", color=GREY, label="all at 10 Hz")
scaled = claim["Poisson, this recording's rates scaled to a mean of 10 Hz"]
axes.plot(sigma, scaled, "D", color=PALETTE["orange"], label="its rates, Poisson")
axes.plot(sigma, measured, "o", color=PALETTE["blue"], label="its spikes, same mean count")
horizontal_line(axes, 0.8, "")
axes.annotate("working notes", (0, 0.805), fontsize=7.5, color="#666666")
axes.set(xlabel="spread of log rates, σ", ylabel="cells without a spike (share)", ylim=(0.55, 0.95))
axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
chapter.save_figure(figure, "claim_50ms")
figure

# %%
skew_part = scaled - np.exp(-spikes_per_cell)
clustering_part = measured - scaled
print(
    f"equal rates give {np.exp(-spikes_per_cell):.3f}; skewed rates add {skew_part:+.3f}, "
    f"clustering in time {clustering_part:+.3f}"
)
near = abs(measured - 0.8) <= 0.05
claim_verdict = (
    f"{measured:.2f} zero cells at half a spike per cell: the notes' 0.8 is "
    + ("about what these units give" if near else "not what these units give")
    + f"; equal Poisson units would give {np.exp(-spikes_per_cell):.2f}"
)
print("verdict:", claim_verdict)

# %% [markdown]
# ### The other half: "50 ms is similar to 100 ms"
#
# Similar in what? Sparsity plainly differs (table above). What matters is how much of the **signal**
# a bin keeps. Signal is what repeats: the part of the counts that one half of the trials shares with
# the other half (same condition, same time in the trial), or, without trials, that one half of the
# units shares with the other half. Noise does not repeat, so the covariance between halves has no
# noise in it. Two numbers per bin size:
#
# * the **repeatable share** of count variance. It rises with bin size for a plain reason, noise
#   averages out, so it must not be read as "wide bins are better";
# * the **signal variance** of the rate in Hz², relative to the narrowest bin. It is 1 while bins
#   resolve the signal and falls once they average it away. This is what a wide bin costs.
#
# The null does the same at random times (or with one half shifted in time).

# %%
trials = recording.trials
widths = sparsity.index.to_numpy()
BEFORE_S, AFTER_S = 0.6, 1.0
events_s = np.empty(0)
if trials is not None:
    usual = ("movement_onset_time", "go_cue_time", "go_time", "stim_on_time", "start_time")
    column = align_to or next(name for name in usual if name in trials)
    if column not in trials:
        raise KeyError(f"align_to={column!r}: the trials have {', '.join(trials)}")
    events_s = trials[column].to_numpy(float)
    inside = np.isfinite(events_s) & (events_s - BEFORE_S >= start) & (events_s + AFTER_S <= stop)
    events_s = events_s[inside]
    condition = np.zeros(len(events_s), int)
    fitting = []
    for name in [condition_column] if condition_column else trials.columns:
        values = trials[name][inside]
        sizes = values.value_counts()
        if 2 <= len(sizes) <= 16 and sizes.min() >= 4:
            fitting.append((len(sizes), name))
    if fitting:
        condition = pd.factorize(trials[max(fitting)[1]][inside])[0]
    print(
        f"{len(events_s)} trials aligned to {column}, {condition.max(initial=0) + 1} conditions"
        + (f" ({max(fitting)[1]})" if fitting else "")
    )
by_trials = len(events_s) >= 12
if not by_trials:
    print("fewer than 12 usable trials, so halves of the units are compared")


# %%
def trial_counts(events: np.ndarray, width: float) -> np.ndarray:
    """Counts around events, [n_trials, n_bins, n_units]."""
    n_bins = int(round((BEFORE_S + AFTER_S) / width, 6))
    edges = events[:, None] - BEFORE_S + width * np.arange(n_bins + 1)
    return np.stack([np.diff(np.searchsorted(t, edges)) for t in selected.spike_times], axis=-1)


def between_trials(events: np.ndarray, width: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the PSTHs of two halves of trials, and the variance of counts, per unit."""
    counts = trial_counts(events, width).astype(float)
    rng = np.random.default_rng(seed)
    signal = np.zeros(counts.shape[2])
    for _ in range(n_halvings):
        halves = ([], [])
        for label in np.unique(condition):
            members = rng.permutation(np.flatnonzero(condition == label))
            for half, chosen in zip(halves, np.array_split(members, 2), strict=True):
                half.append(counts[chosen].mean(0))
        a, b = (np.concatenate(half) for half in halves)  # [conditions · bins, n_units]
        signal += ((a - a.mean(0)) * (b - b.mean(0))).mean(0) / n_halvings
    return signal, counts.var((0, 1))


def between_units(width: float, shifted: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the summed counts of two halves of the units, per block of time."""
    counts = bin_spikes(distinct.spike_times, width, start, stop)
    rng = np.random.default_rng(seed)
    signal, scale = np.zeros(10), np.zeros(10)
    for _ in range(n_halvings):
        half = rng.permutation(counts.shape[1]) < counts.shape[1] // 2
        a, b = (counts @ (half == side).astype(float) for side in (True, False))
        if shifted:
            b = np.roll(b, int(rng.integers(len(b) // 10, len(b) - len(b) // 10)))
        together = np.array_split((a - a.mean()) * (b - b.mean()), 10)
        signal += np.array([block.mean() for block in together]) / n_halvings
        scale += a.std() * b.std() / n_halvings
    return signal, scale


# %%
def resolution_by(halves_of: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Both numbers for every bin size, with intervals, and the bootstrap of the signal kept."""
    signal, scale, null_signal = [], [], []
    random_events = np.random.default_rng(seed).uniform(
        start + BEFORE_S, stop - AFTER_S, len(events_s)
    )
    for width in widths:
        if halves_of == "trials":
            real, chance = (between_trials(at, width, seed) for at in (events_s, random_events))
        else:
            real, chance = (between_units(width, shifted, seed) for shifted in (False, True))
        signal.append(real[0])
        scale.append(real[1])
        null_signal.append(chance[0])
    signal, scale, null_signal = (np.array(part) for part in (signal, scale, null_signal))
    # Resampling units (or blocks of time) gives the interval of both ratios of sums.
    draws = np.random.default_rng(seed).integers(0, signal.shape[1], (400, signal.shape[1]))
    hz2 = signal / widths[:, None] ** 2
    share = signal[:, draws].sum(2) / scale[:, draws].sum(2)  # [n_widths, 400]
    kept = hz2[:, draws].sum(2) / hz2[0, draws].sum(1)
    table = pd.DataFrame(
        {
            "repeatable share": signal.sum(1) / scale.sum(1),
            "share low": np.percentile(share, 2.5, axis=1),
            "share high": np.percentile(share, 97.5, axis=1),
            "share in the null": null_signal.sum(1) / scale.sum(1),
            "signal kept": hz2.sum(1) / hz2[0].sum(),
            "kept low": np.percentile(kept, 2.5, axis=1),
            "kept high": np.percentile(kept, 97.5, axis=1),
        },
        index=pd.Index(1000 * widths, name="bin size (ms)"),
    )
    return table, kept


halves_of = None
for candidate, possible in (("trials", by_trials), ("units", distinct.n_units >= 2)):
    if not possible:
        continue
    resolution, boot_kept = resolution_by(candidate)
    above_null = resolution["share low"] > resolution["share in the null"].clip(lower=0)
    if above_null.all():
        halves_of = candidate
        break
    print(f"halves of the {candidate} share no signal beyond the null at every bin size")
measurable = halves_of is not None
if measurable:
    resampled = "units" if halves_of == "trials" else "ten blocks of time"
    print(f"halves of the {halves_of} are compared; 95 % intervals from resampling {resampled}")
    display(resolution.round(3))
else:
    print("left out: nothing repeats here that could be compared")

# %%
if measurable:
    figure, (left_axes, right_axes) = panels(1, 2, height=2.6)
    for axes, name, ends in (
        (left_axes, "repeatable share", ("share low", "share high")),
        (right_axes, "signal kept", ("kept low", "kept high")),
    ):
        value = 100 * resolution[name]
        bars = np.maximum(0, [value - 100 * resolution[ends[0]], 100 * resolution[ends[1]] - value])
        axes.errorbar(1000 * widths, value, bars, fmt="o-", color=PALETTE["blue"], capsize=2)
        axes.set_xscale("log")
        axes.set_xlabel("bin size (ms)")
        axes.set_xticks(1000 * widths, [f"{1000 * w:g}" for w in widths])
        axes.xaxis.set_minor_locator(NullLocator())
        vertical_line(axes, 1000 * bin_size_s)
    null = 100 * resolution["share in the null"]
    null_name = "random times" if halves_of == "trials" else "one half shifted in time"
    left_axes.plot(1000 * widths, null, "s--", color=GREY, label=null_name)
    left_axes.legend(loc="upper left")
    left_axes.set(ylabel="repeatable share of variance (%)")
    right_axes.set(ylabel="signal variance of rate (%)", ylim=(0, None))
    horizontal_line(right_axes, 100, "all of the narrowest bin's")
    chapter.save_figure(figure, "bin_signal")
figure if measurable else None

# %%
width_verdict = "not measurable here"
if measurable:
    at_50, at_100 = (int(np.argmin(np.abs(widths - w))) for w in (0.05, 0.1))
    loss = 1 - boot_kept[at_100] / boot_kept[at_50]
    low, high = np.nanpercentile(loss, [2.5, 97.5])
    middle = 1 - resolution["signal kept"].iloc[at_100] / resolution["signal kept"].iloc[at_50]
    print(
        f"from {1000 * widths[at_50]:g} to {1000 * widths[at_100]:g} ms, zero cells fall from "
        f"{sparsity['zero_share'].iloc[at_50]:.0%} to {sparsity['zero_share'].iloc[at_100]:.0%}, "
        f"and {middle:.1%} [{low:.1%}, {high:.1%}] of the signal variance is averaged away"
    )
    if high < 0.1:
        word = "similar in signal (less than a tenth is lost), not in sparsity"
    elif low > 0.1:
        word = "not similar, the wider bin averages away more than a tenth of the signal"
    else:
        word = "undecided whether more or less than a tenth of the signal is lost"
    width_verdict = f"{middle:.1%} [{low:.1%}, {high:.1%}] of the signal lost at 100 ms: {word}"
    print("verdict:", width_verdict)

# %% [markdown]
# ## 4. Train, validation and test
#
# Neighbouring bins are alike: firing rates, arousal and drift change slowly. A split that draws
# single bins at random puts the neighbour of every test bin into the training set, and a model can
# score well by remembering when it is. So whole trials, or blocks of time, go to one side, with a
# **guard gap** between sides that belongs to neither. `prepare` does that while it writes the store,
# and measures the gap: the time after which the population count has decorrelated.

# %%
store_path = chapter.path / "store"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    store = prepare(
        path,
        store_path,
        bin_size_s=bin_size_s,
        criteria=criteria,
        guard_s=guard_s or None,
        seed=seed,
        overwrite=True,
        progress=False,
    )
tell(caught)
session = store.provenance["sessions"][0]
print(f"split by {session['split_by']} ({session['split_reason']})")
print(
    f"guard {session['guard_s']:.2f} s ({session['guard_reason']}; autocorrelation time "
    f"{session['autocorrelation_time_s']:.2f} s)"
)
store.index["split"].value_counts().rename("bins").to_frame()

# %%
index = store.index
time = index["time"].to_numpy()
split = index["split"].astype(str).to_numpy()
changes = np.flatnonzero((split[1:] != split[:-1]) | (np.diff(time) > 1.5 * bin_size_s)) + 1
run_starts = np.r_[0, changes]
run_stops = np.r_[changes, len(time)]
figure, (whole, close) = panels(2, 1, height=2.4)
tops = [time[i] for i in run_starts[1:] if split[i] == "guard"]
middle = tops[len(tops) // 2] if tops else time[len(time) // 2]
around = max(10 * session["guard_s"], 2.0)
for axes in (whole, close):
    for name, colour in SPLIT_COLOURS.items():
        spans = [
            (time[a], time[b - 1] + bin_size_s - time[a])
            for a, b in zip(run_starts, run_stops, strict=True)
            if split[a] == name
        ]
        axes.broken_barh(spans, (0, 1), color=colour, linewidth=0, label=name)
    axes.set(yticks=[], ylim=(0, 1))
    axes.spines["left"].set_visible(False)
whole.set_xlim(time[0], time[-1] + bin_size_s)
whole.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4)
whole.set_title("The whole session")
close.set_xlim(middle - around, middle + around)
close.set_title("One border, with its guard gap")
close.set_xlabel("time on the recording's clock (s)")
chapter.save_figure(figure, "splits")
figure

# %% [markdown]
# **Is the gap long enough?** Much of the variance of a count in one narrow bin is Poisson noise, which
# is gone one bin later. So `prepare` measures from there: it takes the lag at which the
# autocorrelation of the population count has fallen by 1/e from its value one bin away. Correlation
# that is left beyond the gap can be slow all the same, so look at the curve, against that of the same
# counts in shuffled order.

# %%
counts = store.array().astype(np.float32)
population = counts.sum(1)
deviation = population - population.mean()
n_lags = min(len(deviation) - 1, max(2, round(5.0 / bin_size_s)))
spectrum = np.abs(np.fft.rfft(deviation, 2 * len(deviation))) ** 2
autocorrelation = np.fft.irfft(spectrum)[: n_lags + 1]
autocorrelation = autocorrelation / max(autocorrelation[0], 1e-12)
shuffled = np.random.default_rng(seed).permutation(deviation)
null = np.fft.irfft(np.abs(np.fft.rfft(shuffled, 2 * len(shuffled))) ** 2)[: n_lags + 1]
null = null / max(null[0], 1e-12)

band = 3 / np.sqrt(len(deviation))
figure, (lagged,) = panels(1, 1, width=4.6, height=2.5)
lags_s = np.arange(1, n_lags + 1) * bin_size_s
lagged.plot(lags_s, null[1:], color=LIGHT_GREY, label="shuffled")
lagged.plot(lags_s, autocorrelation[1:], color=PALETTE["blue"], label="population count")
lagged.set_xscale("log")
horizontal_line(lagged, autocorrelation[1] / np.e, "1/e of lag 1")
vertical_line(lagged, session["autocorrelation_time_s"])
lagged.set(xlabel="lag (s)", ylabel="autocorrelation")
lagged.legend(loc="upper right")
lagged.axhspan(-band, band, color=LIGHT_GREY, alpha=0.4, linewidth=0)
chapter.save_figure(figure, "autocorrelation")
figure

# %%
at_guard = float(autocorrelation[min(n_lags, max(1, round(session["guard_s"] / bin_size_s)))])
below = np.flatnonzero(autocorrelation[1:] < band)
settled_s = float(lags_s[below[0]]) if len(below) else np.inf
print(f"at the guard gap of {session['guard_s']:.2f} s the autocorrelation is {at_guard:.2f}")
print(
    f"it first reaches the shuffled level (under {band:.3f}) at {settled_s:.2f} s"
    if len(below)
    else f"it stays above the shuffled level ({band:.3f}) for all of {lags_s[-1]:.1f} s"
)
if at_guard > 0.1:
    wanted_s = min(settled_s, lags_s[-1])
    print(f"for slow questions, guard_s={wanted_s:.2g} leaves less than this gap does")

# %% [markdown]
# ### Why not by bin
#
# Take signals that **have nothing to do with these neurons**: random slow fluctuations, made by the
# computer, unrelated to any spike. Nothing can be decoded about them; the honest R² is zero or
# below. Then decode them by nearest neighbours, from three inputs: the clock, the counts of one bin,
# and the counts of the last second. The only thing that changes is the split.


# %%
def nuisance(tau_s: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """An autocorrelated signal of unit variance with time constant tau_s, [n]."""
    a = np.exp(-bin_size_s / tau_s)
    return lfilter([np.sqrt(1 - a**2)], [1, -a], rng.standard_normal(n + 2000))[2000:]


rng = np.random.default_rng(seed)
taus_s = np.array([0.2, 1.0, 5.0, 25.0])
targets = np.stack(
    [nuisance(tau, len(time), rng) for tau in taus_s for _ in range(n_nuisances)], axis=1
)
n_second = max(1, round(1.0 / bin_size_s))
sums = np.vstack([np.zeros((1, counts.shape[1]), np.float32), np.cumsum(counts, axis=0)])
low = np.maximum(np.arange(len(counts)) + 1 - n_second, 0)
inputs = {
    "the clock": time[:, None],
    "one bin": counts,
    "the last second": sums[1:] - sums[low],
}

in_use = np.flatnonzero(np.isin(split, ["train", "test"]))
by_block = split[in_use]
splits = {"by bin, at random": rng.permutation(by_block), "as prepared": by_block}
rows = []
for how, labels in splits.items():
    train, test = in_use[labels == "train"], in_use[labels == "test"]
    train = rng.permutation(train)[:10_000]
    test = rng.permutation(test)[:1_500]
    for name, x in inputs.items():
        model = KNeighborsRegressor(n_neighbors=10, weights="distance").fit(
            x[train], targets[train]
        )
        scores = r2_score(targets[test], model.predict(x[test]), multioutput="raw_values")
        for tau, values in zip(taus_s, scores.reshape(len(taus_s), -1), strict=True):
            rows.append((name, how, tau, mean_interval(values)))
leak = pd.DataFrame(rows, columns=["input", "split", "tau_s", "r2"])
leak_table = leak.pivot_table(
    index=["input", "split"], columns="tau_s", values="r2", aggfunc="first"
)
print(f"R² on {n_nuisances} signals without any relation to the recording, by time constant (s)")
leak_table.map(str)

# %%
figure, axes = panels(1, 3, height=2.5, sharey=True)
for panel, name in zip(axes, inputs, strict=True):
    for how, colour, style in (
        ("by bin, at random", PALETTE["vermillion"], "o-"),
        ("as prepared", PALETTE["blue"], "D-"),
    ):
        these = leak[(leak["input"] == name) & (leak["split"] == how)]["r2"]
        mean = np.array([r.mean for r in these])
        bars = np.nan_to_num([[r.mean - r.low for r in these], [r.high - r.mean for r in these]])
        panel.errorbar(taus_s, mean, bars, fmt=style, color=colour, capsize=2, label=how)
    panel.set_xscale("log")
    panel.set_ylim(-1.0, 1.05)
    panel.axhline(0, color=GREY, linewidth=0.8)
    vertical_line(panel, session["guard_s"], "guard" if panel is axes[0] else "")
    panel.set_xlabel("time constant (s)")
    panel.set_title(f"from {name}")
axes[0].set_ylabel("R² on what cannot be known")
axes[1].legend(loc="upper left")
chapter.save_figure(figure, "leakage")
figure

# %%
blocks = np.diff(np.r_[run_starts, len(time)])[[split[i] == "test" for i in run_starts]]
print(
    f"test blocks last {np.median(blocks) * bin_size_s:.1f} s (median); "
    f"guard {session['guard_s']:.2f} s; the last second reaches {n_second * bin_size_s:.2f} s back"
)
fooled = leak[leak["r2"].map(lambda interval: interval.low > 0.05)]
for row in fooled[fooled["split"] == "as prepared"].itertuples():
    print(
        f"leaks through the prepared split: {row.input}, τ = {row.tau_s:g} s, R² {row.r2.mean:.2f}"
    )

# %% [markdown]
# Anything above zero is leakage. Split by bin, a model that sees the clock, or a window that shares
# spikes with its neighbour, "decodes" noise. Split in blocks it does not, **as long as the nuisance
# is faster than block and guard**. Slower drift crosses any gap that is shorter than itself: a model
# that knows the time can still interpolate between blocks. Counts of a stationary population do not
# tell the time, so an SAE is not exposed to that, but a drifting unit or a time covariate is. If
# slow signals matter to your question, give `prepare` a longer `guard_s`, or hold out a session.

# %% [markdown]
# ## 5. What `prepare` wrote
#
# An `ExampleStore` is a folder: the counts in shards, an index with one row per bin, a table of
# units, further tables, and a manifest that says how all of it came about.

# %%
for file in sorted(store_path.rglob("*")):
    if file.is_file():
        print(f"{file.stat().st_size:>12,} bytes  {file.relative_to(store_path)}")
print(store.__repr__().replace(f"{store_path.parent}/", ""))

# %%
store.index.iloc[:: max(1, len(store) // 6)].head(7)

# %%
store.features[["unit", "rate_hz", "isi_violations_ratio", "verdict", "reason"]].head(4).round(3)

# %%
facts = ["interval_s", "n_units_in_file", "n_units", "n_bins", "n_bins_unobserved", "n_segments"]
facts += ["n_spikes", "largest_count", "zero_fraction", "guard_s"]
print(pd.Series({name: session[name] for name in facts}).to_string())
assert session["n_spikes"] == int(store.array().sum(dtype=np.int64)), "spikes must be conserved"

# %% [markdown]
# The last line of that cell asserts what binning has to guarantee: every spike of a kept unit within
# the observed bins is counted once. `prepare` warns, rather than refuses, when units × bins cannot
# support an SAE, and says what could. Here is that warning on purpose: the first three units of
# this recording, or as many as there are.

# %%
few = selected.keep(np.arange(selected.n_units) < 3)
anything = UnitCriteria(min_rate_hz=None, max_isi_violations=None, labels=None)
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    prepare(few, f"{folder}/few", bin_size_s=bin_size_s, criteria=anything, progress=False)
tell(caught)

# %% [markdown]
# ### Several files
#
# Units of two sessions are different columns, so one SAE must not see both as if they were the same.
# `prepare([a, b])` makes one **partition** per file, each a store of its own, and one SAE is trained
# on each. Only where ids mean the same neuron throughout (chronic recordings, matched by whoever
# sorted them) does `match_units=True` put the sessions into one store, with the common units. Two
# small simulated sessions of one animal show both; a missing file is listed and skipped.

# %%
with tempfile.TemporaryDirectory() as folder:
    paths = simulate_dataset(folder, n_animals=1, n_sessions=2, n_units=24, n_trials=8, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two minutes of data can't feed an SAE, as just told
        both = prepare(
            [*paths, f"{folder}/missing.nwb"], f"{folder}/both", on_error="report", progress=False
        )
        matched_store = prepare(paths, f"{folder}/matched", match_units=True, progress=False)
    for name in both.partitions:
        part: ExampleStore = both.partition(name)
        print(f"partition {name}: {len(part):,} bins × {part.d_in} units")
    for entry in both.provenance["skipped"]:
        print("skipped:", entry["reason"].replace(f"{folder}/", "").split(" Check")[0])
    sessions = matched_store.index["session"].unique().tolist()
    print(f"matched: {len(matched_store):,} bins × {matched_store.d_in} units of {sessions}")

# %% [markdown]
# ## 6. How many bins at once?
#
# With `seq_len = 1` an SAE sees one bin and reconstructs it. A window of several bins shows it
# history. Two questions come before any training: how many windows are there, and is there anything
# in the history that the present bin of the population does not hold already?
#
# **How many.** A window never crosses a trial, a segment or a split. Short trials lose the most.

# %%
lengths = sorted({1, 2, 5, 10, 20, *(h + 1 for h in history_bins)})
rows = []
for seq_len in lengths:
    n = {name: len(windows(index, seq_len, split=name)) for name in ("train", "validation", "test")}
    rows.append({"seq_len": seq_len, "length (s)": seq_len * bin_size_s, **n})
window_table = pd.DataFrame(rows).set_index("seq_len")
window_table["kept (%)"] = 100 * window_table["train"] / window_table["train"].iloc[0]
window_table.round(2)

# %%
figure, (surviving,) = panels(1, 1, width=4.2, height=2.5)
for name in ("train", "validation", "test"):
    kept_share = 100 * window_table[name] / max(window_table[name].iloc[0], 1)
    surviving.plot(window_table.index, kept_share, "o-", color=SPLIT_COLOURS[name], label=name)
surviving.set(xlabel="window (bins)", ylabel="windows left (% of bins)", ylim=(0, 104))
surviving.xaxis.set_major_locator(MaxNLocator(integer=True))
surviving.legend(loc="lower left")
chapter.save_figure(figure, "windows")
figure

# %% [markdown]
# **Does history help?** The working notes say of `seq_len > 1` that they "haven't gotten good
# results". Whether an SAE can use history is for a later chapter, once SAEs are trained. Whether
# there is anything to use can be asked now: predict each unit's count in a bin from the *other*
# units' counts in the same bin, by ridge regression, and then add the previous 1, 2, 4, 8 bins.
# Fitted on train rows, penalty and number of bins chosen on validation, scored on test, over several
# block splits.
#
# * *others*: the past of the other units only;
# * *own too*: the unit's own past as well, as an SAE on windows would see it;
# * *null*: the same with a past taken from another time. As many inputs, no history: it shows what
#   the extra inputs cost or feign.
#
# One matrix inverse serves all units: with P = (ZᵀZ + αI)⁻¹ over all inputs Z, the ridge weights of
# column u on the other columns are -P[:, u] / P[u, u]; leaving out further columns is a small Schur
# complement.


# %%
def others_weights(inverse: np.ndarray, n_units: int, own_past: bool) -> np.ndarray:
    """Ridge weights [n_inputs, n_units] of each unit's present on every input but its own."""
    n = len(inverse)
    weights = np.empty((n, n_units))
    for unit in range(n_units):
        column, past = inverse[:, unit], np.arange(unit + n_units, n, n_units)
        if not own_past and len(past):
            # Dropping inputs from a regression is a Schur complement of the inverse.
            part = np.linalg.solve(inverse[np.ix_(past, past)], inverse[past, unit])
            column = column - inverse[:, past] @ part
            column[past] = 0.0
        weights[:, unit] = -column / column[unit]
        weights[unit, unit] = 0.0
    return weights


toy = np.random.default_rng(seed).standard_normal((200, 6))
direct = Ridge(alpha=3.0, fit_intercept=False).fit(toy[:, [1, 2, 4, 5]], toy[:, 0]).coef_
inverse = np.linalg.inv(toy.T @ toy + 3.0 * np.eye(6))
fast = others_weights(inverse, n_units=3, own_past=False)[[1, 2, 4, 5], 0]
assert np.allclose(direct, fast), "the shortcut must give ridge regression's weights"
print("the shortcut agrees with scikit-learn's Ridge to", f"{np.abs(direct - fast).max():.0e}")


# %%
def explained(prediction: np.ndarray, target: np.ndarray) -> float:
    """R² pooled over units, relative to each unit's mean in the rows scored."""
    return 1 - np.square(target - prediction).sum() / np.square(target - target.mean(0)).sum()


def predict_units(
    parts: dict[str, np.ndarray], gram: np.ndarray, n_units: int
) -> dict[str, tuple[float, float]]:
    """Validation and test R² of units' present (first columns) from everything else.

    The penalty is the one that does best on validation, for each kind of past on its own.
    """
    n_inputs = len(gram)
    best = dict.fromkeys(("others", "own too"), (-np.inf, np.nan))
    for alpha in len(parts["train"]) * np.logspace(-2, 1, 4):
        inverse = np.linalg.inv(gram + alpha * np.eye(n_inputs))
        for name in best:
            weights = others_weights(inverse, n_units, own_past=name == "own too")
            weights = weights.astype(np.float32)
            validation, test = (
                explained(parts[part][:, :n_inputs] @ weights, parts[part][:, :n_units])
                for part in ("validation", "test")
            )
            best[name] = max(best[name], (validation, test))
    return best


# %%
columns = np.flatnonzero(store.features["unit"].isin(distinct.units.index))
rng = np.random.default_rng(seed)
if len(columns) > max_history_units:
    print(f"{max_history_units} of {len(columns)} units, drawn at random, to bound the time")
    columns = np.sort(rng.choice(columns, max_history_units, replace=False))
x = counts[:, columns]
longest = max(history_bins)
history = []
for fold in range(n_folds if len(columns) >= 2 else 0):
    labels = assign_splits(
        index,
        session["split_by"],
        guard_s=max(session["guard_s"], (longest + 1) * bin_size_s),
        seed=seed + fold,
        between="nearest",
        bin_size_s=bin_size_s,
    )
    # Every history length is scored on the same bins: those that have the longest one.
    frame = index.assign(split=labels)
    split_windows = {
        part: windows(frame, longest + 1, split=part) for part in ("train", "validation", "test")
    }
    if min(map(len, split_windows.values())) < 50:
        print(f"split {fold} left out: under 50 windows in one part")
        continue
    window = np.concatenate(list(split_windows.values()))  # [n, longest + 1], present last
    elsewhere = np.roll(window, int(rng.integers(len(window) // 4, 3 * len(window) // 4)), axis=0)
    borders = np.cumsum([len(w) for w in split_windows.values()])[:-1]
    for source, past in (("history", window), ("null", elsewhere)):
        # Lag by lag, so that a shorter history is the first columns of the longest one.
        lags = [x[window[:, -1]], *(x[past[:, -1 - lag]] for lag in range(1, longest + 1))]
        z = np.concatenate(lags, axis=1)  # [n, (longest + 1) · n_units]
        train = z[: borders[0]]
        spread = train.std(0)
        z = (z - train.mean(0)) / np.where(spread > 0, spread, 1.0)
        parts = dict(zip(split_windows, np.split(z, borders), strict=True))
        gram = (parts["train"].T @ parts["train"]).astype(float)
        for n_past in [0, *history_bins]:
            size = (1 + n_past) * x.shape[1]
            found = predict_units(parts, gram[:size, :size], x.shape[1])
            for name, (chosen_by, r2) in found.items():
                history.append((fold, source, name, n_past, chosen_by, r2))
columns = ["fold", "source", "past", "bins", "validation", "r2"]
history = pd.DataFrame(history, columns=columns)
if history.empty:
    print("left out: there are fewer than two distinct units, or too few windows")
else:
    wide = history.pivot_table(index=["source", "past", "bins"], columns="fold", values="r2")
    scores = wide.apply(mean_interval, axis=1)
    print(f"R² of {x.shape[1]} units from the others, test rows, over {wide.shape[1]} splits")
    words = scores.map(lambda i: f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]").rename("R²")
    words = words.reset_index()
    display(
        words.pivot_table(index=["source", "past"], columns="bins", values="R²", aggfunc="first")
    )

# %%
if not history.empty:
    figure, (level, gain) = panels(1, 2, height=2.5)
    for number, (source, name, colour, style) in enumerate(
        (
            ("history", "own too", PALETTE["green"], "D-"),
            ("history", "others", PALETTE["blue"], "o-"),
            ("null", "others", LIGHT_GREY, "o--"),
            ("null", "own too", GREY, "D--"),
        )
    ):
        values = wide.loc[source, name]
        label = f"{name} (null)" if source == "null" else name
        for axes, table in ((level, values), (gain, values - values.loc[0])):
            intervals = [mean_interval(row) for row in table.to_numpy()]
            mean = np.array([i.mean for i in intervals])
            bars = np.nan_to_num([[i.mean - i.low, i.high - i.mean] for i in intervals]).T
            at = table.index.to_numpy() + 0.12 * (number - 1.5)
            axes.errorbar(at, mean, bars, fmt=style, color=colour, capsize=2, label=label)
    for axes in (level, gain):
        axes.set_xticks([0, *history_bins])
    level.set(xlabel="bins of history", ylabel="R² on test rows")
    level.set_title("Prediction of a unit")
    gain.axhline(0, color=GREY, linewidth=0.8)
    gain.set(xlabel="bins of history", ylabel="R² added by history")
    gain.set_title("Change within a split")
    gain.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="past of")
    chapter.save_figure(figure, "history")
figure if not history.empty else None

# %%
history_gain: dict[str, float] = {}
if not history.empty:
    base = mean_interval(wide.loc["history", "others"].loc[0])
    print(f"the present of the others alone explains R² = {base}")
    on_validation = history[(history["source"] == "history") & (history["bins"] > 0)]
    on_validation = on_validation.groupby(["past", "bins"])["validation"].mean()
    for name in ("others", "own too"):
        n_past = int(on_validation[name].idxmax())
        values = wide.loc["history", name]
        added = mean_interval(values.loc[n_past] - values.loc[0])
        over_null = mean_interval(values.loc[n_past] - wide.loc["null", name].loc[n_past])
        history_gain[name] = added.mean
        if over_null.n < 3:
            word = "no verdict under three splits"
        elif added.low > 0 and over_null.low > 0:
            word = "history helps"
        elif added.high < 0:
            word = "history hurts: more inputs than the data can pay for"
        else:
            word = "no gain beyond chance"
        print(f"past of {name}, {n_past} bins (best on validation): R² {added}")
        print(f"    beyond the null {over_null}: {word}")

# %% [markdown]
# What this allows: if history helps here, a window holds information that one bin does not, and a
# negative result of an SAE with `seq_len > 1` would be the SAE's or its training's. If it does not,
# there is nothing linear to find, and a wider input only adds parameters. The prediction is linear
# and of single units; it does not say what a latent over several bins would mean. Splits share data,
# so their interval is narrower than that of fresh recordings. *(Of the notes' own attempts it was
# later learnt that training reconstructed the last bin while evaluation compared with the first:
# theirs is a result to repeat, not to inherit.)*

# %% [markdown]
# ## 7. The answer
#
# The settings for this recording, and what to watch, from the numbers above.

# %%
zero_here = float(sparsity["zero_share"].loc[bin_size_s])
poisson_here = float(sparsity["poisson"].loc[bin_size_s])
n_undecided = int((usable["kept"].astype(bool) & (usable["verdict"] == "undecided")).sum())
rule_words = ", ".join(f"{name} (-{int((~kept).sum())})" for name, kept in alone.items())
gains = [f"past of {name}: {gain:+.3f} R²" for name, gain in history_gain.items()]
answer = [
    ("units", f"{store.d_in} of {len(quality)}", rule_words),
    (
        "undecided units",
        f"{undecided} {n_undecided}",
        f"a single short interval exceeds the limit below {one_violation_hz:.2g} Hz",
    ),
    (
        "bin",
        f"{1000 * bin_size_s:g} ms",
        f"{zero_here:.0%} zero cells (Poisson {poisson_here:.0%}), "
        f"{sparsity['active_units'].loc[bin_size_s]:.1f} active units a bin",
    ),
    ("50 ms and 0.8", "tested", claim_verdict),
    ("50 or 100 ms", "tested", width_verdict),
    ("split", f"by {session['split_by']}", f"guard {session['guard_s']:.2f} s"),
    ("seq_len", "1 to begin with", "; ".join(gains) or "history not testable here"),
]
pd.DataFrame(answer, columns=["setting", "chosen", "why"]).set_index("setting")

# %%
watch = []
if len(drop):
    watch.append(f"{len(drop)} kept units are twins of another: {', '.join(map(str, drop))}")
if n_undecided > 0.25 * store.d_in:
    watch.append(f"{n_undecided} of {store.d_in} kept units are undecided on contamination")
if store.d_in < 20:
    watch.append(f"{store.d_in} units are few: PCA shows as much, and an SAE can copy its input")
if len(store) < 20 * store.d_in:
    watch.append(f"{len(store):,} bins for {store.d_in} units: keep the dictionary small")
if zero_here > 0.95:
    watch.append(f"{zero_here:.0%} of cells are zero: most of any score is about silence")
if at_guard > 0.1:
    watch.append(
        f"the guard of {session['guard_s']:.2f} s leaves an autocorrelation of {at_guard:.2f}; "
        + (
            f"it takes {settled_s:.2f} s to go"
            if np.isfinite(settled_s)
            else f"it lasts longer than {lags_s[-1]:.1f} s"
        )
    )
if len(recording.faults):
    watch.append(f"{len(recording.faults)} units were set aside as faulty")
if (usable["rate_hz"] < min_rate_hz).mean() > 0.3:
    watch.append(
        f"the rate floor removes {(usable['rate_hz'] < min_rate_hz).mean():.0%} of the units: "
        "is it right for this area?"
    )
if not selected.units.index.equals(distinct.units.index):
    watch.append("held-out-unit scores need the twins dropped: recording.keep(mask)")
for line in watch or ["nothing out of the ordinary"]:
    print("•", line)

# %%
chapter.save_metrics(
    {
        "units_kept": store.d_in,
        "units_in_file": len(quality),
        "undecided_kept": n_undecided,
        "zero_share": round(zero_here, 4),
        "zero_share_poisson": round(poisson_here, 4),
        "guard_s": session["guard_s"],
        "history_gain": {name: round(gain, 5) for name, gain in history_gain.items()},
        "twins": len(twins),
        "claim_zero_share_at_10hz": round(measured, 4),
        "claim_needs_sigma": round(needed, 3),
        "bins": len(store),
        "claim_50ms": claim_verdict,
        "50_or_100_ms": width_verdict,
        "missed_contaminated": {name: round(float(value), 4) for name, value in miss.items()},
        "leak_by_bin": {
            f"{row.input}, {row.tau_s:g} s": round(row.r2.mean, 4)
            for row in leak[leak["split"] == "by bin, at random"].itertuples()
        },
        "leak_as_prepared": {
            f"{row.input}, {row.tau_s:g} s": round(row.r2.mean, 4)
            for row in leak[leak["split"] == "as prepared"].itertuples()
        },
        "watch": watch,
    }
)
