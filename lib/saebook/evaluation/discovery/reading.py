"""What can be decoded from all latents and from one, and what is lost when a latent is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from saebook.errors import DataError, SelectionError
from saebook.evaluation.discovery.findings import Discovery, columns_of
from saebook.evaluation.readers import Reader
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.evaluation.unlearning import Clamp, edited_from
from saebook.evaluation.variables import Variable
from saebook.metrics import fvu

BATCH = 4096


def decode_variables(
    codes: Mapping[str, Any],
    variables: Sequence[Variable],
    train_rows: Any,
    test_rows: Any,
    *,
    single: Mapping[str, Mapping[str, int]] | None = None,
) -> pd.DataFrame:
    """Decode each variable from whole codes and from single dimensions, on test rows.

    Parameters
    ----------
    codes : mapping of str to array
        Name and [n_rows, m] activity in every row of the store.
    variables : sequence of Variable
        Over every row of the store.
    train_rows, test_rows : array of int
        Rows that fit the readouts, and rows that are scored.
    single : mapping, optional
        Of a code's name, the dimension to decode each variable from alone, by the variable's
        name.

    Returns
    -------
    DataFrame
        One row per variable, index ``variable``; a column per code, and ``<code>, one`` for its
        single dimension: the score of :class:`~saebook.evaluation.Reader`, which is R², or for
        events and categories the balanced accuracy over chance. NaN where a variable has too few
        rows or does not change.

    Examples
    --------
    >>> angle = np.linspace(0, 20, 600) % 1
    >>> step = (angle * 4).astype(int)
    >>> phase = Variable("phase", "continuous", angle, step, np.arange(4) / 4 + 0.125)
    >>> codes, rows = {"code": np.stack([angle, angle**2], axis=1)}, np.arange(600)
    >>> table = decode_variables(
    ...     codes, [phase], rows[:400], rows[400:], single={"code": {"phase": 1}}
    ... )
    >>> table.round(2).to_dict("records")
    [{'code': 1.0, 'code, one': 0.94}]
    """
    train, test = np.asarray(train_rows), np.asarray(test_rows)
    records = []
    for variable in variables:
        record: dict[str, float] = {}
        for name, code in codes.items():
            columns = {name: np.arange(code.shape[1])}
            one = (single or {}).get(name, {}).get(variable.name)
            if one is not None:
                columns[f"{name}, one"] = np.array([one])
            for label, which in columns.items():
                seen = columns_of(code, which).astype(float)
                record[label] = _read(variable, seen, train, test)
        records.append(record)
    names = [variable.name for variable in variables]
    return pd.DataFrame(records, index=pd.Index(names, name="variable"))


def _read(variable: Variable, seen: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    try:
        return Reader(variable, seen[train], train).score(seen[test], test)
    except SelectionError:
        return float("nan")


def ablation_effects(
    sae: Any,
    x: Any,
    discovery: Discovery,
    latents: Sequence[int] | None = None,
    *,
    n_controls: int = 5,
) -> pd.DataFrame:
    """Remove latents one at a time: what their variable's decoding and the reconstruction lose.

    The readout decodes the latent's variable from all latents, fitted on intact training rows.
    Controls are the latents whose density is nearest to the removed one's: what removing any such
    latent costs the same variable.

    Parameters
    ----------
    sae : SAE
        The model.
    x : array or Tensor
        [n_rows, d_in] (or windows [n_rows, seq_len, d_in]), every row of the store.
    discovery : Discovery
        Of this model's latents.
    latents : sequence of int, optional
        Which; the discovered ones by default.
    n_controls : int
        Latents removed for comparison, each alone.

    Returns
    -------
    DataFrame
        One row per latent, index ``latent``: ``variable``; ``decoding`` and ``decoding_without``,
        test scores of :class:`~saebook.evaluation.Reader`; ``lost``, their difference;
        ``lost_control``, the mean of the controls'; ``fvu`` of the reconstruction of test rows,
        ``fvu_without``.

    Raises
    ------
    DataError
        x does not have the rows of the discovery.
    """
    which = list(discovery.found.index if latents is None else latents)
    rows = discovery.rows
    whole = torch.as_tensor(x if isinstance(x, torch.Tensor) else np.asarray(x)).float()
    if len(whole) <= max(int(rows["train"][-1]), int(rows["test"][-1])):
        raise DataError(f"x has {len(whole)} rows, fewer than the discovery: give every row")
    with scoring(sae):
        encoded = {
            part: torch.cat([reconstruct(sae, batch)[0] for batch in whole[at].split(BATCH)])
            .double()
            .cpu()
            .numpy()
            for part, at in rows.items()
        }
    density = discovery.table["density"].to_numpy()
    tested = np.flatnonzero(np.isfinite(discovery.table["p"].to_numpy(float)))
    readers: dict[str, Reader] = {}
    intact = _fvu(sae, whole[rows["test"]], Clamp((), ()))
    records = []
    for latent in which:
        variable = discovery.variable(latent)
        if variable.name not in readers:
            readers[variable.name] = Reader(variable, encoded["train"], rows["train"])
        reader = readers[variable.name]
        others = tested[tested != latent]
        nearest = others[np.argsort(abs(density[others] - density[latent]), kind="stable")]
        before = reader.score(encoded["test"], rows["test"])
        lost = [
            before - _without(reader, encoded["test"], rows["test"], int(one))
            for one in (latent, *nearest[:n_controls])
        ]
        records.append(
            {
                "variable": variable.name,
                "decoding": before,
                "decoding_without": before - lost[0],
                "lost": lost[0],
                "lost_control": float(np.mean(lost[1:])) if len(lost) > 1 else float("nan"),
                "fvu": intact,
                "fvu_without": _fvu(sae, whole[rows["test"]], Clamp((latent,), (0.0,))),
            }
        )
    columns = (
        "variable", "decoding", "decoding_without", "lost", "lost_control", "fvu", "fvu_without",
    )  # fmt: skip
    return pd.DataFrame(records, columns=columns, index=pd.Index(which, name="latent"))


def _without(reader: Reader, latents: np.ndarray, rows: np.ndarray, latent: int) -> float:
    removed = latents.copy()
    removed[:, latent] = 0.0
    return reader.score(removed, rows)


def _fvu(sae: Any, x: torch.Tensor, clamp: Clamp) -> float:
    made, target = [], []
    with scoring(sae):
        for batch in x.split(BATCH):
            latents, reconstruction = reconstruct(sae, batch)
            batch = batch.to(reconstruction)
            if clamp.latents:
                reconstruction = edited_from(
                    sae, batch, latents, reconstruction, clamp, keep_error=False
                )
            made.append(reconstruction.cpu())
            wanted = sae.target_of(batch, None) if hasattr(sae, "target_of") else batch
            target.append(wanted.cpu())
    return float(fvu(torch.cat(target), torch.cat(made)))
