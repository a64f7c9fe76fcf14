"""Run SAEBench's own evaluations on SAEs of ours, and compare its numbers with ours.

Run in an environment with sae-bench 0.6.0, which is not that of this project, with the library's
source on the path::

    PYTHONPATH=lib python tests/benchmarks/sae_bench_evaluations.py --out reports/results

SAEBench fetches a language model and texts from a hub. Here a small random transformer and made-up
texts of four topics stand in for them; that is all that is replaced. Whole runs: core
(``multiple_evals``) and sparse probing (``run_eval``). Of unlearning, whose questions come from a
gated data set: sparsities, selection, the clamping hook and ``compute_loss_added``. Writes
``sae_bench.json``; fails where numbers that should agree don't.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Its shape annotations name one size for two lengths; with present releases of jaxtyping, checks
# of them stop sparse probing on any SAE.
os.environ.setdefault("JAXTYPING_DISABLE", "1")

import sae_bench.evals.core.main as core
import sae_bench.evals.sparse_probing.main as probing
import sae_bench.sae_bench_utils.dataset_utils as dataset_utils
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.unlearning.utils.feature_activation import (
    calculate_sparsity,
    get_top_features,
)
from sae_bench.evals.unlearning.utils.metrics import compute_loss_added
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
from sae_lens.training.activations_store import ActivationsStore
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from saebook.evaluation.unlearning import Clamp, edited, evidence_from_rows, sizes
from saebook.models import SAE, SAEConfig
from saebook.models.formats import for_sae_bench
from saebook.training import TrainConfig, fit

MODEL, LAYER, D_MODEL, D_SAE, CONTEXT = "pythia-70m-deduped", 1, 32, 96, 32
HOOK = f"blocks.{LAYER}.hook_resid_post"
TOPICS, SHARED, OWN = 4, 60, 40
SPECIAL = ["<bos>", "<eos>", "<pad>"]
PROBED = "fancyzhx/ag_news"
N_CLAMPED, MULTIPLIER, MAX_RETAIN = 5, 25, 0.05
# Of a difference of two numbers, relative to their size.
TOLERANCE = 1e-4
VARIANTS: dict[str, dict] = {
    "relu, scale": {"architecture": "relu"},
    "relu, free norms, center_scale": {
        "architecture": "relu", "decoder_norm": "free", "input_scaling": "center_scale",
    },
    "topk, standardize": {"architecture": "topk", "k": 6, "input_scaling": "standardize"},
    "batchtopk, scale": {"architecture": "batchtopk", "k": 6},
    "batchtopk, nested, whiten": {
        "architecture": "batchtopk", "k": 6, "prefixes": (24, D_SAE), "input_scaling": "whiten",
    },
    "jumprelu, scale": {"architecture": "jumprelu", "target_l0": 6.0},
    "gated, scale": {"architecture": "gated", "target_l0": 6.0},
    "topk, layer_norm": {"architecture": "topk", "k": 6, "input_scaling": "layer_norm"},
}  # fmt: skip


def texts(n: int, topic: int, seed: int) -> list[str]:
    """Documents of 60 words, half of them from the words of a topic."""
    rng = np.random.default_rng([seed, topic])
    own = rng.integers(0, OWN, (n, 60))
    shared = (rng.pareto(1.0, (n, 60)) * 3).astype(int) % SHARED
    mine = rng.random((n, 60)) < 0.5
    return [
        " ".join(f"t{topic}w{o}" if m else f"s{s}" for o, s, m in zip(*row, strict=True))
        for row in zip(own, shared, mine, strict=True)
    ]


def language_model(folder: Path) -> HookedTransformer:
    """A random transformer of three blocks, whose vocabulary is the words of the texts.

    Its tokenizer is kept in a folder, from which transformer_lens reads it again.
    """
    words = [f"s{i}" for i in range(SHARED)]
    words += [f"t{t}w{i}" for t in range(TOPICS) for i in range(OWN)]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>",
    )  # fmt: skip
    fast.save_pretrained(folder)
    config = HookedTransformerConfig(
        n_layers=3, d_model=D_MODEL, n_ctx=128, d_head=8, n_heads=4, d_vocab=len(vocabulary),
        act_fn="gelu", seed=0, init_weights=True, device="cpu", model_name=MODEL,
        initializer_range=0.2,
    )  # fmt: skip
    return HookedTransformer(config, AutoTokenizer.from_pretrained(folder)).eval()


def tokens_of(model: HookedTransformer, documents: list[str]) -> Tensor:
    """Token ids [n, CONTEXT], each document behind a start token."""
    ids = [
        [0, *model.tokenizer.encode(document, add_special_tokens=False)][:CONTEXT]
        for document in documents
    ]
    return torch.tensor(ids)


@torch.no_grad()
def activations(model: HookedTransformer, tokens: Tensor) -> Tensor:
    """Residual stream [n, CONTEXT, D_MODEL] after block LAYER."""
    return model.run_with_cache(tokens, names_filter=HOOK)[1][HOOK]


def ordinary(tokens: Tensor) -> Tensor:
    """Positions of tokens that are not special, booleans [n, CONTEXT]."""
    return tokens >= len(SPECIAL)


def trained(x: Tensor, settings: dict, out: Path) -> SAE:
    """A quick SAE on activations [n, D_MODEL]."""
    config = SAEConfig(d_in=D_MODEL, d_sae=D_SAE, reconstruction="mse", **settings)
    return fit(config, x, TrainConfig(n_steps=400, batch_size=512), out=out, progress=False).sae


class Difference:
    """Pairs of numbers that should agree."""

    def __init__(self) -> None:
        self.pairs: dict[str, dict[str, float]] = {}

    def add(self, name: str, theirs: float, ours: float) -> None:
        gap = abs(theirs - ours) / max(abs(theirs), 1e-3)
        self.pairs[name] = {"sae_bench": theirs, "ours": ours, "relative_difference": gap}

    @property
    def largest(self) -> float:
        return max(pair["relative_difference"] for pair in self.pairs.values())


@torch.no_grad()
def core_run(model, sae: SAE, wrapped, corpus: Path, out: Path) -> Difference:
    """``multiple_evals`` on the wrapped SAE, against our own sums over the batches it drew."""
    drawn: list[Tensor] = []
    draw = ActivationsStore.get_batch_tokens

    def record(self, *args, **kwargs):
        drawn.append(draw(self, *args, **kwargs))
        return drawn[-1]

    with (
        patch.object(
            HookedTransformer, "from_pretrained_no_processing", lambda *args, **kwargs: model
        ),
        patch.object(ActivationsStore, "get_batch_tokens", record),
    ):
        core.multiple_evals(
            selected_saes=[("ours", wrapped)], n_eval_reconstruction_batches=2,
            n_eval_sparsity_variance_batches=3, eval_batch_size_prompts=8,
            compute_featurewise_density_statistics=True,
            compute_featurewise_weight_based_metrics=True, dataset=str(corpus),
            context_size=CONTEXT, output_folder=str(out), dtype="float32", device="cpu",
            force_rerun=True,
        )  # fmt: skip
    (written,) = out.glob("*.json")
    result = json.loads(written.read_text())["eval_result_metrics"]

    found = Difference()
    passes = {
        "ce_loss_without_sae": lambda x, hook: x,
        "ce_loss_with_sae": lambda x, hook: reconstruct(sae, x)[1],
        "ce_loss_with_ablation": lambda x, hook: torch.zeros_like(x),
    }
    for name, replace in passes.items():
        with model.hooks([(HOOK, replace)]):
            # Special tokens are replaced too, but predictions made there are not counted.
            losses = [
                model(tokens, return_type="loss", loss_per_token=True)[ordinary(tokens)[:, :-1]]
                for tokens in drawn[:2]
            ]
        found.add(
            name, result["model_performance_preservation"][name], float(torch.cat(losses).mean())
        )

    rows = torch.cat([activations(model, tokens)[ordinary(tokens)] for tokens in drawn[2:]])
    latents, made = reconstruct(sae, rows)
    norms = made.norm(dim=1) / rows.norm(dim=1)
    found.add("L0", result["sparsity"]["l0"], float((latents != 0).sum(1).float().mean()))
    quality = result["reconstruction_quality"]
    found.add("cosine", quality["cossim"], float(F.cosine_similarity(rows, made).mean()))
    found.add("L2 ratio", result["shrinkage"]["l2_ratio"], float(norms.mean()))
    misc = result["misc_metrics"]
    alive = float((latents > 0).any(0).float().mean())
    found.add("share of latents alive", misc["frac_alive"], alive)
    return found


@torch.no_grad()
def reconstruct(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    latents = sae.encode(x)
    return latents, sae.decode(latents, sae.context(x))


def probing_run(model, wrapped, out: Path, artifacts: Path) -> dict[str, float]:
    """``run_eval`` of sparse probing, on topics for classes."""

    def topics(name: str, n_train: int, n_test: int, seed: int):
        return tuple(
            {str(t): texts(n, t, seed + part) for t in range(TOPICS)}
            for part, n in enumerate((n_train, n_test))
        )

    config = SparseProbingEvalConfig(
        dataset_names=[PROBED], probe_train_set_size=120, probe_test_set_size=60,
        context_length=CONTEXT, llm_batch_size=64, llm_dtype="float32", model_name=MODEL,
        k_values=[1, 2],
    )  # fmt: skip
    with (
        patch.object(
            HookedTransformer, "from_pretrained_no_processing", lambda *args, **kwargs: model
        ),
        patch.object(dataset_utils, "get_multi_label_train_test_data", topics),
    ):
        results = probing.run_eval(
            config, [("ours", wrapped)], "cpu", str(out), artifacts_path=str(artifacts)
        )
    (result,) = results.values()
    metrics = result["eval_result_metrics"]
    return {
        "llm_test_accuracy": metrics["llm"]["llm_test_accuracy"],
        "sae_test_accuracy": metrics["sae"]["sae_test_accuracy"],
        "sae_top_1_test_accuracy": metrics["sae"]["sae_top_1_test_accuracy"],
        "sae_top_2_test_accuracy": metrics["sae"]["sae_top_2_test_accuracy"],
    }


@torch.no_grad()
def unlearning_run(model, sae: SAE, wrapped) -> Difference:
    """Sparsities, selection, clamps and the loss they add, theirs against ours."""
    _, formatted, _ = load_and_format_sae("ours", wrapped, "cpu")
    forget, retain = (
        tokens_of(model, [text for topic in topics for text in texts(40, topic, 5)])
        for topics in ((0,), range(1, TOPICS))
    )
    theirs = calculate_sparsity(model, formatted, forget, retain, batch_size=16)
    # Both leave out the start token, the one special token of these texts.
    rows = [activations(model, tokens)[:, 1:].flatten(0, 1) for tokens in (forget, retain)]
    ours = evidence_from_rows(sae, [rows[0]], [rows[1]])
    found = Difference()
    found.add(
        "largest difference of sparsities",
        0.0,
        float(max(np.abs(t - o).max() for t, o in zip(theirs, (ours.forget, ours.retain)))),
    )
    chosen = get_top_features(*theirs, retain_threshold=MAX_RETAIN)[:N_CLAMPED]
    own = ours.ranked(MAX_RETAIN)[:N_CLAMPED]
    # Among equal frequencies, their order is that of an unstable sort.
    found.add(
        "forget sparsity of the chosen", float(ours.forget[chosen].sum()),
        float(ours.forget[own].sum()),
    )  # fmt: skip
    found.add("latents chosen", len(chosen), len(own))
    if sae.scaling.mode.per_example:
        # Their multiplier then counts in the scaled space: 1 is 1 in the latent's own unit.
        size = 1 / sae.W_dec.norm(dim=1).numpy()
    else:
        size = sizes(sae, np.ones(D_SAE), "norm")
    clamp = Clamp(tuple(chosen.tolist()), tuple((-MULTIPLIER * size[chosen]).tolist()))

    def ours_spliced(x: Tensor, hook) -> Tensor:
        changed = edited(sae, x, clamp)
        changed[:, 0] = x[:, 0]
        return changed

    held_out = {"forget": [0], "retain": [1, 2, 3]}
    for part, topics in held_out.items():
        tokens = tokens_of(model, [text for topic in topics for text in texts(20, topic, 6)])
        store = SimpleNamespace(dataset=[], get_batch_tokenized_data=lambda tokens=tokens: tokens)
        added = compute_loss_added(
            model, formatted, store, n_batch=1, features_to_ablate=chosen.tolist(),
            multiplier=MULTIPLIER, intervention_method="clamp_feature_activation",
        )  # fmt: skip
        clean = model(tokens, return_type="loss")
        with model.hooks([(HOOK, ours_spliced)]):
            clamped = model(tokens, return_type="loss")
        found.add(f"loss added, {part}", float(added), float(clamped - clean))
    return found


def main() -> int:
    """Run everything; 0 where all that should agree does."""
    parser = argparse.ArgumentParser(description="SAEBench's evaluations on our SAEs")
    parser.add_argument("--out", type=Path, required=True, help="folder for sae_bench.json")
    out = parser.parse_args().out
    torch.manual_seed(0)
    documents = [text for topic in range(TOPICS) for text in texts(200, topic, 1)]
    report: dict = {
        "versions": {name: version(name) for name in ("sae-bench", "sae-lens", "transformer-lens",
                                                      "torch")},
        "tolerance": TOLERANCE,
        "n_clamped": N_CLAMPED, "multiplier": MULTIPLIER, "max_retain": MAX_RETAIN,
        "saes": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = language_model(folder / "tokenizer")
        rows = activations(model, tokens_of(model, documents))[:, 1:].flatten(0, 1)
        corpus = folder / "corpus"
        corpus.mkdir()
        lines = (json.dumps({"text": text}) for text in documents)
        (corpus / "train.jsonl").write_text("\n".join(lines))
        for i, (name, settings) in enumerate(VARIANTS.items()):
            sae = trained(rows, settings, folder / f"run{i}")
            wrapped = for_sae_bench(sae, model_name=MODEL, layer=LAYER, context_size=CONTEXT)
            cored = core_run(model, sae, wrapped, corpus, folder / f"core{i}")
            probed = probing_run(model, wrapped, folder / f"probing{i}", folder / "artifacts")
            unlearned = unlearning_run(model, sae, wrapped)
            report["saes"][name] = {
                "core": cored.pairs, "unlearning": unlearned.pairs, "sparse_probing": probed,
                "largest_relative_difference": max(cored.largest, unlearned.largest),
            }  # fmt: skip
    worst = max(entry["largest_relative_difference"] for entry in report["saes"].values())
    report["largest_relative_difference"] = worst
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "sae_bench.json.partial"
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / "sae_bench.json")
    for name, entry in report["saes"].items():
        print(f"{name:34} {entry['largest_relative_difference']:.1e}  {entry['sparse_probing']}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
