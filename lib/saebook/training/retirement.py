"""Retire latents that hardly lower the error, so that what is left has one latent per feature.

With more latents than features, the surplus ends up as copies and remnants that fire now and
then and explain next to nothing. Taking them out before the learning rate decays costs no error
and lets the others settle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saebook.models import SAE, Forward
from saebook.training.optimisers import reset_state
from saebook.training.stacking import SAEStack, members_of, parts_of, shape_of

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig

# A latent is surplus when all its firings together lower the error by less than this share of
# what the mean latent achieves …
SMALL_SHARE = 0.01
# … and one firing, allowing for its standard error, by less than this share of the typical one:
# a rare feature is worth little in sum, and as much as any other when it occurs.
SMALL_PER_FIRING = 0.1
STANDARD_ERRORS = 2.0
FEWEST_FIRINGS = 2


@torch.no_grad()
def contributions(sae: SAE, forward: Forward) -> Tensor:
    """How much the squared error would grow without each latent, summed over a batch.

    Removing latent j from an example with residual ``e = x - x̂`` adds
    ``2 f_j e·d_j + f_j² ‖d_j‖²`` to its squared error; nothing is refitted.

    Parameters
    ----------
    sae
        With a linear decoder.
    forward
        A pass on a batch.

    Returns
    -------
    Tensor
        [3, d_sae]: sum over firings, sum of squares, and number of firings; for nested
        dictionaries, over all of them.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=2, d_sae=2, architecture="relu", input_scaling="none"))
    >>> with torch.no_grad():
    ...     _ = sae.encoder_rows.copy_(torch.eye(2)), sae.W_dec.copy_(torch.eye(2))
    >>> contributions(sae, sae.pass_through(torch.tensor([[2.0, 0.0]]))).tolist()
    [[4.0, 0.0], [16.0, 0.0], [1.0, 0.0]]
    """
    totals = sae.W_dec.new_zeros(3, sae.config.d_sae)
    squared_norms = sae.W_dec.square().sum(dim=1)
    for (entries, latents), made in zip(forward.levels, forward.level_reconstructions):
        residual = forward.target_scaled - made
        along = 2 * entries.products(residual, sae.W_dec)
        grown = latents * (along + latents * entries.at(squared_norms))
        active = (latents != 0).to(grown.dtype)
        totals += torch.stack([entries.column_sums(v) for v in (grown, grown.square(), active)])
    return totals


@torch.no_grad()
def surplus(totals: Tensor) -> Tensor:
    """Which latents do next to nothing, booleans [..., d_sae], from summed `contributions`.

    Latents that never fired are among them.
    """
    grown, squares, firings = totals.unbind(dim=-2)
    ever = (firings > 0).sum(dim=-1, keepdim=True)
    share = grown / (grown.sum(dim=-1, keepdim=True) / ever)
    n = firings.clamp_min(1)
    each = grown / n
    spread = (squares / n - each.square()).clamp_min(0)
    error = (spread / (n - 1).clamp_min(1e-9)).sqrt()
    typical = grown.sum(dim=-1, keepdim=True) / firings.sum(dim=-1, keepdim=True).clamp_min(1)
    weak = each - STANDARD_ERRORS * error < SMALL_PER_FIRING * typical
    return (share < SMALL_SHARE) & (weak | (firings < FEWEST_FIRINGS))


class Retirement:
    """Watches contributions over a tenth of the run, then retires what is surplus, once.

    A retired latent has no encoder row and no bias, so its pre-activation is exactly zero and it
    never fires; it stays in the dictionary, so that sizes and files stay as they are.

    Parameters
    ----------
    sae
        The model.
    train
        Settings of the run: ``retire_at``, ``retire_window``.
    """

    def __init__(self, sae: SAE | SAEStack, train: TrainConfig):
        self._at = train.retire_at if sae.config.decoder == "linear" else None
        self._window = train.retire_window
        shape, device = shape_of(sae), sae.W_dec.device
        self.totals = torch.zeros(*shape, 3, sae.config.d_sae, device=device)
        self.retired = torch.zeros(*shape, sae.config.d_sae, dtype=torch.bool, device=device)
        self.done = self._at is None

    def watches(self, fraction: float) -> bool:
        """Whether contributions count at this fraction of the run."""
        return not self.done and self._at is not None and fraction >= self._at - self._window

    def observe(self, totals: Tensor) -> None:
        """Take note of a batch's contributions."""
        self.totals.add_(totals)

    def is_due(self, fraction: float) -> bool:
        """Whether latents are to be retired, once, now that this fraction of the run has passed."""
        return not self.done and self._at is not None and fraction >= self._at

    @torch.no_grad()
    def retire(self, sae: SAE | SAEStack, optimizer: torch.optim.Optimizer) -> None:
        """Retire what is surplus."""
        self.retired.copy_(surplus(self.totals))
        self.done = True
        for member, retired in zip(members_of(sae), parts_of(sae, self.retired)):
            for parameter in (member.encoder_rows, member.b_enc):
                reset_state(optimizer, parameter, retired)

    @torch.no_grad()
    def keep_silent(self, sae: SAE | SAEStack) -> None:
        """Undo what moments and weight decay still do to the rows of retired latents."""
        sae.encoder_rows.masked_fill_(self.retired[..., None], 0.0)
        sae.b_enc.masked_fill_(self.retired, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Contributions so far, and who was retired."""
        return {"totals": self.totals, "retired": self.retired, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self.totals.copy_(state["totals"])
        self.retired.copy_(state["retired"])
        self.done = state["done"]
