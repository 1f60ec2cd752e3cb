# SPDX-License-Identifier: MIT
"""The command line: all commands put together, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click
import typer
from click.shell_completion import shell_complete

from uvmm.commands import daemon, figures, guests, look, run, settings, simulate
from uvmm.errors import UvmmError

PROGRAM = "uvmm"
COMPLETE_VARIABLE = "_UVMM_COMPLETE"  # set by the shell that wants to complete
_EPILOG = """\b
Exit status:
  0    done
  1    failed, or refused: no daemon, no such guest, no room ...
  2    an option or a value that cannot be meant
  130  interrupted
  141  whoever reads the output has gone
'uvmm run' exits as its program does: see its help.

\b
Start:      uvmm up; uvmm run -- PROGRAM
Look:       uvmm top, uvmm stats, uvmm explain
Complete:   eval "$(uvmm completion bash)"
"""

app = typer.Typer(
    help="Gives programs their memory from a budget, and reclaims it while they run.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    epilog=_EPILOG,
)
# In the order of `uvmm --help`.
for group in (daemon, run, figures, look, guests, simulate, settings):
    app.add_typer(group.app)


def command() -> click.Command:
    """Return all commands, as click has them."""
    return typer.main.get_command(app)


def main() -> NoReturn:
    """Run the command line; every error is one line and a status that is not 0."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        sys.exit(shell_complete(command(), {}, PROGRAM, COMPLETE_VARIABLE, instruction))
    try:
        status = app(standalone_mode=False)
    except UvmmError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    one_line = " ".join(message.split())
    sys.stderr.write(f"uvmm: {one_line}\n")
    sys.exit(status)
