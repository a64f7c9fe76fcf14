"""Functions of tensors with a leading axis of members, which `torch.func.vmap` may lengthen."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor
from torch.autograd import Function

Made = TypeVar("Made", bound=type[Function])


def over_members(function: Made) -> Made:
    """Let `vmap` run a function once, with more members, instead of once for each.

    Parameters
    ----------
    function
        Every tensor that it takes or returns is [members, ...]; what they share may be expanded.
    """

    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        n = info.batch_size
        inner = 1

        def joined(argument: Any, axis: int | None) -> Any:
            nonlocal inner
            if not isinstance(argument, Tensor):
                return argument
            if axis is None:
                argument = argument.expand(n, *argument.shape)
            else:
                argument = argument.movedim(axis, 0)
            inner = argument.shape[1]
            return argument.flatten(0, 1)

        found = function.apply(*map(joined, arguments, in_dims))
        if isinstance(found, Tensor):
            return found.unflatten(0, (n, inner)), 0
        assert isinstance(found, tuple)
        return tuple(part.unflatten(0, (n, inner)) for part in found), (0,) * len(found)

    function.vmap = staticmethod(vmap)
    return function
