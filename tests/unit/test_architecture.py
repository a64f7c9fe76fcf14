"""Who imports whom, what git tracks, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# `room: rooms it may import`; a room is the longest prefix that matches a module.
ROOMS = {
    "errors": [],
    "metrics": ["errors"],
    "losses": ["errors"],
    "data.store": ["errors"],
    "data.spikes": ["data.store", "errors"],
    "data.simulate": ["data.spikes", "data.store", "errors"],
    "data.archive": ["data.spikes", "errors"],
    "data": ["data.store", "data.spikes", "data.simulate", "data.archive", "errors"],
    "models": ["losses", "metrics", "errors"],
    "training": ["models", "losses", "metrics", "data.store", "errors"],
    "language": ["models", "metrics", "data.store", "errors"],
    "baselines": ["data", "metrics", "errors"],
    "evaluation": ["models", "metrics", "data", "language", "baselines", "errors"],
}
ROOMS["plots"] = ["evaluation", *ROOMS["evaluation"], "training", "losses"]
ROOMS["widgets"] = ["plots", *ROOMS["plots"]]
EVERYTHING = ["widgets", *ROOMS["widgets"], "notebook", "commands", "__main__", ""]
ROOMS.update(dict.fromkeys(["notebook", "commands", "__main__"], EVERYTHING))
# The package itself hands out rooms by name and holds the version.
ROOMS[""] = EVERYTHING
# Numerical rooms run on a bare GPU node.
BARE = ("models", "training", "losses", "metrics", "data.store")
NOT_ON_A_BARE_NODE = ("pynwb", "h5py", "matplotlib", "IPython", "ipywidgets", "jupyterlab")


def room_of(module: str) -> str:
    """Room of a dotted name below `saebook`."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ROOMS:
            return ".".join(parts[:length])
    return ""


def imports_of(path: Path, module: str, is_package: bool, modules: set[str]) -> set[str]:
    """Dotted names below `saebook` that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["saebook", *module.split(".")] if module else ["saebook"]
                package = package[: len(package) - node.level + is_package]
                base = ".".join([*package, *([base] if base else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name.removeprefix("saebook.") in modules else base)
    return {
        name.removeprefix("saebook").removeprefix(".")
        for name in found
        if name == "saebook" or name.startswith("saebook.")
    }


def violations(package: Path) -> list[str]:
    """Imports that the table of rooms doesn't allow."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        files[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    found = []
    for module, (path, is_package) in files.items():
        room = room_of(module)
        for target in imports_of(path, module, is_package, set(files)):
            other = room_of(target)
            allowed = [room, *ROOMS[room]]
            # `data` stands for all of its rooms; the bare package gives only its version.
            if other in ("", *allowed) or ("data" in allowed and other.startswith("data.")):
                continue
            found.append(f"saebook.{module} ({room}) imports saebook.{target} ({other})")
    return found


def test_rooms_import_only_what_the_design_allows(project):
    assert not violations(project / "lib" / "saebook")


def test_every_room_on_disk_is_in_the_table(project):
    package = project / "lib" / "saebook"
    rooms = {p.name for p in package.iterdir() if (p / "__init__.py").is_file()}
    rooms |= {p.stem for p in package.glob("*.py")} - {"__init__"}
    rooms |= {
        f"data.{p.name}" for p in (package / "data").iterdir() if (p / "__init__.py").is_file()
    }
    assert rooms <= set(ROOMS)


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("from saebook.training import fit", True),
        ("def f():\n    from saebook import training", True),
        ("from ..training.trainer import Trainer", True),
        ("from saebook.losses import l1", False),
        ("from . import config", False),
    ],
)
def test_a_forbidden_import_is_seen(tmp_path, text, caught):
    for name in ("models", "training", "losses"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "models" / "config.py").write_text("")
    (tmp_path / "training" / "trainer.py").write_text("")
    (tmp_path / "models" / "sae.py").write_text(text + "\n")
    assert bool(violations(tmp_path)) is caught


def test_git_tracks_every_source_file(project):
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "lib", "notebooks"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    kinds = (".py", ".ipynb", ".yaml", ".mplstyle", ".typed")
    swallowed = [
        line
        for line in listed.stdout.splitlines()
        if line.endswith(kinds) and ".ipynb_checkpoints" not in line
    ]
    assert not swallowed


def test_ignore_rules_keep_data_rooms_and_data_readme(project):
    paths = ["lib/saebook/data/spikes/x.py", "lib/saebook/runs.py", "data/README.md"]
    checked = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=project, capture_output=True, text=True
    )
    if checked.returncode == 128:
        pytest.skip("not a git checkout")
    assert checked.stdout.split() == []


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_is_free():
    heavy = {"torch", "pynwb", "matplotlib", "numpy", "pandas"}
    assert not heavy & modules_after("import saebook, saebook.__main__")


def test_reading_spikes_waits_for_no_torch():
    loaded = modules_after("import saebook.data")
    assert not {"torch", "pynwb", "matplotlib"} & loaded


def test_numerical_rooms_need_no_notebook_or_file_library():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in NOT_ON_A_BARE_NODE)
    rooms = ", ".join(f"saebook.{room}" for room in BARE)
    assert "torch" in modules_after(f"import sys; {blocked}; import {rooms}")
