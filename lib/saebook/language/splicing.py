"""Putting something else in the place of a site's output while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saebook.errors import DataError

Replace = Callable[[Tensor], Tensor]


@dataclass
class Splice:
    """What a splice did while it was open.

    Attributes
    ----------
    n_calls : int
        Passes through the site.
    n_replaced, n_positions : int
        Positions replaced, and seen.
    """

    n_calls: int = 0
    n_replaced: int = 0
    n_positions: int = 0


@contextmanager
def spliced(
    model: Any, site: Any, replace: Replace, *, keep: Tensor | None = None
) -> Iterator[Splice]:
    """Replace a site's output, while open, in every pass of the model.

    Parameters
    ----------
    model : LanguageModel or nn.Module
        A language, vision or any other model.
    site : Site or nn.Module
        Where: a site, or the module itself whose output is replaced.
    replace : callable
        Takes the site's output [batch, seq, d_model] and returns what goes in its place, of the
        same shape. It sees every position; what it makes of positions that are not kept is
        thrown away.
    keep : Tensor, optional
        Booleans [batch, seq]: positions to replace; all by default. The others stay as they are.

    Yields
    ------
    Splice
        Counts of what was replaced.

    Raises
    ------
    DataError
        ``replace`` returns another shape or, at a kept position, a value that is not finite;
        ``keep`` does not fit the batch; or the model never passed through the site.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> x = torch.ones(1, 3, 2)
    >>> with spliced(model, model[0], torch.zeros_like) as splice:
    ...     ablated = model(x)
    >>> bool((ablated == model[1].bias).all()), splice.n_replaced
    (True, 3)
    >>> with spliced(model, model[0], lambda h: h):
    ...     same = model(x)
    >>> bool((same == model(x)).all())
    True
    """
    network = getattr(model, "model", model) if not isinstance(model, nn.Module) else model
    module = module_of(network, site)
    splice = Splice()

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        del module, args
        x = hidden(output)
        made = _replaced(x, replace, keep)
        positions = x[..., 0]
        splice.n_calls += 1
        splice.n_positions += positions.numel()
        splice.n_replaced += positions.numel() if keep is None else int(keep.sum())
        return (made, *output[1:]) if isinstance(output, tuple) else made

    handle = module.register_forward_hook(hook)
    try:
        yield splice
    finally:
        handle.remove()
    if not splice.n_calls:
        raise DataError(
            f"no pass of the model went through {site}: run the model inside the block, and check "
            "that the site belongs to it"
        )


def module_of(network: nn.Module, site: Any) -> nn.Module:
    """The module whose output a site is; a module stands for itself."""
    return site if isinstance(site, nn.Module) else site.module_in(network)


def hidden(output: Any) -> Tensor:
    """The hidden states [batch, seq, d_model] in what a module returns."""
    x = output[0] if isinstance(output, tuple) else output
    if not isinstance(x, Tensor) or x.ndim < 2:
        found = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"the site's output is {found}: choose a module that returns hidden states")
    return x


def _replaced(x: Tensor, replace: Replace, keep: Tensor | None) -> Tensor:
    made = replace(x)
    if not isinstance(made, Tensor) or made.shape != x.shape:
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise DataError(f"activations of shape {tuple(x.shape)} were replaced by {shape}")
    made = made.to(x.device, x.dtype)
    if keep is not None:
        if keep.shape != x.shape[:-1]:
            raise DataError(
                f"keep has shape {tuple(keep.shape)}, the activations {tuple(x.shape)}: give one "
                "boolean per position of this batch"
            )
        made = torch.where(keep.to(x.device).bool()[..., None], made, x)
    # A position that was not finite before is the model's own affair.
    n_bad = int((~made.isfinite() & x.isfinite()).sum())
    if n_bad:
        raise DataError(
            f"{n_bad} of {made.numel()} replaced values are not finite in {x.dtype}: check the "
            "SAE, or run the model in a wider type"
        )
    return made


def reconstructing(sae: Any) -> Replace:
    """An SAE as a replacement: activations become its reconstruction of them.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode`` and ``decode``, in eval mode; activations are brought to its
        type and device, and the reconstruction back to theirs.

    Returns
    -------
    callable
        [..., d_model] to [..., d_model], as ``spliced`` takes it.

    Examples
    --------
    >>> from saebook.models import SAE, SAEConfig
    >>> x = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=16, architecture="topk", k=2))
    >>> sae.fit_inputs(x.flatten(0, 1))
    >>> reconstructing(sae.eval())(x).shape
    torch.Size([2, 5, 4])
    """

    def replace(x: Tensor) -> Tensor:
        weights = getattr(sae, "W_dec", None)
        inside = x.to(weights.device, weights.dtype) if isinstance(weights, Tensor) else x
        rows = inside.reshape(-1, inside.shape[-1])
        latents = sae.encode(rows)
        context = sae.context(rows) if hasattr(sae, "context") else ()
        made = sae.decode(latents, context) if context else sae.decode(latents)
        return made.reshape(x.shape).to(x.device, x.dtype)

    return replace


def zeros(x: Tensor) -> Tensor:
    """Zero-ablation, as ``spliced`` takes it."""
    return torch.zeros_like(x)


def constant(mean: Tensor) -> Replace:
    """Mean-ablation: every activation becomes ``mean`` [d_model], from training positions."""

    def replace(x: Tensor) -> Tensor:
        if mean.shape != x.shape[-1:]:
            raise DataError(
                f"the mean has shape {tuple(mean.shape)}, the activations {tuple(x.shape)}: take "
                "it over positions of the same site"
            )
        return mean.to(x.device, x.dtype).expand_as(x)

    return replace
