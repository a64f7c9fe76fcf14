"""The SAE Handbook's library: sparse autoencoders on spikes and on activations.

Importing ``saebook`` costs nothing: each room is imported when it is first asked for, so a
reader of spike files never waits for torch and a training node never needs pynwb.

>>> import saebook
>>> saebook.__version__
'0.1.0'
"""

import importlib

__version__ = "0.1.0"

_ROOMS = (
    "data",
    "errors",
    "evaluation",
    "losses",
    "metrics",
    "models",
    "notebook",
    "plots",
    "training",
    "widgets",
)
__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"saebook.{name}")
    raise AttributeError(f"module 'saebook' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
