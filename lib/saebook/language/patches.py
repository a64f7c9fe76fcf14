"""Images for vision models: patches stand for tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from saebook.errors import ConfigError, DataError
from saebook.language.models import LanguageModel
from saebook.language.tokens import Cursor, TokenBatch


class PatchBatches(Iterator[TokenBatch]):
    """Batches of images; see :func:`patch_batches`.

    Attributes
    ----------
    cursor : Cursor
        Behind the last batch that was given out.
    counts : dict of str to int
        Documents (images), contexts (images too) and tokens (patches).
    """

    def __init__(
        self,
        lm: LanguageModel,
        images: Tensor | Sequence[Tensor],
        batch_size: int,
        start: Cursor | None,
        counts: dict[str, int] | None,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size={batch_size!r}: give a whole number, at least 1")
        side = getattr(lm.config, "patch_size", None)
        if side is None:
            raise ConfigError(f"{lm.name} states no patch_size; give a vision transformer")
        self._side = (side, side) if isinstance(side, int) else tuple(side)
        self._n_special = 1 + int(getattr(lm.config, "num_register_tokens", 0) or 0)
        self._images, self._size = images, batch_size
        self.cursor = start or Cursor()
        self.counts = {"documents": 0, "contexts": 0, "tokens": 0, **(counts or {})}

    def __next__(self) -> TokenBatch:
        first = self.cursor.document
        group = [self._images[i] for i in range(first, min(first + self._size, len(self._images)))]
        if not group:
            raise StopIteration
        for number, image in enumerate(group, first):
            if image.ndim != 3:
                raise DataError(
                    f"image {number} has the shape {tuple(image.shape)}; give [c, h, w]"
                )
        pixels = torch.stack(group)
        n_patches = (pixels.shape[2] // self._side[0]) * (pixels.shape[3] // self._side[1])
        special = torch.full((self._n_special,), -1)
        position = torch.cat([special, torch.arange(n_patches)]).repeat(len(group), 1)
        self.cursor = Cursor(first + len(group))
        self.counts["documents"] += len(group)
        self.counts["contexts"] += len(group)
        self.counts["tokens"] += len(group) * n_patches
        return TokenBatch(
            input_ids=torch.full_like(position, -1),
            attention_mask=torch.ones_like(position),
            document=torch.arange(first, first + len(group))[:, None].expand_as(position),
            position=position,
            special=position < 0,
            pixel_values=pixels,
        )


def patch_batches(
    lm: LanguageModel,
    images: Tensor | Sequence[Tensor],
    *,
    batch_size: int = 8,
    start: Cursor | None = None,
    counts: dict[str, int] | None = None,
) -> PatchBatches:
    """Batches of images for a vision transformer.

    Parameters
    ----------
    lm : LanguageModel
        A vision transformer with a class token, and perhaps registers, before its patches.
    images : Tensor [n, c, h, w], or sequence of Tensor [c, h, w]
        As its image processor gives them. Each is a document.
    batch_size : int
        Images per batch.
    start, counts
        As for :func:`saebook.language.token_batches`.

    Returns
    -------
    iterator of TokenBatch
        Position is the number of the patch, row by row; -1 for class and register tokens.

    Raises
    ------
    ConfigError
        If the model has no patches.
    DataError
        If an image isn't [c, h, w].

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    ...     image_size=8, patch_size=4,
    ... )
    >>> lm = LanguageModel(ViTModel(config).eval(), None, "tiny ViT")
    >>> next(patch_batches(lm, torch.zeros(2, 3, 8, 8))).position.tolist()[0]
    [-1, 0, 1, 2, 3]
    """
    return PatchBatches(lm, images, batch_size, start, counts)
