"""Which latents of a model are dead, and how many there are, as far as the host knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models import SAE, SAEConfig
from saebook.training.stacking import SAEStack, per_model, shape_of

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig

LARGEST_DEAD_WINDOW = 0.1  # of the run: a longer one would never be reached in time to help
# Steps after which a GPU's count is read: by then it has arrived, and nothing waits.
LAG = 8
# More may have died since: room is made for this many times the count.
MARGIN = 2


@dataclass(frozen=True)
class Dead:
    """Dead latents of a model, or of each member of a stack.

    Attributes
    ----------
    mask
        Booleans [d_sae], or [n, d_sae].
    at_most
        No more of each model are dead; known on the host. Where more are, for a few steps after
        many died at once on a GPU, that many of them are attended to.

    Examples
    --------
    >>> dead = Dead(torch.tensor([False, True, False, True]), (3,))
    >>> rows, are = dead.rows()
    >>> rows.tolist(), are.tolist()
    ([1, 3, 0], [True, True, False])
    """

    mask: Tensor
    at_most: Sequence[int]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Numbers [at_most] of dead latents of one model, and which of these places hold one.

        Nothing is read back to the host.
        """
        n = max(self.at_most)
        place = self.mask.cumsum(dim=-1) - 1
        # What finds no place among the n goes to one behind them.
        place = torch.where(self.mask & (place < n), place, n)
        latents = torch.arange(self.mask.shape[-1], device=self.mask.device)
        rows = place.new_zeros(n + 1).scatter(0, place, latents)[:n]
        return rows, torch.arange(n, device=rows.device) < self.mask.sum(dim=-1)

    def of(self, member: int) -> Dead:
        """Those of one member of a stack."""
        return Dead(self.mask[member], self.at_most[member : member + 1])


class Silence:
    """How long each latent has been silent, and when that makes it dead.

    Parameters
    ----------
    sae
        The model, or a stack of them.
    train
        Settings of the run; ``dead_after_firings``.
    n_steps
        Length of the run.

    Attributes
    ----------
    examples : Tensor [d_sae]
        Examples seen since each latent last fired; [n, d_sae] for a stack.
    """

    def __init__(self, sae: SAE | SAEStack, train: TrainConfig, n_steps: int):
        self._sae, self._firings, self._n_steps = sae, train.dead_after_firings, n_steps
        self._after: dict[int, Tensor] = {}
        shape = (*shape_of(sae), sae.config.d_sae)
        self.examples = torch.zeros(shape, dtype=torch.int64, device=sae.W_dec.device)

    def longest(self, batch_size: int) -> Tensor:
        """Silent examples after which a latent counts as dead, 0-d; [n] for a stack.

        As long as a latent of average density takes to fire ``dead_after_firings`` times,
        but at least ten batches and at most a tenth of the run.
        """
        window = LARGEST_DEAD_WINDOW * self._n_steps * batch_size

        def examples(config: SAEConfig) -> int:
            average_density = (config.k or config.target_l0 or 1) / config.d_sae
            wanted = self._firings / average_density
            return int(min(max(wanted, 10 * batch_size), max(window, batch_size)))

        return per_model(self._sae, examples, torch.int64)

    def dead(self, batch_size: int) -> Tensor:
        """Which latents are dead, booleans of the shape of ``examples``."""
        if batch_size not in self._after:
            self._after[batch_size] = self.longest(batch_size)
        return self.examples >= self._after[batch_size][..., None]

    @torch.no_grad()
    def observe(self, fired: Tensor, n_examples: int) -> None:
        """Take note of which latents fired among so many examples."""
        self.examples.add_(n_examples).masked_fill_(fired, 0)


class DeadCount:
    """How many latents of each model may be dead, without waiting for the device.

    On a CPU it is the number itself. A GPU is asked every few steps and its answer read as many
    steps later, with room for those that died since; so what is done for dead latents begins
    that much later there. Devices without values say nothing: all may be dead.

    Parameters
    ----------
    n_models, d_sae
        Of what is trained.
    device
        Where it is.

    Examples
    --------
    >>> count = DeadCount(1, 4, torch.device("cpu"))
    >>> count.at_most(lambda: torch.tensor([False, True, False, True]))
    (2,)
    """

    def __init__(self, n_models: int, d_sae: int, device: torch.device):
        self._d_sae, self._device = d_sae, device
        self._known: tuple[int, ...] | None = None
        self._asked = 0
        if device.type == "cuda":
            self._answer = torch.zeros(n_models, dtype=torch.int64, pin_memory=True)
            self._arrived = torch.cuda.Event()
        self._n_models = n_models

    def at_most(self, mask: Callable[[], Tensor]) -> tuple[int, ...]:
        """The number for each model at the coming step; ``mask`` gives the booleans [..., d_sae]."""
        if self._device.type == "cpu":
            return tuple(mask().sum(dim=-1).reshape(-1).tolist())
        if self._device.type != "cuda":
            return (self._d_sae,) * self._n_models
        if self._asked % LAG == 0:
            if self._asked:
                self._arrived.synchronize()
                self._known = self._with_room(self._answer)
            counts = mask().sum(dim=-1).reshape(-1)
            self._answer.copy_(counts, non_blocking=True)
            self._arrived.record(torch.cuda.current_stream(self._device))
            if self._known is None:  # the first step of a run, or of one that goes on
                self._arrived.synchronize()
                self._known = self._with_room(self._answer)
        self._asked += 1
        assert self._known is not None
        return self._known

    def _with_room(self, counts: Tensor) -> tuple[int, ...]:
        """A power of two for all of them alike, so that few sizes occur."""
        largest = int(counts.max())
        room = 1 << (MARGIN * largest - 1).bit_length() if largest else 0
        return (min(room, self._d_sae),) * self._n_models
