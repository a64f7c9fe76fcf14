"""Steps recorded once and played back: what a step asks of a GPU, without asking it anew.

A step of a small SAE is some hundred operations of a few microseconds each, and the host takes
longer to ask for one than the GPU takes to do it. Recorded, all of them start at one request. A
recording repeats what was asked for, so whatever the host decides has to be part of its key, and
whatever changes from step to step has to lie on the device (:mod:`saebook.training.dials`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from saebook.errors import ConfigError

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig

Logged = dict[str, Tensor]
Step = Callable[..., Logged]

# Steps of each kind before it is recorded: they compile kernels, and make what an optimiser keeps.
FIRST_STEPS = 3
# Multiplications of a step's encoder up to which asking takes longer than doing.
LARGEST = 2**36


class Recorder(Protocol):
    """Records operations of a device."""

    def run(self, work: Callable[[], Logged]) -> Logged:
        """Do the work now, as it will be recorded."""
        ...

    def record(self, work: Callable[[], Logged]) -> tuple[Logged, Callable[[], None]]:
        """Note the work's operations without doing them: where its results will be, and what does
        them.
        """
        ...


class CudaGraphs:
    """Recordings as CUDA graphs, which share their memory.

    Nothing that a graph computes outlives the next one but what is copied from it, so one pool
    serves all.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], Logged]) -> Logged:
        """On the stream that graphs are recorded on."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            made = work()
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        for value in made.values():
            value.record_stream(torch.cuda.current_stream(self._stream.device))
        return made

    def record(self, work: Callable[[], Logged]) -> tuple[Logged, Callable[[], None]]:
        """See :class:`Recorder`."""
        graph = torch.cuda.CUDAGraph()
        settings = {"pool": self._pool, "stream": self._stream}
        # Threads that read batches ahead may go on with it.
        with torch.cuda.graph(graph, **settings, capture_error_mode="thread_local"):
            made = work()
        return made, graph.replay


# By the type of the device; steps on others are not recorded.
RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaGraphs}
# Optimisers that read a learning rate that lies on the device.
OPTIMIZERS = ("adam", "adamw")


def reads_dials(train: TrainConfig, device: torch.device) -> bool:
    """Whether a run's optimiser finds its learning rate on the device, recorded or not."""
    return device.type in RECORDERS and train.optimizer in OPTIMIZERS


def capturing(train: TrainConfig, device: torch.device) -> Recorder | None:
    """What records the steps of a run; None where they are not to be recorded.

    Raises
    ------
    ConfigError
        ``capture="always"``, and these steps can't be.
    """
    if train.capture == "never":
        return None
    reasons = []
    if device.type not in RECORDERS:
        reasons.append(f"the device is {device.type}, and only steps on a GPU are recorded")
    if train.optimizer not in OPTIMIZERS:
        names = " and ".join(OPTIMIZERS)
        reasons.append(f"optimizer={train.optimizer!r}, and only those of {names} are recorded")
    if train.engine in ("lean", "sparse"):
        reasons.append(f"engine={train.engine!r} works on the host")
    if reasons and train.capture == "always":
        raise ConfigError(f"capture='always': {reasons[0]}; use capture='auto'")
    return None if reasons else RECORDERS[device.type](device)


class _Recording:
    """One kind of step, with the memory that it reads its batch from."""

    def __init__(self, recorder: Recorder, step: Step, inputs: Sequence[Tensor | None]):
        self._inputs = [None if value is None else value.clone() for value in inputs]
        self._names: list[str] = []

        def work() -> Logged:
            made = step(*self._inputs)
            self._names = list(made)
            return {"": torch.stack(list(made.values()))}

        made, self._replay = recorder.record(work)
        self._made = made[""]

    def play(self, inputs: Sequence[Tensor | None]) -> Logged:
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._replay()
        # The next playing writes to the same place.
        return dict(zip(self._names, self._made.clone().unbind(), strict=True))


class CapturedSteps:
    """Takes steps by recordings, one for each kind of step, once it has seen a few of its kind.

    Where a recording fails, a warning says why, and every later step is asked for anew.

    Parameters
    ----------
    recorder
        Of the device.
    """

    def __init__(self, recorder: Recorder):
        self._recorder = recorder
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}
        self._failed = False

    @property
    def n_recordings(self) -> int:
        """Kinds of step recorded so far."""
        return len(self._recordings)

    def forget(self) -> None:
        """Record anew: what steps read or write now lies elsewhere."""
        self._seen.clear()
        self._recordings.clear()

    def take(self, kind: Hashable, step: Step, *inputs: Tensor | None) -> Logged:
        """Take a step.

        Parameters
        ----------
        kind
            Everything that the host decided and the step depends on.
        step
            Does the work on the inputs, changes nothing on the host, and returns tensors of one
            shape and type.
        inputs
            Tensors on the device; of each kind the shapes and types are their own.
        """
        shapes = [None if value is None else (value.shape, value.dtype) for value in inputs]
        kind = (kind, *shapes)
        if kind not in self._recordings:
            self._seen[kind] += 1
            if self._failed or self._seen[kind] <= FIRST_STEPS:
                return self._recorder.run(lambda: step(*inputs))
            try:
                self._recordings[kind] = _Recording(self._recorder, step, inputs)
            except RuntimeError as error:
                self._failed = True
                warnings.warn(
                    f"this step can't be recorded ({str(error).splitlines()[0]}), so each one is "
                    "asked of the device anew: slower, and the same numbers. "
                    "TrainConfig(capture='never') asks for that",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return self._recorder.run(lambda: step(*inputs))
        return self._recordings[kind].play(inputs)
