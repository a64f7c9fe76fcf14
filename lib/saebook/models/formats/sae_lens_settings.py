"""Which settings of SAELens are understood: those of its version 6, and older ones."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from saebook.errors import CheckpointError
from saebook.models.formats.base import Settings, refuse

FIRST_MODERN_VERSION = 6

# Every setting that changes what an SAE of version 6 computes.
ACTING = {
    "apply_b_dec_to_input",
    "architecture",
    "d_in",
    "d_out",
    "d_sae",
    "dtype",
    "k",
    "normalize_activations",
    "rescale_acts_by_decoder_norm",
}
# Where it runs, where its inputs come from, and how it was trained.
DESCRIBING = {
    "aux_loss_coefficient",
    "decoder_init_norm",
    "device",
    "jumprelu_bandwidth",
    "jumprelu_init_threshold",
    "jumprelu_sparsity_loss_mode",
    "jumprelu_ste_to_input",
    "jumprelu_tanh_scale",
    "l0_coefficient",
    "l0_warm_up_steps",
    "l1_coefficient",
    "l1_warm_up_steps",
    "lp_norm",
    "matryoshka_widths",
    "metadata",
    "pre_act_loss_coefficient",
    "reshape_activations",
    "sae_lens_training_version",
    "sae_lens_version",
    "target_l0",
    "topk_threshold_lr",
    "use_matryoshka_aux_loss",
    "use_sparse_activations",
}
REFUSED = {
    "abstopk": "its latents take either sign; those here are not negative",
    "matching_pursuit": "it encodes by iterated pursuit; there is one encoder pass here",
    "temporal": "it attends to other positions; an example stands alone here",
    "skip_transcoder": "there is no linear path from input to output; train without the skip",
    "jumprelu_skip_transcoder": "there is no linear path from input to output; train without it",
}


def version_of(found: Settings) -> str | None:
    """Version of SAELens that wrote the settings, where they say."""
    metadata = found.get("metadata")
    described = metadata if isinstance(metadata, dict) else {}
    return found.get("sae_lens_version") or described.get("sae_lens_version")


def modernised(found: Settings, file: Path) -> Settings:
    """Settings in the names of version 6, with the defaults that older files rely on."""
    version = version_of(found)
    major = str(version or "0").split(".")[0]
    if major.isdigit() and int(major) >= FIRST_MODERN_VERSION:
        return found
    function = found.get("activation_fn", found.get("activation_fn_str", "relu"))
    if function not in ("relu", "topk"):
        raise refuse(file, "activation_fn", function, "choose a model with 'relu' or 'topk'")
    modern = {name: value for name, value in found.items() if name in ACTING | DESCRIBING}
    modern["architecture"] = found.get("architecture", "standard")
    if function == "topk":
        modern["architecture"] = "topk"
        options = found.get("activation_fn_kwargs")
        modern["k"] = options.get("k") if isinstance(options, dict) else None
    scaling = found.get("normalize_activations")
    if isinstance(scaling, bool) or scaling is None:
        modern["normalize_activations"] = "expected_average_only_in" if scaling else "none"
    return modern


def check_known(found: Settings, readable: Collection[str], file: Path) -> None:
    """Refuse an architecture that can't be read, or a setting that may change outputs."""
    architecture = str(found.get("architecture"))
    if architecture in REFUSED:
        raise refuse(file, "architecture", architecture, REFUSED[architecture])
    if architecture not in readable:
        raise CheckpointError(
            f"{file}: architecture = {architecture} is not known here; those that can be read: "
            f"{', '.join(readable)}"
        )
    for name in found:
        if name not in ACTING | DESCRIBING:
            raise CheckpointError(
                f"{file}: the setting {name} = {found[name]!r} is not known here, and may change "
                "what the weights mean; remove it if it doesn't"
            )
