"""The sparse pass as functions with gradients, on a GPU.

Every tensor has a leading axis of members, so that a stack of SAEs is one launch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from saebook.models.sparse.gpu.members import over_members
from saebook.models.sparse.gpu.sums import (
    matrix,
    products_with_rows,
    sums_of_examples,
    sums_of_rows,
    values_of_columns,
)


@over_members
class EncodeAt(Function):
    """``h = (x - b_dec) @ W_enc + b_enc`` at entries that are known already.

    What is added to their values is the gradient, without a product of full size: see
    :class:`saebook.models.sparse.pattern.EncodeAt`. Without an order of columns it is a product
    after all, of the matrix whose entries these are.
    """

    @staticmethod
    def forward(
        encoder_rows: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        x: Tensor,
        values: Tensor,
        columns: Tensor,
        rows: Tensor,
        order: Tensor | None,
        column_starts: Tensor | None,
    ) -> Tensor:
        """The values [members, n_entries]; ``x`` [members, n, d] is what the encoder multiplies."""
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the gradients need."""
        encoder_rows, _, b_dec, x, _, columns, rows, order, starts = inputs
        ctx.has_b_dec = b_dec is not None
        ctx.save_for_backward(encoder_rows, x, columns, rows, order, starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights and both biases."""
        encoder_rows, x, columns, rows, order, starts = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            weights, bias = sums_of_examples(
                gradients[0], columns, rows, order, starts, x, encoder_rows.shape[1]
            )
            towards_input = None
            if ctx.has_b_dec:
                towards_input = -(bias[:, None] @ encoder_rows)[:, 0]
        return weights, bias, towards_input, *[None] * 6


@over_members
class DecodeAt(Function):
    """``latents @ W_dec`` for latents that are zero outside some entries.

    ``table`` holds the numbers of ``decoder_rows``, of lower precision under autocast.
    """

    @staticmethod
    def forward(
        values: Tensor,
        decoder_rows: Tensor,
        table: Tensor,
        columns: Tensor,
        rows: Tensor,
        starts: Tensor,
        order: Tensor | None,
        column_starts: Tensor | None,
    ) -> Tensor:
        """Values [members, n_entries] and rows [members, d_sae, d] -> [members, n, d]."""
        return sums_of_rows(values, columns, starts, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the gradients need."""
        values, _, table, *places = inputs
        ctx.save_for_backward(values, table, *places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the values, and of the rows if they learn."""
        values, table, columns, rows, starts, order, column_starts = ctx.saved_tensors
        # Read once for each entry, twice: it is worth being of the table's precision.
        gradient = gradients[0].to(table.dtype)
        towards_values = towards_rows = None
        with torch.autocast(table.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                towards_values = products_with_rows(values, columns, starts, gradient, table)
            if ctx.needs_input_grad[1]:
                towards_rows, _ = sums_of_examples(
                    values, columns, rows, order, column_starts, gradient, table.shape[1]
                )
        return towards_values, towards_rows, *[None] * 6


@over_members
class Products(Function):
    """``(x @ table.T)`` at some entries, without gradients."""

    @staticmethod
    def forward(columns: Tensor, starts: Tensor, x: Tensor, table: Tensor) -> Tensor:
        """[members, n_entries]."""
        return products_with_rows(None, columns, starts, x, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """There is nothing to keep."""
        ctx.mark_non_differentiable(output)


@over_members
class ColumnSums(Function):
    """Sums of the entries of each column."""

    @staticmethod
    def forward(
        values: Tensor,
        columns: Tensor,
        rows: Tensor,
        order: Tensor | None,
        column_starts: Tensor | None,
        n_rows: int,
        n_columns: int,
    ) -> Tensor:
        """[members, n_columns]."""
        if order is None or column_starts is None:
            return matrix(values, columns, rows, n_rows, n_columns).sum(dim=1)
        return values_of_columns(values, order, column_starts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the gradients need."""
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """What belongs to each entry's column."""
        (columns,) = ctx.saved_tensors
        return gradients[0].gather(1, columns.long()), *[None] * 6
