"""The command line: ``python -m saebook COMMAND``; each command is one module of `commands`.

Nothing heavy is imported here, so that ``install`` runs on a bare Python.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from saebook import __version__
from saebook.errors import SaebookError

COMMANDS = (
    "install",
    "handbook",
    "run",
    "params",
    "simulate",
    "fetch",
    "screen",
    "prepare",
    "collect",
    "status",
    "site",
    "publish",
    "lab",
    "bench",
)


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="saebook", description="The SAE Handbook: chapters, recordings, runs and their report."
    )
    parser.add_argument("--version", action="version", version=f"saebook {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"saebook.commands.{name}")
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(command)
        command.set_defaults(execute=module.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 where a chapter or check failed, 2 on bad input."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.execute(options) or 0)
    except SaebookError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
