"""A training step with the contrastive term against one without it, and against dense products.

    python tests/benchmarks/contrastive.py --out reports/results/contrastive.json

Both take whole steps of one SAE on the same batches, in rounds one after the other, in one thread,
once the queue is full. What the term takes by itself stands beside what it adds to a step, which
has to encode the positives too, and beside what it would cost if every cosine were computed: by
the count of multiplications, ``0.4 · p · (N + B) / d_in`` times five dense products
(p share of the latents, N rows of the queue, B of the batch), and as measured of that way. Ratios
are of processor time, which other work on the machine changes less than the clock.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saebook.data.store import Batch
from saebook.models import SAE, SAEConfig
from saebook.models.sparse import SelectAmongFew
from saebook.training import TemporalConfig, TrainConfig, Trainer
from saebook.training.speed import Workload, dense_products
from saebook.training.temporal.base import PairedLatents
from saebook.training.temporal.contrasting import from_active, plain
from saebook.training.temporal.contrastive import Contrastive

D_IN, D_SAE, BATCH, K = 576, 4608, 2048, 32
TERM = TemporalConfig(start_fraction=0.0, ramp_fraction=0.0)
N_BATCHES, N_TRUE, LENGTH, N_SLOW = 4, 2304, 32, 8


def batches() -> list[Batch]:
    """Sparse mixtures of random directions, of which a sequence of rows shares some."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(N_TRUE, D_IN, generator=generator)

    def rows(slow: torch.Tensor) -> torch.Tensor:
        fast = torch.rand(BATCH, N_TRUE, generator=generator) < (K - N_SLOW) / N_TRUE
        strength = torch.rand(BATCH, N_TRUE, generator=generator)
        return ((fast | slow) * strength) @ directions

    made = []
    for _ in range(N_BATCHES):
        group = torch.randint(N_BATCHES * BATCH // LENGTH, (BATCH,), generator=generator)
        shared = torch.rand(int(group.max()) + 1, N_TRUE, generator=generator) < N_SLOW / N_TRUE
        made.append(Batch(rows(shared[group]), rows(shared[group]), group=group))
    return made


def trainer_of(architecture: str, temporal: TemporalConfig | None, x: torch.Tensor) -> Trainer:
    """With the architecture's own selection from the start, and no schedule that ends."""
    sae = SAE(SAEConfig(D_IN, D_SAE, architecture, k=K), seed=0)
    sae.fit_inputs(x)
    train = TrainConfig(
        n_steps=10**6, selection_warmup_fraction=0.0, device="cpu", temporal=temporal
    )
    return Trainer(sae, train)


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Processor and wall-clock time."""
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - used, time.perf_counter() - wall


def term_alone(trainer: Trainer, batch: Batch, way: Callable[..., Any]) -> Callable[[], Any]:
    """The term and its gradients to the latents, from those of one pass."""
    term = trainer.temporal.terms[0]
    assert isinstance(term, Contrastive) and batch.group is not None
    with torch.no_grad():
        forward = trainer.sae.pass_through(batch.x, None, SelectAmongFew(), batch.positive)
    assert forward.positives is not None
    width, chosen = TERM.width(D_SAE), (forward.selected[-1], forward.positives)
    both = [part.entries.prefix(part.latents, width) for part in chosen]
    one, other = (part.entries.places(width) for part in chosen)
    paired, group, queue = torch.ones(BATCH, dtype=torch.bool), batch.group, term.queue

    def work() -> None:
        leaves = [x.detach().requires_grad_() for x in both]
        way(
            PairedLatents(leaves[0], leaves[1], paired, group, (one, other)), queue, 0.1
        ).term.backward()

    return work


def measure(architecture: str, rounds: int) -> dict[str, Any]:
    """Steps with and without the term in turn, then the dense ways."""
    made = batches()
    x = torch.cat([batch.x for batch in made])
    without, having = trainer_of(architecture, None, x), trainer_of(architecture, TERM, x)
    assert TERM.queue_size is not None
    for step in range(TERM.queue_size // BATCH + 2):
        having.step(made[step % N_BATCHES])
        without.step(made[step % N_BATCHES])
    of: dict[str, list[tuple[float, float]]] = {}

    def take(name: str, work: Callable[[], Any]) -> None:
        of.setdefault(name, []).append(seconds(work))

    products = dense_products(Workload(D_IN, D_SAE, BATCH, architecture, K))
    alone = term_alone(having, made[0], from_active)
    dense = term_alone(having, made[0], plain)
    logged: dict[str, torch.Tensor] = {}
    for i in range(rounds):
        batch = made[i % N_BATCHES]
        take("step", lambda batch=batch: without.step(batch))
        take("step_with_term", lambda batch=batch: logged.update(having.step(batch)))
        take("term_alone", alone)
        take("five_products", products)
        if i < max(1, rounds // 3):
            take("dense_term", dense)
    cpu = {name: statistics.median(t[0] for t in times) for name, times in of.items()}
    steps = zip(of["step"], of["step_with_term"])
    added = [(b[0] - a[0]) / a[0] for a, b in steps]
    p = TERM.width(D_SAE) / D_SAE

    def ratio(name: str, to: str) -> dict[str, Any]:
        each = sorted(round(a[0] / b[0], 3) for a, b in zip(of[name], of[to]))
        return {"median": round(statistics.median(each), 3), "rounds": each}

    return {
        "cpu_ms": {name: round(1e3 * value, 1) for name, value in cpu.items()},
        "wall_ms": {
            name: round(1e3 * statistics.median(t[1] for t in ts), 1) for name, ts in of.items()
        },
        "term_over_step": ratio("term_alone", "step"),
        "term_and_positives_over_step": {
            "median": round(statistics.median(added), 3),
            "rounds": sorted(round(a, 3) for a in added),
        },
        "term_over_five_products": ratio("term_alone", "five_products"),
        "dense_term_over_five_products": round(cpu["dense_term"] / cpu["five_products"], 3),
        "dense_term_over_five_products_by_formula": round(
            0.4 * p * (TERM.queue_size + BATCH) / D_IN, 3
        ),
        "engine": having.engine.names,
        "logged": {name: round(float(value), 4) for name, value in logged.items()},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--architectures", nargs="+", default=["topk", "batchtopk"])
    arguments = parser.parse_args()
    assert TERM.queue_size is not None
    torch.set_num_threads(1)
    found = {
        "size": {"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH, "k": K, "term": TERM.to_dict()},
        "results": {name: measure(name, arguments.rounds) for name in arguments.architectures},
        "rounds": arguments.rounds,
        "threads": 1,
        "machine": {"processor": platform.processor() or platform.machine()},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "date": datetime.date.today().isoformat(),
    }
    text = json.dumps(found, indent=2) + "\n"
    print(text)
    if arguments.out is not None:
        partial = arguments.out.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(arguments.out)


if __name__ == "__main__":
    main()
