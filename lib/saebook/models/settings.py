"""Checks shared by the frozen dataclasses that hold settings."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

from saebook.errors import ConfigError


def check_choice(name: str, value: Any, choices) -> None:
    """Refuse a value that is not among the choices, naming the nearest one."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(map(repr, choices))}{hint}")


def check_types(settings: Any) -> None:
    """Refuse fields of a dataclass whose value has another type than its annotation says.

    Booleans are not integers here, integers pass as floats, floats must be finite, and lists
    (JSON has no tuples) become tuples.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        allowed = str(field.type)
        if value is None and "None" in allowed:
            continue
        if allowed.startswith("tuple["):
            good, kind = _is_sequence(value, "float" in allowed), f"a list of {_element(allowed)}"
            if isinstance(value, list | tuple) and good:
                object.__setattr__(settings, field.name, tuple(value))
        else:
            good, kind = _is_scalar(value, allowed)
        if not good:
            raise ConfigError(
                f"{type(settings).__name__}.{field.name} = {value!r} "
                f"({type(value).__name__}): it must be {kind}"
            )


def _is_scalar(value: Any, allowed: str) -> tuple[bool, str]:
    if "Config" in allowed:
        wanted = allowed.removesuffix(" | None")
        return type(value).__name__ == wanted, f"a {wanted}"
    if "Literal" in allowed or "str" in allowed:
        return isinstance(value, str), "text"
    if "float" in allowed:
        return _is_finite_number(value), "a finite number"
    if "bool" in allowed:
        return isinstance(value, bool), "True or False"
    return _is_whole_number(value), "a whole number"


def _is_sequence(value: Any, floats: bool) -> bool:
    check = _is_finite_number if floats else _is_whole_number
    return isinstance(value, list | tuple) and all(check(element) for element in value)


def _element(allowed: str) -> str:
    return "finite numbers" if "float" in allowed else "whole numbers"


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_json(settings: Any) -> dict[str, Any]:
    """Every field of a settings dataclass, lists for tuples: what :func:`build` takes back."""
    found = dataclasses.asdict(settings)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def build(cls: Any, settings: dict[str, Any]) -> Any:
    """Make a settings dataclass from a dictionary, refusing unknown names."""
    known = [field.name for field in dataclasses.fields(cls)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{cls.__name__} has no setting {name!r}{hint}")
    return cls(**settings)
