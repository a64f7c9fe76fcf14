"""What a chapter opens after its parameters cell: checked parameters and a run folder."""

from __future__ import annotations

import ast
import math
import os
import platform
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebook.errors import DataError, EnvironmentProblem, ParameterError, RecordingError
from saebook.notebook.activations import collected_activations
from saebook.notebook.parameters import check_values
from saebook.notebook.project import project_root, relative, runs_folder, write_text
from saebook.notebook.simulated import DEFAULT_TRIALS, DEFAULT_UNITS, simulated_recording

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from saebook.data import ExampleStore
    from saebook.language import LanguageModel

_IPYTHON_NAMES = {"In", "Out", "exit", "quit", "get_ipython", "open", "display"}
METRICS_FILE = "metrics.json"
ENVIRONMENT_FILE = "environment.json"


def open_chapter(name: str, namespace: dict[str, Any]) -> Chapter:
    """Check a chapter's parameters, find its run folder, set the plot style; says where it runs.

    Parameters
    ----------
    name : str
        Chapter name, such as ``20_first_sae``.
    namespace : dict
        The notebook's ``globals()``, in a cell after the parameters cell.

    Returns
    -------
    Chapter

    Raises
    ------
    ParameterError
        For a parameter that the parameters cell doesn't declare, or of another type.

    Examples
    --------
    Done in a temporary folder here; a notebook passes ``globals()``:

    >>> import os, tempfile
    >>> os.environ["SAEBOOK_RUN_DIR"] = tempfile.mkdtemp()
    >>> cells = {"__annotations__": {"k": int}, "k": 8}
    >>> chapter = open_chapter("20_first_sae", cells)  # doctest: +ELLIPSIS
    device ... run folder ...
    >>> chapter.parameters
    {'k': 8}
    >>> del os.environ["SAEBOOK_RUN_DIR"]
    """
    kinds = dict(namespace.get("__annotations__", {}))
    given = {key: namespace[key] for key in _candidates(namespace, kinds) if key in namespace}
    parameters = check_values(given, kinds, name)
    _set_threads()
    namespace.update(parameters)
    folder = os.environ.get("SAEBOOK_RUN_DIR")
    path = Path(folder).resolve() if folder else runs_folder() / name / "interactive"
    path.mkdir(parents=True, exist_ok=True)
    environment = describe_environment()
    chapter = Chapter(name, path, environment["device"], parameters)
    _use_plot_style()
    _write_json(path / ENVIRONMENT_FILE, environment)
    label = os.environ.get("SAEBOOK_RUN_LABEL") or relative(path)
    device = environment["device"]
    if environment["device_name"]:
        device += f" ({environment['device_name']})"
    print(
        f"device {device}, {environment['threads']} threads · torch {environment['torch']} · "
        f"python {environment['python']} · saebook {environment['saebook']} · run folder {label}"
    )
    return chapter


def _set_threads() -> None:
    """One thread for torch, unless ``OMP_NUM_THREADS`` says otherwise.

    A step of a small SAE is a row of short operations: with two threads they wait for each other
    more than they compute, over ten times as long where another program shares the cores.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _candidates(namespace: dict[str, Any], kinds: dict[str, Any]) -> list[str]:
    """Names that were set as parameters: declared ones, and whatever else was assigned since.

    In a kernel the history tells which cells came after the parameters cell, so that running a
    whole notebook twice doesn't mistake its results for parameters.
    """
    history = namespace.get("In")
    if isinstance(history, list) and len(history) > 1:
        assigned: dict[str, None] = {}
        for source in history[:-1]:
            names = _assigned_names(source)
            if names is None:
                assigned.clear()
            else:
                assigned.update(dict.fromkeys(names))
        others = [key for key in assigned if not key.startswith("_")]
    else:
        code = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)
        others = [
            key
            for key, value in namespace.items()
            if not key.startswith("_")
            and key not in _IPYTHON_NAMES
            and not isinstance(value, code)
            and getattr(value, "__module__", "") != "__future__"
        ]
    return list(dict.fromkeys([*kinds, *others]))


def _assigned_names(source: str) -> list[str] | None:
    """Names that a cell assigns at its top level; None for a parameters cell."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return []
    if any(isinstance(node, ast.AnnAssign) for node in body):
        return None
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def describe_environment() -> dict[str, Any]:
    """Device, threads and versions: what a result's provenance needs.

    ``SAEBOOK_DEVICE`` chooses the device; without it, CUDA is used where there is one.

    Raises
    ------
    EnvironmentProblem
        If ``SAEBOOK_DEVICE`` asks for CUDA where there is none.
    """
    import numpy
    import torch

    import saebook

    device = os.environ.get("SAEBOOK_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentProblem(
            f"SAEBOOK_DEVICE is {device!r}, but torch {torch.__version__} finds no CUDA device; "
            "unset it or set it to 'cpu'"
        )
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else "",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "saebook": saebook.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


