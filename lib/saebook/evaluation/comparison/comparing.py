"""Many methods under many seeds, on the same data: one tidy table, which can be interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from saebook.baselines import Method
from saebook.errors import ConfigError, DataError, EnvironmentProblem, SelectionError
from saebook.evaluation.comparison.co_smoothing import GLM_ALPHAS, LOG_FLOOR, READOUTS
from saebook.evaluation.comparison.data import ComparisonData
from saebook.evaluation.comparison.scoring import SCORES, Scored, score_method

# A method for these data and this seed; with several, validation rows choose.
Maker = Callable[[ComparisonData, int], Method]
COLUMNS = ("method", "seed", "temporal", "transductive", "n_components", *SCORES)
_REFUSALS = (DataError, SelectionError, ConfigError, EnvironmentProblem)


def compare_methods(
    data: Callable[[int], ComparisonData],
    methods: Mapping[str, Maker | Sequence[Maker]],
    *,
    seeds: Iterable[int] = range(3),
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit and score methods on the same data, with the same splits and held-out units.

    Parameters
    ----------
    data : callable
        From a seed to the data. What differs between seeds is what the intervals are over: of a
        simulation the whole session, of a recording the held-out units, and of both the random
        state of the methods.
    methods : mapping
        From the name in the table to what makes the method from data and seed. Of several makers
        the one with the most bits per spike on validation rows counts, and its seconds are those
        of all.
    seeds : iterable of int
        At least three for an interval worth having.
    out : path, optional
        Folder for the results, one file per method and seed. A run that was interrupted goes on
        from there; results of other data or settings are made again. Latents of validation and
        test rows are kept too: see :func:`kept_latents`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per method and seed: ``method``, ``seed``, ``temporal``, ``transductive``,
        ``n_components``, the scores of ``SCORES``, ``readout``, ``setting`` (which maker),
        ``seconds`` (wall-clock, to fit) and ``note``: why a method could not be used on these
        data, with NaN for its scores; otherwise what its fit complained of.

    Raises
    ------
    ConfigError
        No method or no seed.

    Notes
    -----
    Bits per spike on the units that a method sees are not among the scores: copying and smoothing
    win there, over the true rates.

    Examples
    --------
    >>> from saebook.baselines import PCA, RawUnits
    >>> from saebook.data.simulate import simulate_reach
    >>> from saebook.evaluation.comparison import simulated_comparison
    >>> def reach(seed):
    ...     return simulated_comparison(
    ...         simulate_reach(20, 20, seed, defects=False), name="reach", seed=seed
    ...     )
    >>> makers = {
    ...     "raw units": lambda data, seed: RawUnits(),
    ...     "PCA": lambda data, seed: PCA(n_components=4, random_state=seed),
    ... }
    >>> table = compare_methods(reach, makers, seeds=(0,), progress=False)
    >>> table[["method", "seed", "n_components"]].values.tolist()
    [['raw units', 0, 15], ['PCA', 0, 4]]
    """
    seeds = list(seeds)
    if not methods or not seeds:
        raise ConfigError(f"{len(methods)} methods and {len(seeds)} seeds: give some of both")
    folder = None if out is None else Path(out)
    rows: list[dict[str, Any]] = []
    jobs = [(seed, name) for seed in seeds for name in methods]
    current: ComparisonData | None = None
    with tqdm(jobs, unit="fit", disable=not progress) as bar:
        for seed, name in bar:
            if name == next(iter(methods)) or current is None:
                current = data(seed)
            given = methods[name]
            makers = [given] if callable(given) else list(given)
            row = _one(name, makers, current, seed, folder)
            rows.append(row)
            bar.set_postfix_str(
                f"{name}, seed {seed}: co-smoothing {row['co_bps']:.3f} bits/spike, "
                f"decoding R² {row['decoding_r2']:.2f}",
                refresh=False,
            )
    table = pd.DataFrame(rows)
    last = [column for column in table.columns if column not in COLUMNS]
    return table.reindex(columns=[*COLUMNS, *last])


