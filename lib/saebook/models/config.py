"""Settings of one SAE: validated when made, frozen, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from saebook.models.architectures import ARCHITECTURES, Architecture
from saebook.models.decoders import DECODERS, Decoder
from saebook.models.resolving import resolve
from saebook.models.scaling import SCALINGS
from saebook.models.settings import as_json, build, check_choice, check_types


@dataclass(frozen=True)
class Objective:
    """Names of the loss terms of an SAE, as keys of the losses it returns.

    ``reconstruction`` and ``companions`` have weight 1, ``sparsity`` the sparsity coefficient,
    and ``auxiliary``, which need a trainer's state, the auxiliary coefficient.
    """

    reconstruction: str
    sparsity: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()


@dataclass(frozen=True)
class SAEConfig:
    """Settings of one sparse autoencoder.

    Parameters
    ----------
    d_in
        Width of the input: units of a recording, or dimensions of an activation.
    d_sae
        Number of latents.
    architecture
        How latents are chosen: ``"relu"``, ``"leaky_relu"``, ``"topk"``, ``"batchtopk"``,
        ``"jumprelu"`` or ``"gated"``.
    k
        For topk and batchtopk: active latents per example (on average over the batch, for
        batchtopk). Default: ``d_sae // 16``, at least 1 and at most 32.
    target_l0
        For the others: mean active latents per example to reach. A controller finds the
        sparsity coefficient, except under ``sparsity="l0_quadratic"``, whose penalty holds the
        target itself. Default: as for k, where no coefficient is given either.
    sparsity_coefficient
        Weight of the sparsity term against the summed squared error in scaled units; with a
        target, where the controller begins. Default: the architecture's.
    sparsity
        Sparsity term: ``"l1"``, ``"l1_decoder_norm"``, ``"tanh"``, and for jumprelu
        ``"l0_step"`` and ``"l0_quadratic"``. Default: the architecture's.
    tanh_a, tanh_b
        Of the tanh term, ``(A / B) Σ tanh(B f ‖d‖)``.
    leak
        For leaky_relu: slope below zero.
    bandwidth
        For jumprelu: width of the straight-through estimator, in standard deviations of the
        pre-activations on the rows that the inputs were fitted on.
    threshold_init
        For jumprelu: initial threshold, in scaled units. Default: the one at which ``target_l0``
        latents are active on those rows.
    reconstruction
        Reconstruction term: ``"mse"`` on scaled values; ``"lmse"`` (mean squared log error) or
        ``"pkl"`` (Poisson KL) on raw counts; ``"auto"``: lmse where :func:`saebook.training.fit`
        sees counts, mse otherwise.
    lmse_tau
        Multiplier on the reconstruction's logarithm in lmse; 1 leaves it unbiased by tau.
    input_scaling
        Mode of :class:`~saebook.models.InputScaling`. Default ``"scale"``: one factor, so
        that the mean squared norm of an example is ``d_in``.
    apply_b_dec_to_input
        Subtract ``b_dec`` from the scaled input before encoding. Default: wherever the
        reconstruction lives in the space of the scaled input.
    b_enc_init
        ``"zero"``, or ``"center"``: minus what the encoder makes of the mean input. Default:
        center where ``b_dec`` can't be subtracted from the input, zero otherwise.
    b_dec_init
        ``"mean"`` or ``"geometric_median"`` of the training targets, or ``"zero"``.
    decoder_init
        Rows of ``W_dec``: random directions of unit norm (``"unit"``; of norm 0.1 for relu),
        ``"he"`` or ``"xavier"`` uniform, or centred training examples of unit norm (``"data"``).
    encoder_init
        ``"transpose"`` of the decoder, or ``"he"`` or ``"xavier"`` uniform.
    decoder_norm
        ``"unit"``: rows of ``W_dec`` are held at norm 1, their gradient projected;
        ``"free"``: they are not. Default: free where the penalty weighs latents by the norm;
        unit otherwise.
    decoder
        ``"linear"``, or ``"mlp"``: one hidden layer of ``d_hidden`` units.
    d_hidden
        For the mlp decoder. Default: ``4 * d_in``.
    output
        Applied to the reconstruction in the caller's units: ``"none"``, ``"relu"`` or
        ``"softplus"``. Default: relu for lmse, softplus for pkl, none for mse.
    d_out
        Width of the output, where it is not the input that is reconstructed (a transcoder).
    seq_len, target
        Examples are windows of ``seq_len`` bins, of which the ``"last"`` or ``"all"`` are
        reconstructed.
    prefixes
        Matryoshka: increasing numbers of latents, each of which reconstructs the whole target;
        the last must be ``d_sae``. Empty: no nesting.
    prefix_k
        k of each prefix, whose latents then compete among themselves. Empty: latents are chosen
        once, and a prefix has those of the first few.
    prefix_weights
        Weight of each prefix's reconstruction, normalised to sum 1. Empty: all the same.
    prefix_sparsity
        Factors on the sparsity penalty of the latents that each prefix adds; decreasing ones
        make early latents the sparsest. Empty: all 1.
    auxiliary
        Term for dead latents: ``"auxk"``, ``"ghost"``, ``"preactivation"`` or ``"none"``.
        Default: the architecture's.
    aux_coefficient
        Its weight. Default: 1/32 for auxk, 1 for ghost, 3e-4·d_in for preactivation.
    k_aux
        Dead latents used by auxk. Default: ``d_in // 2``, at least 1.

    Raises
    ------
    ConfigError
        A value is of the wrong type, out of range, or contradicts another one.

    Examples
    --------
    >>> config = SAEConfig(d_in=60, d_sae=256, k=8)
    >>> config.architecture, config.objective.sparsity, config.objective.auxiliary
    ('batchtopk', (), ('auxk',))
    >>> SAEConfig.from_dict(config.to_dict()) == config
    True
    """

    d_in: int
    d_sae: int
    architecture: str = "batchtopk"
    k: int | None = None
    target_l0: float | None = None
    sparsity_coefficient: float | None = None
    sparsity: str | None = None
    tanh_a: float = 1.0
    tanh_b: float = 1.0
    leak: float = 0.01
    bandwidth: float = 0.3
    threshold_init: float | None = None
    reconstruction: str = "auto"
    lmse_tau: float = 1.0
    input_scaling: str = "scale"
    apply_b_dec_to_input: bool | None = None
    b_enc_init: Literal["zero", "center"] | None = None
    b_dec_init: str = "mean"
    decoder_init: str = "unit"
    encoder_init: str = "transpose"
    decoder_norm: Literal["unit", "free"] | None = None
    decoder: str = "linear"
    d_hidden: int | None = None
    output: str | None = None
    d_out: int | None = None
    seq_len: int = 1
    target: Literal["last", "all"] = "last"
    prefixes: tuple[int, ...] = ()
    prefix_k: tuple[int, ...] = ()
    prefix_weights: tuple[float, ...] = ()
    prefix_sparsity: tuple[float, ...] = ()
    auxiliary: str | None = None
    aux_coefficient: float | None = None
    k_aux: int | None = None

    def __post_init__(self):
        check_types(self)
        check_choice("architecture", self.architecture, ARCHITECTURES)
        check_choice("decoder", self.decoder, DECODERS)
        check_choice("input_scaling", self.input_scaling, SCALINGS)
        for name, value in resolve(self).items():
            object.__setattr__(self, name, value)

    @property
    def selection(self) -> Architecture:
        """The rule that turns pre-activations into latents."""
        return ARCHITECTURES[self.architecture]

    @property
    def decoding(self) -> Decoder:
        """The rule that turns latents into a reconstruction."""
        return DECODERS[self.decoder]

    @property
    def d_encoder(self) -> int:
        """Values that the encoder sees per example: all bins of a window."""
        return self.seq_len * self.d_in

    @property
    def d_target(self) -> int:
        """Values that are reconstructed per example."""
        return math.prod(self.target_shape)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Axes of one example's target: its width, after its bins where all are reconstructed."""
        width = self.d_out or self.d_in
        return (self.seq_len, width) if self.target == "all" and self.seq_len > 1 else (width,)

    @property
    def is_transcoder(self) -> bool:
        """Whether the targets are other data than the inputs."""
        return self.d_out is not None

    @property
    def levels(self) -> tuple[int, ...]:
        """Sizes of the nested dictionaries; the whole alone without nesting."""
        return self.prefixes or (self.d_sae,)

    @property
    def objective(self) -> Objective:
        """Names of the loss terms."""
        return Objective(
            reconstruction="mse" if self.reconstruction == "auto" else self.reconstruction,
            sparsity=(self.sparsity,) if self.sparsity else (),
            companions=self.selection.companion_terms,
            auxiliary=(self.auxiliary,) if self.auxiliary not in (None, "none") else (),
        )

    def for_data(self, counts: bool) -> SAEConfig:
        """The same settings, with ``reconstruction="auto"`` decided: lmse for counts, else mse.

        Examples
        --------
        >>> SAEConfig(d_in=4, d_sae=8).for_data(counts=True).reconstruction
        'lmse'
        """
        if self.reconstruction != "auto":
            return self
        return dataclasses.replace(self, reconstruction="lmse" if counts else "mse")

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return as_json(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> SAEConfig:
        """Build a config from a dictionary, refusing names that it does not know."""
        return build(cls, settings)
