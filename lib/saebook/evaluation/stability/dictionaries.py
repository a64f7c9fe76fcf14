"""What is compared: the living latents of a model, with their weights, activity and use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.effects import effect_directions
from saebook.evaluation.recovery import decoder_directions
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.metrics import LatentAgreement, latent_agreement

CHUNK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Latents of one model, those that are ever active.

    Parameters
    ----------
    name : str
        Of the model, such as its seed.
    decoder : Tensor
        [m, d], what one unit of each latent adds to the data.
    encoder : Tensor or None
        [m, e], what each latent listens to; None for methods without a linear encoder.
    activity : Tensor or None
        [n, m] on rows that are the same, and in the same order, for all dictionaries compared.
    latent : Tensor
        [m] int64, number of each latent in its model.
    usefulness : Tensor or None
        [m] float64, share of the data's variance that is lost when this latent alone is switched
        off on those rows.
    either_sign : bool
        The sign of a component is arbitrary, as for PCA and ICA.

    Examples
    --------
    >>> import torch
    >>> one = Dictionary("seed 0", torch.eye(3), None, None, torch.arange(3))
    >>> len(one), one.d_in
    (3, 3)
    """

    name: str
    decoder: Tensor
    encoder: Tensor | None
    activity: Tensor | None
    latent: Tensor
    usefulness: Tensor | None = None
    either_sign: bool = False

    def __post_init__(self) -> None:
        m = len(self.decoder)
        sizes = {
            "encoder": None if self.encoder is None else len(self.encoder),
            "activity": None if self.activity is None else self.activity.shape[-1],
            "latent": len(self.latent),
            "usefulness": None if self.usefulness is None else len(self.usefulness),
        }
        wrong = {name: size for name, size in sizes.items() if size not in (None, m)}
        if self.decoder.ndim != 2 or wrong:
            raise DataError(
                f"dictionary {self.name!r}: decoder of shape {tuple(self.decoder.shape)} beside "
                f"{wrong or 'nothing else'}: give one entry per latent, and a decoder [m, d]"
            )

    def __len__(self) -> int:
        return len(self.decoder)

    @property
    def d_in(self) -> int:
        """Width of the data."""
        return self.decoder.shape[1]

    @property
    def density(self) -> Tensor:
        """[m] float64, share of rows on which each latent is active; NaN without activity."""
        if self.activity is None:
            return torch.full((len(self),), float("nan"), dtype=torch.float64)
        return (self.activity != 0).double().mean(0)

    @property
    def contribution(self) -> Tensor:
        """[m, d], decoder directions at the root mean square of what each latent contributes."""
        if self.activity is None:
            return self.decoder
        return self.decoder * self.activity.float().square().mean(0).sqrt()[:, None]

    def select(self, which: Tensor, name: str | None = None) -> Dictionary:
        """These latents alone, by booleans or positions [m]."""
        return Dictionary(
            name=self.name if name is None else name,
            decoder=self.decoder[which],
            encoder=None if self.encoder is None else self.encoder[which],
            activity=None if self.activity is None else self.activity[:, which],
            latent=self.latent[which],
            usefulness=None if self.usefulness is None else self.usefulness[which],
            either_sign=self.either_sign,
        )


def dictionary_of(sae: Any, x: Tensor, name: str = "", *, usefulness: bool = True) -> Dictionary:
    """The living latents of an SAE on some rows.

    Parameters
    ----------
    sae : SAE
        A trained model. Under a ReLU or softplus output its decoder is taken by its effects, see
        :func:`saebook.evaluation.effects.effect_directions`.
    x : Tensor
        [n, d_in] rows in the caller's units, the same for all models that are compared.
    name : str
        Of the dictionary.
    usefulness : bool
        Measure what switching off each latent costs.

    Returns
    -------
    Dictionary
        Without the latents that are silent on these rows. The encoder's rows act on the model's
        scaled input, where two models of the same scaling can be compared.

    Raises
    ------
    DataError
        No latent is active on these rows.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAE, SAEConfig
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2), seed=0)
    >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    >>> sae.fit_inputs(x)
    >>> found = dictionary_of(sae, x, "seed 0")
    >>> found.decoder.shape[1], bool((found.density > 0).all())
    (4, True)
    """
    with scoring(sae):
        latents, _ = reconstruct(sae, x)
    latents = latents.cpu()
    alive = (latents != 0).any(0)
    if not bool(alive.any()):
        raise DataError(f"no latent of {name or 'this model'} is active on these {len(x)} rows")
    output = getattr(getattr(sae, "config", None), "output", None)
    linear = output in (None, "none")
    with scoring(sae):
        decoder = decoder_directions(sae) if linear else effect_directions(sae, x)
    encoder = getattr(sae, "W_enc", None)
    return Dictionary(
        name=name,
        decoder=decoder.detach().cpu()[alive],
        encoder=None if encoder is None else encoder.detach().T.cpu()[alive],
        activity=latents[:, alive],
        latent=torch.nonzero(alive).flatten(),
        usefulness=ablation_costs(sae, x)[alive] if usefulness else None,
    )


