"""Can an SAE make a model forget one thing and keep another, and do its latents matter for that?

    python tests/benchmarks/unlearning.py --work /tmp/unlearning --out reports/results/unlearning.json

Two studies. Language: a TopK SAE, a TC-SAE of the same size and a random dictionary, on
activations of SmolLM2-135M from two domains of text, one to forget and one to keep. Spikes: an
SAE and a random dictionary on simulated reaches, one behavioural variable to forget and four to
keep. Latents are ranked on training documents or bins, settings are chosen on validation ones,
damage is that of test ones; in each dictionary, random latents of matched frequency are clamped
in the same way. Each seed draws documents (a session), weights and batches anew. Finished seeds
are kept in the work folder, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from saebook.data import prepare, read_recording
from saebook.data.simulate import simulate_session
from saebook.evaluation import (
    RandomDictionary,
    candidate_variables,
    decoding_damage,
    evidence_from_rows,
    evidence_from_tuning,
    loss_damage,
    unlearning_score,
    unlearning_sweep,
)
from saebook.language import (
    LanguageModel,
    MaskRule,
    Site,
    TokenBatch,
    language_model,
    load_text,
    read_activations,
    token_batches,
)
from saebook.models import SAEConfig
from saebook.training import TemporalConfig, TrainConfig, fit

LANGUAGE: dict[str, Any] = {
    "model": "smollm2",
    "layer": 14,
    "forget": "moby_dick",
    "retain": "state_of_the_union",
    "context": 64,
    # Contexts per domain, each from a place of its own; documents are split first.
    "contexts": {"train": 112, "validation": 3, "test": 4},
    "d_sae": 1024,
    "k": 32,
    "n_steps": 500,
    "temporal": {"kind": "contrastive", "coefficient": 1.0, "window": 16, "queue_size": 1024},
    "sweep": {
        "n_latents": (10, 40),
        "multipliers": (2.0, 6.0, 18.0),
        "max_retain": (0.003, 0.01),
    },
    "limits": (0.02, 0.05, 0.1),  # rise of the loss on text to keep, nats
}
SPIKES: dict[str, Any] = {
    "session": {"kind": "reach", "n_units": 60, "n_trials": 150},
    "bin_size_s": 0.05,
    "forget": "hand_velocity speed",
    "retain": (
        "hand_position x", "hand_position y", "hand_velocity direction", "target_on_time",
    ),
    "d_sae": 128,
    "k": 8,
    "n_steps": 1000,
    "sweep": {
        "n_latents": (1, 3, 10),
        "multipliers": (0.0, 1.0, 4.0),
        "max_retain": (0.02, 0.05, 0.1),
    },
    "limits": (0.02, 0.05, 0.1),  # mean share lost of the scores to keep
}  # fmt: skip
TRAIN: dict[str, Any] = {"batch_size": 256, "learning_rate": 3e-3, "n_logs": 2, "device": "cpu"}
FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}
# Draws of random latents, per dictionary; those of a random one are random to begin with.
DRAWS = {"SAE": (0, 1, 2), "TC-SAE": (0, 1, 2), "random dictionary": (0,)}


def passages(
    lm: LanguageModel, name: str, seed: int, contexts: dict[str, int]
) -> dict[str, list[TokenBatch]]:
    """Contexts of a text's documents, which are split; none begins where a document does."""
    rng = np.random.default_rng(seed)
    documents = load_text(name)
    order = rng.permutation(len(documents))
    ends = np.round(np.cumsum(list(FRACTIONS.values())) * len(documents)).astype(int)
    length = 8 * LANGUAGE["context"]  # characters, more than a context's
    found = {}
    for part, own in zip(FRACTIONS, np.split(order, ends[:-1]), strict=True):
        texts = [documents[i] for i in own if len(documents[i]) > 4 * length]
        picked = []
        for i in range(contexts[part]):
            text = texts[i % len(texts)]
            start = text.find(" ", int(rng.integers(length, len(text) - 2 * length))) + 1
            picked.append(text[start : start + length])
        found[part] = list(
            token_batches(
                lm, picked, context=LANGUAGE["context"], batch_size=8, contexts_per_document=1
            )
        )
    return found


