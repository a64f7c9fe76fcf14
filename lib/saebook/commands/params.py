"""Print the parameters of a chapter: what it declares, or what a set gives it.

With --params or -f the output is a flat YAML file that 'papermill -f' and 'saebook run -f' take.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook params``."""
    parser.add_argument("chapter", help="name, number or path")
    parser.add_argument("--params", help="parameter set: smoke, laptop, gpu")
    parser.add_argument("-f", "--file", type=Path, help="parameters file")


def execute(options: argparse.Namespace) -> int:
    """Print the declared parameters, or the flat values of a set."""
    from saebook.notebook.parameters import chapter_parameters, resolve_parameters, type_name
    from saebook.notebook.project import chapter_source

    path = chapter_source(options.chapter)
    declared = chapter_parameters(path)
    if options.params or options.file:
        import yaml

        values = resolve_parameters(path.stem, path, options.params, options.file)
        merged = {name: values.get(name, p.default) for name, p in declared.items()}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in merged.items()}
        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")
        return 0
    for parameter in declared.values():
        line = f"{parameter.name}: {type_name(parameter.kind)} = {parameter.default!r}"
        print(f"{line:<44}  # {parameter.comment}" if parameter.comment else line)
    return 0
