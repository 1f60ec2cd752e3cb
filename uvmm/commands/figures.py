# SPDX-License-Identifier: MIT
"""Commands that show figures: ps, stats."""

from __future__ import annotations

import typer

from uvmm.commands.common import JsonOption, RunDirOption, client_of, console, print_json
from uvmm.rundir import DEFAULT_RUN_DIR

app = typer.Typer()


@app.command()
def ps(run_dir: RunDirOption = DEFAULT_RUN_DIR, as_json: JsonOption = False) -> None:
    """List the guests."""
    guests = client_of(run_dir).get("/v1/guests")
    if as_json:
        print_json(guests)
        return
    from uvmm.views import guest_table

    console().print(guest_table(guests))


@app.command()
def stats(run_dir: RunDirOption = DEFAULT_RUN_DIR, as_json: JsonOption = False) -> None:
    """Show where all memory is, and who waits for it."""
    figures = client_of(run_dir).get("/v1/stats")
    if as_json:
        print_json(figures)
        return
    from uvmm.views import stats_parts

    lines, table = stats_parts(figures)
    screen = console()
    screen.print("\n".join(lines), highlight=False)
    screen.print(table)
