"""Many SAEs of one shape as one: parameters with a leading axis of models.

Models are written for one SAE; this file is all that knows of stacks. Each member stays an SAE of
its own, whose parameters and buffers are views into those of the stack, so that whatever is
written for one SAE works on each, and what is elementwise on all at once.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saebook.errors import ConfigError
from saebook.models import SAE, SAEConfig

# Settings in which the members of a stack may differ: numbers, that change no shape.
MAY_DIFFER = ("k", "target_l0", "sparsity_coefficient", "aux_coefficient", "prefix_weights")


class SAEStack(nn.Module):
    """SAEs of one shape, side by side.

    Parameters
    ----------
    members
        SAEs with fitted inputs, on one device, whose settings differ in nothing but
        ``MAY_DIFFER``. They are taken over: from here on their parameters and buffers are views
        into those of the stack.

    Attributes
    ----------
    members : list of SAE
        Changing one changes the stack, and the other way round.
    config : SAEConfig
        Of the first, for everything that they have in common.
    encoder_rows, b_enc, W_dec, … : Tensor [n, …]
        Parameters and buffers by the names that they have in an SAE, stacked.

    Raises
    ------
    ConfigError
        There is no member, or their settings or shapes differ where they must not.

    Examples
    --------
    >>> from saebook.models import SAEConfig
    >>> stack = SAEStack([SAE(SAEConfig(d_in=4, d_sae=8, k=k), seed=k) for k in (1, 2)])
    >>> stack.W_dec.shape, stack.W_dec[1].equal(stack.members[1].W_dec)
    (torch.Size([2, 8, 4]), True)
    """

    W_dec: nn.Parameter
    encoder_rows: nn.Parameter
    b_enc: nn.Parameter
    threshold: Tensor
    target_variance: Tensor

    def __init__(self, members: Sequence[SAE]):
        super().__init__()
        check_alike([member.config for member in members])
        self._members = list(members)
        self.config = members[0].config
        self._named: dict[str, nn.Parameter] = {}
        for name, _ in members[0].named_parameters():
            whole = nn.Parameter(torch.stack([_of(m, name).detach() for m in members]))
            self._named[name] = whole
            self.register_parameter(name, whole)
        # Those of the scaling belong to a module within; a name has no dot.
        self._buffer_names = [name for name, _ in members[0].named_buffers()]
        for name in self._buffer_names:
            whole = torch.stack([_of(member, name) for member in members])
            self.register_buffer(name.replace(".", "_"), whole)
        self._shared = {
            name
            for name, whole in self.stacked_buffers().items()
            if name.startswith("scaling.") and bool((whole == whole[:1]).all())
        }
        self._adopt()

    @property
    def members(self) -> list[SAE]:
        """The SAEs, in the order in which they were given."""
        return self._members

    @property
    def configs(self) -> list[SAEConfig]:
        """Settings of each member."""
        return [member.config for member in self._members]

    def separate(self) -> list[SAE]:
        """The members, each with tensors of its own."""
        for member in self._members:
            for name in [*self._named, *self._buffer_names]:
                owner, last = _owner(member, name)
                tensor = getattr(owner, last)
                if name in self._named:
                    tensor.data, tensor.grad = tensor.data.clone(), None
                else:
                    setattr(owner, last, tensor.clone())
        return self._members

    @property
    def selects_topk(self) -> bool:
        """Whether training still begins with topk; the same for all."""
        return self._members[0].selects_topk

    @selects_topk.setter
    def selects_topk(self, begins: bool) -> None:
        for member in self._members:
            member.selects_topk = begins

    @property
    def selection(self) -> Any:
        """The rule in force; the same for all."""
        return self._members[0].selection

    def train(self, mode: bool = True) -> SAEStack:
        """Put every member into training mode, or out of it."""
        for member in self._members:
            member.train(mode)
        return super().train(mode)

    def stacked_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters [n, …] by the names that they have in an SAE."""
        return self._named

    def stacked_buffers(self) -> dict[str, Tensor]:
        """Buffers [n, …] by the names that they have in an SAE."""
        return {name: self.get_buffer(name.replace(".", "_")) for name in self._buffer_names}

    @property
    def shared_buffers(self) -> set[str]:
        """Buffers that training never changes and that are the same for every member."""
        return self._shared

    def set_gradients(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Give every parameter its gradient [n, …] or none, and every member its part of it."""
        for name, gradient in gradients.items():
            self._named[name].grad = gradient
            parts = [None] * len(self._members) if gradient is None else gradient.unbind()
            for member, part in zip(self._members, parts):
                _of(member, name).grad = part

    def gather_gradients(self) -> None:
        """Make one gradient of what the members have; one that hasn't any counts as zero."""
        together: dict[str, Tensor | None] = {}
        for name in self._named:
            parts = [_of(member, name) for member in self._members]
            together[name] = None
            if any(part.grad is not None for part in parts):
                given = [torch.zeros_like(p) if p.grad is None else p.grad for p in parts]
                together[name] = torch.stack(given)
        self.set_gradients(together)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAEStack:
        # Moved to another device, the stack's tensors are new ones: the members follow.
        super()._apply(fn, recurse)
        self._named = {name: getattr(self, name) for name in self._named}
        self._adopt()
        return self

    @torch.no_grad()
    def _adopt(self) -> None:
        """Make the members' tensors views into the stack's."""
        for name, whole in (self._named | self.stacked_buffers()).items():
            for i, member in enumerate(self._members):
                owner, last = _owner(member, name)
                if name in self._named:
                    getattr(owner, last).data = whole.detach()[i]
                else:
                    setattr(owner, last, whole[i])


def check_alike(configs: Sequence[SAEConfig]) -> None:
    """Refuse settings that can't be stacked.

    Raises
    ------
    ConfigError
        Naming the settings that differ and their values.

    Examples
    --------
    >>> check_alike([SAEConfig(d_in=4, d_sae=8), SAEConfig(d_in=4, d_sae=16)])
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: SAEs of one stack differ in d_sae (8 and 16): ...
    """
    if not configs:
        raise ConfigError("a stack of no SAEs: give at least one")
    first = configs[0]
    for other in configs[1:]:
        for field in dataclasses.fields(SAEConfig):
            one, two = getattr(first, field.name), getattr(other, field.name)
            if field.name in MAY_DIFFER and (one is None) == (two is None):
                continue
            if one != two:
                raise ConfigError(
                    f"SAEs of one stack differ in {field.name} ({one!r} and {two!r}): they may "
                    f"differ in {', '.join(MAY_DIFFER)}, in seed and in learning rate; train "
                    "others in a stack of their own"
                )


def per_model(
    sae: SAE | SAEStack, value: Callable[[SAEConfig], float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """A number of each model's settings: 0-d for one SAE, [n] for a stack.

    Examples
    --------
    >>> float(per_model(SAE(SAEConfig(d_in=4, d_sae=8, k=3)), lambda config: config.k or 0))
    3.0
    """
    values = [value(member.config) for member in members_of(sae)]
    return torch.tensor(values, dtype=dtype, device=sae.W_dec.device).reshape(shape_of(sae))


def members_of(sae: SAE | SAEStack) -> list[SAE]:
    """The SAEs that this is, or is made of."""
    return sae.members if isinstance(sae, SAEStack) else [sae]


def shape_of(sae: SAE | SAEStack) -> tuple[int, ...]:
    """Leading axes of what belongs to a model: none for one SAE."""
    return (len(sae.members),) if isinstance(sae, SAEStack) else ()


def parts_of(sae: SAE | SAEStack, values: Tensor) -> list[Tensor]:
    """What belongs to each model, of values with the axes of :func:`shape_of` in front."""
    return list(values.unbind()) if isinstance(sae, SAEStack) else [values]


def with_settings(config: SAEConfig, settings: dict[str, Any]) -> SAEConfig:
    """The settings with numbers replaced by tensors, for one evaluation over a whole stack."""
    changed = copy.copy(config)
    for name, value in settings.items():
        # Their values were checked when each member was made.
        object.__setattr__(changed, name, value)
    return changed


def _owner(sae: SAE, name: str) -> tuple[nn.Module, str]:
    path, _, last = name.rpartition(".")
    return sae.get_submodule(path), last


def _of(sae: SAE, name: str) -> Tensor:
    owner, last = _owner(sae, name)
    return getattr(owner, last)
