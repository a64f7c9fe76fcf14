"""Which units, at which lags, switch a latent on, and which it writes to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from saebook.errors import DataError
from saebook.evaluation.recovery import decoder_directions

MOST_ROWS = 4096


def attribute_latent(
    sae: Any, x: Any, latent: int, *, unit_names: Any = None, bin_size_s: float = 1.0
) -> pd.DataFrame:
    """Attribute a latent to units and time lags.

    Reading: the gradient of the latent with respect to the input, times the input, averaged over
    the rows in which it is active. Under a linear encoder this is each unit's own part of the
    pre-activation, up to the bias. Writing: the decoder's weight.

    Parameters
    ----------
    sae : SAE
        The model.
    x : array or Tensor
        [n, d_in], or windows [n, seq_len, d_in], in the units of the model's input.
    latent : int
        Which.
    unit_names : sequence, optional
        [d_in] names.
    bin_size_s : float
        Width of a bin, s.

    Returns
    -------
    DataFrame
        One row per unit and lag, largest absolute ``reads`` first: ``unit``; ``lag_s``, from 0
        for the last bin back; ``reads``, in units of the latent; ``share`` of the sum of absolute
        reads; ``writes``, spikes per unit of activity (NaN for a lag that the model does not
        reconstruct).

    Raises
    ------
    DataError
        No such latent, or it is active in no row given.

    Examples
    --------
    >>> from saebook.models import SAE, SAEConfig
    >>> sae = SAE(SAEConfig(d_in=3, d_sae=2, architecture="relu", input_scaling="none"))
    >>> weights = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    >>> with torch.no_grad():
    ...     _ = sae.W_enc.copy_(weights), sae.W_dec.copy_(weights.T)
    >>> table = attribute_latent(sae, torch.tensor([[2.0, 5.0, 0.0]]), 0, unit_names="abc")
    >>> table[["unit", "share"]].head(1).values.tolist()
    [['a', 1.0]]
    """
    d_sae = int(sae.W_dec.shape[0])
    if not 0 <= latent < d_sae:
        raise DataError(f"latent {latent}: there are {d_sae}, from 0")
    weights = sae.W_dec
    whole = torch.as_tensor(x if isinstance(x, torch.Tensor) else np.asarray(x))
    whole = whole.to(weights.device, weights.dtype)
    was_training = bool(sae.training)
    sae.eval()
    try:
        with torch.no_grad():
            active = torch.cat([sae.encode(b)[..., latent] for b in whole.split(MOST_ROWS)]) > 0
        rows = torch.nonzero(active).flatten()
        if not len(rows):
            raise DataError(
                f"latent {latent} is active in none of {len(whole):,} rows: give others"
            )
        step = -(-len(rows) // MOST_ROWS)
        seen = whole[rows[::step]].clone().requires_grad_(True)
        with torch.enable_grad():
            total = sae.encode(seen)[..., latent].sum()
            (gradient,) = torch.autograd.grad(total, seen)
    finally:
        sae.train(was_training)
    reads = (gradient * seen).detach().mean(dim=0).double().cpu().numpy()
    reads = reads.reshape(-1, reads.shape[-1])
    seq_len, n_units = reads.shape
    names = list(range(n_units)) if unit_names is None else list(unit_names)
    if len(names) != n_units:
        raise DataError(f"{len(names)} unit names for {n_units} units")
    writes = np.full((seq_len, n_units), np.nan)
    written = decoder_directions(sae)[latent].double().cpu().numpy().reshape(-1, n_units)
    writes[seq_len - len(written) :] = written
    absolute = np.abs(reads).sum()
    table = pd.DataFrame(
        {
            "unit": names * seq_len,
            "lag_s": np.repeat(np.arange(seq_len)[::-1] * bin_size_s, n_units),
            "reads": reads.ravel(),
            "share": np.abs(reads).ravel() / (absolute if absolute else 1.0),
            "writes": writes.ravel(),
        }
    )
    order = np.argsort(-np.abs(reads).ravel(), kind="stable")
    return table.iloc[order].reset_index(drop=True)
