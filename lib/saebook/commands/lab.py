"""Open JupyterLab on the chapters."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Defaults of this environment only: a reader's own JupyterLab settings win over them.
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    }
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``saebook lab``."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to jupyter lab")


def execute(options: argparse.Namespace) -> int:
    """Turn the news prompt off and hand over to JupyterLab."""
    from saebook.notebook.project import project_root

    settings = Path(sys.prefix) / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    text = json.dumps(OVERRIDES, indent=1) + "\n"
    if not settings.is_file() or settings.read_text(encoding="utf-8") != text:
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(text, encoding="utf-8")
    root = project_root()
    arguments = [a for a in options.arguments if a != "--"]
    command = [sys.executable, "-m", "jupyterlab", "--notebook-dir", str(root / "notebooks")]
    environment = {**os.environ, "SAEBOOK_ROOT": str(root)}
    # JupyterLab takes this process over, so that stopping the one stops the other.
    sys.stdout.flush()
    os.execve(sys.executable, [*command, *arguments], environment)
