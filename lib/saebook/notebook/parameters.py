"""A chapter's parameters: declared in one typed cell, checked before anything runs.

papermill takes any name and any type and exits 0; these checks are what refuses them.
"""

from __future__ import annotations

import ast
import difflib
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebook.errors import ParameterError
from saebook.notebook.project import chapter_sources, project_root, read_notebook, relative

PARAMETERS_TAG = "parameters"
SHARED = "shared"
_MISSING = object()
_TYPE_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, list, tuple, dict)},
    "Literal": typing.Literal,
    "Optional": typing.Optional,
    "Union": typing.Union,
}


@dataclass(frozen=True)
class Parameter:
    """One declared parameter of a chapter: ``n_seeds: int = 2  # seeds``."""

    name: str
    kind: Any
    default: Any
    comment: str = ""


def type_name(kind: Any) -> str:
    """How a type is written in a parameters cell.

    >>> type_name(int), type_name(list[float])
    ('int', 'list[float]')
    """
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    return str(kind).replace("typing.", "")


def matches(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type; a bool is no int, an int is a float.

    Parameters
    ----------
    value : object
        Value given for a parameter.
    kind : type
        Declared type: int, float, str, bool, list, tuple, dict, their parametrised forms,
        ``Literal`` and unions.

    Examples
    --------
    >>> matches(3, float), matches(True, int), matches(["a"], list[int])
    (True, False, False)
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if kind is None or kind is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, option) for option in args)
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in args)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        if origin is tuple and args and args[-1] is not Ellipsis:
            return len(value) == len(args) and all(map(matches, value, args))
        return all(matches(item, args[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        return all(matches(k, args[0]) and matches(v, args[1]) for k, v in value.items())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    return isinstance(kind, type) and isinstance(value, kind)


def converted(value: Any, kind: Any) -> Any:
    """A value that matches, as its declared type: ints given for floats, lists for tuples.

    >>> converted(3, float), converted([1, 2], tuple[float, ...])
    (3.0, (1.0, 2.0))
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is float:
        return float(value)
    if (origin or kind) in (list, tuple):
        inner = args[0] if args else Any
        build = origin or kind
        if origin is tuple and args and args[-1] is not Ellipsis:
            return tuple(map(converted, value, args))
        return build(converted(item, inner) for item in value)
    if origin is dict:
        return {key: converted(item, args[1]) for key, item in value.items()}
    return value


def parse_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Read the parameters that a cell declares, without running it.

    Parameters
    ----------
    source : str
        Source of the cell tagged ``parameters``.
    where : str
        Named in errors.

    Raises
    ------
    ParameterError
        If a line is no typed assignment of a literal, or its type isn't known here.

    Examples
    --------
    >>> parse_parameters("n_seeds: int = 2  # seeds", "example")["n_seeds"]
    Parameter(name='n_seeds', kind=<class 'int'>, default=2, comment='seeds')
    """
    lines = source.splitlines()
    declared = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        text = ast.get_source_segment(source, node) or ""
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            raise ParameterError(
                f"{where}: the parameters cell holds {text!r}; each line there has to be a typed "
                "assignment such as 'n_seeds: int = 2  # number of seeds'"
            )
        name = node.target.id
        annotation = ast.unparse(node.annotation)
        try:
            kind = eval(annotation, {"__builtins__": {}}, _TYPE_NAMES)
            default = ast.literal_eval(node.value) if node.value else _MISSING
        except (NameError, TypeError, ValueError, AttributeError) as error:
            raise ParameterError(
                f"{where}: can't read the parameter {text!r} ({error}); use a literal value and "
                f"one of the types {', '.join(_TYPE_NAMES)}"
            ) from error
        if default is _MISSING or not matches(default, kind):
            raise ParameterError(
                f"{where}: the parameter {text!r} has no default of its own type {annotation}"
            )
        after = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset :].decode()
        comment = after.split("#", 1)[1].strip() if "#" in after else ""
        declared[name] = Parameter(name, kind, default, comment)
    return declared


def chapter_parameters(path: Path) -> dict[str, Parameter]:
    """Parameters that a chapter's file declares, in order.

    Raises
    ------
    ParameterError
        If there isn't exactly one cell tagged ``parameters``.
    """
    cells = [
        cell
        for cell in read_notebook(path)["cells"]
        if PARAMETERS_TAG in cell["metadata"].get("tags", ())
    ]
    if len(cells) != 1:
        raise ParameterError(
            f"{relative(path)} has {len(cells)} cells tagged {PARAMETERS_TAG!r}; it needs one"
        )
    return parse_parameters(str(cells[0]["source"]), relative(path))


def describe_unknown(name: str, known: typing.Iterable[str]) -> str:
    """Words on a name that isn't declared: the closest one that is, or all there are.

    >>> describe_unknown("n_seed", ["n_seeds", "k"])
    "unknown parameter 'n_seed'; did you mean 'n_seeds'?"
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"
    return f"unknown parameter {name!r}; {hint}"


def check_values(
    values: dict[str, Any], kinds: dict[str, Any], where: str, known: typing.Iterable[str] = ()
) -> dict[str, Any]:
    """Check names and types of given values; returns them as their declared types.

    Parameters
    ----------
    values : dict
        Given values by parameter name.
    kinds : dict
        Declared types by parameter name.
    where : str
        Named in errors: the chapter, and the file the values came from.
    known : iterable of str
        Names to suggest, where they are not just those of `kinds`.

    Raises
    ------
    ParameterError
        Naming every unknown name and wrong type at once.

    Examples
    --------
    >>> check_values({"rate": 1}, {"rate": float}, "example")
    {'rate': 1.0}
    """
    problems = []
    for name, value in values.items():
        if name not in kinds:
            problems.append(describe_unknown(name, known or kinds))
        elif not matches(value, kinds[name]):
            problems.append(
                f"{name} has to be {type_name(kinds[name])}, not {value!r} ({type(value).__name__})"
            )
    if problems:
        raise ParameterError(f"{where}: {'; '.join(problems)}")
    return {name: converted(value, kinds[name]) for name, value in values.items()}


def load_yaml(text: str) -> Any:
    """YAML with numbers as people write them: ``1e-3`` is a number, as YAML 1.2 has it.

    >>> load_yaml("learning_rate: 1e-3")
    {'learning_rate': 0.001}
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    pattern = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+0123456789"))
    return yaml.load(text, Loader)


def parse_text(text: str, parameter: Parameter) -> Any:
    """Value of a ``-p name=text`` on the command line, read as the declared type.

    Raises
    ------
    ParameterError
        If the text can't be read as that type.

    Examples
    --------
    >>> parse_text("007", Parameter("animal", str, ""))
    '007'
    >>> parse_text("007", Parameter("seed", int, 0))
    7
    """
    kind = parameter.kind
    if kind is str:
        return text
    value: Any = text
    try:
        if kind is int:
            value = int(text)
        elif kind is float:
            value = float(text)
        elif not matches(text, kind) or (text.lower() in ("none", "null") and matches(None, kind)):
            value = None if text.lower() in ("none", "null") else load_yaml(text)
    except Exception as error:
        raise ParameterError(
            f"{parameter.name} has to be {type_name(kind)}, not {text!r}"
        ) from error
    return check_values({parameter.name: value}, {parameter.name: kind}, "-p")[parameter.name]


def parameter_files() -> dict[str, Path]:
    """Parameter sets of the checkout: ``smoke``, ``laptop``, ``gpu``, and any added file."""
    folder = project_root() / "notebooks" / "params"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_parameter_file(path: Path) -> dict[str, Any]:
    """Content of a parameters file, which is a mapping.

    Raises
    ------
    ParameterError
        If the file is missing, can't be parsed or holds no mapping.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(parameter_files())
        raise ParameterError(
            f"can't read the parameters file {path} ({error.strerror}); sets here: {known}"
        ) from error
    except Exception as error:
        raise ParameterError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParameterError(f"{path} has to hold names and values, not {type(content).__name__}")
    return content


def flat_parameters(content: dict[str, Any], chapter: str, declared: typing.Iterable[str]) -> dict:
    """Values that one chapter takes from a parameters file, nested or already flat.

    Parameters
    ----------
    content : dict
        ``{"shared": {…}, "20_first_sae": {…}, …}`` or plain names and values. Shared values
        reach only the chapters that declare them.
    chapter : str
        Chapter name.
    declared : iterable of str
        Names the chapter declares.

    Raises
    ------
    ParameterError
        If a section is named after no chapter, or is no mapping.

    Examples
    --------
    >>> flat_parameters({"shared": {"seed": 1, "k": 2}}, "20_first_sae", ["seed"])
    {'seed': 1}
    """
    sections = {SHARED, *chapter_sources(), chapter}
    if not sections & set(content):
        nested = [name for name in content if re.match(r"[0-9]{2}_", str(name))]
        if nested:
            raise ParameterError(f"no chapter is called {nested[0]!r}; {sorted(sections)} are")
        return dict(content)
    for name, section in content.items():
        if name not in sections:
            raise ParameterError(
                f"{name!r} is neither a chapter nor {SHARED!r}; sections: {sorted(sections)}"
            )
        if section is not None and not isinstance(section, dict):
            raise ParameterError(f"section {name!r} has to hold names and values, not {section!r}")
    declared = set(declared)
    values = {k: v for k, v in (content.get(SHARED) or {}).items() if k in declared}
    return {**values, **(content.get(chapter) or {})}


def resolve_parameters(
    chapter: str,
    path: Path,
    params: str | None = None,
    file: Path | None = None,
    texts: typing.Iterable[str] = (),
) -> dict[str, Any]:
    """Flat, checked values for one run of a chapter.

    Parameters
    ----------
    chapter, path : str, Path
        Chapter and its file.
    params : str or None
        Name of a parameter set of the checkout.
    file : Path or None
        A further parameters file, which wins over the set.
    texts : iterable of str
        ``name=value`` as given on the command line, which win over both.

    Raises
    ------
    ParameterError
        For unknown names and wrong types, before anything runs.
    """
    declared = chapter_parameters(path)
    kinds = {name: parameter.kind for name, parameter in declared.items()}
    values: dict[str, Any] = {}
    files = []
    if params is not None:
        files.append(
            parameter_files().get(params) or project_root() / f"notebooks/params/{params}.yaml"
        )
    if file is not None:
        files.append(file)
    for source in files:
        given = flat_parameters(read_parameter_file(source), chapter, declared)
        values.update(check_values(given, kinds, f"{chapter} with {relative(source)}"))
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"-p {text!r} has to be name=value")
        if name not in declared:
            raise ParameterError(f"{chapter}: {describe_unknown(name, declared)}")
        values[name] = parse_text(value, declared[name])
    return values
