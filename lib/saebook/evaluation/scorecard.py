"""``evaluate``: one pass of a trained SAE over held-out data, giving its score card."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.examples import Examples, same_width
from saebook.metrics import CardSums, ScoreCard


def evaluate(
    sae: Any,
    data: Any,
    *,
    split: str = "test",
    train_split: str = "train",
    train_data: Any = None,
    counts: bool | None = None,
    batch_size: int = 4096,
    device: str | torch.device | None = None,
) -> ScoreCard:
    """Score an SAE on one split.

    On spike counts the raw-unit control is always computed: an SAE with at least as many
    latents as units can copy its input, so its FVU falls to 0 once L0 passes the number of
    units that spiked in a bin. The control copies, on each example, as many units as the SAE
    has latents active there (those furthest from the fill) and puts the training mean, or
    zero where that is better, for the rest. Flags say when the SAE's FVU proves nothing.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode`` and ``decode``; it is put in eval mode for the pass and left
        in the mode it came in.
    data : Tensor, ndarray or ExampleStore
        [n, d_in] examples in the units of the model's input (windows [n, seq_len, d_in] where
        it takes windows), or a store; for a transcoder a pair of tensors, inputs and targets.
    split : str
        Split of a store to score; a bare tensor is scored whole.
    train_split : str
        Split of a store whose mean the raw-unit control uses.
    train_data : Tensor or ndarray, optional
        [n, d_in] training rows where ``data`` is a bare tensor; without them the control uses
        the mean of ``data`` itself, which favours the control a little.
    counts : bool, optional
        Whether the data are spike counts; found out from the store or the values by default.
    batch_size : int
        Rows per batch; it changes memory, not results.
    device : str, optional
        Where to compute; the model's own device by default. The model is not moved.

    Returns
    -------
    ScoreCard
        Prints as a table; ``to_dict()`` is ready for JSON.

    Raises
    ------
    DataError
        The width differs from the model's, a value is not finite, or a transcoder's inputs and
        targets differ in number.
    SelectionError
        The split holds no example.

    Examples
    --------
    >>> import torch
    >>> class Copy:  # copies every input: the score it must not be praised for
    ...     def encode(self, x): return x
    ...     def decode(self, latents): return latents
    >>> x = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> card = evaluate(Copy(), x)
    >>> card.fvu, card.raw_unit.fvu, sorted(card.flags)
    (0.0, 0.0, ['identity', 'raw_units'])
    """
    targets = None
    config = getattr(sae, "config", None)
    if isinstance(data, tuple):
        data, given = data
        every_bin = getattr(config, "target", "last") == "all"
        targets = Examples(given, None, getattr(config, "seq_len", 1) if every_bin else 1)
    examples = Examples(data, split, getattr(config, "seq_len", 1))
    if targets is not None and len(targets) != len(examples):
        raise DataError(
            f"{len(examples)} inputs and {len(targets)} targets: give one target per input"
        )
    same_width(sae, examples)
    is_counts = examples.are_counts() if counts is None else counts
    # Copying the input is a control where the input is what has to be reconstructed.
    copies = is_counts and targets is None and examples.seq_len == 1
    centre = _train_mean(data, examples, train_split, train_data) if copies else None
    rule = getattr(config, "selection", None)
    sums = CardSums(
        centre=centre,
        positive_only=getattr(rule, "positive_only", False),
        retired=getattr(sae, "retired", None),
    )
    place = _device(sae) if device is None else torch.device(device)
    wanted = targets.batches(batch_size) if targets is not None else itertools.repeat(None)
    with scoring(sae):
        for x, target in zip(examples.batches(batch_size), wanted):
            x = x.to(place)
            latents, reconstruction = reconstruct(sae, x)
            sums.update(_target(sae, x, target), latents, reconstruction)
    return sums.card(examples.split)


@contextmanager
def scoring(sae: Any) -> Iterator[None]:
    """Eval mode and no gradients while inside; the model's mode is restored after."""
    was_training = bool(getattr(sae, "training", False))
    if was_training:
        sae.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            sae.train()


def reconstruct(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction of examples x [n, ...], on the model's device."""
    x = x.to(_device(sae), _dtype(sae))
    latents = sae.encode(x)
    # Only where each example has a scale of its own does decoding depend on the example.
    context = sae.context(x) if hasattr(sae, "context") else ()
    return latents, sae.decode(latents, context) if context else sae.decode(latents)


def _target(sae: Any, x: Tensor, target: Tensor | None) -> Tensor:
    if not hasattr(sae, "target_of"):
        return x
    return sae.target_of(x, None if target is None else target.to(x.device))


def _train_mean(data: Any, examples: Examples, train_split: str, train_data: Any) -> Tensor:
    if train_data is not None:
        return Examples(train_data, None).mean()
    if examples.split == "given":
        return examples.mean()
    return Examples(data, train_split).mean()


def _device(sae: Any) -> torch.device:
    return _weights(sae).device


def _dtype(sae: Any) -> torch.dtype:
    return _weights(sae).dtype


def _weights(sae: Any) -> Tensor:
    weights = getattr(sae, "W_dec", None)
    return weights if isinstance(weights, Tensor) else torch.zeros(1)
