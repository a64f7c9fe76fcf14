"""The sparse autoencoder: an encoder, a selection rule and a linear decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saebook.errors import DataError
from saebook.models.config import SAEConfig
from saebook.models.objective import Forward, term
from saebook.models.scaling import InputScaling


class SAE(nn.Module):
    """A sparse autoencoder.

    Inputs and reconstructions are in the caller's units; what lies between is computed on
    scaled inputs (see :class:`InputScaling`)::

        h = (scaled(x) - b_dec) @ W_enc + b_enc        # [..., d_sae]
        f = select(h)                                  # latents, mostly zero
        x̂ = unscaled(f @ W_dec + b_dec)                # [..., d_in]

    Parameters
    ----------
    config
        Its settings.
    seed
        Of the random decoder directions; the encoder starts as the decoder's transpose.

    Attributes
    ----------
    W_enc : Tensor [d_in, d_sae]
    b_enc : Tensor [d_sae]
    W_dec : Tensor [d_sae, d_in]
        One row per latent: its direction in scaled input space.
    b_dec : Tensor [d_in]

    Examples
    --------
    >>> import torch
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=16, architecture="topk", k=2), seed=0)
    >>> x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    >>> sae.fit_inputs(x)
    >>> reconstruction, latents, losses = sae(x)
    >>> reconstruction.shape, latents.shape, list(losses)
    (torch.Size([8, 4]), torch.Size([8, 16]), ['mse'])
    >>> int((latents > 0).sum(dim=1).max())
    2
    """

    threshold: Tensor

    def __init__(self, config: SAEConfig, seed: int = 0):
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(config.d_sae, config.d_in, generator=generator)
        rows = F.normalize(rows, dim=1) * config.selection.decoder_init_norm
        # Weights lie row-per-latent in memory, so that one latent is one contiguous row and
        # gradients come out with the parameters' own strides.
        self.encoder_rows = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        self.scaling = InputScaling(config.input_scaling, config.d_in)
        for name, value in config.selection.buffers(config).items():
            self.register_buffer(name, value)

    @property
    def W_enc(self) -> Tensor:
        """Encoder weights [d_in, d_sae], a view."""
        return self.encoder_rows.T

    @torch.no_grad()
    def fit_inputs(self, x: Tensor) -> None:
        """Fit what depends on the data: the input scaling, then ``b_dec``.

        Parameters
        ----------
        x
            Training rows [n, d_in], in the caller's units; a sample will do.

        Raises
        ------
        DataError
            It was fitted before, or the rows can't be scaled (see :class:`InputScaling`).
        """
        if int(self.scaling.n_rows) > 0:
            raise DataError(
                f"this SAE's inputs were already fitted, on {int(self.scaling.n_rows)} rows: "
                "fitting again would change what its weights mean; make a new SAE instead"
            )
        self.scaling.fit(x)
        if self.config.b_dec_init == "mean":
            mean = x.mean(dim=0, dtype=torch.float64).to(self.b_dec.dtype)
            self.b_dec.copy_(self.scaling(mean))

    def pre_activations(self, x: Tensor) -> Tensor:
        """``h`` [..., d_sae] before selection, from inputs [..., d_in] in the caller's units."""
        return self._encode_scaled(self.scaling(self._checked(x)))

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., d_sae] of inputs [..., d_in]."""
        return self.config.selection.select(self, self.pre_activations(x))

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction [..., d_in], in the caller's units, of latents [..., d_sae]."""
        return self.scaling.invert(self._decode_scaled(latents))

    def pass_through(self, x: Tensor) -> Forward:
        """One pass with every intermediate result, for losses and trainers."""
        x = self._checked(x)
        x_scaled = self.scaling(x)
        h = self._encode_scaled(x_scaled)
        latents = self.config.selection.select(self, h)
        reconstruction_scaled = self._decode_scaled(latents)
        return Forward(
            x=x,
            x_scaled=x_scaled,
            pre_activations=h,
            latents=latents,
            reconstruction_scaled=reconstruction_scaled,
            reconstruction=self.scaling.invert(reconstruction_scaled),
            decoder_norms=self.W_dec.norm(dim=1),
        )

    def losses(self, forward: Forward) -> dict[str, Tensor]:
        """The objective's stateless terms, unweighted, as 0-d tensors by name."""
        names = (self.config.objective.reconstruction, *self.config.objective.sparsity)
        return {name: term(name, forward) for name in names}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstruction [..., d_in], latents [..., d_sae] and losses by name."""
        forward = self.pass_through(x)
        return forward.reconstruction, forward.latents, self.losses(forward)

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.config.d_in:
            raise DataError(
                f"input of shape {tuple(x.shape)}: the last axis must be d_in = {self.config.d_in}"
            )
        return x.to(self.W_dec.dtype)

    def _encode_scaled(self, x_scaled: Tensor) -> Tensor:
        if self.config.apply_b_dec_to_input:
            x_scaled = x_scaled - self.b_dec
        return F.linear(x_scaled, self.encoder_rows, self.b_enc)  # [..., d_sae]

    def _decode_scaled(self, latents: Tensor) -> Tensor:
        return latents @ self.W_dec + self.b_dec  # [..., d_in]
