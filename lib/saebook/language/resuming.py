"""Running a model from one of its blocks on, when what comes before is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Any]]:
    """Outputs of a module, in the order of its passes.

    Parameters
    ----------
    module : nn.Module
        Of a model that runs while this is open.

    Yields
    ------
    list
        One entry per pass: what the module returned.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Identity(), nn.Linear(1, 1))
    >>> with recorded(model[0]) as outputs:
    ...     _ = model(torch.ones(3, 1))
    >>> len(outputs), outputs[0].shape
    (1, torch.Size([3, 1]))
    """
    outputs: list[Any] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        outputs.append(output)

    handle = module.register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def resumed(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Skip blocks whose last output is known from an earlier pass over the same input.

    Splices of one site over one batch share everything below the site: in the middle of a model
    this halves their cost. Numbers stay the same to the last bit, since what follows gets the
    recorded output.

    Parameters
    ----------
    blocks : sequence of nn.Module
        Consecutive blocks, from the model's first; empty skips nothing.
    output : Any
        What the last of them returned.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    >>> x = torch.ones(3, 2)
    >>> with recorded(model[1]) as outputs:
    ...     whole = model(x)
    >>> with resumed([model[0], model[1]], outputs[0]):
    ...     rest = model(x)
    >>> bool((rest == whole).all())
    True
    """

    def known(*args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return output

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_forward_of(block, known))
        yield


@contextmanager
def _forward_of(block: nn.Module, forward: Any) -> Iterator[None]:
    # A model spread over devices has a forward of its own on the module: kept, and put back.
    own = block.__dict__.get("forward")
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del block.__dict__["forward"]
        else:
            block.__dict__["forward"] = own
