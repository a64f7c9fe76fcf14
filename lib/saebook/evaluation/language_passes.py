"""Passes of a model over one batch: as it is, ablated, and with SAEs spliced in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saebook.errors import DataError
from saebook.evaluation.scorecard import reconstruct
from saebook.language.resuming import recorded, resumed
from saebook.language.sites import blocks
from saebook.language.splicing import Replace, constant, hidden, module_of, spliced, zeros

# Called with the output of a pass, what the site gave in the clean one, and the kept positions.
Keep = Callable[[Any, Tensor], Tensor]
CLEAN, ZERO, MEAN = "clean", "zero", "mean"
ANCHORS = (CLEAN, ZERO, MEAN)


class BatchPasses:
    """One batch through a model, first as it is, then with a site's output replaced.

    Blocks below the site run once; what they gave is handed to every further pass.

    Parameters
    ----------
    model : LanguageModel or nn.Module
        In eval mode: with dropout, no two passes would agree.
    site : Site or nn.Module
        Where activations are read and replaced.
    inputs : dict or Tensor
        What the model takes, on any device.

    Attributes
    ----------
    output : Any
        Of the clean pass.
    activations : Tensor
        [batch, seq, d_model], the site's output in it.

    Raises
    ------
    DataError
        The model is in training mode, or did not pass through the site exactly once.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).eval()
    >>> passes = BatchPasses(model, model[0], torch.ones(1, 3, 2))
    >>> passes.activations.shape, bool((passes.replaced(lambda h: h) == passes.output).all())
    (torch.Size([1, 3, 2]), True)
    """

    def __init__(self, model: Any, site: Any, inputs: Any) -> None:
        self.network = model if isinstance(model, nn.Module) else model.model
        if self.network.training:
            raise DataError("the model is in training mode: call model.eval() before scoring it")
        self.site = site
        self.inputs = _moved(inputs, next(self.network.parameters()).device)
        self._below = _blocks_below(self.network, site)
        with torch.no_grad(), recorded(module_of(self.network, site)) as outputs:
            if self._below:
                with recorded(self._below[-1]) as below:
                    self.output = self._run()
                self._known = below[0]
            else:
                self.output, self._known = self._run(), None
        if len(outputs) != 1:
            raise DataError(
                f"the model passed {len(outputs)} times through {site}: a site is passed once"
            )
        self.activations = hidden(outputs[0])

    @torch.no_grad()
    def replaced(self, replace: Replace, keep: Tensor | None = None) -> Any:
        """Output of a pass with the site's output replaced at the kept positions."""
        with (
            resumed(self._below, self._known),
            spliced(self.network, self.site, replace, keep=keep),
        ):
            return self._run()

    def _run(self) -> Any:
        if isinstance(self.inputs, Mapping):
            return self.network(**self.inputs)
        return self.network(self.inputs)


def passes_of(
    model: Any,
    site: Any,
    inputs: Any,
    saes: Mapping[str, Any],
    mean: Tensor,
    keep: Callable[[Tensor], Tensor] | None,
    observe: Callable[[str, Tensor, Tensor, Tensor], None],
) -> Iterator[tuple[str, Any, Tensor]]:
    """Outputs of every pass over one batch: clean, zero- and mean-ablated, each SAE.

    Parameters
    ----------
    model, site, inputs
        As for ``BatchPasses``.
    saes : mapping of str to SAE
        By name.
    mean : Tensor
        [d_model], for mean-ablation.
    keep : callable, optional
        From activations [batch, seq, d_model] to booleans [batch, seq].
    observe : callable
        Told of each SAE's name, activations, latents and reconstruction at the kept positions.

    Yields
    ------
    name : str
    output : Any
    kept : Tensor
        Booleans [batch, seq].
    """
    passes = BatchPasses(model, site, inputs)
    x = passes.activations  # [batch, seq, d_model]
    kept = torch.ones_like(x[..., 0], dtype=torch.bool) if keep is None else keep(x).to(x.device)
    yield CLEAN, passes.output, kept
    yield ZERO, passes.replaced(zeros, kept), kept
    yield MEAN, passes.replaced(constant(mean), kept), kept
    rows = x[kept]  # [n_kept, d_model]
    for name, sae in saes.items():
        latents, made = reconstruct(sae, rows)
        observe(name, rows.to(made), latents, made)
        whole = x.clone()
        whole[kept] = made.to(x)
        yield name, passes.replaced(lambda _, whole=whole: whole, kept), kept


def check_names(saes: Mapping[str, Any]) -> None:
    """Refuse names that belong to the anchors."""
    taken = sorted(set(saes) & set(ANCHORS))
    if taken:
        raise DataError(f"an SAE is named {taken[0]!r}, as an anchor is: give it another name")


def _blocks_below(network: nn.Module, site: Any) -> list[nn.Module]:
    """Blocks before the one of the site; none where the site is a bare module."""
    layer = getattr(site, "layer", 0)
    if isinstance(site, nn.Module) or not layer:
        return []
    return list(blocks(network))[:layer]


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs
