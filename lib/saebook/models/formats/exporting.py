"""Bring an SAE into the form that other libraries know: matrices and biases, no scaling."""

from __future__ import annotations

import torch

from saebook.errors import ConfigError
from saebook.models.folding import fold_scaling
from saebook.models.sae import SAE


@torch.no_grad()
def plain_sae(
    sae: SAE,
    library: str,
    architectures: tuple[str, ...],
    scalings: tuple[str, ...] = (),
    transcoders: tuple[str, ...] = (),
) -> SAE:
    """A copy, on the CPU, whose input scaling is folded into the weights.

    Parameters
    ----------
    sae
        The model; it is not changed.
    library
        Name of the other library, for messages.
    architectures
        Those that it can hold.
    scalings
        Modes of input scaling that it applies itself, which stay out of the weights.
    transcoders
        Architectures that it can hold with ``d_out``.

    Raises
    ------
    ConfigError
        The other library has nothing that computes the same.
    """
    config = sae.config
    if config.architecture not in architectures:
        reason = f"it has what is called {', '.join(architectures)} here"
        raise _refused(library, "architecture", config.architecture, reason)
    if config.decoder != "linear":
        raise _refused(library, "decoder", config.decoder, "its decoders are linear")
    if config.output != "none":
        reason = "nothing is applied to its reconstructions; train with output='none'"
        raise _refused(library, "output", config.output, reason)
    if config.seq_len > 1:
        raise _refused(library, "seq_len", config.seq_len, "it has no windows of bins")
    if config.is_transcoder and config.architecture not in transcoders:
        reason = f"as transcoders it has {', '.join(transcoders) or 'none'}"
        raise _refused(library, "d_out", config.d_out, reason)
    if config.architecture == "batchtopk" and bool((sae.threshold < 0).any()):
        raise ConfigError(
            "this BatchTopK SAE has no inference threshold yet, which is what is written for "
            f"{library}: train it, or call calibrate_threshold(sae, x) with training rows"
        )
    if config.architecture == "jumprelu" and bool((sae.threshold < 0).any()):
        smallest = f"{float(sae.threshold.min()):g}"
        reason = "it rectifies latents, so one below zero would act as zero; clamp it to zero"
        raise _refused(library, "threshold", smallest, reason)
    if config.input_scaling in scalings:
        copy = SAE(config).to(sae.W_dec.dtype)
        copy.load_state_dict(sae.state_dict())
        return copy
    if not sae.scaling.mode.folds:
        reason = "this scaling can't fold into weights; train with 'scale' or 'standardize'"
        raise _refused(library, "input_scaling", config.input_scaling, reason)
    return fold_scaling(sae).cpu()


def _refused(library: str, setting: str, value: object, reason: str) -> ConfigError:
    return ConfigError(f"{setting} = {value!r} can't be written for {library}: {reason}")


@torch.no_grad()
def move_b_dec(sae: SAE, subtracted: bool) -> None:
    """Make ``b_enc`` right for an input from which ``b_dec`` is subtracted, or is not.

    The function that the weights compute stays the same, where it is computed in that way.
    """
    if subtracted == bool(sae.config.apply_b_dec_to_input):
        return
    moved = sae.encoder_rows @ sae.b_dec
    sae.config.selection.move_b_enc(sae, moved if subtracted else -moved)
