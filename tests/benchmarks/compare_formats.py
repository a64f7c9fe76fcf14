"""Compare outputs before and after a trip through another library's files, in both directions.

Run in an environment with sae-lens, dictionary-learning and eai-sparsify, which is not that of
this project, with the library's source on the path::

    PYTHONPATH=lib python tests/benchmarks/compare_formats.py

Prints the largest absolute difference of latents and of reconstructions for every case (ours:
over all modes of input scaling), and what was refused; fails where a difference exceeds 1e-5.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from dictionary_learning.utils import load_dictionary
from make_format_fixtures import (
    CASES,
    D_IN,
    D_SAE,
    K,
    Outputs,
    inputs,
    make_case,
    run_dictionary,
    run_lens,
    versions,
)
from sae_lens import SAE as LensSAE

from saebook.errors import ConfigError
from saebook.models import SAE, SAEConfig
from saebook.models.formats import load_foreign, save_foreign

TOLERANCE = 1e-5
PREFIXES = {"prefixes": (8, 16, D_SAE)}
SCALINGS = (
    "none",
    "scale",
    "scale_mean_norm",
    "center",
    "center_scale",
    "standardize",
    "whiten",
    "layer_norm",
    "constant_norm_rescale",
)
VARIANTS: dict[str, dict] = {
    "relu": {"architecture": "relu"},
    "relu, unit norm": {"architecture": "relu", "decoder_norm": "unit"},
    "topk": {"architecture": "topk", "k": K},
    "batchtopk": {"architecture": "batchtopk", "k": K},
    "batchtopk, nested": {"architecture": "batchtopk", "k": K, **PREFIXES},
    "batchtopk, k each": {"architecture": "batchtopk", "prefix_k": (1, 2, K), **PREFIXES},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
}
VARIANTS |= {
    **{f"{name}, b_dec apart": v | {"apply_b_dec_to_input": False} for name, v in VARIANTS.items()},
    **{f"{name}, transcoder": v | {"d_out": 5} for name, v in VARIANTS.items()},
}


def recording() -> torch.Tensor:
    """Training rows, correlated and with a mean, [256, 8]."""
    generator = torch.Generator().manual_seed(11)
    mixing = torch.randn(D_IN, D_IN, generator=generator) / D_IN**0.5
    return torch.randn(256, D_IN, generator=generator) @ mixing + 0.5


@torch.no_grad()
def random_sae(settings: dict, scaling: str) -> SAE:
    """An SAE of ours with random weights and biases."""
    config = SAEConfig(
        d_in=D_IN, d_sae=D_SAE, reconstruction="mse", input_scaling=scaling, **settings
    )
    sae = SAE(config, seed=12)
    x = recording()
    sae.fit_inputs(x, x[:, : config.d_out] if config.d_out else None)
    generator = torch.Generator().manual_seed(13)
    for name, value in sae.named_parameters():
        if name == "W_dec" and config.decoder_norm == "unit":
            continue
        value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    if "threshold" in dict(sae.named_parameters()):
        sae.threshold.abs_()
    elif config.architecture == "batchtopk":
        sae.threshold.fill_(0.4)
    return sae.eval()


@torch.no_grad()
def run_ours(sae: SAE, x: torch.Tensor) -> Outputs:
    latents = sae.encode(x)
    return latents, sae.decode(latents, sae.context(x))


def run_saved_lens(folder: Path, x: torch.Tensor) -> Outputs:
    return run_lens(LensSAE.load_from_disk(folder), x)


def run_saved_dictionary(folder: Path, x: torch.Tensor) -> Outputs:
    return run_dictionary(load_dictionary(str(folder), device="cpu")[0], x)


WRITERS = {
    "sae_lens": run_saved_lens,
    "dictionary_learning": run_saved_dictionary,
}


def differences(a: Outputs, b: Outputs) -> tuple[float, float]:
    """Largest absolute difference of latents and of reconstructions."""
    return float((a[0] - b[0]).abs().max()), float((a[1] - b[1]).abs().max())


def theirs_here(folder: Path) -> dict[str, tuple[float, float]]:
    """Their checkpoints, read by us."""
    found = {}
    for name in CASES:
        expected = make_case(name, folder / name)
        found[name] = differences(run_ours(load_foreign(folder / name), inputs()), expected)
    return found


def ours_there(folder: Path, refused: Counter) -> dict[str, tuple[float, float]]:
    """Our checkpoints, read by them; for every architecture the worst of the scalings."""
    found: dict[str, tuple[float, float]] = {}
    x = recording()[:16]
    for library, run in WRITERS.items():
        for name, settings in VARIANTS.items():
            case = f"{library}: {name}"
            for scaling in SCALINGS:
                try:
                    sae = random_sae(settings, scaling)
                    save_foreign(sae, folder / "ours", library)
                except ConfigError as error:
                    refused[f"{library}: {error}"] += 1
                    continue
                pair = differences(run_ours(sae, x), run(folder / "ours", x))
                before = found.get(case, (0.0, 0.0))
                found[case] = (max(before[0], pair[0]), max(before[1], pair[1]))
    return found


def report(title: str, found: dict[str, tuple[float, float]]) -> int:
    """Print a table; the number of cases beyond the tolerance."""
    print(f"\n{title}\n{'':52s}latents  reconstruction")
    for name, (latents, reconstruction) in found.items():
        print(f"{name:52s}{latents:7.0e}  {reconstruction:7.0e}")
    worst = max(max(pair) for pair in found.values())
    beyond = sum(max(pair) > TOLERANCE for pair in found.values())
    print(f"{len(found)} cases, worst {worst:.1e}, {beyond} beyond {TOLERANCE:g}")
    return beyond


def main() -> int:
    """Run both directions; 1 where a case is beyond the tolerance."""
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    refused: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        beyond = report("their files, read here", theirs_here(Path(folder)))
        beyond += report("our files, read there", ours_there(Path(folder), refused))
    print("\nrefused")
    for reason, n in refused.items():
        print(f"{n:4d} × {reason}")
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
