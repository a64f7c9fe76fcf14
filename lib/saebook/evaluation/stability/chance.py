"""What a match would find by chance: dictionaries that keep some of a dictionary's structure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.evaluation.stability.dictionaries import Dictionary


def _directions(weights: Tensor, seed: int) -> Tensor:
    random = torch.randn(weights.shape, generator=_generator(seed)).to(weights)
    return random * weights.norm(dim=1, keepdim=True) / random.norm(dim=1, keepdim=True)


def _units(weights: Tensor, seed: int) -> Tensor:
    return weights.gather(1, _keys(weights, seed).argsort(dim=1))


def _latents(weights: Tensor, seed: int) -> Tensor:
    return weights.gather(0, _keys(weights, seed).argsort(dim=0))


def _keys(weights: Tensor, seed: int) -> Tensor:
    # Weights of one shape get one order: encoder and decoder are then shuffled alike.
    return torch.rand(weights.shape, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator:
    # Far from the seeds of models: the numbers that one began with are no stranger to it.
    return torch.Generator().manual_seed(1_000_003 + seed)


# Name: how the weights [m, d] of one dictionary are drawn anew.
NULLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "random directions": _directions,
    "units shuffled": _units,
    "latents shuffled": _latents,
}


def null_dictionary(dictionary: Dictionary, null: str, seed: int = 0) -> Dictionary:
    """A dictionary as large as this one whose latents mean nothing.

    Parameters
    ----------
    dictionary : Dictionary
        What to match in size.
    null : str
        ``"random directions"``: Gaussian, each as long as the latent it replaces.
        ``"units shuffled"``: the weights of each latent are dealt to the units anew, so that few
        strong weights stay few and strong. ``"latents shuffled"``: the weights of each unit are
        dealt to the latents anew, so that a unit with large weights, or a pattern that all
        latents share, stays: the hardest of the three.
    seed : int
        Of the draw.

    Returns
    -------
    Dictionary
        Without activity. Encoder and decoder are shuffled alike.

    Raises
    ------
    ConfigError
        The null is unknown.

    Examples
    --------
    >>> import torch
    >>> one = Dictionary("a", torch.tensor([[1.0, 2.0], [3.0, 4.0]]), None, None, torch.arange(2))
    >>> null_dictionary(one, "latents shuffled").decoder.sum(0).tolist()
    [4.0, 6.0]
    """
    if null not in NULLS:
        raise ConfigError(f"null={null!r} is unknown: choose one of {list(NULLS)}")
    draw = NULLS[null]
    # Drawn with the decoder's numbers, so that both matches agree as often as they can.
    encoder = None if dictionary.encoder is None else draw(dictionary.encoder, seed)
    return Dictionary(
        name=f"{dictionary.name}, {null}",
        decoder=draw(dictionary.decoder, seed),
        encoder=encoder,
        activity=None,
        latent=dictionary.latent,
        either_sign=dictionary.either_sign,
    )
