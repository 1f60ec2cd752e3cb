# SPDX-License-Identifier: MIT
"""The command that starts a guest."""

from __future__ import annotations

from typing import Annotated

import typer

from uvmm.commands.common import (
    BalloonMaxOption,
    RunDirOption,
    SharesOption,
    TaxOption,
    examples,
    run_dir_of,
)
from uvmm.program import Heap
from uvmm.rundir import DEFAULT_RUN_DIR

app = typer.Typer()


_STATUS = """

\b
Exit status: the program's, also that of a signal that ends it; 127 if there is no
such program, 126 if it cannot be executed, 125 if it could not attach, 2 for a bad
option, 1 if it could not be made a guest."""


# What follows the program is the program's own.
@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        'uvmm run -- redis-server --save ""',
        "uvmm run --name job --max 1G --shares low -- python3 job.py",
        "uvmm run --user nobody --heap none -- sleep 100",
        "uvmm run --heap none --disk data=data.img -- ./my-guest",
    ) + _STATUS,
)
def run(
    program: Annotated[list[str], typer.Argument(metavar="-- PROGRAM ARG...")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The guest's name; the program's.")
    ] = None,
    min_size: Annotated[
        str | None, typer.Option("--min", metavar="SIZE", help="Guaranteed memory; 0.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max", metavar="SIZE", help="Its memory; all that can be backed."),
    ] = None,
    shares: Annotated[str | None, SharesOption] = None,
    tax: Annotated[str | None, TaxOption] = None,
    balloon_max: Annotated[str | None, BalloonMaxOption] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Whom the program runs as.")
    ] = None,
    heap: Annotated[
        Heap, typer.Option(help="Whose memory malloc and mmap give the program.")
    ] = Heap.AUTO,
    follow: Annotated[
        bool, typer.Option("--follow", help="What it executes are guests, too.")
    ] = False,
    share_group: Annotated[
        str | None,
        typer.Option(metavar="NAME|off", help="With whom it shares pages; its user's guests."),
    ] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE[,ro]", help="An image that is a disk of the guest; repeatable."
        ),
    ] = None,
) -> None:
    """Run a program as a guest, and exit as it does."""
    from uvmm.launch import Launch, launch

    launch(
        run_dir_of(run_dir),
        Launch(
            argv=program, name=name, min_size=min_size, max_size=max_size, shares=shares,
            tax=tax, balloon_max=balloon_max, user=user, heap=heap, follow=follow,
            share_group=share_group, disks=disk or (),
        ),
    )
