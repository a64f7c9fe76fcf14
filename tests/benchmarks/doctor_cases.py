"""Small runs for the doctor: sound ones, and ones with one known fault, at fixed seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebook.data.simulate import simulate_counts, simulate_dictionary
from saebook.models import SAE, SAEConfig
from saebook.training import Run, TrainConfig, Trainer, fit
from saebook.training.run import score

N_TRAIN, N_HELD_OUT, N_FRESH = 4000, 1000, 2000
D_SAE = 64
TRAIN = TrainConfig(
    n_steps=200, batch_size=64, learning_rate=5e-3, controller_rate=0.04, n_logs=50, device="cpu"
)
COUNTS = ("counts", "counts_linear", "counts_wide")
ACTIVATIONS = ("dictionary", "dictionary_wide", "nested")
DATA = (*ACTIVATIONS, *COUNTS)
ARCHITECTURES = ("batchtopk", "topk", "jumprelu", "relu", "leaky_relu", "gated")
MOSTLY_COPIES = 0.65  # share of latents
WITH_K = ("batchtopk", "topk")
WITH_L1 = ("relu", "leaky_relu", "gated")


@cache
def draw(kind: str, seed: int) -> Tensor:
    """Examples [n, d_in] of one kind of data: training rows, held-out rows, fresh rows."""
    n = N_TRAIN + N_HELD_OUT + N_FRESH
    if kind in COUNTS:
        units = 32 if kind == "counts_wide" else 24
        link = "linear" if kind == "counts_linear" else "softplus"
        known = simulate_counts(n, units, 64, mean_rate_hz=12.0, mean_l0=3.0, link=link, seed=seed)
        return torch.from_numpy(known.x.astype(np.uint8))
    d_in, n_features = {"dictionary": (24, 72), "dictionary_wide": (32, 96), "nested": (28, 77)}[
        kind
    ]
    form = "nested" if kind == "nested" else "linear"
    known = simulate_dictionary(n, d_in, n_features, mean_l0=3.0, noise=0.1, kind=form, seed=seed)
    return torch.from_numpy(known.x.astype(np.float32))


@dataclass
class Rows:
    """The three parts of one data set."""

    training: Tensor
    held_out: Tensor
    fresh: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Rows:
        """Cut a data set into its parts."""
        return cls(*x.split([N_TRAIN, N_HELD_OUT, N_FRESH]))

    def changed(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """All three parts, changed alike."""
        return Rows(change(self.training), change(self.held_out), change(self.fresh))


@dataclass(frozen=True)
class Case:
    """One run to be made.

    Attributes
    ----------
    fault
        Its one fault; "healthy" for none.
    severity
        Of the fault, in its own words.
    data, architecture, seed
        What it is made of.
    model, train
        Settings other than the usual ones.
    rows
        Changes the rows before training.
    probe
        Interferes with training.
    after
        Changes the finished run, or the rows that it is judged on.
    taken
        Whether the fault had its effect, measured on rows that the doctor never sees.
    """

    fault: str
    severity: str
    data: str
    architecture: str
    seed: int
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[Rows], Rows] | None = None
    probe: Callable[[Trainer], dict[str, float]] | None = None
    after: Callable[[Run, Rows], tuple[Run, Rows]] | None = None
    taken: Callable[[Run, Rows], bool] | None = None

    @property
    def half(self) -> str:
        """Thresholds are set on one half and scored on the other."""
        return "setting" if self.seed % 2 == 0 else "scoring"

    def make(self) -> tuple[Run, Rows]:
        """Train the run, with its fault."""
        rows = Rows.of(draw(self.data, self.seed))
        if self.rows is not None:
            rows = self.rows(rows)
        config = model(self.architecture, rows.training.shape[1], **self.model)
        train = dataclasses.replace(TRAIN, **self.train)
        run = fit(
            config,
            rows.training,
            train,
            seed=self.seed,
            validation=rows.held_out,
            probe=self.probe,
            progress=False,
        )
        return (run, rows) if self.after is None else self.after(run, rows)


def model(architecture: str, d_in: int, **changes: Any) -> SAEConfig:
    """The usual small SAE of an architecture, with about four active latents."""
    settings: dict[str, Any] = {"d_in": d_in, "d_sae": D_SAE, "architecture": architecture}
    given = {"k", "prefix_k", "target_l0", "sparsity_coefficient"} & set(changes)
    if not given:
        settings |= {"k": 4} if architecture in WITH_K else {"target_l0": 4.0}
    return SAEConfig(**settings | changes)


# Settings other than the usual, of the model and of its training, that are as sound.
MODEL_VARIANTS: dict[str, dict[str, Any]] = {
    "matryoshka": {"prefixes": [16, 32, 64]},
    "standardize": {"input_scaling": "standardize"},
    "center_scale": {"input_scaling": "center_scale"},
    "k 3": {"k": 3},
    "wide": {"d_sae": 96},
    "mse": {"reconstruction": "mse"},
}
TRAIN_VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "nadam": {"optimizer": "nadam"},
    "twice as long": {"n_steps": 400},
    "batches of 128": {"batch_size": 128},
    "linear decay": {"schedule": "warmup_linear"},
    "resampling": {"resample_every": 0.1},
}


def healthy() -> list[Case]:
    """Sound runs: every architecture on every kind of data, and settings other than the usual."""
    cases = [
        Case("healthy", "usual", data, architecture, seed)
        for data in DATA
        for architecture in ARCHITECTURES
        for seed in range(8)
        if architecture not in WITH_L1
    ]
    # An L1 takes more steps to its target, on counts too many for here; for four active latents it
    # would have to grow until little is reconstructed.
    slow = {"n_steps": 600, "controller_rate": 0.01}
    cases += [
        Case(
            "healthy", "eight active", data, architecture, seed,
            model={"target_l0": 8.0}, train=slow,
        )
        for data in ACTIVATIONS
        for architecture in WITH_L1
        for seed in range(4)
    ]  # fmt: skip
    cases += [
        Case("healthy", "usual", data, architecture, seed)
        for data in COUNTS
        for architecture in WITH_K
        for seed in range(12, 20)
    ]
    # The coefficient of "Scaling Monosemanticity" at these widths is 0.4. On counts, whose error is
    # another one, it lets an SAE copy its input; a gate's latents become dense under it.
    cases += [
        Case(
            "healthy", "fixed coefficient", data, architecture, seed,
            model={"sparsity_coefficient": 0.4},
        )
        for data in ACTIVATIONS
        for architecture in ("relu", "leaky_relu")
        for seed in range(4, 8)
    ]  # fmt: skip
    cases += [
        Case("healthy", name, data, "batchtopk", seed, model=changes)
        for i, (name, changes) in enumerate(MODEL_VARIANTS.items())
        for data in (("dictionary", "counts_wide")[i % 2],)
        for seed in range(4, 10)
    ]
    cases += [
        Case("healthy", name, data, "topk", seed, train=changes)
        for i, (name, changes) in enumerate(TRAIN_VARIANTS.items())
        for data in (("nested", "counts")[i % 2],)
        for seed in range(4, 10)
    ]
    return [dataclasses.replace(case, taken=sound) for case in cases]


def sound(run: Run, rows: Rows) -> bool:
    """Whether a run that was meant to be sound is, on rows that the doctor never sees."""
    wanted = run.sae.config.k or run.sae.config.target_l0
    l0, density = l0_and_density(run, rows.fresh)
    on = density > 0.5
    return (
        fvu_of(run, rows.fresh) < 1
        and copied_share(run, rows.fresh) <= MOSTLY_COPIES
        and (wanted is None or 1 / 1.75 < l0 / wanted < 1.75)
        and float(on.double().mean()) <= 0.1
        and float(density[on].sum()) <= 0.5 * l0
    )


@torch.no_grad()
def l0_and_density(run: Run, x: Tensor) -> tuple[float, Tensor]:
    """L0 and densities [d_sae] on rows that the doctor never sees."""
    active = run.sae.config.selection.active(run.sae.encode(x.float()))
    return float(active.sum()) / len(x), active.double().mean(dim=0)


@torch.no_grad()
def copied_share(run: Run, x: Tensor) -> float:
    """Share of active latents whose activity is that of another one (r above 0.95)."""
    latents = run.sae.encode(x.float())
    active = (latents != 0).any(dim=0)
    if int(active.sum()) < 2:
        return 0.0
    together = torch.corrcoef(latents[:, active].T).fill_diagonal_(-1)
    return float((together.max(dim=1).values > 0.95).double().mean())


@torch.no_grad()
def fvu_of(run: Run, x: Tensor) -> float:
    """FVU of rows, without the library's own scoring."""
    x = x.double()
    made = run.sae.decode(run.sae.encode(x.float()), run.sae.context(x.float())).double()
    return float((x - made).square().sum() / (x - x.mean(dim=0)).square().sum())


def rescored(run: Run, rows: Rows) -> tuple[Run, Rows]:
    """The run with the card of the model as it stands."""
    counts = not rows.training.is_floating_point()
    centre = rows.training.double().mean(dim=0) if counts else None
    card = score(run.sae, rows.held_out, "validation", centre).to_dict()
    return dataclasses.replace(run, card=card), rows


def with_weights(change: Callable[[SAE], Any]) -> Callable[[Run, Rows], tuple[Run, Rows]]:
    """A change of the finished model, after which it is scored anew."""

    @torch.no_grad()
    def after(run: Run, rows: Rows) -> tuple[Run, Rows]:
        change(run.sae)
        return rescored(run, rows)

    return after
