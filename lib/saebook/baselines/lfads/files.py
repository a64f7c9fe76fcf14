"""A trained LFADS as a folder: weights, settings and history."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saebook.baselines.lfads.config import LFADSConfig
from saebook.baselines.lfads.model import LFADSModel
from saebook.errors import CheckpointError, ConfigError

FORMAT = "saebook-lfads"
FORMAT_VERSION = 1
WEIGHTS, SETTINGS, HISTORY = "weights.safetensors", "config.json", "history.csv"


def write_model(
    path: Path, model: LFADSModel, about: dict[str, Any], history: pd.DataFrame
) -> Path:
    """Write a model beside its place, then rename it.

    Parameters
    ----------
    path
        The folder. One that holds a saved LFADS is replaced; anything else is left.
    model
        The networks.
    about
        What else the method needs, ready for JSON.
    history
        One row per epoch.

    Raises
    ------
    CheckpointError
        The path exists and is no saved LFADS.
    """
    if path.exists() and not (path / SETTINGS).is_file():
        raise CheckpointError(f"{path} exists and is no saved LFADS: give another path")
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, partial / WEIGHTS)
    settings = {"format": FORMAT, "format_version": FORMAT_VERSION, **about}
    settings |= {"n_targets": model.readout.out_features, "config": model.config.to_dict()}
    (partial / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    history.to_csv(partial / HISTORY)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    return path


def read_model(path: Path) -> tuple[LFADSModel, dict[str, Any], pd.DataFrame]:
    """Read what :func:`write_model` wrote: model, settings, history.

    Raises
    ------
    CheckpointError
        A missing, damaged or foreign file.
    """
    for name in (SETTINGS, WEIGHTS, HISTORY):
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: no {name} there; give the folder of a saved LFADS")
    try:
        settings = json.loads((path / SETTINGS).read_text())
        found = settings["format"], settings["format_version"]
        if found != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(
                f"{path / SETTINGS}: format {found[0]!r} version {found[1]}, this library reads "
                f"{FORMAT!r} version {FORMAT_VERSION}"
            )
        config = LFADSConfig.from_dict(settings["config"])
        model = LFADSModel(config, settings["n_units"], settings["n_targets"])
        model.load_state_dict(load_file(path / WEIGHTS))
        history = pd.read_csv(path / HISTORY, index_col="epoch")
    except (ValueError, KeyError, TypeError, ConfigError, RuntimeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged, or of another version ({error})") from error
    return model, settings, history
