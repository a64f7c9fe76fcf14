"""Encoding and selecting in kernels: one product, and one pass over what it makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models.entries import Selected
from saebook.models.sae import SAE
from saebook.models.selecting import Selecting
from saebook.models.sparse.gpu.entries import FixedEntries
from saebook.models.sparse.gpu.functions import EncodeAt
from saebook.models.sparse.gpu.largest import Wanted
from saebook.models.sparse.gpu.searching import Search

# Multiplications up to which a product of full size costs less than bringing the entries into the
# order of columns, which is a handful of launches.
SMALL_PRODUCT = 2**28


class SelectFused:
    """What :func:`saebook.models.selecting.select_among_all` does for topk and batchtopk, on a GPU.

    The number of entries is known beforehand, so no step waits for the device, and each can be
    captured in a CUDA graph. Selection is exact; ties go to the first example and latent. Results
    don't depend on the order in which the device's programs run.

    Parameters
    ----------
    small_product
        Multiplications of the encoder up to which gradients of the weights are plain products.

    Notes
    -----
    Memory traffic, at 3.0 TB/s, of selection alone. The pre-activations are read once in full
    (``group_maxima``, or ``select_rows`` where a row fits into a program), their groups' maxima are
    written and read again, and after that only groups that can hold one of the k largest:

    - n = 8192, d_sae = 65,536, k = 64, bf16: 1.07 GB once; maxima, int32 [n, 1024], 34 MB written
      and read; some 66 groups of 64 in each row, 69 MB a pass, of which topk needs one from
      memory (what follows lies in caches) and batchtopk four. topk 1.22 GB, 0.41 ms; batchtopk
      1.50 GB, 0.50 ms. The product itself takes 4.4 TFLOP.
    - n = 1024, d_sae = 1024, k = 16, fp32: topk 4.2 MB once, 1.4 µs; batchtopk 4.2 MB, maxima of
      0.26 MB four times and a quarter of 4.2 MB in six passes, 12 MB, 4 µs: all of it lies in the
      level 2 cache, and launches cost more.

    Beside the product [n, d_sae] nothing of that size is made, and it is gone when this returns.
    """

    def __init__(self, small_product: int = SMALL_PRODUCT):
        self._small_product = small_product

    def __call__(self, sae: SAE, x_scaled: Tensor) -> Sequence[Selected]:
        """Selected entries of a batch [n, seq_len · d_in], in training mode."""
        return self._select(sae, x_scaled, 1, None, 0)

    def for_stack(self, n_members: int, k: Tensor | None, largest_k: int) -> Selecting:
        """The same over a stack, under `torch.func.vmap`.

        Parameters
        ----------
        n_members
            Of the stack.
        k
            Where members differ in it, each one's k, 0-d within `vmap`.
        largest_k
            Room for so many entries per example is made for each of them.
        """

        def selecting(sae: SAE, x_scaled: Tensor) -> Sequence[Selected]:
            return self._select(sae, x_scaled, n_members, k, largest_k)

        return selecting

    def _select(
        self, sae: SAE, x_scaled: Tensor, n_members: int, k: Tensor | None, largest_k: int
    ) -> Sequence[Selected]:
        rule, config = sae.selection, sae.config
        if rule.found_by not in ("row", "batch"):
            raise ConfigError(
                f"latents of {config.architecture} are as many as exceed a floor: entries in a "
                "fixed number can't hold them; use engine='auto' or 'dense'"
            )
        if rule.found_by == "batch" and sae.shares is not None:
            raise ConfigError(
                "the largest entries of a batch that several processes share are found on the "
                "host; use engine='auto' or 'dense'"
            )
        levels = range(len(config.levels)) if config.prefix_k else (-1,)
        wanted = tuple(
            Wanted(
                largest_k if k is not None else sae.k_of_level(level),
                config.levels[level],
                rule.found_by == "row",
            )
            for level in levels
        )
        b_dec = sae.b_dec if config.apply_b_dec_to_input else None
        x = x_scaled.detach() if b_dec is None else x_scaled.detach() - b_dec.detach()
        rows, kind = sae.encoder_rows.detach(), x.device.type
        if torch.is_autocast_enabled(kind):
            # Once, for the product and for the gradients.
            lower = torch.get_autocast_dtype(kind)
            x, rows = x.to(lower), rows.to(lower)
        ordered = n_members * len(x) * rows.numel() > self._small_product
        with torch.no_grad():
            found = Search.apply(
                x[None], rows[None], sae.b_enc.detach()[None], None if k is None else k[None],
                wanted, ordered,
            )  # fmt: skip
        assert isinstance(found, tuple)
        n_parts = len(found) // len(wanted)
        selected = []
        for i in range(len(wanted)):
            values, columns, row_of, starts, *by_column = found[n_parts * i : n_parts * (i + 1)]
            order, column_starts = by_column or (None, None)
            h = EncodeAt.apply(
                sae.encoder_rows[None],
                sae.b_enc[None],
                None if b_dec is None else b_dec[None],
                x[None],
                values,
                columns,
                row_of,
                order,
                column_starts,
            )
            assert isinstance(h, Tensor)
            places = (columns[0], row_of[0], starts[0], config.d_sae)
            entries = FixedEntries(
                *places,
                None if order is None else order[0],
                None if column_starts is None else column_starts[0],
            )
            selected.append(Selected(entries, h[0], rule.latents_at(sae, h[0], entries)))
        return selected
