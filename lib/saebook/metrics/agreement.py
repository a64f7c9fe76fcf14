"""Do two dictionaries hold the same latents? Matched by decoder, by encoder, and by both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.metrics.matching import cosine_similarity_matrix, match_one_to_one


@dataclass(frozen=True, eq=False)
class LatentAgreement:
    """The partners of one dictionary's latents in another, all arrays [n] over the first.

    Parameters
    ----------
    partner : Tensor
        int64, the latent matched by decoder, -1 where the other dictionary had none left.
    decoder_cosine : Tensor
        float, cosine of the decoder directions of that pair, 0 without a partner.
    encoder_partner : Tensor or None
        int64, the latent matched by encoder; None where an encoder was not given.
    encoder_cosine : Tensor or None
        float, cosine of the encoder directions of the pair matched by decoder.
    threshold : float
        Cosine from which a pair counts.
    """

    partner: Tensor
    decoder_cosine: Tensor
    encoder_partner: Tensor | None
    encoder_cosine: Tensor | None
    threshold: float

    @property
    def by_decoder(self) -> Tensor:
        """Booleans [n]: has a partner at or above the threshold by decoder."""
        return (self.partner >= 0) & (self.decoder_cosine >= self.threshold)

    @property
    def found(self) -> Tensor:
        """Booleans [n]: both matches name the same partner, both cosines reach the threshold.

        Where there is no encoder, as for PCA or NMF, the decoder alone decides.
        """
        if self.encoder_partner is None or self.encoder_cosine is None:
            return self.by_decoder
        same = self.encoder_partner == self.partner
        return self.by_decoder & same & (self.encoder_cosine >= self.threshold)


def latent_agreement(
    decoder_a: Tensor,
    decoder_b: Tensor,
    encoder_a: Tensor | None = None,
    encoder_b: Tensor | None = None,
    *,
    threshold: float = 0.7,
    either_sign: bool = False,
) -> LatentAgreement:
    """Match latents one-to-one by decoder and by encoder, and see whether both agree.

    Parameters
    ----------
    decoder_a, decoder_b : Tensor
        [n, d] and [m, d] directions, any length.
    encoder_a, encoder_b : Tensor, optional
        [n, e] and [m, e]; both or neither.
    threshold : float
        Cosine from which a pair counts, in (0, 1].
    either_sign : bool
        Opposite directions are the same component, as for PCA and ICA. A latent that is never
        negative has a sign.

    Returns
    -------
    LatentAgreement

    Raises
    ------
    DataError
        Shapes disagree, a value is not finite, one encoder alone, or a threshold outside (0, 1].

    Notes
    -----
    Source: Paulo and Belrose (2025), Sparse autoencoders trained on the same data learn different
    features, arXiv 2501.16615: two matches by the Hungarian method, a latent is shared where they
    agree. Each match has the largest total cosine, so that a pair may be poor because better
    partners are taken; that is why a threshold is asked for on top.

    Examples
    --------
    >>> import torch
    >>> a = torch.eye(3)
    >>> match = latent_agreement(a, a[[2, 0, 1]], a, -a)
    >>> match.partner.tolist(), match.by_decoder.tolist(), match.found.tolist()
    ([1, 2, 0], [True, True, True], [False, False, False])
    """
    if not 0.0 < threshold <= 1.0:
        raise DataError(f"threshold is {threshold}: give a cosine above 0 and up to 1")
    if (encoder_a is None) != (encoder_b is None):
        raise DataError("one dictionary has an encoder and the other none: give both or neither")
    decoder = _similarity(decoder_a, decoder_b, either_sign)
    partner = _partners(decoder)
    row = torch.arange(len(partner))
    cosine = torch.where(partner >= 0, _at(decoder, row, partner), 0.0)
    encoder_partner = encoder_cosine = None
    if encoder_a is not None and encoder_b is not None:
        encoder = _similarity(encoder_a, encoder_b, either_sign)
        if encoder.shape != decoder.shape:
            raise DataError(
                f"decoders make {tuple(decoder.shape)} pairs and encoders {tuple(encoder.shape)}: "
                "give one row per latent in both"
            )
        encoder_partner = _partners(encoder)
        encoder_cosine = torch.where(partner >= 0, _at(encoder, row, partner), 0.0)
    return LatentAgreement(partner, cosine, encoder_partner, encoder_cosine, threshold)


def _similarity(a: Tensor, b: Tensor, either_sign: bool) -> Tensor:
    cosine = cosine_similarity_matrix(a, b).cpu()
    return cosine.abs() if either_sign else cosine


def _partners(similarity: Tensor) -> Tensor:
    partner = torch.full((len(similarity),), -1)
    rows, columns = match_one_to_one(similarity)
    partner[rows] = columns
    return partner


def _at(similarity: Tensor, row: Tensor, column: Tensor) -> Tensor:
    if not similarity.shape[1]:
        return similarity.new_zeros(len(row))
    return similarity[row, column.clamp_min(0)]


def correlation_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of every column of a with every column of b, over common rows.

    Parameters
    ----------
    a, b : Tensor
        [n, p] and [n, q] activity of the same n rows.

    Returns
    -------
    Tensor
        [p, q] float64 between -1 and 1; 0 where either column is constant.

    Raises
    ------
    DataError
        Numbers of rows differ, fewer than two rows, or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> a = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> correlation_matrix(a, -a).round(decimals=6).tolist()
    [[-1.0, 0.0], [0.0, 0.0]]
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise DataError(
            f"activity of shapes {tuple(a.shape)} and {tuple(b.shape)}: give [n, p] and [n, q] of "
            "the same n ≥ 2 rows"
        )
    return (_standard(a, "first").T @ _standard(b, "second")).clamp(-1.0, 1.0)


def _standard(x: Tensor, which: str) -> Tensor:
    x = x.detach().cpu().to(torch.float64)
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"the {which} activity holds values that are not finite: drop those rows")
    varies = x.amax(0) > x.amin(0)
    centred = x - x.mean(0)
    norm = torch.where(varies, centred.norm(dim=0), 1.0)
    return torch.where(varies, centred / norm, 0.0)