def kept_latents(out: str | Path, method: str, seed: int) -> np.ndarray:
    """Latents of one method and seed, of validation and test rows, in the order of the data.

    Parameters
    ----------
    out : path
        The folder given to :func:`compare_methods`.
    method : str
        Its name in the table.
    seed : int

    Returns
    -------
    ndarray
        [n, n_components] float32.

    Raises
    ------
    DataError
        There are none: the method was not run there, or refused the data.
    """
    path = _path(Path(out), method, seed).with_suffix(".npy")
    if not path.is_file():
        raise DataError(f"{path} is missing: {method} was not run with seed {seed}, or left out")
    return np.load(path, allow_pickle=False)


def _one(
    name: str, makers: Sequence[Maker], data: ComparisonData, seed: int, folder: Path | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name, "seed": seed}
    row |= {"temporal": None, "transductive": None, "n_components": 0}
    row |= dict.fromkeys(SCORES, math.nan)
    row |= {"validation_bits": math.nan, "readout": "", "setting": 0, "seconds": 0.0, "note": ""}
    try:
        made = [maker(data, seed) for maker in makers]
    except _REFUSALS as problem:
        return row | {"note": f"left out: {problem}"}
    row |= {"temporal": made[0].temporal, "transductive": made[0].transductive}
    path = None if folder is None else _path(folder, name, seed)
    key = _key(made, data, seed)
    kept = None if path is None else _kept(path, key)
    if kept is not None:
        return row | kept
    best: Scored | None = None
    seconds, notes = 0.0, []
    for number, method in enumerate(made):
        try:
            scored = score_method(method, data)
        except _REFUSALS as problem:
            notes.append(f"left out: {problem}")
            continue
        seconds += scored.scores["seconds"]
        notes += method.fit_messages
        if best is None or scored.scores["validation_bits"] > row["validation_bits"]:
            best = scored
            row |= scored.scores | {"setting": number}
    row |= {"seconds": seconds, "note": "; ".join(dict.fromkeys(notes))}
    if path is not None:
        held = data.split != "train"
        _keep(path, key, row, None if best is None else best.latents[held])
    return row


def _key(methods: Sequence[Method], data: ComparisonData, seed: int) -> str:
    """What results depend on, as a few letters."""
    rule = (version("saebook"), READOUTS, GLM_ALPHAS, LOG_FLOOR, tuple(SCORES))
    described = [(type(m).__name__, m.name, _settings(vars(m))) for m in methods]
    state = repr((described, data.digest(), seed, rule))
    return hashlib.sha256(state.encode()).hexdigest()


def _settings(values: Any) -> Any:
    """The plain values among settings, in an order of their own."""
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        values = dataclasses.asdict(values)
    if isinstance(values, Mapping):
        items = {str(k): _settings(v) for k, v in values.items()}
        return sorted((k, v) for k, v in items.items() if v is not NotImplemented)
    if isinstance(values, list | tuple):
        return [_settings(v) for v in values]
    if values is None or isinstance(values, bool | int | float | str):
        return values
    return NotImplemented


def _path(folder: Path, name: str, seed: int) -> Path:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    # Names that differ in signs only must not share a file.
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return folder / f"{plain}-{mark}-seed{seed}.json"


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    return {k: math.nan if v is None else v for k, v in content["row"].items()}


def _keep(path: Path, key: str, row: dict[str, Any], latents: np.ndarray | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    arrays = path.with_suffix(".npy")
    if latents is None:
        arrays.unlink(missing_ok=True)
    else:
        partial = arrays.with_name(f".{arrays.name}.partial")
        with partial.open("wb") as file:
            np.save(file, latents, allow_pickle=False)
        partial.replace(arrays)
    # The scores last: where they are, the latents are too.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps({"key": key, "row": plain}, indent=1), encoding="utf-8")
    partial.replace(path)
