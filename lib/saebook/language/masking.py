"""Which positions count: one recorded rule for collecting, training, splicing and scores."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saebook.errors import ConfigError, DataError

if TYPE_CHECKING:
    from saebook.language.tokens import TokenBatch

REASONS = ("padding", "first", "special", "not_finite", "massive_norm")


@dataclass(frozen=True)
class MaskRule:
    """Which positions are left out.

    The first position of a context gathers attention that has nowhere to go: its activations are
    10 to 1,000 times as long as all others, and an SAE would spend itself on them. Start tokens
    and padding carry no text.

    Parameters
    ----------
    skip_first : int
        Positions left out at the beginning of each context (of an image: its class token).
    skip_special : bool
        Leave out start, end and other special tokens.
    max_norm_ratio : float or None
        Leave out positions whose norm is more than this many times the median of the batch's
        other positions: attention sinks also form elsewhere. None: keep them.

    Raises
    ------
    ConfigError
        If a setting is out of its range.

    Examples
    --------
    >>> import torch
    >>> from saebook.language import TokenBatch
    >>> batch = TokenBatch.of([[5, 6, 7, 8]])
    >>> norms = torch.tensor([[150.0, 1.0, 40.0, 1.0]])
    >>> MaskRule().keep(batch, norms[..., None]).tolist()
    [[False, True, False, True]]
    >>> MaskRule().counts(batch, norms[..., None])["massive_norm"]
    1
    """

    skip_first: int = 1
    skip_special: bool = True
    max_norm_ratio: float | None = 10.0

    def __post_init__(self) -> None:
        first = self.skip_first
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise ConfigError(f"skip_first={first!r}: give a number of positions, 0 or more")
        if not isinstance(self.skip_special, bool):
            raise ConfigError(f"skip_special={self.skip_special!r}: give True or False")
        ratio = self.max_norm_ratio
        if ratio is None:
            return
        number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
        if not number or not math.isfinite(ratio) or ratio <= 1:
            raise ConfigError(f"max_norm_ratio={ratio!r}: give a number above 1, or None")

    def to_dict(self) -> dict[str, Any]:
        """Settings, as a store's manifest keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> MaskRule:
        """Return the rule that ``to_dict`` described.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of its range.
        """
        unknown = settings.keys() - {known.name for known in fields(cls)}
        if unknown:
            raise ConfigError(f"a mask rule has no setting {', '.join(sorted(unknown))}")
        return cls(**settings)

    def reasons(self, batch: TokenBatch, activations: Tensor) -> dict[str, Tensor]:
        """Positions left out, by the first reason that holds.

        Parameters
        ----------
        batch : TokenBatch
            Contexts [b, s].
        activations : Tensor [b, s, d_model]
            At the site, on any device.

        Returns
        -------
        dict of str to Tensor
            Booleans [b, s] for each of padding, first, special, not_finite and massive_norm; no
            position has two.

        Raises
        ------
        DataError
            If the activations are of other positions than the batch has.
        """
        if activations.shape[:2] != batch.input_ids.shape:
            raise DataError(
                f"activations {tuple(activations.shape)} don't belong to a batch of "
                f"{tuple(batch.input_ids.shape)} positions"
            )
        device = activations.device
        norms = activations.float().norm(dim=-1)  # [b, s]
        left = batch.attention_mask.to(device).bool()
        found = {"padding": ~left}

        def leave_out(reason: str, where: Tensor) -> None:
            nonlocal left
            found[reason] = left & where
            left = left & ~where

        columns = torch.arange(norms.shape[1], device=device)
        leave_out("first", (columns < self.skip_first).expand_as(left))
        special = batch.special.to(device)
        leave_out("special", special if self.skip_special else torch.zeros_like(special))
        leave_out("not_finite", ~torch.isfinite(activations).all(dim=-1))
        massive = torch.zeros_like(left)
        if self.max_norm_ratio is not None and bool(left.any()):
            massive = norms > self.max_norm_ratio * norms[left].median()
        leave_out("massive_norm", massive)
        return found

    def keep(self, batch: TokenBatch, activations: Tensor) -> Tensor:
        """Positions that count.

        Parameters
        ----------
        batch : TokenBatch
            Contexts [b, s].
        activations : Tensor [b, s, d_model]
            At the site.

        Returns
        -------
        Tensor [b, s] of bool
            On the device of the activations.
        """
        return ~torch.stack(list(self.reasons(batch, activations).values())).any(dim=0)

    def counts(self, batch: TokenBatch, activations: Tensor) -> dict[str, int]:
        """Number of positions left out for each reason."""
        reasons = self.reasons(batch, activations)
        return {reason: int(where.sum()) for reason, where in reasons.items()}
