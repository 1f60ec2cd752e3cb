# SPDX-License-Identifier: MIT
"""Commands that show figures, and why they are so: ps, stats, explain."""

from __future__ import annotations

from typing import Annotated

import typer

from uvmm.commands.common import (
    AnyGuestArgument,
    JsonOption,
    RunDirOption,
    client_of,
    console,
    examples,
    print_json,
)
from uvmm.rundir import DEFAULT_RUN_DIR

app = typer.Typer()


@app.command(epilog=examples(
    "uvmm ps",
    "uvmm ps --json",
))
def ps(run_dir: RunDirOption = DEFAULT_RUN_DIR, as_json: JsonOption = False) -> None:
    """List the guests."""
    guests = client_of(run_dir).get("/v1/guests")
    if as_json:
        print_json(guests)
        return
    from uvmm.views import guest_table

    console().print(guest_table(guests))


@app.command(epilog=examples(
    "uvmm stats",
    "uvmm stats --json",
))
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


@app.command(epilog=examples(
    "uvmm explain",
    "uvmm explain redis-server --last 5",
))
def explain(
    name: AnyGuestArgument = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    last: Annotated[
        int, typer.Option(metavar="N", min=1, help="So many decisions; 1.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Tell why guests hold what they hold: targets, who pays, and what was tried."""
    from urllib.parse import urlencode

    query = {"limit": str(last)} | ({} if name is None else {"name": name})
    told = client_of(run_dir).get(f"/v1/explain?{urlencode(query)}")
    if as_json:
        print_json(told)
        return
    from uvmm.views import explain_lines

    console().print("\n".join(explain_lines(told)), highlight=False, markup=False)