class Chapter:
    """An opened chapter: its parameters, its device, and the folder its results go to.

    Attributes
    ----------
    name : str
        Chapter name.
    path : Path
        Run folder, which exists.
    device : str
        ``"cpu"`` or ``"cuda"``.
    parameters : dict
        Checked parameters by name.
    """

    def __init__(self, name: str, path: Path, device: str, parameters: dict[str, Any]):
        self.name = name
        self.path = path
        self.device = device
        self.parameters = parameters
        self._metrics: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Chapter({self.name!r}, path={relative(self.path)!r}, device={self.device!r})"

    @property
    def checkpoints(self) -> Path:
        """Folder that outlives a killed run: ``fit(…, out=chapter.checkpoints / "sae")``.

        Everything else of a killed run is thrown away and made again.
        """
        path = self.path / "checkpoints"
        path.mkdir(exist_ok=True)
        return path

    @property
    def recording_path(self) -> Path:
        """The NWB file that the chapter runs on: the one given, else the simulated session."""
        return self.recording_or_simulated()

    def recording_or_simulated(
        self,
        n_units: int = DEFAULT_UNITS,
        n_trials: int = DEFAULT_TRIALS,
        seed: int = 0,
        kind: str = "reach",
    ) -> Path:
        """NWB file given as ``recording_path``, else a session simulated to these sizes.

        Raises
        ------
        RecordingError
            If the given file doesn't exist.
        """
        given = self.parameters.get("recording_path")
        if not given:
            return self.simulated_recording(n_units, n_trials, seed, kind)
        path = Path(given).expanduser()
        for candidate in (path, project_root() / path):
            if candidate.is_file():
                return candidate.resolve()
        raise RecordingError(
            f"recording_path {given!r} is no file, neither from {Path.cwd()} nor from "
            f"{project_root()}; give an absolute path or leave it empty for the simulated session"
        )

    def simulated_recording(
        self,
        n_units: int = DEFAULT_UNITS,
        n_trials: int = DEFAULT_TRIALS,
        seed: int = 0,
        kind: str = "reach",
    ) -> Path:
        """NWB file of a simulated session, made when it isn't there yet."""
        return simulated_recording(n_units, n_trials, seed, kind)

    def activations(
        self, model: LanguageModel | str, *, layer: int, **settings: Any
    ) -> ExampleStore:
        """Store of a model's activations, collected when it isn't there yet, on our device.

        See :func:`saebook.notebook.collected_activations`.
        """
        if isinstance(model, str):
            settings.setdefault("device", self.device)
        return collected_activations(model, layer=layer, **settings)

    def save_figure(self, figure: Figure, name: str) -> Path:
        """Save a figure as ``figures/<name>.png`` (200 dpi) and ``.pdf``; it stays open.

        Parameters
        ----------
        figure : matplotlib.figure.Figure
        name : str
            File name without its ending.

        Returns
        -------
        Path
            The PNG.
        """
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        # Finding the layout takes longer than drawing: found once, it serves every rendering.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        # Without a date the same figure is the same file.
        figure.savefig(folder / f"{name}.pdf", bbox_inches="tight", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=200)
        return folder / f"{name}.png"

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Add numbers to the run's ``metrics.json``; the first ones are shown in the overview.

        Parameters
        ----------
        metrics : dict
            Numbers, strings, booleans, None, lists and mappings of them; zero-dimensional arrays
            and tensors count as numbers. Anything measured in wall-clock time does not belong
            here: two runs of one chapter give the same file. What is not finite is stored as
            null, with a note under ``not_finite``.

        Raises
        ------
        DataError
            If a value is nothing that JSON can hold.
        """
        not_finite = dict(self._metrics.get("not_finite", {}))
        for name, value in metrics.items():
            for key in [key for key in not_finite if key == name or key.startswith(f"{name}.")]:
                del not_finite[key]
            self._metrics[name] = _plain(value, name, not_finite)
        self._metrics.pop("not_finite", None)
        if not_finite:
            self._metrics["not_finite"] = not_finite
        _write_json(self.path / METRICS_FILE, self._metrics)

    def save_table(self, table: pd.DataFrame, name: str) -> Path:
        """Save a table as ``<name>.parquet`` in the run folder.

        Raises
        ------
        ParameterError
            If the name is not a plain file name.
        """
        if Path(name).name != name or name.startswith("."):
            raise ParameterError(f"a table's name is a plain file name, not {name!r}")
        path = self.path / f"{name}.parquet"
        partial = path.with_name(f".{path.name}.partial")
        table.to_parquet(partial)
        partial.replace(path)
        return path


def _plain(value: Any, name: str, not_finite: dict[str, str]) -> Any:
    """A value as JSON holds it, noting what is not finite under its dotted name."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        not_finite[name] = str(value)
        return None
    if isinstance(value, dict):
        return {str(key): _plain(v, f"{name}.{key}", not_finite) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}.{i}", not_finite) for i, v in enumerate(value)]
    raise DataError(
        f"the metric {name!r} is a {type(value).__name__}; save numbers, text, lists or mappings"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    import json

    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _use_plot_style() -> None:
    import matplotlib.pyplot as plt

    for style in sorted((Path(__file__).resolve().parents[1] / "plots").glob("*.mplstyle")):
        plt.style.use(style)
