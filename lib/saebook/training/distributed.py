"""Several processes that train one model, each on its share of every batch.

A script started as ``python -m torch.distributed.run --nproc-per-node=2 script.py`` runs once in
each process; :func:`find_processes` is how they find each other. They hold the same model, take
equal shares of the same batches, and add their gradients before each step, so that all go on with
the same numbers, which are those of one process on whole batches but for rounding.
"""

from __future__ import annotations

import atexit
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saebook.data.store import Batch
from saebook.errors import ConfigError, TrainingError
from saebook.models import SAE
from saebook.training.engines import StepResult

# Longer than scoring a finished run takes, for which the others wait.
TIMEOUT = timedelta(minutes=30)
# Gradients from this size on travel as they are; smaller ones share a message.
LARGE = 2**16

Made = TypeVar("Made")
Rows = TypeVar("Rows", Tensor, Batch)


class Processes:
    """One process, which has nobody to ask: whole batches, and nothing to add.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.

    Examples
    --------
    >>> alone = Processes()
    >>> alone.is_first, alone.share(torch.arange(4)).tolist()
    (True, [0, 1, 2, 3])
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """The device of this process, from that of the settings."""
        return name

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that has no equal shares.

        Raises
        ------
        ConfigError
            With the sizes next to it that have.
        """

    def check_alike(self, settings: dict[str, Any]) -> None:
        """Refuse processes that were started with different settings or data.

        Raises
        ------
        ConfigError
            Naming what differs.
        """

    def share(self, batch: Rows) -> Rows:
        """This process's part of a batch [n, ...]."""
        return batch

    def whole(self, share: Tensor) -> Tensor:
        """The batch [n, ...] that shares were taken from."""
        return share

    def spread(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of the first."""

    def first(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, for all of them; also what it raises."""
        return make()

    @contextmanager
    def sharing(self, sae: nn.Module) -> Iterator[None]:
        """While a pass sees this process's share alone: the model may ask for the others'."""
        del sae
        yield

    def add_up(self, sae: nn.Module, result: StepResult) -> StepResult:
        """Sum the gradients over processes, and return what the whole batch's result would be."""
        del sae
        return result


class ManyProcesses(Processes):
    """Those of torch's default process group, as each of them sees it.

    Raises
    ------
    TrainingError
        By whatever asks for the others: one of them failed, died, or kept silent for too long.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def device_name(self, name: str) -> str:
        """``"cuda"`` becomes the GPU with this process's number on its machine."""
        if name.startswith("cuda:"):
            raise ConfigError(
                f"device={name!r} with {self.size} processes: each takes a GPU of its own; use "
                "device='cuda' or 'auto'"
            )
        if name == "cpu" or not torch.cuda.is_available():
            return name
        local = int(os.environ.get("LOCAL_RANK", self.rank % torch.cuda.device_count()))
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        return f"cuda:{local}"

    def check_batch(self, batch_size: int) -> None:
        """See :meth:`Processes.check_batch`."""
        rest = batch_size % self.size
        if rest:
            fitting = [n for n in (batch_size - rest, batch_size - rest + self.size) if n]
            raise ConfigError(
                f"batches of {batch_size} examples can't be shared equally by {self.size} "
                f"processes: set batch_size to {' or '.join(map(str, fitting))} (no more than "
                "there are examples), or start another number of processes"
            )

    def check_alike(self, settings: dict[str, Any]) -> None:
        """See :meth:`Processes.check_alike`."""
        from saebook.training.checkpoints import differences

        everyone: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(everyone, settings)
        for rank, others in enumerate(everyone):
            found = differences(everyone[0], others, "in process 0", f"in process {rank}")
            if found:
                raise ConfigError(
                    f"processes of one run were started differently: {'; '.join(found)}. Give "
                    "all of them the same settings and the same examples, in the same order"
                )

    def share(self, batch: Rows) -> Rows:
        """Consecutive examples, in the order of the processes."""
        n = len(batch) // self.size
        return batch[self.rank * n : (self.rank + 1) * n]

    def whole(self, share: Tensor) -> Tensor:
        """The shares beside each other again."""
        with self._together():
            return torch.cat(self._gather_equal(share))

    def spread(self, module: nn.Module) -> None:
        """See :meth:`Processes.spread`."""
        with self._together(), torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.numel():
                    dist.broadcast(tensor.detach(), src=0)

    def first(self, make: Callable[[], Made]) -> Made:
        """See :meth:`Processes.first`; the others wait."""
        made: Any = None
        failure: Exception | None = None
        message: list[bytes | None] = [None]
        if self.is_first:
            try:
                made = make()
            except Exception as error:
                failure = error
            try:
                message = [_packed((made, failure))]
            except Exception:  # what can't be sent can still be described
                failure = failure or TrainingError(f"{type(made).__name__} can't be sent")
                message = [_packed((None, TrainingError(f"in process 0: {failure!r}")))]
        with self._together():
            dist.broadcast_object_list(message, src=0)
        if not self.is_first:
            assert message[0] is not None
            made, failure = torch.load(io.BytesIO(message[0]), "cpu", weights_only=False)
        if failure is not None:
            raise failure
        return made

    @contextmanager
    def sharing(self, sae: nn.Module) -> Iterator[None]:
        """See :meth:`Processes.sharing`."""
        assert isinstance(sae, SAE), "a stack is not trained by several processes"
        sae.shares = self
        try:
            yield
        finally:
            sae.shares = None

    @torch.no_grad()
    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor that every process has, of any shape."""
        value = value.detach().clone(memory_format=torch.contiguous_format)
        with self._together():
            dist.all_reduce(value)
        return value.div_(self.size)

    @torch.no_grad()
    def gather(self, values: Tensor, alike: bool = False) -> list[Tensor]:
        """The values [n] of every process, in their order; n may differ, unless they are alike."""
        with self._together():
            if alike:
                return self._gather_equal(values)
            own = torch.tensor([len(values)], device=values.device)
            sizes = [int(n) for n in self._gather_equal(own)]
            padded = values.new_zeros(max(sizes))
            padded[: len(values)] = values
            return [part[:n] for part, n in zip(self._gather_equal(padded), sizes)]

    @torch.no_grad()
    def add_up(self, sae: nn.Module, result: StepResult) -> StepResult:
        """See :meth:`Processes.add_up`.

        Each process has divided its gradients by the number of them; see
        :class:`saebook.training.engines.autograd.Autograd`.
        """
        gradients = [p.grad for p in sae.parameters() if p.grad is not None]
        large = [g for g in gradients if g.numel() >= LARGE and g.is_contiguous()]
        small = [g for g in gradients if not any(g is other for other in large)]
        means = {**result.losses, "": result.l0, " ": result.squared_error}
        if isinstance(result.density, float):
            means["  "] = result.l0.new_tensor(result.density)
        parts = [*small, torch.stack([m / self.size for m in means.values()]), result.fired]
        if result.contributions is not None:
            parts.append(result.contributions)
        with self._together():
            sent = [dist.all_reduce(gradient, async_op=True) for gradient in large]
            like = gradients[0] if gradients else result.l0
            packed = torch.cat([part.flatten().to(like) for part in parts])
            dist.all_reduce(packed)
            # Of every example, and of what is smallest in each share.
            seen = result.squared_errors
            n_smallest = 0
            if result.smallest_active is not None:
                n_smallest = len(result.smallest_active)
                seen = torch.cat([result.smallest_active.to(seen), seen])
            everyone = torch.stack(self._gather_equal(seen))
            for message in sent:
                assert message is not None
                message.wait()
        added = [
            part.view_as(before)
            for part, before in zip(packed.split([part.numel() for part in parts]), parts)
        ]
        for gradient, total in zip(small, added):
            gradient.copy_(total)
        found, fired, *rest = added[len(small) :]
        known = dict(zip(means, found.to(result.l0).unbind()))
        return dataclasses.replace(
            result,
            losses={name: known[name].to(loss) for name, loss in result.losses.items()},
            fired=fired > 0,
            l0=known[""],
            squared_error=known[" "].to(result.squared_error),
            # Read where the next engine depends on it, which is on a CPU alone.
            density=float(known["  "]) if result.l0.device.type == "cpu" else result.density,
            contributions=rest[0].to(result.contributions) if rest else None,
            smallest_active=None
            if result.smallest_active is None
            else everyone[:, :n_smallest].amin(dim=0).to(result.smallest_active),
            squared_errors=everyone[:, n_smallest:].flatten(),
        )

    def _gather_equal(self, values: Tensor) -> list[Tensor]:
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return parts

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What fails here failed because of another process."""
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(
                f"process {self.rank} of {self.size} lost the others "
                f"({str(error).splitlines()[0][:200]}): one of them failed, died or hangs; look "
                "at what it printed. With `out`, the same call goes on from the last checkpoint"
            ) from error


def find_processes() -> Processes:
    """The processes that this one was started with.

    Those of an initialised process group, or those that ``torchrun`` (``python -m
    torch.distributed.run``) describes in the environment: they then talk over gloo, and GPUs over
    nccl.

    Raises
    ------
    TrainingError
        The others can't be reached.

    Examples
    --------
    >>> find_processes().size
    1
    """
    if not dist.is_available():
        return Processes()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
            return Processes()
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']} are set, and "
                f"the other processes can't be reached ({error}): start all of them with "
                "python -m torch.distributed.run, or unset these variables to train in one"
            ) from error
        atexit.register(_leave)
    return ManyProcesses() if dist.get_world_size() > 1 else Processes()


def refuse_many(what: str, instead: str) -> None:
    """Refuse what one process has to do by itself.

    Raises
    ------
    ConfigError
        There are others.
    """
    size = find_processes().size
    if size > 1:
        raise ConfigError(f"{what} with {size} processes: it runs in one; {instead}")


def sharded(
    parameters: Sequence[nn.Parameter],
    make: Callable[[Any], torch.optim.Optimizer],
) -> torch.optim.Optimizer:
    """An optimiser whose state is spread over the processes, parameter by parameter.

    Parameters
    ----------
    parameters
        Of the whole model.
    make
        Makes the optimiser of some of them.
    """
    from saebook.training.optimisers.sharded import ShardedOptimizer

    return ShardedOptimizer(parameters, make)


def _packed(made: Any) -> bytes:
    file = io.BytesIO()
    torch.save(made, file)
    return file.getvalue()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
