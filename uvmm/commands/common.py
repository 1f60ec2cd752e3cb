# SPDX-License-Identifier: MIT
"""What commands have in common: options, and how they print."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uvmm.errors import BadInputError
from uvmm.rundir import DEFAULT_RUN_DIR, RUN_DIR_VARIABLE, RunDir

if TYPE_CHECKING:
    from rich.console import Console

    from uvmm.client import Client

COMPLETION_WAIT_S = 1.0


def guest_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the guests whose names begin so, for the shell; none if nobody answers."""
    from uvmm.client import Client
    from uvmm.errors import UvmmError

    given = context.params.get("run_dir") or os.environ.get(RUN_DIR_VARIABLE)
    try:
        run_dir = run_dir_of(given or DEFAULT_RUN_DIR)
        guests = Client(run_dir.control_socket, wait_s=COMPLETION_WAIT_S).get("/v1/guests")
    except UvmmError:
        return []
    return [guest["name"] for guest in guests if guest["name"].startswith(incomplete)]


RunDirOption = Annotated[
    str,
    typer.Option(
        "--run-dir", metavar="DIR", envvar=RUN_DIR_VARIABLE,
        help="The daemon's directory; one daemon serves each.",
    ),
]
SharesOption = typer.Option(
    "--shares", metavar="N|low|normal|high", help="Weight when memory is short; 1000."
)
TaxOption = typer.Option(
    "--tax", metavar="PERCENT", help="On its idle memory, 0% to 99%; the daemon's, 75%."
)
BalloonMaxOption = typer.Option(
    "--balloon-max", metavar="PERCENT|SIZE",
    help="Of its max, for its balloon; the daemon's, 65%.",
)
GuestArgument = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=guest_names)
]
AnyGuestArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", autocompletion=guest_names)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines that one could type."""
    # \b keeps the lines as they are.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def run_dir_of(path: str) -> RunDir:
    """
    Return the run directory that `--run-dir` means.

    Raises:
        BadInputError: If it cannot be one.
    """
    from uvmm.settings import check_run_dir

    if not path:
        raise BadInputError(f"--run-dir and {RUN_DIR_VARIABLE} must not be empty")
    # One directory has one name, also for what mounts, locks and swap files are called.
    real = os.path.realpath(path)
    check_run_dir(real)
    return RunDir(Path(real))


def client_of(run_dir: str) -> Client:
    """
    Return a client of the daemon that `--run-dir` means.

    Raises:
        BadInputError: If it cannot be one.
    """
    from uvmm.client import Client

    return Client(run_dir_of(run_dir).control_socket)


def console() -> Console:
    """Return where tables are printed."""
    from rich.console import Console

    # A pipe has no width: lines for other programs are not folded.
    return Console(width=None if sys.stdout.isatty() else 200)


def print_json(value: object) -> None:
    """Print *value* for other programs."""
    print(json.dumps(value, indent=2))
