"""The encoder's product, and where the largest of it are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from saebook.models.sparse.gpu.largest import LargestOf, Wanted
from saebook.models.sparse.gpu.members import over_members


@over_members
class Search(Function):
    """Places and values of the largest pre-activations of a batch; without gradients."""

    @staticmethod
    def forward(
        x: Tensor,
        encoder_rows: Tensor,
        b_enc: Tensor,
        k: Tensor | None,
        wanted: Sequence[Wanted],
        ordered: bool,
    ) -> tuple[Tensor, ...]:
        """Find what is wanted among ``x @ encoder_rows.T + b_enc``.

        Parameters
        ----------
        x
            [members, n, d].
        encoder_rows
            [members, d_sae, d].
        b_enc
            [members, d_sae].
        k
            [members], where members differ in it.
        wanted
            What is looked for, in one and the same product.
        ordered
            Whether to bring the entries into the order of columns, too.

        Returns
        -------
        tuple
            Of each wanted, in turn: values, columns, rows [members, n_entries] and starts
            [members, n + 1]; if ordered, also the order [members, n_entries] and starts
            [members, d_sae + 1] of columns.
        """
        h, bias = _product(x, encoder_rows, b_enc)
        found: list[Tensor] = []
        for one in wanted:
            ks = h.new_full((len(h),), one.k, dtype=torch.int32) if k is None else k.int()
            search = LargestOf(h, bias, ks, one)
            places = search.of_rows() if one.by_row else search.of_batch()
            found += places
            if ordered:
                found += by_column(places[0], places[1], h.shape[2])
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing here has a gradient."""
        ctx.mark_non_differentiable(*output)


def _product(x: Tensor, encoder_rows: Tensor, b_enc: Tensor) -> tuple[Tensor, Tensor | None]:
    """Pre-activations [members, n, d_sae], and the bias, if it is yet to be added."""
    if len(encoder_rows) == 1:
        return F.linear(x[0], encoder_rows[0], b_enc[0].to(x.dtype))[None], None
    # A bias of each member's own would cost another pass over all of them.
    return x @ encoder_rows.mT, b_enc


def by_column(values: Tensor, columns: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """The order of entries by column, those without a value last, and where columns begin.

    Parameters
    ----------
    values, columns
        [members, n_entries].

    Returns
    -------
    tuple
        [members, n_entries], int64, and [members, d_sae + 1], int32.
    """
    members, n_entries = columns.shape
    device = columns.device
    member = torch.arange(members, dtype=torch.int32, device=device)[:, None]
    keys = columns.where(values != 0, d_sae) + member * (d_sae + 1)
    # All members at once: columns of the next follow those of the one before.
    keys, order = keys.flatten().sort(stable=True)
    every = torch.arange(members * (d_sae + 1), dtype=torch.int32, device=device)
    starts = torch.searchsorted(keys, every, out_int32=True).view(members, -1)
    return order.view(members, -1) - member * n_entries, starts - member * n_entries
