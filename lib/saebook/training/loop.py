"""Steps until a run ends: logs, progress, live checks and checkpoints on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from saebook.data.store import Batches
from saebook.training.doctor import Watch, first_bad_step
from saebook.training.examples import as_batch
from saebook.training.memory import peak_memory_gb
from saebook.training.stacking import shape_of
from saebook.training.trainer import Trainer

History = list[dict[str, float]]
Probe = Callable[[Trainer], dict[str, float]]


@dataclass
class Loop:
    """Takes a trainer, of one SAE or of a stack, to the end of its run.

    Parameters
    ----------
    trainer
        With what it trains.
    stream
        Of its batches.
    histories
        Of each model, the rows logged so far; rows are added here.
    on_bad
        Told of the first loss or gradient of a model that is not finite: the model's number, the
        step and the values. Whatever it does, that model learns no more.
    save
        Writes a checkpoint; None where nothing is to be kept.
    keep
        Called after every step.
    probe
        Called at every log; what it returns becomes columns of the history.
    progress
        Show a bar.
    stopped
        Numbers of the models that learn no more.
    """

    trainer: Trainer
    stream: Batches
    histories: Sequence[History]
    on_bad: Callable[[int, int, dict[str, float]], None]
    save: Callable[[], None] | None = None
    keep: Callable[[Trainer], None] = lambda trainer: None
    probe: Probe | None = None
    progress: bool = True
    stopped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ended = set(self.stopped)

    def run(self) -> None:
        """Take every step that is left."""
        trainer, train, n_steps = self.trainer, self.trainer.config, self.trainer.n_steps
        log_every = max(1, n_steps // train.n_logs)
        checkpoint_every = max(1, n_steps // train.n_checkpoints) if train.n_checkpoints else 0
        watches = [Watch(member, train, n_steps) for member in trainer.members]
        unread: list[dict[str, Tensor]] = []  # steps since they were last read from the device
        begun = trainer.step_number
        with tqdm(total=n_steps, initial=begun, disable=not self.progress, unit="step") as bar:
            while trainer.step_number < n_steps:
                learning_rate = trainer.learning_rate()
                share = trainer.processes.share(self.stream.next_batch())
                batch = as_batch(share, trainer.sae.config)
                unread.append(trainer.step(batch))
                step = trainer.step_number
                logs = step % log_every == 0 or step == n_steps
                saves = checkpoint_every > 0 and step % checkpoint_every == 0 and step < n_steps
                if logs or (saves and self.save is not None):
                    self._stop_what_is_not_finite(unread, step)
                if logs:
                    self._log(unread[-1], learning_rate)
                    self._show(bar)
                    self._tell(bar, watches)
                if logs or saves:
                    unread.clear()
                bar.update()
                self.keep(trainer)
                if saves and self.save is not None and _weights_are_finite(trainer):
                    self.save()

    def _stop_what_is_not_finite(self, unread: list[dict[str, Tensor]], step: int) -> None:
        n = len(self.histories)
        for i in set(range(n)) - self.stopped:
            own = [{k: v.reshape(n)[i] for k, v in row.items()} for row in unread]
            bad = first_bad_step(own, step)
            if bad is not None:
                self.on_bad(i, *bad)
                self.stopped.add(i)
                self.trainer.freeze(i)

    def _log(self, losses: dict[str, Tensor], learning_rate: float) -> None:
        trainer = self.trainer
        norms = trainer.sae.W_dec.detach().norm(dim=-1).mean(dim=-1)
        rows = _read_back(losses | {"decoder_norm": norms}, len(self.histories))
        if not shape_of(trainer.sae):
            trainer.schedule.observe(rows[0]["total"], trainer.fraction)
        with torch.no_grad():
            extra = self.probe(trainer) if self.probe is not None else {}
        if trainer.config.log_memory:
            extra = {"memory_gb": peak_memory_gb(trainer.device)} | extra
        step = trainer.step_number
        counted = {"step": step, "examples": step * self.stream.batch_size}
        for i, row in enumerate(rows):
            if i not in self._ended:
                rate = {"learning_rate": learning_rate * trainer.rate_factors[i]}
                self.histories[i].append(counted | rate | row | extra)
        # The log that tells of a stop is a model's last.
        self._ended = set(self.stopped)

    def _show(self, bar: Any) -> None:
        last = [h[-1] for i, h in enumerate(self.histories) if i not in self.stopped]
        shown = ""
        if last:
            fvu, l0, dead = (_span([row[name] for row in last]) for name in ("fvu", "l0", "dead"))
            shown = f"FVU {fvu('.3f')}, L0 {l0('.1f')}, dead {dead('.0%')}"
        if self.stopped:
            shown += f", {len(self.stopped)} of {len(self.histories)} stopped"
        bar.set_postfix_str(shown, refresh=False)

    def _tell(self, bar: Any, watches: Sequence[Watch]) -> None:
        step, many = self.trainer.step_number, len(watches) > 1
        for i, (watch, history) in enumerate(zip(watches, self.histories)):
            for finding in watch.look(history) if i not in self.stopped else ():
                if self.progress:
                    which = f", SAE {i}" if many else ""
                    bar.write(f"step {step}{which}, {finding.name}: {finding}")


def _span(values: list[float]) -> Callable[[str], str]:
    """From the smallest to the largest of some values, or one where they read alike."""

    def written(form: str) -> str:
        low, high = format(min(values), form), format(max(values), form)
        return low if low == high else f"{low} to {high}"

    return written


def _read_back(losses: dict[str, Tensor], n: int) -> list[dict[str, float]]:
    together = torch.stack([value.to(torch.float64).reshape(n) for value in losses.values()])
    return [dict(zip(losses, values, strict=True)) for values in together.T.tolist()]


def _weights_are_finite(trainer: Trainer) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in trainer.sae.parameters())
