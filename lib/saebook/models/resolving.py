"""Fill in the settings that were left open, and refuse those that contradict each other."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from saebook.errors import ConfigError
from saebook.losses import COUNT_RECONSTRUCTIONS, RECONSTRUCTIONS
from saebook.models.initialisation import B_DEC_INITS, DECODER_INITS, ENCODER_INITS
from saebook.models.output import OUTPUTS
from saebook.models.scaling import SCALINGS
from saebook.models.settings import check_choice

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig

# λ of the L1 penalties per √d_in (an L1 coefficient scales with √d_in between input widths):
# controlled runs on a small known dictionary ended near 0.75, and spike counts take less. λ = 5 of
# Scaling Monosemanticity, at widths of several thousand, would be 0.08.
L1_PER_ROOT_WIDTH = 0.5
AUX_COEFFICIENTS = {"auxk": 1 / 32, "ghost": 1.0, "preactivation": 3e-4, "none": 0.0}
DEFAULT_OUTPUTS = {"lmse": "relu", "pkl": "softplus"}
B_ENC_INITS = ("zero", "center")


def resolve(config: SAEConfig) -> dict[str, Any]:
    """Values of the open settings of a config whose types were checked.

    Raises
    ------
    ConfigError
        A setting is out of range or contradicts another one.
    """
    for name in ("d_in", "d_sae", "seq_len", "d_hidden", "d_out", "k_aux"):
        _at_least(config, name, 1)
    for name, choices in (
        ("b_dec_init", B_DEC_INITS),
        ("decoder_init", DECODER_INITS),
        ("encoder_init", ENCODER_INITS),
        ("reconstruction", ("auto", *RECONSTRUCTIONS)),
        ("target", ("last", "all")),
    ):
        check_choice(name, getattr(config, name), choices)
    _check_nesting(config)
    return (
        _sparsity(config)
        | _space(config)
        | _decoder(config)
        | _auxiliary(config)
        | {"d_hidden": _hidden(config)}
    )


def _at_least(config: SAEConfig, name: str, smallest: float) -> None:
    value = getattr(config, name)
    if value is not None and value < smallest:
        raise ConfigError(f"{name} = {value}: it must be at least {smallest}")


def _above_zero(config: SAEConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} = {value}: it must be greater than 0")


def default_k(d_sae: int) -> int:
    """Active latents per example where nothing was asked for."""
    return max(1, min(32, d_sae // 16))


def _sparsity(config: SAEConfig) -> dict[str, Any]:
    rule = config.selection
    _above_zero(config, "target_l0", "tanh_a", "tanh_b", "bandwidth", "lmse_tau")
    if not 0 < config.leak < 1:
        raise ConfigError(f"leak = {config.leak}: a slope between 0 and 1")
    if config.threshold_init is not None and config.threshold_init < 0:
        raise ConfigError(f"threshold_init = {config.threshold_init}: it can't be negative")
    if config.threshold_init is not None and config.architecture != "jumprelu":
        raise ConfigError(
            f"threshold_init = {config.threshold_init} with architecture="
            f"{config.architecture!r}: only jumprelu learns thresholds; leave it out"
        )
    if rule.uses_k:
        return _k(config)
    if config.k is not None:
        raise ConfigError(
            f"k = {config.k} with architecture={config.architecture!r}: its sparsity is set by "
            "target_l0 or sparsity_coefficient; leave k out, or use architecture='topk' or "
            "'batchtopk'"
        )
    sparsity = config.sparsity or rule.sparsity_choices[0]
    check_choice(f"sparsity (for {config.architecture})", sparsity, rule.sparsity_choices)
    if config.prefix_sparsity and sparsity == "l0_quadratic":
        raise ConfigError(
            "prefix_sparsity with sparsity='l0_quadratic', which holds one number, the mean L0 of "
            "the whole dictionary: use sparsity='l0_step', 'tanh' or 'l1'"
        )
    target, coefficient = config.target_l0, config.sparsity_coefficient
    if target is not None and target > config.d_sae:
        raise ConfigError(f"target_l0 = {target}: it can't exceed d_sae = {config.d_sae}")
    if coefficient is not None and coefficient < 0:
        raise ConfigError(f"sparsity_coefficient = {coefficient}: it can't be negative")
    if target is None and (coefficient is None or sparsity == "l0_quadratic"):
        target = float(default_k(config.d_sae))
    if coefficient is None:
        coefficient = rule.default_coefficient(sparsity, config.d_in)
    return {"sparsity": sparsity, "target_l0": target, "sparsity_coefficient": coefficient}


def _k(config: SAEConfig) -> dict[str, Any]:
    for name in ("sparsity_coefficient", "target_l0", "sparsity"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{name} = {getattr(config, name)!r} with {config.architecture}: its sparsity is "
                f"set by k; leave {name} out, or use architecture='relu' or 'jumprelu'"
            )
    k = config.k
    if k is None:
        k = config.prefix_k[-1] if config.prefix_k else default_k(config.d_sae)
    if not 1 <= k <= config.d_sae:
        raise ConfigError(f"k = {k}: it must be between 1 and d_sae = {config.d_sae}")
    if config.prefix_k and config.prefix_k[-1] != k:
        raise ConfigError(f"k = {k} and prefix_k ends in {config.prefix_k[-1]}: give one of them")
    return {"k": k}


def _check_nesting(config: SAEConfig) -> None:
    prefixes = config.prefixes
    for name in ("prefix_k", "prefix_weights", "prefix_sparsity"):
        given = getattr(config, name)
        if given and len(given) != len(prefixes):
            raise ConfigError(
                f"{name} has {len(given)} values for {len(prefixes)} prefixes: give one for each"
            )
        if any(value < 0 for value in given):
            raise ConfigError(f"{name} = {given}: values can't be negative")
    if not prefixes:
        return
    if prefixes[0] < 1 or any(b <= a for a, b in itertools.pairwise(prefixes)):
        raise ConfigError(f"prefixes = {prefixes}: they must increase, from at least 1")
    if prefixes[-1] != config.d_sae:
        raise ConfigError(
            f"prefixes = {prefixes} end before or after d_sae = {config.d_sae}: the last prefix "
            "is the whole dictionary"
        )
    if config.prefix_weights and sum(config.prefix_weights) <= 0:
        raise ConfigError(f"prefix_weights = {config.prefix_weights}: one must be above 0")
    if config.prefix_k and not config.selection.uses_k:
        raise ConfigError(
            f"prefix_k with architecture={config.architecture!r}: use prefix_sparsity, or "
            "architecture='topk' or 'batchtopk'"
        )
    if config.prefix_sparsity and config.selection.uses_k:
        raise ConfigError(
            f"prefix_sparsity with architecture={config.architecture!r}, which has no penalty: "
            "use prefix_k"
        )
    if any(not 1 <= k <= size for k, size in zip(config.prefix_k, prefixes)):
        raise ConfigError(f"prefix_k = {config.prefix_k}: each between 1 and its prefix {prefixes}")


def shares_space(config: SAEConfig) -> bool:
    """Whether reconstructions live in the space of the scaled input."""
    return (
        config.reconstruction not in COUNT_RECONSTRUCTIONS
        and SCALINGS[config.input_scaling].inverts
        and not config.is_transcoder
        and config.d_target == config.d_encoder
    )


def _space(config: SAEConfig) -> dict[str, Any]:
    shared = shares_space(config)
    to_input = config.apply_b_dec_to_input
    if to_input and not shared:
        raise ConfigError(
            "apply_b_dec_to_input=True, but b_dec lives in another space than the scaled input "
            f"(reconstruction={config.reconstruction!r}, input_scaling={config.input_scaling!r}, "
            f"seq_len={config.seq_len}, target={config.target!r}, d_out={config.d_out}): leave "
            "it out, or reconstruct the input itself with reconstruction='mse'"
        )
    if SCALINGS[config.input_scaling].per_example and config.is_transcoder:
        raise ConfigError(
            f"input_scaling={config.input_scaling!r} with d_out={config.d_out}: the targets of a "
            "transcoder have no scale per example; use 'scale'"
        )
    if config.reconstruction == "auto":
        # What was left open waits for the data, and what was chosen is held against them.
        check_choice("output", config.output or "none", OUTPUTS)
        check_choice("b_enc_init", config.b_enc_init or "zero", B_ENC_INITS)
        return {}
    output = config.output or DEFAULT_OUTPUTS.get(config.reconstruction, "none")
    check_choice("output", output, OUTPUTS)
    if config.reconstruction in COUNT_RECONSTRUCTIONS and output == "none":
        raise ConfigError(
            f"reconstruction={config.reconstruction!r} with output='none': it needs a nonnegative "
            "reconstruction; use output='softplus' or 'relu', or reconstruction='mse'"
        )
    if config.reconstruction == "pkl" and output == "relu":
        raise ConfigError(
            "reconstruction='pkl' with output='relu': a rate of exactly 0 makes any spike "
            "infinitely unlikely; use output='softplus'"
        )
    if config.lmse_tau != 1 and config.reconstruction not in ("lmse", "auto"):
        raise ConfigError(
            f"lmse_tau = {config.lmse_tau} with reconstruction={config.reconstruction!r}: it "
            "belongs to lmse; leave it out"
        )
    b_enc_init = config.b_enc_init or ("center" if to_input is None and not shared else "zero")
    check_choice("b_enc_init", b_enc_init, B_ENC_INITS)
    return {
        "apply_b_dec_to_input": shared if to_input is None else to_input,
        "b_enc_init": b_enc_init,
        "output": output,
    }


def _decoder(config: SAEConfig) -> dict[str, Any]:
    norm = config.decoder_norm
    if norm is None:
        weighed = (config.sparsity or config.selection.default_sparsity) in WEIGHED_BY_NORM
        norm = "free" if weighed else "unit"
    check_choice("decoder_norm", norm, ("unit", "free"))
    return {"decoder_norm": norm}


WEIGHED_BY_NORM = ("l1_decoder_norm", "tanh", "l1_gate")


def _hidden(config: SAEConfig) -> int | None:
    if config.decoder == "mlp":
        return 4 * config.d_in if config.d_hidden is None else config.d_hidden
    if config.d_hidden is not None:
        raise ConfigError(
            f"d_hidden = {config.d_hidden} with decoder={config.decoder!r}: it belongs to "
            "decoder='mlp'; leave it out"
        )
    return None


def _auxiliary(config: SAEConfig) -> dict[str, Any]:
    auxiliary = config.auxiliary
    if auxiliary is None:
        auxiliary = config.selection.default_auxiliary if config.aux_coefficient != 0 else "none"
    check_choice("auxiliary", auxiliary, AUX_COEFFICIENTS)
    if config.auxiliary is None and auxiliary == "none" and config.aux_coefficient:
        raise ConfigError(
            f"aux_coefficient = {config.aux_coefficient} with architecture="
            f"{config.architecture!r}, which has no auxiliary term of its own: choose one, "
            "auxiliary='auxk' or 'ghost', or leave the coefficient out"
        )
    if auxiliary == "preactivation" and config.architecture != "jumprelu":
        raise ConfigError(
            f"auxiliary='preactivation' with architecture={config.architecture!r}: it lifts "
            "pre-activations to jumprelu's thresholds; use auxiliary='auxk' or 'ghost'"
        )
    coefficient = config.aux_coefficient
    if coefficient is None:
        coefficient = AUX_COEFFICIENTS[auxiliary]
        if auxiliary == "preactivation":
            coefficient *= config.d_in
    if coefficient < 0:
        raise ConfigError(f"aux_coefficient = {coefficient}: it can't be negative")
    if coefficient == 0 or auxiliary == "none":
        auxiliary, coefficient = "none", 0.0
    return {
        "auxiliary": auxiliary,
        "aux_coefficient": coefficient,
        "k_aux": max(1, config.d_in // 2) if config.k_aux is None else config.k_aux,
    }


def l1_coefficient(d_in: int) -> float:
    """λ of the L1 penalties where none is given, and where a controller begins."""
    return L1_PER_ROOT_WIDTH * math.sqrt(d_in)
