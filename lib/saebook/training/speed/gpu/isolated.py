"""Measurements in a process of their own, so that one that fails takes no other with it.

After a fault in a kernel a process can use its GPU no more, and some faults end it.
"""

from __future__ import annotations

import gc
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import torch

from saebook.training.speed.gpu.cases import Case
from saebook.training.speed.gpu.measuring import Found, measure_case


class Measurer:
    """Measures one case after the other in a process that is replaced when it is of no more use.

    Parameters
    ----------
    device
        Name of the device.
    """

    def __init__(self, device: str):
        self._device = device
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Connection | None = None

    def __call__(self, case: Case, most_s: float) -> Found:
        """Numbers of a case, or ``failed`` and the reason.

        Parameters
        ----------
        case
            What to measure.
        most_s
            Seconds after which it is given up.
        """
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(case)
            if not self._pipe.poll(most_s):
                self.close()
                return {"failed": f"it took more than {most_s:.0f} s"}
            found, usable = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(10)
            code = self._process.exitcode
            self.close()
            return {"failed": f"its process ended (exit code {code})"}
        if not usable:
            self.close()
        return found

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.terminate()
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._pipe = self._process = None

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(theirs, self._device), daemon=True
        )
        self._process.start()
        theirs.close()


def attempt(case: Case, device: torch.device) -> tuple[Found, bool]:
    """Numbers of a case or the reason why there are none, and whether the device still works."""
    try:
        found = measure_case(case, device)
    except Exception as error:  # whatever it is: the others are to be measured
        lines = str(error).strip().splitlines() or ["no message"]
        found = {"failed": f"{type(error).__name__}: {lines[0]}"}
    gc.collect()
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
    except RuntimeError:
        return found, False
    return found, True


def _serve(pipe: Connection, device: str) -> None:
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(case, torch.device(device)))
