"""From NWB files to an example store: read, select, bin, split, write."""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from saebook.data.spikes.binning import CountsWarning
from saebook.data.spikes.reading import read_recording
from saebook.data.spikes.recording import Recording
from saebook.data.spikes.selection import UnitCriteria, select_units
from saebook.data.spikes.session import BinnedSession, bin_session
from saebook.data.store import ExampleStore, PartitionedWriter, StoreWriter
from saebook.errors import ConfigError, SaebookError, SelectionError, StoreError

# Below these, a dictionary has less to find than PCA already gives.
FEWEST_UNITS = 20
FEWEST_BINS = 2_000
# Examples per latent, a rule of thumb for the largest dictionary that a recording supports.
BINS_PER_LATENT = 10
EMPTIEST = 0.98
HIPPOCAMPAL_RATE_HZ = 0.05

Source = str | os.PathLike[str] | Recording


def prepare(
    paths: Source | Iterable[Source],
    out: str | os.PathLike[str],
    bin_size_s: float = 0.05,
    criteria: UnitCriteria | None = None,
    on_error: Literal["raise", "report"] = "raise",
    match_units: bool = False,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    split_by: Literal["auto", "trial", "time"] = "auto",
    guard_s: float | None = None,
    seed: int = 0,
    *,
    strict: bool = False,
    drop_duplicates: bool = False,
    times_in_seconds: bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ExampleStore:
    """Make an example store of binned counts from recordings.

    An SAE never sees two sets of units: several recordings make a store with one partition each,
    named after the session, unless their units are matched. The store appears complete or not at
    all.

    Parameters
    ----------
    paths
        NWB file(s), or recordings already read.
    out
        Folder to write.
    bin_size_s
        Width of a bin, s. Bins begin at the start of each recording's observed interval; a
        partial last bin is dropped, and so are bins that were not observed throughout.
    criteria
        Rules for units; `UnitCriteria()` unless given.
    on_error
        "raise" stops at the first unusable recording; "report" skips it and lists it with its
        reason in ``store.provenance["skipped"]``. At least one has to be usable.
    match_units
        Keep the units whose ids are kept in every recording, and put all sessions into one store
        of these. Ids have to mean the same neuron throughout.
    fractions
        Shares of train, validation and test.
    split_by
        "trial", "time" (blocks), or "auto": by trial with at least 20 trials over at least half
        of the bins. Bins outside trials go with the nearest trial.
    guard_s
        Gap between splits, s; give at least the length of a window of several bins. Unless given:
        the autocorrelation time of the population count, at least one bin and at most 10 s and a
        sixtieth of the recording.
    seed
        Draws the order of splits.
    strict, drop_duplicates, times_in_seconds
        As for `read_recording`.
    overwrite
        Replace an existing store, in one step at the end.
    progress
        Show a bar over recordings.

    Returns
    -------
    store
        kind "counts". Index: session, trial (row of the table of trials, -1 outside), time (start
        of the bin, s), split. Features: quality of the kept units. Tables: quality (every unit),
        trials, intervals, behavior_<name> (own clock), and for simulated files
        ground_truth_features (means in bins), ground_truth_mixing and ground_truth_units.

    Raises
    ------
    RecordingError, SelectionError, DataError
        A recording can't be used, or none can.
    ConfigError
        A setting that can't be.
    StoreError
        `out` exists.

    Warns
    -----
    CountsWarning
        Units × bins are too few, or too empty, for an SAE; the message says what would help.

    Examples
    --------
    >>> import tempfile
    >>> rng = np.random.default_rng(0)
    >>> trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    >>> recording = Recording.from_spike_times(trains, interval=(0, 600))
    >>> folder = tempfile.mkdtemp()
    >>> rules = UnitCriteria(max_isi_violations=None)
    >>> store = prepare(recording, f"{folder}/store", criteria=rules, progress=False)
    >>> len(store), store.d_in, store.bin_size_s
    (12000, 24, 0.05)
    """
    sources = _sources(paths)
    if on_error not in ("raise", "report"):
        raise ConfigError(f'on_error={on_error!r}: give "raise" or "report"')
    if split_by not in ("auto", "trial", "time"):
        raise ConfigError(f'split_by={split_by!r}: give "auto", "trial" or "time"')
    if guard_s is not None and not (np.isfinite(guard_s) and guard_s >= 0):
        raise ConfigError(f"guard_s={guard_s!r}: give a time in s, at least 0, or None")
    shares = tuple(float(share) for share in fractions)
    if len(shares) != 3:
        raise ConfigError(f"fractions={shares}: give shares of train, validation and test")
    out = Path(out)
    if out.exists() and not overwrite:
        raise StoreError(f"{out} exists; give another folder, or overwrite=True to replace it")
    criteria = criteria or UnitCriteria()

    sessions: list[BinnedSession] = []
    skipped: list[dict[str, str]] = []
    bar = tqdm(sources, desc="prepare", unit="recording", disable=not progress)
    for source in bar:
        name = source.session if isinstance(source, Recording) else Path(source).name
        bar.set_postfix_str(name)
        try:
            if isinstance(source, Recording):
                recording, digest = source, None
            else:
                recording = read_recording(
                    source,
                    strict=strict,
                    drop_duplicates=drop_duplicates,
                    times_in_seconds=times_in_seconds,
                )
                digest = _sha256(Path(source))
            selected, quality = select_units(recording, criteria)
            session = bin_session(
                selected,
                quality,
                bin_size_s,
                name=_unique(recording.session, [session.name for session in sessions]),
                split_by=split_by,
                fractions=(shares[0], shares[1], shares[2]),
                guard_s=guard_s,
                seed=seed,
            )
        except (SaebookError, OSError) as error:
            # A setting is wrong for every recording alike, so it is no reason to skip one.
            if on_error == "raise" or isinstance(error, ConfigError):
                raise
            skipped.append({"source": _where(source), "reason": str(error)})
            continue
        session.facts["sha256"] = digest
        sessions.append(session)
    if not sessions:
        reasons = "; ".join(f"{entry['source']}: {entry['reason']}" for entry in skipped)
        raise SelectionError(f"none of {len(sources)} recordings can be used: {reasons}")

    provenance = {
        "made_by": "saebook.data.prepare",
        "parameters": {
            "bin_size_s": bin_size_s,
            "criteria": criteria.to_dict(),
            "match_units": match_units,
            "fractions": list(shares),
            "split_by": split_by,
            "guard_s": guard_s,
            "seed": seed,
            "strict": strict,
            "drop_duplicates": drop_duplicates,
            "times_in_seconds": times_in_seconds,
        },
        "skipped": skipped,
        "versions": _versions(),
    }
    if match_units:
        sessions = _matched(sessions)
    if match_units or len(sources) == 1:
        with StoreWriter(
            out,
            "counts",
            _features(sessions),
            {**provenance, "sessions": [session.facts for session in sessions]},
            bin_size_s,
            overwrite=overwrite,
        ) as writer:
            _write(writer, sessions)
    else:
        summary = {**provenance, "sessions": [session.facts for session in sessions]}
        with PartitionedWriter(out, summary, overwrite=overwrite) as parent:
            for session in sessions:
                with parent.partition(
                    session.name,
                    kind="counts",
                    features=_features([session]),
                    provenance={**provenance, "sessions": [session.facts]},
                    bin_size_s=bin_size_s,
                ) as writer:
                    _write(writer, [session])
    for group in [sessions] if match_units else [[session] for session in sessions]:
        _warn_if_small(group, bin_size_s, criteria)
    return ExampleStore.open(out)


def _sources(paths: Source | Iterable[Source]) -> list[Source]:
    sources = [paths] if isinstance(paths, str | os.PathLike | Recording) else list(paths)
    if not sources:
        raise ConfigError("no recordings were given; name at least one NWB file")
    return sources


def _where(source: Source) -> str:
    return source.session if isinstance(source, Recording) else str(os.fspath(source))


def _unique(name: str, taken: Sequence[str]) -> str:
    name = name.lstrip(".").replace("/", "_") or "session"
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    names = ("numpy", "pandas", "scipy", "h5py")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _matched(sessions: list[BinnedSession]) -> list[BinnedSession]:
    """Keep the units common to all sessions, in the order of the first."""
    common = sessions[0].units.index
    for session in sessions[1:]:
        common = common[common.isin(session.units.index)]
    if not len(common):
        found = "; ".join(
            f"{session.name}: {', '.join(map(str, session.units.index[:5]))}, …"
            for session in sessions
        )
        raise SelectionError(
            f"no unit id is kept in all of {len(sessions)} recordings ({found}); prepare them "
            "without match_units, one partition each, or loosen the criteria"
        )
    for session in sessions:
        columns = session.units.index.get_indexer(common)
        session.counts = np.ascontiguousarray(session.counts[:, columns])
        session.units = session.units.loc[common]
        for name in ("ground_truth_mixing", "ground_truth_units"):
            if name in session.tables:
                session.tables[name] = session.tables[name].iloc[columns].reset_index(drop=True)
        session.facts["n_units_matched"] = len(common)
        session.facts["zero_fraction"] = float(np.mean(session.counts == 0))
    return sessions


def _features(sessions: list[BinnedSession]) -> pd.DataFrame:
    """Return one row per unit; over several sessions, means of numbers and the first text."""
    tables = [session.units.reset_index() for session in sessions]
    if len(tables) == 1:
        return tables[0]
    together = pd.concat(tables, ignore_index=True)
    rules = {
        name: "mean" if pd.api.types.is_float_dtype(together[name]) else "first"
        for name in together.columns
        if name != "unit"
    }
    rules |= dict.fromkeys(("n_spikes", "n_violations"), "sum")
    return together.groupby("unit", sort=False).agg(rules).reset_index()


def _write(writer: StoreWriter, sessions: list[BinnedSession]) -> None:
    tables: dict[str, list[pd.DataFrame]] = {}
    for session in sessions:
        for piece in np.unique(session.segment):
            rows = session.segment == piece
            writer.add(
                session.counts[rows],
                session=session.name,
                time=session.time[rows],
                trial=session.trial[rows],
                split=session.split[rows],
            )
        for name, table in session.tables.items():
            table = table.drop(columns="session", errors="ignore")
            table.insert(0, "session", session.name)
            tables.setdefault(name, []).append(table)
    for name, parts in tables.items():
        writer.add_table(name, pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0])


