"""Collect a language model's activations, and train an SAE on them.

The store is a folder of shards with an index of document, position and token. Stopped or killed,
the same command goes on where it was. With --d_sae an SAE is trained on the store and saved
beside it, with its score card. Names with underscores (--target_layer) work like those with
hyphens.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saebook.data import ExampleStore

SCALINGS = {
    "none": "none",
    "expected_average_only_in": "scale_mean_norm",
    "layer_norm": "layer_norm",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook collect``."""

    def both(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))

    where = parser.add_argument_group("model and text")
    where.add_argument(
        "--model", default="smollm2", help="small, smollm2 (default), a folder, or a hub name"
    )
    where.add_argument("--gguf", help="name of a GGUF file in the folder or repository")
    where.add_argument("--revision", help="branch, tag or commit on the hub")
    where.add_argument(
        "--text",
        default="moby_dick",
        help="moby_dick (default), state_of_the_union, a .txt, .jsonl or .parquet file, a folder "
        "of them, or a data set of the hub such as cerebras/SlimPajama-627B",
    )
    where.add_argument(*both("target_layer"), type=int, required=True, help="block, from 0")
    where.add_argument(
        "--kind", choices=("residual", "mlp", "attention"), default="residual", help="what to read"
    )
    where.add_argument(*both("d_model"), type=int, help="refuse a model of another width")
    where.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    where.add_argument(*both("device_map"), help="auto: spread a model over several GPUs")
    store = parser.add_argument_group("store")
    store.add_argument(
        "--out", *both("data_dir"), dest="out", type=Path, required=True, help="its folder"
    )
    store.add_argument(*both("n_tokens"), type=int, help="positions to keep (default: all)")
    store.add_argument(*both("num_shards"), type=int, help="divide --n_tokens among so many")
    store.add_argument("--context", type=int, default=128, help="tokens per context (default: 128)")
    store.add_argument(*both("model_batch_size"), type=int, default=8, help="contexts per pass")
    store.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="stored type")
    store.add_argument(*both("on_overflow"), choices=("raise", "skip"), default="raise")
    store.add_argument("--restart", action="store_true", help="throw away an unfinished one")
    store.add_argument("--seed", type=int, default=0, help="of hold-out and SAE")
    sae = parser.add_argument_group("SAE (trained where --d_sae is given)")
    sae.add_argument(*both("d_sae"), type=int, help="latents")
    sae.add_argument(
        *both("l1_coeff"),
        type=float,
        default=5e-3,
        help="with the error averaged over d_model and the L1 term summed over latents; it is "
        "converted (default: 5e-3)",
    )
    sae.add_argument("--lr", type=float, default=3e-4, help="learning rate (default: 3e-4)")
    sae.add_argument(*both("batch_size"), type=int, default=4096, help="rows (default: 4096)")
    sae.add_argument("--epochs", type=float, default=3.0, help="passes (default: 3)")
    sae.add_argument(
        *both("normalize_activations"),
        choices=tuple(SCALINGS),
        default="expected_average_only_in",
        help="input scaling; the default is a scale, not a centring",
    )
    sae.add_argument(
        *both("apply_b_dec_to_input"), action="store_true", help="subtract b_dec from the input"
    )
    sae.add_argument(*both("output_dir"), type=Path, help="folder of the SAE (default: <out>-sae)")


def execute(options: argparse.Namespace) -> int:
    """Collect, say what the store holds; train where asked to."""
    from saebook.errors import ConfigError
    from saebook.language import collect_activations, language_model

    lm = language_model(
        options.model,
        dtype=options.dtype,
        device=options.device,
        **{
            name: value
            for name, value in (
                ("gguf_file", options.gguf),
                ("revision", options.revision),
                ("device_map", options.device_map),
            )
            if value is not None
        },
    )
    if options.d_model is not None and options.d_model != lm.d_model:
        raise ConfigError(f"--d_model {options.d_model}, but {lm.name} has {lm.d_model}")
    store = collect_activations(
        lm,
        options.text,
        layer=options.target_layer,
        kind=options.kind,
        out=options.out,
        n_tokens=options.n_tokens,
        num_shards=options.num_shards,
        context=options.context,
        batch_size=options.model_batch_size,
        dtype=options.dtype,
        on_overflow=options.on_overflow,
        restart=options.restart,
        seed=options.seed,
    )
    print(f"store: {options.out} · {store!r}")
    counts = store.provenance["counts"]
    left_out = counts.pop("left_out")
    print("read: " + ", ".join(f"{n:,} {name}" for name, n in counts.items() if n))
    print(
        "left out: " + (", ".join(f"{n:,} {name}" for name, n in left_out.items() if n) or "none")
    )
    if options.d_sae is not None:
        _train(options, store, lm.d_model)
    return 0


def _train(options: argparse.Namespace, store: ExampleStore, d_model: int) -> None:
    from saebook.losses import lambda_equivalent
    from saebook.models import SAEConfig, save_sae
    from saebook.training import TrainConfig, fit

    config = SAEConfig(
        d_in=d_model,
        d_sae=options.d_sae,
        architecture="relu",
        sparsity_coefficient=lambda_equivalent(options.l1_coeff, d_in=d_model, error="mean"),
        input_scaling=SCALINGS[options.normalize_activations],
        apply_b_dec_to_input=options.apply_b_dec_to_input,
    )
    train = TrainConfig(
        n_epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.lr,
        device=options.device,
    )
    out = options.output_dir or options.out.with_name(f"{options.out.name}-sae")
    run = fit(config, store, train, out=out, seed=options.seed)
    save_sae(run.sae, out / "sae")
    card = run.card
    print(
        f"SAE: {out / 'sae'} · {card['split']}: FVU {card['fvu']:.3f}, L0 {card['l0']:.1f}, "
        f"dead {card['dead_fraction']:.0%}"
    )
    for name, text in run.findings.items():
        print(f"finding {name}: {text}")