def rows_of(
    lm: LanguageModel, site: Site, rule: MaskRule, batches: list[TokenBatch], what: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations at kept positions, and the passage of each."""
    rows, passage = [], []
    for n, batch in enumerate(tqdm(batches, desc=f"activations, {what}", leave=False)):
        x = read_activations(lm.model, batch.inputs(), site)
        kept = rule.keep(batch, x)
        rows.append(x[kept])
        passage.append(kept.nonzero()[:, 0] + 8 * n)
    return torch.cat(rows), torch.cat(passage)


def explained(sae: Any, x: torch.Tensor) -> dict[str, float]:
    """How well a dictionary reconstructs rows that it was not trained on."""
    with torch.no_grad():
        latents = sae.encode(x)
        error = (x - sae.decode(latents)).square().sum() / (x - x.mean(dim=0)).square().sum()
    return {
        "explained_variance": 1 - float(error),
        "l0": float((latents > 0).sum(dim=1).float().mean()),
    }


def language_seed(seed: int) -> dict[str, Any]:
    """Sweep three dictionaries over two domains."""
    settings = LANGUAGE
    lm, site, rule = language_model(settings["model"]), Site(settings["layer"]), MaskRule()
    domains = {
        kind: passages(lm, settings[kind], seed, settings["contexts"])
        for kind in ("forget", "retain")
    }
    train = {kind: rows_of(lm, site, rule, domains[kind]["train"], kind) for kind in domains}
    test = {kind: rows_of(lm, site, rule, domains[kind]["test"], kind)[0] for kind in domains}
    x = torch.cat([rows for rows, _ in train.values()])
    groups = torch.cat([train["forget"][1], train["retain"][1] + len(x)])
    config = SAEConfig(lm.d_model, settings["d_sae"], architecture="topk", k=settings["k"])
    plain = TrainConfig(n_steps=settings["n_steps"], **TRAIN)
    temporal = TemporalConfig(**settings["temporal"])
    with_term = TrainConfig(n_steps=settings["n_steps"], **TRAIN, temporal=temporal)
    random = RandomDictionary(lm.d_model, settings["d_sae"], k=settings["k"], seed=seed)
    random.fit(x, x.mean(dim=0))
    dictionaries: dict[str, Any] = {
        "SAE": fit(config, x, plain, seed=seed).sae,
        "TC-SAE": fit(config, x, with_term, seed=seed, groups=groups).sae,
        "random dictionary": random,
    }
    tables, about = [], {}
    for name, sae in dictionaries.items():
        evidence = evidence_from_rows(sae, [train["forget"][0]], [train["retain"][0]])
        about[name] = explained(sae, torch.cat(list(test.values()))) | {
            f"pass {limit}": len(evidence.ranked(limit))
            for limit in settings["sweep"]["max_retain"]
        }
        tqdm.write(f"seed {seed}, {name}: {about[name]}")
        damage = loss_damage(
            sae, lm, site, domains["forget"]["test"], domains["retain"]["test"],
            forget_validation=domains["forget"]["validation"],
            retain_validation=domains["retain"]["validation"], rule=rule,
        )  # fmt: skip
        tables.append(
            unlearning_sweep(
                evidence, damage, **settings["sweep"], random_seeds=DRAWS[name], name=name
            )
        )
    n_tokens = {kind: len(rows) for kind, (rows, _) in train.items()}
    n_test = {kind: len(rows) for kind, rows in test.items()}
    return record(seed, tables, about) | {"train_tokens": n_tokens, "test_tokens": n_test}


def spikes_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Sweep two dictionaries over a simulated session."""
    settings = SPIKES
    path = simulate_session(
        folder / f"{seed}.nwb", seed=seed, overwrite="if_changed", **settings["session"]
    )
    recording = read_recording(path)
    store = prepare(
        recording, folder / f"store_{seed}", bin_size_s=settings["bin_size_s"], seed=seed,
        overwrite=True, progress=False,
    )  # fmt: skip
    wanted = (settings["forget"], *settings["retain"])
    variables = [v for v in candidate_variables(recording, store) if v.name in wanted]
    rows: Any = {part: np.sort(np.asarray(store.rows(part))) for part in FRACTIONS}
    counts = store.tensor(None).float()
    config = SAEConfig(store.d_in, settings["d_sae"], architecture="topk", k=settings["k"])
    train = TrainConfig(n_steps=settings["n_steps"], **TRAIN)
    random = RandomDictionary(store.d_in, settings["d_sae"], k=settings["k"], seed=seed)
    random.fit(counts[rows["train"]], counts[rows["train"]].mean(dim=0))
    dictionaries: dict[str, Any] = {
        "SAE": fit(config, store, train, seed=seed).sae,
        "random dictionary": random,
    }
    tables, about = [], {}
    for name, sae in dictionaries.items():
        evidence = evidence_from_tuning(sae, counts, variables, settings["forget"], rows["train"])
        about[name] = explained(sae, counts[rows["test"]]) | {
            f"pass {limit}": len(evidence.ranked(limit))
            for limit in settings["sweep"]["max_retain"]
        }
        tqdm.write(f"seed {seed}, {name}: {about[name]}")
        for refit in (False, True):
            damage = decoding_damage(
                sae, counts, variables, settings["forget"], refit=refit, keep_error=True, **rows
            )
            table = unlearning_sweep(
                evidence, damage, **settings["sweep"], random_seeds=DRAWS[name], name=name
            )
            tables.append(table.assign(refit=refit))
    return record(seed, tables, about) | {"train_bins": len(rows["train"]), "units": store.d_in}


def record(seed: int, tables: list[pd.DataFrame], about: dict[str, Any]) -> dict[str, Any]:
    """One seed's result as JSON holds it."""
    sweep = pd.concat(tables, ignore_index=True).round(5)
    return {
        "seed": seed,
        "dictionaries": about,
        "sweep": sweep.astype(object).where(sweep.notna(), None).to_dict("records"),
    }


def kept(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run it, or read it back where it was finished before."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(run()))
        partial.replace(path)
    return json.loads(path.read_text())


def summarise(seeds: list[dict[str, Any]], limits: tuple[float, ...]) -> list[dict[str, Any]]:
    """The most that is forgotten within each limit, by dictionary, arm and seed."""
    found = []
    for one in seeds:
        whole = pd.DataFrame(one["sweep"])
        refits = [None] if "refit" not in whole else [False, True]
        for refit in refits:
            sweep = whole if refit is None else whole.loc[whole["refit"] == refit]
            for limit in limits:
                scores = unlearning_score(sweep, max_retain_damage=limit)
                scores = scores.rename(columns={"seed": "draw"}).assign(
                    seed=one["seed"], limit=limit
                )
                if refit is not None:
                    scores["refit"] = refit
                found.append(scores)
    table = pd.concat(found, ignore_index=True).round(5)
    return table.astype(object).where(table.notna(), None).to_dict("records")


def main() -> None:
    """Run both studies and write their result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of finished seeds")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the result")
    parser.add_argument("--language-seeds", type=int, default=2, help="default 2")
    parser.add_argument("--spike-seeds", type=int, default=4, help="default 4")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began = time.process_time()
    spikes = [
        kept(given.work / f"spikes_{s}.json", lambda s=s: spikes_seed(s, given.work))
        for s in tqdm(range(given.spike_seeds), desc="spikes", unit="session")
    ]
    language = [
        kept(given.work / f"language_{s}.json", lambda s=s: language_seed(s))
        for s in tqdm(range(given.language_seeds), desc="language", unit="seed")
    ]
    print(f"{time.process_time() - began:.0f} s of CPU time in this call")
    result = {
        "what": "damage to what is forgotten and to what is kept, clamping latents that are ranked "
        "on training rows, or random ones of matched frequency; settings chosen on validation rows",
        "train": TRAIN,
        "language": {
            "n": f"{len(language)} seeds of documents, weights and batches; one model, one layer, "
            "one pair of texts",
            "settings": {**LANGUAGE, "draws": DRAWS},
            "scores": summarise(language, LANGUAGE["limits"]),
            "seeds": language,
        },
        "spikes": {
            "n": f"{len(spikes)} simulated sessions",
            "settings": {**SPIKES, "draws": DRAWS},
            "scores": summarise(spikes, SPIKES["limits"]),
            "seeds": spikes,
        },
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    partial = given.out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(given.out)
    for name in ("language", "spikes"):
        table = pd.DataFrame(result[name]["scores"])
        keys = ["limit", *(["refit"] if "refit" in table else []), "sae", "arm"]
        columns = ["forget", "retain", "n_clamped"]
        means: Any = table.astype(dict.fromkeys(columns, float)).groupby(keys)[columns].mean()
        print(means.round(4))


if __name__ == "__main__":
    main()
