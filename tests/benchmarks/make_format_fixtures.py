"""Write small checkpoints with the libraries that own their formats, beside what these compute.

Run in an environment with sae-lens, dictionary-learning and eai-sparsify, which is not that of
this project::

    python tests/benchmarks/make_format_fixtures.py tests/fixtures/formats

Every case is saved by the library's own code, loaded again by the library's own loader, and run
on six inputs: ``expected.safetensors`` holds inputs, latents and reconstructions.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.utils import AutoEncoderNew, load_dictionary
from sae_lens import SAE as LensSAE
from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

D_IN, D_SAE, K, N_INPUTS = 8, 32, 4, 6
EXPECTED = "expected.safetensors"
VERSIONS = "versions.json"
Outputs = tuple[Tensor, Tensor]  # latents and reconstruction


def inputs() -> Tensor:
    """Six examples with a mean, [6, 8]."""
    return torch.randn(N_INPUTS, D_IN, generator=torch.Generator().manual_seed(7)) * 1.5 + 0.5


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Weights, biases and thresholds of ordinary size, none of them zero or of unit norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        value.copy_(0.3 * torch.randn(value.shape, generator=generator).to(value))
        if "threshold" in name:
            value.abs_()
    for name, value in module.named_buffers():
        if "threshold" in name:
            value.fill_(0.4)


# --- SAELens --------------------------------------------------------------------------------


def lens(architecture: str, **settings) -> Callable[[Path], Outputs]:
    def make(folder: Path) -> Outputs:
        kind, config = get_sae_class(architecture)
        sae = kind(config(d_in=D_IN, d_sae=D_SAE, **settings))
        randomise(sae, seed=1)
        sae.save_model(folder)
        return run_lens(LensSAE.load_from_disk(folder), inputs())

    return make


@torch.no_grad()
def run_lens(sae, x: Tensor) -> Outputs:
    latents = sae.encode(x)
    return latents, sae.decode(latents)


def lens_training(architecture: str, inference: bool, **settings) -> Callable[[Path], Outputs]:
    """A training checkpoint, or its inference version; the latter says what both compute."""

    def make(folder: Path) -> Outputs:
        kind, config = get_sae_training_class(architecture)
        sae = kind(config(d_in=D_IN, d_sae=D_SAE, **settings))
        randomise(sae, seed=2)
        sae.save_inference_model(folder)
        outputs = run_lens(LensSAE.load_from_disk(folder), inputs())
        if not inference:
            sae.save_model(folder)
        return outputs

    return make


def lens_scaled(mode: str) -> Callable[[Path], Outputs]:
    """A training checkpoint with the scaler that its trainer saves beside it."""

    def make(folder: Path) -> Outputs:
        kind, config = get_sae_training_class("standard")
        sae = kind(config(d_in=D_IN, d_sae=D_SAE, normalize_activations=mode))
        randomise(sae, seed=3)
        sae.save_model(folder)
        generator = torch.Generator().manual_seed(4)
        mixing = torch.randn(D_IN, D_IN, generator=generator)
        batches = (torch.randn(64, D_IN, generator=generator) @ mixing + 1 for _ in range(20))
        scaler = ActivationScaler()
        if mode == "covariance_whitening":
            scaler.estimate_whitening(D_IN, batches, n_batches_for_norm_estimate=20)
        else:
            scaler.estimate_scaling_factor(D_IN, batches, n_batches_for_norm_estimate=20)
        scaler.save(str(folder / ACTIVATION_SCALER_CFG_FILENAME))
        latents, scaled = run_lens(sae, scaler.scale(inputs()))
        return latents, scaler.unscale(scaled)

    return make


# --- dictionary_learning --------------------------------------------------------------------


def dictionary(make_trainer: Callable, **settings) -> Callable[[Path], Outputs]:
    def make(folder: Path) -> Outputs:
        sizes = {"activation_dim": D_IN, "dict_size": D_SAE}
        trainer = make_trainer(
            steps=10_000, layer=0, lm_name="none", device="cpu", **sizes, **settings
        )
        randomise(trainer.ae, seed=5)
        return save_dictionary(trainer.ae, trainer.config, folder)

    return make


def dictionary_new(folder: Path) -> Outputs:
    ae = AutoEncoderNew(D_IN, D_SAE)
    randomise(ae, seed=6)
    return save_dictionary(ae, {"dict_class": "AutoEncoderNew"}, folder)


def save_dictionary(ae, config: dict, folder: Path) -> Outputs:
    """What ``trainSAE`` writes at its end; it needs a logging service to import."""
    (folder / "config.json").write_text(json.dumps({"trainer": config}, indent=4))
    torch.save({name: value.cpu() for name, value in ae.state_dict().items()}, folder / "ae.pt")
    return run_dictionary(load_dictionary(str(folder), device="cpu")[0], inputs())


@torch.no_grad()
def run_dictionary(ae, x: Tensor) -> Outputs:
    latents = ae.encode(x)
    return latents, ae.decode(latents)


# --- sparsify -------------------------------------------------------------------------------


def sparse_coder(**settings) -> Callable[[Path], Outputs]:
    def make(folder: Path) -> Outputs:
        coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K, **settings))
        randomise(coder, seed=8)
        coder.save_to_disk(folder)
        return run_sparse_coder(SparseCoder.load_from_disk(folder), inputs())

    return make


@torch.no_grad()
def run_sparse_coder(coder: SparseCoder, x: Tensor) -> Outputs:
    out = coder(x)
    latents = torch.zeros(len(x), coder.num_latents)
    return latents.scatter(1, out.latent_indices, out.latent_acts), out.sae_out


BATCHTOPK = {"k": K, "rescale_acts_by_decoder_norm": True}
MATRYOSHKA = {"matryoshka_widths": [8, 16, D_SAE], **BATCHTOPK}

CASES: dict[str, Callable[[Path], Outputs]] = {
    "sae_lens-standard": lens("standard"),
    "sae_lens-standard_no_b_dec": lens("standard", apply_b_dec_to_input=False),
    "sae_lens-standard_layer_norm": lens("standard", normalize_activations="layer_norm"),
    "sae_lens-standard_constant_norm": lens(
        "standard", normalize_activations="constant_norm_rescale"
    ),
    "sae_lens-standard_mean_norm": lens_scaled("expected_average_only_in"),
    "sae_lens-standard_whitened": lens_scaled("covariance_whitening"),
    "sae_lens-topk": lens("topk", k=K),
    "sae_lens-topk_rescaled": lens("topk", **BATCHTOPK),
    "sae_lens-jumprelu": lens("jumprelu"),
    "sae_lens-gated": lens("gated"),
    "sae_lens-gated_no_b_dec": lens("gated", apply_b_dec_to_input=False),
    "sae_lens-transcoder": lens("transcoder", d_out=5, apply_b_dec_to_input=False),
    "sae_lens-jumprelu_transcoder": lens(
        "jumprelu_transcoder", d_out=5, apply_b_dec_to_input=False
    ),
    "sae_lens-batchtopk_inference": lens_training("batchtopk", True, **BATCHTOPK),
    "sae_lens-batchtopk_training": lens_training("batchtopk", False, **BATCHTOPK),
    "sae_lens-matryoshka_training": lens_training("matryoshka_batchtopk", False, **MATRYOSHKA),
    "sae_lens-jumprelu_training": lens_training("jumprelu", False),
    "sae_lens-gated_training": lens_training("gated", False),
    "dictionary_learning-AutoEncoder": dictionary(StandardTrainer),
    "dictionary_learning-AutoEncoder_april": dictionary(StandardTrainerAprilUpdate),
    "dictionary_learning-AutoEncoderNew": dictionary_new,
    "dictionary_learning-GatedAutoEncoder": dictionary(GatedSAETrainer),
    "dictionary_learning-AutoEncoderTopK": dictionary(TopKTrainer, k=K),
    "dictionary_learning-BatchTopKSAE": dictionary(BatchTopKTrainer, k=K),
    "dictionary_learning-JumpReluAutoEncoder": dictionary(JumpReluTrainer),
    "dictionary_learning-MatryoshkaBatchTopKSAE": dictionary(
        MatryoshkaBatchTopKTrainer, k=K, group_fractions=[0.25, 0.25, 0.5]
    ),
    "sparsify-topk": sparse_coder(),
    "sparsify-transcoder": sparse_coder(transcode=True),
}


def make_case(name: str, folder: Path) -> Outputs:
    """Save one case, and return what its library computes for :func:`inputs`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    latents, reconstruction = CASES[name](folder)
    latents, reconstruction = latents.detach().contiguous(), reconstruction.detach().contiguous()
    if not (latents > 0).any() or (latents > 0).all():
        raise SystemExit(f"{name}: latents are all {'silent' if not latents.any() else 'active'}")
    return latents, reconstruction


def versions() -> dict[str, str]:
    """Versions of the libraries that wrote the checkpoints."""
    names = ("sae-lens", "dictionary-learning", "eai-sparsify", "torch", "safetensors")
    return {name: importlib.metadata.version(name) for name in names}


def main(out: Path) -> None:
    """Write every case below a folder."""
    for name in CASES:
        latents, reconstruction = make_case(name, out / name)
        tensors = {"x": inputs(), "latents": latents, "reconstruction": reconstruction}
        save_file(tensors, out / name / EXPECTED)
    (out / VERSIONS).write_text(json.dumps(versions(), indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