def _warn_if_small(
    sessions: list[BinnedSession], bin_size_s: float, criteria: UnitCriteria
) -> None:
    n_units, n_bins = len(sessions[0].units), sum(len(session.counts) for session in sessions)
    zero_fraction = float(np.mean([session.facts["zero_fraction"] for session in sessions]))
    remedies = []
    if n_units < FEWEST_UNITS:
        quality = sessions[0].tables["quality"]
        floor = criteria.min_rate_hz or 0.0
        slow = quality["rate_hz"].between(HIPPOCAMPAL_RATE_HZ, floor, inclusive="left")
        n_slow = int((slow & quality["reason"].str.fullmatch("rate [^;]*")).sum())
        if floor > HIPPOCAMPAL_RATE_HZ and n_slow:
            remedies.append(
                f"a lower rate floor (min_rate_hz={HIPPOCAMPAL_RATE_HZ}, usual in hippocampus, "
                f"brings back {n_slow} units)"
            )
        remedies.append("PCA, which needs no more than this, in place of an SAE")
    if n_bins < FEWEST_BINS:
        smaller = bin_size_s * n_bins / FEWEST_BINS
        remedies.append(
            f"a recording of at least {FEWEST_BINS * bin_size_s:g} s, or bins of at most "
            f"{float(f'{smaller:.1g}'):g} s"
        )
    if zero_fraction > EMPTIEST:
        remedies.append("wider bins, or a higher rate floor, since most cells hold nothing")
    if remedies:
        names = ", ".join(session.name for session in sessions)
        warnings.warn(
            f"{names}: {n_units} units × {n_bins:,} bins ({zero_fraction:.1%} zero) can hardly "
            f"support an SAE; {n_bins:,} bins bear about {n_bins // BINS_PER_LATENT:,} latents. "
            f"What could: {'; '.join(remedies)}.",
            CountsWarning,
            stacklevel=3,
        )
