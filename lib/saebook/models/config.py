"""Settings of one SAE: validated when made, frozen, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal

from saebook.errors import ConfigError
from saebook.losses import RECONSTRUCTIONS
from saebook.models.architectures import ARCHITECTURES, Architecture
from saebook.models.scaling import SCALINGS

# Scaling Monosemanticity trains with λ = 5 at widths of several thousand. An L1 coefficient
# scales with √d_in between input widths, so the same pressure is 5·√(d_in / 4096).
L1_REFERENCE_COEFFICIENT = 5.0
L1_REFERENCE_WIDTH = 4096


@dataclass(frozen=True)
class Objective:
    """Names of the loss terms of an SAE, as keys of the losses it returns."""

    reconstruction: str
    sparsity: tuple[str, ...]
    auxiliary: tuple[str, ...]


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
        How latents are chosen: ``"relu"``, ``"topk"`` or ``"batchtopk"``.
    k
        For topk and batchtopk: active latents per example (on average over the batch, for
        batchtopk). Default: ``d_sae // 16``, at least 1 and at most 32.
    sparsity_coefficient
        For relu: λ, the weight of the sparsity term against the summed squared error in
        scaled units. Default: ``5 * sqrt(d_in / 4096)``.
    reconstruction
        Reconstruction term: ``"mse"``.
    input_scaling
        Mode of :class:`~saebook.models.InputScaling`. Default ``"scale"``: one factor, so
        that the mean squared norm of an example is ``d_in``.
    apply_b_dec_to_input
        Subtract ``b_dec`` from the scaled input before encoding.
    decoder_norm
        ``"unit"``: rows of ``W_dec`` are held at norm 1, their gradient projected;
        ``"free"``: they are not. Default: free for relu, whose penalty weighs latents by the
        norm; unit otherwise.
    b_dec_init
        ``"mean"`` of the scaled training inputs, or ``"zero"``.
    aux_coefficient
        Weight of the AuxK term for dead latents; 0 switches it off. Default: 1/32 for topk
        and batchtopk, 0 for relu.
    k_aux
        Dead latents used by AuxK. Default: ``d_in // 2``, at least 1.

    Raises
    ------
    ConfigError
        A value is of the wrong type, out of range, or contradicts another one.

    Examples
    --------
    >>> config = SAEConfig(d_in=60, d_sae=256, k=8)
    >>> config.architecture, config.objective.reconstruction
    ('batchtopk', 'mse')
    >>> SAEConfig.from_dict(config.to_dict()) == config
    True
    """

    d_in: int
    d_sae: int
    architecture: str = "batchtopk"
    k: int | None = None
    sparsity_coefficient: float | None = None
    reconstruction: str = "mse"
    input_scaling: str = "scale"
    apply_b_dec_to_input: bool = True
    decoder_norm: Literal["unit", "free"] | None = None
    b_dec_init: Literal["mean", "zero"] = "mean"
    aux_coefficient: float | None = None
    k_aux: int | None = None

    def __post_init__(self):
        check_types(self)
        check_choice("architecture", self.architecture, ARCHITECTURES)
        check_choice("input_scaling", self.input_scaling, SCALINGS)
        check_choice("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        check_choice("b_dec_init", self.b_dec_init, ("mean", "zero"))
        for name in ("d_in", "d_sae"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 1")
        self._resolve_sparsity()
        if self.decoder_norm is None:
            self._set("decoder_norm", self.selection.default_decoder_norm)
        check_choice("decoder_norm", self.decoder_norm, ("unit", "free"))
        if self.aux_coefficient is None:
            self._set("aux_coefficient", self.selection.default_aux_coefficient)
        if self.aux_coefficient < 0:  # pyright: ignore[reportOptionalOperand]
            raise ConfigError(f"aux_coefficient = {self.aux_coefficient}: it can't be negative")
        if self.k_aux is None:
            self._set("k_aux", max(1, self.d_in // 2))
        if self.k_aux < 1:  # pyright: ignore[reportOptionalOperand]
            raise ConfigError(f"k_aux = {self.k_aux}: it must be at least 1")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _resolve_sparsity(self) -> None:
        if self.selection.uses_k:
            if self.sparsity_coefficient is not None:
                raise ConfigError(
                    f"sparsity_coefficient = {self.sparsity_coefficient} with {self.architecture}: "
                    "its sparsity is set by k; leave the coefficient out, or use architecture='relu'"
                )
            k = max(1, min(32, self.d_sae // 16)) if self.k is None else self.k
            if not 1 <= k <= self.d_sae:
                raise ConfigError(f"k = {k}: it must be between 1 and d_sae = {self.d_sae}")
            self._set("k", k)
            return
        if self.k is not None:
            raise ConfigError(
                f"k = {self.k} with architecture={self.architecture!r}: its sparsity is set by "
                "sparsity_coefficient; leave k out, or use architecture='topk' or 'batchtopk'"
            )
        if self.sparsity_coefficient is None:
            width = math.sqrt(self.d_in / L1_REFERENCE_WIDTH)
            self._set("sparsity_coefficient", L1_REFERENCE_COEFFICIENT * width)
        if self.sparsity_coefficient < 0:  # pyright: ignore[reportOptionalOperand]
            raise ConfigError(
                f"sparsity_coefficient = {self.sparsity_coefficient}: it can't be negative"
            )

    @property
    def selection(self) -> Architecture:
        """The rule that turns pre-activations into latents."""
        return ARCHITECTURES[self.architecture]

    @property
    def objective(self) -> Objective:
        """Names of the reconstruction, sparsity and auxiliary terms."""
        auxiliary = ("auxk",) if self.aux_coefficient else ()
        return Objective(self.reconstruction, self.selection.sparsity_terms, auxiliary)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, resolved, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> SAEConfig:
        """Build a config from a dictionary, refusing names that it does not know."""
        return build(cls, settings)


def check_choice(name: str, value: Any, choices) -> None:
    """Refuse a value that is not among the choices, naming the nearest one."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(map(repr, choices))}{hint}")


def check_types(settings: Any) -> None:
    """Refuse fields of a dataclass whose value has another type than its annotation says.

    Booleans are not integers here, integers pass as floats, and floats must be finite.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        allowed = str(field.type)
        if value is None and "None" in allowed:
            continue
        if "Literal" in allowed or "str" in allowed:
            good, kind = isinstance(value, str), "text"
        elif "float" in allowed:
            good, kind = _is_finite_number(value), "a finite number"
        elif "bool" in allowed:
            good, kind = isinstance(value, bool), "True or False"
        else:
            good, kind = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        if not good:
            raise ConfigError(
                f"{type(settings).__name__}.{field.name} = {value!r} "
                f"({type(value).__name__}): it must be {kind}"
            )


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def build(cls: Any, settings: dict[str, Any]) -> Any:
    """Make a settings dataclass from a dictionary, refusing unknown names."""
    known = [field.name for field in dataclasses.fields(cls)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{cls.__name__} has no setting {name!r}{hint}")
    return cls(**settings)
