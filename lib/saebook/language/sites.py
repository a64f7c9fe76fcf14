"""Where a model is read: the output of a block, of its attention or of its MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saebook.errors import ConfigError, DataError

KINDS = ("residual", "mlp", "attention")
_CHILDREN = {
    "attention": ("self_attn", "attention", "attn", "self_attention", "linear_attn"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
}


@dataclass(frozen=True)
class Site:
    """One place in a model.

    Parameters
    ----------
    layer : int
        Number of the block, from 0.
    kind : {"residual", "mlp", "attention"}
        ``"residual"``: the output of the block, which is ``output_hidden_states[layer + 1]``
        (at the last block, that before the final norm). ``"mlp"`` and ``"attention"``: what the
        block's MLP or attention adds to it.

    Raises
    ------
    ConfigError
        If a setting is out of its range.

    Examples
    --------
    >>> Site(15).name, Site(3, "mlp").name
    ('layer 15 residual', 'layer 3 mlp')
    """

    layer: int
    kind: Literal["residual", "mlp", "attention"] = "residual"

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise ConfigError(f"layer={self.layer!r}: give the number of a block, from 0")
        if self.kind not in KINDS:
            raise ConfigError(f"kind={self.kind!r}; a site is one of {', '.join(KINDS)}")

    @property
    def name(self) -> str:
        """How the site is called in texts and records."""
        return f"layer {self.layer} {self.kind}"

    def module_in(self, model: nn.Module) -> nn.Module:
        """Return the module whose output is read here.

        Parameters
        ----------
        model : torch.nn.Module
            A transformers model: GPT-NeoX, Llama and its kin, GPT-2, Gemma, ViT, …

        Raises
        ------
        ConfigError
            If the model has no such block, or its blocks no such part.
        """
        layers = blocks(model)
        if self.layer >= len(layers):
            raise ConfigError(
                f"layer={self.layer}, but {type(model).__name__} has {len(layers)} blocks; give "
                f"0 to {len(layers) - 1}"
            )
        block = layers[self.layer]
        if self.kind == "residual":
            return block
        for child in _CHILDREN[self.kind]:
            part = getattr(block, child, None)
            if isinstance(part, nn.Module):
                return part
        found = ", ".join(name for name, _ in block.named_children())
        raise ConfigError(
            f"no {self.kind} in block {self.layer} of {type(model).__name__}: its parts are "
            f"{found}, where one of {', '.join(_CHILDREN[self.kind])} was looked for; read the "
            'residual stream (kind="residual") instead'
        )


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the stack of blocks of a transformer.

    Raises
    ------
    ConfigError
        If the model has none of the stated length.
    """
    config: Any = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    n_layers = getattr(config, "num_hidden_layers", None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    for stack in stacks:
        if len(stack) == n_layers and len({type(block) for block in stack}) == 1:
            return stack
    raise ConfigError(
        f"{type(model).__name__} has no stack of {n_layers} like blocks (lists of modules found: "
        f"{[len(stack) for stack in stacks]}); give a transformer of the transformers library"
    )


def main_output(output: Any) -> Tensor:
    """Return the activations [batch, seq, d_model] of a module's output, which may be a tuple."""
    values = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(values, Tensor) or values.ndim != 3:
        raise DataError(
            f"a module at the site gave {type(values).__name__} "
            f"{tuple(getattr(values, 'shape', ()))}; activations have the shape "
            "[batch, sequence, d_model]"
        )
    return values


class _Read(Exception):
    """Ends a forward pass once the site was reached."""


@torch.no_grad()
def read_activations(
    model: nn.Module, inputs: Mapping[str, Any], site: Site, *, stop: bool = True
) -> Tensor:
    """Run a model and return what it computes at a site.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model.
    inputs : mapping
        What its forward takes, such as ``input_ids`` [batch, seq] and ``attention_mask``.
    site : Site
        Where to read.
    stop : bool
        End the forward there, which gives the same values for a part of the time.

    Returns
    -------
    Tensor [batch, seq, d_model]
        In the type and on the device of the site.

    Raises
    ------
    ConfigError
        If the model has no such site.
    DataError
        If the model ran without reaching it.

    Examples
    --------
    >>> from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    >>> config = GPTNeoXConfig(
    ...     vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...     intermediate_size=32,
    ... )
    >>> model = GPTNeoXForCausalLM(config).eval()
    >>> inputs = {"input_ids": torch.tensor([[3, 1, 4]])}
    >>> read = read_activations(model, inputs, Site(0))
    >>> with torch.no_grad():
    ...     states = model(**inputs, output_hidden_states=True).hidden_states
    >>> read.shape, torch.equal(read, states[1])
    (torch.Size([1, 3, 16]), True)
    """
    seen: list[Tensor] = []

    def read(module: nn.Module, given: Any, output: Any) -> None:
        seen.append(main_output(output))
        if stop:
            raise _Read

    handle = site.module_in(model).register_forward_hook(read)
    try:
        model(**inputs, **without_cache(model, inputs))
    except _Read:
        pass
    finally:
        handle.remove()
    if not seen:
        raise DataError(
            f"{type(model).__name__} ran without calling the module of {site.name}; read the "
            'residual stream (kind="residual") instead'
        )
    return seen[-1].detach()


def without_cache(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, bool]:
    """Settings that keep a causal model from storing keys and values that nobody reads."""
    known = hasattr(getattr(model, "config", None), "use_cache")
    return {"use_cache": False} if known and "input_ids" in inputs else {}
