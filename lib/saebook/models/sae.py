"""The sparse autoencoder: an encoder, a selection rule and a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saebook.errors import DataError
from saebook.losses import COUNT_RECONSTRUCTIONS
from saebook.models.architectures import ARCHITECTURES, Architecture
from saebook.models.config import SAEConfig
from saebook.models.entries import Selected
from saebook.models.fitting import fit_weights, refuse_negative
from saebook.models.forward import Forward
from saebook.models.initialisation import DECODER_INITS, ENCODER_INITS
from saebook.models.objective import TERMS
from saebook.models.output import OUTPUTS
from saebook.models.scaling import Context, InputScaling
from saebook.models.selecting import Selecting, select_among_all
from saebook.models.shares import Shares


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
        Of the random initial weights.

    Attributes
    ----------
    W_enc : Tensor [seq_len · d_in, d_sae]
    b_enc : Tensor [d_sae]
    W_dec : Tensor [d_sae, d_target]
        One row per latent: its direction in scaled output space (for an mlp decoder, its
        weights to the hidden layer). See also :attr:`directions`.
    b_dec : Tensor [d_target]

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

    # Present where the architecture or the decoder declares them.
    threshold: Tensor
    bandwidth: Tensor
    r_mag: Tensor
    b_mag: Tensor
    b_hidden: Tensor
    W_out: Tensor
    hidden_share: Tensor
    # Variance of the scaled training targets, summed over d_target; NaN until fitted.
    target_variance: Tensor
    # Factors of the sparsity penalty per latent, [d_sae], for nested dictionaries that have them.
    latent_weights: Tensor | None

    def __init__(self, config: SAEConfig, seed: int = 0):
        super().__init__()
        config = config.for_data(counts=False)
        self.config = config
        # Set by a trainer, for the first part of a run, and cleared when it ends.
        self.selects_topk = False
        # Set by a trainer for a pass over one of several shares of a batch.
        self.shares: Shares | None = None
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        width = config.decoding.width(config)
        rows = DECODER_INITS[config.decoder_init](config.d_sae, width, generator)
        if config.decoder_norm == "unit":
            rows = F.normalize(rows, dim=1)
        elif config.decoder_init == "unit":
            rows = rows * config.selection.decoder_init_norm
        # Weights lie row-per-latent in memory, so that one latent is one contiguous row and
        # gradients come out with the parameters' own strides.
        self.encoder_rows = nn.Parameter(self._initial_encoder(rows, generator))
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_target))
        self.scaling = InputScaling(config.input_scaling, config.d_in)
        if not self._scales_alike:
            # Counts are compared as they are; other targets are brought to scale by themselves.
            mode = "none" if config.reconstruction in COUNT_RECONSTRUCTIONS else "scale"
            self._target_scaling = InputScaling(mode, config.d_out or config.d_in)
        for declares in (config.selection, config.decoding):
            for name, value in declares.parameters(config).items():
                self.register_parameter(name, nn.Parameter(value))
            for name, value in declares.buffers(config).items():
                self.register_buffer(name, value)
        self.register_buffer("target_variance", torch.tensor(float("nan")))
        self.register_buffer("latent_weights", self._latent_weights(), persistent=False)

    @property
    def W_enc(self) -> Tensor:
        """Encoder weights [seq_len · d_in, d_sae], a view."""
        return self.encoder_rows.T

    @property
    def directions(self) -> Tensor:
        """What one unit of each latent adds to the scaled reconstruction, [d_sae, d_target].

        The rows of ``W_dec``; for an mlp decoder the local Jacobian, averaged over the training
        examples on which the latent is active.
        """
        return self.config.decoding.directions(self)

    @property
    def target_scaling(self) -> InputScaling:
        """The scaling of what is reconstructed: that of the input, unless they differ."""
        return self.scaling if self._scales_alike else self._target_scaling

    @property
    def selection(self) -> Architecture:
        """The rule in force: that of the architecture, or topk while training begins with it."""
        return ARCHITECTURES["topk"] if self.selects_topk else self.config.selection

    @property
    def retired(self) -> Tensor:
        """Latents that training took out, booleans [d_sae]: their encoder rows are zero."""
        return (self.encoder_rows == 0).all(dim=1) & (self.b_enc == 0)

    def k_of_level(self, level: int) -> int:
        """k of a nested dictionary; where there is a target L0 instead, that as a whole number."""
        if self.config.prefix_k:
            return self.config.prefix_k[level]
        return self.config.k or max(1, round(self.config.target_l0 or 1.0))

    @torch.no_grad()
    def fit_inputs(self, x: Tensor, target: Tensor | None = None) -> None:
        """Fit what depends on the data, once: scaling, biases, size of the initial latents.

        Parameters
        ----------
        x
            Training examples [n, d_in], or windows [n, seq_len, d_in], in the caller's units; a
            sample will do.
        target
            For a transcoder: what they should become, [n, d_out].

        Raises
        ------
        DataError
            It was fitted before, the rows can't be scaled (see :class:`InputScaling`), or they
            hold negative values where the settings take counts.
        """
        if int(self.scaling.n_rows) > 0:
            raise DataError(
                f"this SAE's inputs were already fitted, on {int(self.scaling.n_rows)} rows: "
                "fitting again would change what its weights mean; make a new SAE instead"
            )
        x = self._checked(x)
        target = self.target_of(x, target)
        refuse_negative(self.config, x, target)
        self.scaling.fit(x.reshape(-1, x.shape[-1]))
        if not self._scales_alike:
            self.target_scaling.fit(target.reshape(-1, target.shape[-1]))
        context = self.context(x)
        target_scaled = self._flat(self.target_scaling(target, context), self.config.d_target)
        wide = target_scaled.to(torch.float64)
        self.target_variance.copy_((wide - wide.mean(dim=0)).square().sum(dim=1).mean())
        fit_weights(self, self._flat(self.scaling(x), self.config.d_encoder), target_scaled)

    def context(self, x: Tensor) -> Context:
        """What decoding the latents of ``x`` needs to know beside them.

        Empty, but for scalings that are fitted per example.
        """
        if not self.scaling.mode.per_example or not self._scales_alike:
            return ()
        context = self.scaling.context(self._checked(x))
        if self.config.seq_len > 1 and self.config.target == "last":
            return tuple(part[..., -1, :] for part in context)
        return context

    def target_of(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """What ``x`` should become, in the caller's units: itself, its last bin, or ``target``.

        Raises
        ------
        DataError
            A transcoder was given no target, or one of another shape, or another model was
            given one.
        """
        if self.config.is_transcoder:
            leading = tuple(x.shape[: -1 if self.config.seq_len == 1 else -2])
            expected = (*leading, *self.config.target_shape)
            if target is None or tuple(target.shape) != expected:
                found = "none" if target is None else f"shape {tuple(target.shape)}"
                raise DataError(
                    f"this SAE has d_out = {self.config.d_out}: give its targets {expected} "
                    f"beside the input {tuple(x.shape)} (found {found})"
                )
            return target.to(self.W_dec.dtype)
        if target is not None:
            raise DataError("targets were given to an SAE that reconstructs its input; set d_out")
        if self.config.seq_len > 1 and self.config.target == "last":
            return x[..., -1, :]
        return x

    def pre_activations(self, x: Tensor) -> Tensor:
        """``h`` [..., d_sae] before selection, from inputs in the caller's units."""
        x = self._checked(x)
        return self.encode_scaled(self._flat(self.scaling(x), self.config.d_encoder))

    def encode_scaled(self, x_scaled: Tensor, latents: Tensor | slice = slice(None)) -> Tensor:
        """Pre-activations of some latents [..., n], from scaled inputs [..., seq_len · d_in]."""
        if self.config.apply_b_dec_to_input:
            x_scaled = x_scaled - self.b_dec
        return F.linear(x_scaled, self.encoder_rows[latents], self.b_enc[latents])

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., d_sae] of inputs [..., d_in], or of windows [..., seq_len, d_in]."""
        return self.selection.select(self, self.pre_activations(x))

    def decode(self, latents: Tensor, context: Context | None = None) -> Tensor:
        """Reconstruction, in the caller's units, of latents [..., d_sae].

        ``context`` is needed where inputs are scaled per example: ``sae.context(x)``.
        """
        projected = latents @ self.W_dec
        return self._in_units(self.config.decoding.finish(self, projected), context)

    def pass_through(
        self,
        x: Tensor,
        target: Tensor | None = None,
        selecting: Selecting = select_among_all,
        positive: Tensor | None = None,
    ) -> Forward:
        """One pass with every intermediate result, for losses and trainers.

        ``selecting`` encodes and selects; see :mod:`saebook.models.sparse` for one that leaves
        out whatever is zero. ``positive``, as many examples as ``x``, are encoded and selected in
        the same call, as one batch with it, and go no further.
        """
        x = self._checked(x)
        target = self.target_of(x, target)
        context = self.context(x)
        x_scaled = self._flat(self.scaling(x), self.config.d_encoder)
        positives = None
        if positive is None:
            selected = selecting(self, x_scaled)
        else:
            scaled = self.scaling(self._checked(positive))
            both = torch.cat([x_scaled, self._flat(scaled, self.config.d_encoder)])
            together, n = selecting(self, both), len(x)
            selected = [part.of_examples(0, n) for part in together]
            positives = together[-1].of_examples(n, 2 * n)
        decoded = self._decode_levels(selected)
        target_scaled = x_scaled
        if target is not x or not self._scales_alike:
            scaled = self.target_scaling(target, context)
            target_scaled = self._flat(scaled, self.config.d_target)
        return Forward(
            x_scaled=x_scaled,
            context=context,
            target_scaled=target_scaled,
            sizes=self.config.levels,
            selected=selected,
            level_decoded=decoded,
            level_reconstructions=[self.with_output(level, context) for level in decoded],
            positives=positives,
        )

    def with_output(self, scaled: Tensor, context: Context) -> Tensor:
        """What is compared with the scaled target, [..., d_target]: the output, scaled again."""
        if self.config.output == "none":
            return scaled
        in_units = self._in_units(scaled, context)
        return self._flat(self.target_scaling(in_units, context), self.config.d_target)

    def losses(self, forward: Forward) -> dict[str, Tensor]:
        """The objective's stateless terms, unweighted, as 0-d tensors by name."""
        objective = self.config.objective
        names = (objective.reconstruction, *objective.sparsity, *objective.companions)
        # Thresholds that select nothing yet owe nothing.
        owed_nothing = objective.sparsity if self.selects_topk else ()
        return {
            name: forward.target_scaled.new_zeros(())
            if name in owed_nothing
            else TERMS[name](self, forward)
            for name in names
        }

    def forward(
        self, x: Tensor, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstruction, latents [..., d_sae] and losses by name."""
        forward = self.pass_through(x, target)
        reconstruction = self._in_units(forward.level_decoded[-1], forward.context)
        return reconstruction, forward.latents, self.losses(forward)

    def encode_prefix(self, x: Tensor, level: int) -> Tensor:
        """Latents [..., prefixes[level]] of a nested dictionary."""
        h = self.pre_activations(x)
        size = self.config.levels[level]
        if self.config.prefix_k:
            return self.selection.select(self, h[..., :size], level)
        return self.selection.select(self, h)[..., :size]

    def decode_prefix(self, latents: Tensor, context: Context | None = None) -> Tensor:
        """Reconstruction from the latents [..., size] of a nested dictionary."""
        projected = latents @ self.W_dec[: latents.shape[-1]]
        return self._in_units(self.config.decoding.finish(self, projected), context)

    def _decode_levels(self, selected: Sequence[Selected]) -> list[Tensor]:
        """Scaled reconstructions of every nested dictionary."""
        sizes = self.config.levels
        if len(selected) == len(sizes):
            projected = [part.entries.times(part.latents, self.W_dec) for part in selected]
        else:
            (whole,) = selected
            # Each prefix adds its own latents to the sum of the one before.
            projected, start = [], 0
            for size in sizes:
                entries, latents = whole.entries.band(whole.latents, start, size)
                part = entries.times(latents, self.W_dec)
                projected.append(projected[-1] + part if projected else part)
                start = size
        return [self.config.decoding.finish(self, p) for p in projected]

    def _in_units(self, scaled: Tensor, context: Context | None) -> Tensor:
        if self.config.target == "all" and self.config.seq_len > 1:
            scaled = scaled.unflatten(-1, (self.config.seq_len, -1))  # [..., seq_len, d_out]
        apply, _ = OUTPUTS[self.config.output or "none"]
        return apply(self.target_scaling.invert(scaled, context))

    def _checked(self, x: Tensor) -> Tensor:
        config = self.config
        expected = (config.d_in,) if config.seq_len == 1 else (config.seq_len, config.d_in)
        if tuple(x.shape[-len(expected) :]) != expected:
            names = "d_in" if config.seq_len == 1 else "seq_len, d_in"
            raise DataError(
                f"input of shape {tuple(x.shape)}: the last axes must be {names} = "
                f"{', '.join(map(str, expected))}"
            )
        return x.to(self.W_dec.dtype)

    def _flat(self, values: Tensor, width: int) -> Tensor:
        """Windows [..., seq_len, d] as one axis [..., seq_len · d]; single bins as they are."""
        return values if values.shape[-1] == width else values.flatten(-2)

    @property
    def _scales_alike(self) -> bool:
        return (
            self.config.reconstruction not in COUNT_RECONSTRUCTIONS
            and self.scaling.mode.inverts
            and not self.config.is_transcoder
        )

    def _initial_encoder(self, decoder_rows: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        draw = ENCODER_INITS[config.encoder_init]
        if draw is None and decoder_rows.shape[1] in (config.d_encoder, config.d_in):
            rows = torch.zeros(config.d_sae, config.d_encoder)
            # A window begins as its last bin does alone; the history is learned.
            rows[:, -decoder_rows.shape[1] :] = decoder_rows
            return rows
        draw = draw or DECODER_INITS["unit"]
        return draw(config.d_sae, config.d_encoder, generator)

    def _latent_weights(self) -> Tensor | None:
        """Factors of the sparsity penalty per latent, [d_sae]."""
        if not self.config.prefix_sparsity:
            return None
        sizes = torch.tensor((0, *self.config.prefixes)).diff()
        return torch.tensor(self.config.prefix_sparsity).repeat_interleave(sizes)
