"""The SAE Handbook's library: sparse autoencoders on spikes and on activations.

Importing ``saebook`` costs nothing: each room is imported when it is first asked for, so a
reader of spike files never waits for torch and a training node never needs pynwb.

>>> import saebook
>>> saebook.__version__
'0.1.0'
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saebook import (
        baselines,
        data,
        errors,
        evaluation,
        language,
        losses,
        metrics,
        models,
        notebook,
        plots,
        training,
        widgets,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "baselines",
    "data",
    "errors",
    "evaluation",
    "language",
    "losses",
    "metrics",
    "models",
    "notebook",
    "plots",
    "training",
    "widgets",
]


def import_when_asked(
    package: str, modules: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that imports modules when they are asked for.

    Parameters
    ----------
    package
        Its ``__name__``.
    modules
        Modules in it, each to the names that the package takes from there.

    Returns
    -------
    tuple of two functions
        To be bound to ``__getattr__`` and ``__dir__``, as PEP 562 describes them.

    Examples
    --------
    >>> find, names = import_when_asked("saebook.data", {"store": ["assign_splits"]})
    >>> find("assign_splits").__module__, find("store").__name__
    ('saebook.data.store.splits', 'saebook.data.store')
    >>> find("nothing")
    Traceback (most recent call last):
    ...
    AttributeError: module 'saebook.data' has no attribute 'nothing'
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name in homes:
            value = getattr(import_module(f"{package}.{homes[name]}"), name)
        elif name in modules:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *homes})

    return find, names


__getattr__, __dir__ = import_when_asked(__name__, dict.fromkeys(__all__[1:], ()))
