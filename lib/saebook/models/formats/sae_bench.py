"""SAEs as SAEBench's evaluations take them: unit decoder rows, no input scaling, its settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saebook.errors import ConfigError, DataError
from saebook.models.folding import fold_scaling
from saebook.models.sae import SAE
from saebook.models.scaling import Context

# What SAEBench calls them in its tables.
ARCHITECTURE_NAMES = {
    "relu": "standard",
    "leaky_relu": "leaky_relu",
    "topk": "topk",
    "batchtopk": "batch_topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
}


@dataclass
class SAEBenchSettings:
    """What SAEBench reads from ``sae.cfg``; the names and defaults are its own.

    Attributes
    ----------
    model_name
        Of the language model, as transformer_lens calls it.
    d_in, d_sae
        Sizes.
    hook_layer, hook_name
        Where the activations are read.
    """

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None = 128
    hook_head_index: int | None = None
    architecture: str = ""
    apply_b_dec_to_input: bool | None = None
    finetuning_scaling_factor: bool | None = None
    activation_fn_str: str = ""
    prepend_bos: bool = True
    normalize_activations: str = "none"
    dtype: str = "float32"
    device: str = "cpu"
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -100_000
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def __post_init__(self) -> None:
        # SAEBench reads these two and leaves them out of its files.
        self.activation_fn_kwargs: dict[str, Any] = {}
        self.model_from_pretrained_kwargs: dict[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """Settings as SAEBench stores them beside its results."""
        return asdict(self)


class SAEBenchSAE(nn.Module):
    """An SAE behind the attributes and methods that SAEBench calls.

    Made by :func:`for_sae_bench`; needs nothing of SAEBench installed.

    Attributes
    ----------
    W_enc : Tensor [d_in, d_sae]
    b_enc : Tensor [d_sae]
    W_dec : Tensor [d_sae, d_in]
        Rows of norm 1.
    b_dec : Tensor [d_in]
    cfg : SAEBenchSettings
    """

    b_enc: Tensor
    b_mag: Tensor
    W_dec: Tensor
    norms: Tensor

    def __init__(self, inner: SAE, settings: SAEBenchSettings) -> None:
        super().__init__()
        self.inner = inner.eval().requires_grad_(False)
        self.cfg = settings
        rows = inner.W_dec.detach()
        norms = rows.norm(dim=1)
        self.register_buffer("norms", norms)
        self.register_buffer("W_dec", rows / norms[:, None])
        bias = inner.b_enc.detach()
        if inner.config.architecture == "gated":
            # In a gated model b_enc belongs to the gate; SAEBench reads the magnitudes' bias.
            self.register_buffer("b_mag", inner.b_mag.detach() * norms)
        self.register_buffer("b_enc", bias * norms)
        self._context: Context = ()

    @property
    def W_enc(self) -> Tensor:
        """Encoder weights in the unit of the latents, [d_in, d_sae]."""
        return self.inner.W_enc * self.norms

    @property
    def b_dec(self) -> Tensor:
        """Decoder bias [d_in]."""
        return self.inner.b_dec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.W_dec.dtype

    def to(self, *args: Any, **kwargs: Any) -> SAEBenchSAE:
        """Move or convert, and note it in the settings."""
        super().to(*args, **kwargs)
        self.cfg.dtype = str(self.dtype).removeprefix("torch.")
        self.cfg.device = str(self.device)
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., d_sae] of activations [..., d_in], in units of unit decoder rows."""
        x = x.to(self.dtype)
        self._context = self.inner.context(x)
        return self.inner.encode(x) * self.norms

    @torch.no_grad()
    def decode(self, feature_acts: Tensor) -> Tensor:
        """Reconstruction [..., d_in] of latents [..., d_sae].

        Raises
        ------
        DataError
            Inputs are scaled per example, and the latents are not those of the last ``encode``.
        """
        context = self._context
        if context and context[0].shape[:-1] != feature_acts.shape[:-1]:
            raise DataError(
                f"latents {tuple(feature_acts.shape)} of an SAE that scales each example, after "
                f"encoding examples {tuple(context[0].shape[:-1])}: decode what was encoded last"
            )
        if self.inner.scaling.mode.per_example and not context:
            raise DataError("this SAE scales each example: encode before decoding")
        return self.inner.decode(feature_acts.to(self.dtype) / self.norms, context or None)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction [..., d_in]."""
        return self.decode(self.encode(x))


def for_sae_bench(
    sae: SAE,
    *,
    model_name: str,
    layer: int,
    hook_name: str | None = None,
    context_size: int = 128,
    prepend_bos: bool = True,
) -> SAEBenchSAE:
    """Wrap an SAE for SAEBench's evaluations, computing the same function.

    Parameters
    ----------
    sae
        A trained model of single rows with a linear decoder; it is not changed.
    model_name
        Of the language model, as transformer_lens calls it, such as ``"pythia-70m-deduped"``.
    layer
        Block that the activations come from, from 0.
    hook_name
        Where in transformer_lens. Default: the residual stream after that block.
    context_size
        Tokens of a context.
    prepend_bos
        Whether contexts begin with a start token.

    Returns
    -------
    SAEBenchSAE
        In eval mode, for the list of ``(name, sae)`` pairs that SAEBench's ``run_eval`` and
        ``multiple_evals`` take.

    Raises
    ------
    ConfigError
        The model computes something that SAEBench's SAEs can't: windows, another target than
        the input, a decoder or output that bends, or a decoder row of zeros.

    Notes
    -----
    SAEBench asks for decoder rows of norm 1, and its unlearning clamps latents to values in that
    unit. Which latents are active is decided as in the model itself, and they are rescaled
    afterwards, so that this is exact for every architecture, topk included. Input scaling folds
    into the weights where it can; scalings per example can't, so ``decode`` then uses the scales
    of the examples encoded last, and ``W_dec`` lies in the scaled space.

    References
    ----------
    Karvonen et al. 2025, "SAEBench" (arXiv 2503.09532); its ``custom_saes/base_sae.py``.

    Examples
    --------
    >>> from saebook.models import SAEConfig
    >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)) * 5
    >>> sae = SAE(SAEConfig(d_in=4, d_sae=8, architecture="topk", k=2, reconstruction="mse"))
    >>> sae.fit_inputs(x)
    >>> wrapped = for_sae_bench(sae, model_name="pythia-70m-deduped", layer=3)
    >>> torch.allclose(wrapped(x), sae(x)[0], atol=1e-5)
    True
    >>> wrapped.cfg.hook_name, round(float(wrapped.W_dec.norm(dim=1).max()), 5)
    ('blocks.3.hook_resid_post', 1.0)
    """
    config = sae.config
    refused = {
        f"seq_len = {config.seq_len}: it reads single positions": config.seq_len > 1,
        f"d_out = {config.d_out}: it puts reconstructions in the place of inputs": (
            config.is_transcoder
        ),
        f"decoder = {config.decoder!r}: its decoders are linear": config.decoder != "linear",
        f"output = {config.output!r}: nothing is applied to its reconstructions": (
            config.output != "none"
        ),
        f"input_scaling = {config.input_scaling!r}: it is not undone": (
            not sae.scaling.mode.inverts
        ),
    }
    for reason, applies in refused.items():
        if applies:
            raise ConfigError(f"SAEBench can't evaluate this SAE with {reason}")
    if config.architecture == "batchtopk" and bool((sae.threshold < 0).any()):
        raise ConfigError(
            "this BatchTopK SAE has no inference threshold yet: train it, or call "
            "calibrate_threshold(sae, x) with training rows"
        )
    inner = fold_scaling(sae) if sae.scaling.mode.folds else _copy(sae)
    zero = (inner.W_dec.norm(dim=1) == 0).nonzero().flatten().tolist()
    if zero:
        raise ConfigError(
            f"decoder rows of norm 0 can't be brought to norm 1: latents {zero[:5]} "
            f"({len(zero)} in all); give them another direction, or leave them out"
        )
    architecture = ARCHITECTURE_NAMES[config.architecture]
    settings = SAEBenchSettings(
        model_name=model_name,
        d_in=config.d_in,
        d_sae=config.d_sae,
        hook_layer=layer,
        hook_name=hook_name or f"blocks.{layer}.hook_resid_post",
        context_size=context_size,
        architecture=f"matryoshka_{architecture}" if config.prefixes else architecture,
        apply_b_dec_to_input=bool(config.apply_b_dec_to_input),
        prepend_bos=prepend_bos,
    )
    return SAEBenchSAE(inner, settings).to(dtype=sae.W_dec.dtype, device=sae.W_dec.device)


def _copy(sae: SAE) -> SAE:
    copy = SAE(sae.config).to(sae.W_dec)
    copy.load_state_dict(sae.state_dict())
    return copy