def dictionary_from(
    components: Any, activity: Any = None, name: str = "", *, either_sign: bool = False
) -> Dictionary:
    """Components of any other method as a dictionary.

    Parameters
    ----------
    components : array
        [m, d], such as ``PCA().fit(x).components_``; zero rows are left out.
    activity : array, optional
        [n, m], what ``transform`` gives.
    name : str
        Of the dictionary.
    either_sign : bool
        The sign of a component is arbitrary.

    Returns
    -------
    Dictionary
        Without an encoder: only the directions are compared.

    Examples
    --------
    >>> import numpy as np
    >>> len(dictionary_from(np.eye(4), name="PCA", either_sign=True))
    4
    """
    decoder = _tensor(components)
    if decoder.ndim != 2:
        raise DataError(f"components have shape {tuple(decoder.shape)}: give [m, d]")
    kept = (decoder != 0).any(1)
    return Dictionary(
        name=name,
        decoder=decoder[kept],
        encoder=None,
        activity=None if activity is None else _tensor(activity)[:, kept],
        latent=torch.nonzero(kept).flatten(),
        either_sign=either_sign,
    )


def _tensor(values: Any) -> Tensor:
    # Tables hand out arrays that can't be written to, which torch warns about: copied.
    return values.detach().cpu() if isinstance(values, Tensor) else torch.tensor(np.array(values))


def match_dictionaries(a: Dictionary, b: Dictionary, threshold: float) -> LatentAgreement:
    """Partners of a's latents in b, by decoder and, where both have one, by encoder."""
    encoders = (a.encoder, b.encoder)
    if any(encoder is None for encoder in encoders):
        encoders = (None, None)
    return latent_agreement(
        a.decoder, b.decoder, *encoders, threshold=threshold, either_sign=a.either_sign
    )


def ablation_costs(sae: Any, x: Tensor) -> Tensor:
    """What switching off each latent alone costs, as a share of the data's variance.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode`` and ``decode`` of single rows.
    x : Tensor
        [n, d_in] rows in the caller's units.

    Returns
    -------
    Tensor
        [d_sae] float64, the rise of the FVU: 0 for a silent latent, negative for one that makes
        the reconstruction worse.

    Raises
    ------
    DataError
        The rows don't vary.

    Examples
    --------
    >>> import torch
    >>> class Copy:
    ...     def encode(self, x): return x
    ...     def decode(self, latents): return latents
    >>> ablation_costs(Copy(), torch.eye(2)).tolist()
    [1.0, 1.0]
    """
    total = float((x.double() - x.double().mean(0)).square().sum())
    if not total > 0:
        raise DataError(f"the {len(x)} rows are all the same: nothing can be explained")
    costs: Tensor | None = None
    with scoring(sae):
        for rows in x.split(CHUNK_ROWS):
            latents, made = reconstruct(sae, rows)
            rows = rows.to(made.device)
            target = sae.target_of(rows) if hasattr(sae, "target_of") else rows
            error = (target - made).double().square().sum(-1)  # [rows]
            row, latent = (latents != 0).nonzero(as_tuple=True)
            without = latents[row]  # [n_active, d_sae]
            without[torch.arange(len(row)), latent] = 0.0
            left = (target[row] - sae.decode(without)).double().square().sum(-1)
            change = torch.zeros(latents.shape[1], dtype=torch.float64, device=latents.device)
            change.index_add_(0, latent, left - error[row])
            costs = change if costs is None else costs + change
    if costs is None:
        raise DataError("no row was given: costs are sums over rows")
    return costs.cpu() / total
