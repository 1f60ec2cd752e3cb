# SPDX-License-Identifier: MIT
"""The command line: all commands put together, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click
import typer

from uvmm.commands import daemon, figures, guests, look, run, simulate
from uvmm.errors import UvmmError

app = typer.Typer(
    help="Gives programs their memory from a budget, and reclaims it while they run.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
# In the order of `uvmm --help`.
for group in (daemon, run, figures, look, guests, simulate):
    app.add_typer(group.app)


def main() -> NoReturn:
    """Run the command line; every error is one line and a status that is not 0."""
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
        _fail(str(error), 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    one_line = " ".join(message.split())
    sys.stderr.write(f"uvmm: {one_line}\n")
    sys.exit(status)
