# SPDX-License-Identifier: MIT
"""The command that simulates guests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uvmm.commands.common import (
    JsonOption,
    console,
    examples,
    print_json,
)
from uvmm.errors import BadInputError

SHOWN_DECISIONS = 10  # by `uvmm sim --explain`; JSON has all

app = typer.Typer()


@app.command(epilog=examples(
    "uvmm sim figure7",
    "uvmm sim figure8 --plot figure8.png",
    "uvmm sim my.toml --policy policy.py --explain idle",
))
def sim(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A file, or a name.")],
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw it; needs matplotlib.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.py", help="Another policy than uvmm's own."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="GUEST", help="Tell the last decisions about a guest, and why."),
    ] = None,
) -> None:
    """Simulate guests on a model machine: who holds how much memory, and why."""
    from uvmm.policy.shares import TaxedShares
    from uvmm.policy_file import load_policy
    from uvmm.progress import progress
    from uvmm.sim.run import run as simulate
    from uvmm.sim.scenario import load

    if plot is not None:
        from uvmm.sim.plot import plot as draw
    chosen = TaxedShares() if policy is None else load_policy(policy)
    loaded = load(scenario)
    with progress("simulating") as bar:
        outcome = simulate(loaded, chosen, progress=bar)
    if explain is not None and explain not in outcome.guests:
        raise BadInputError(f"--explain {explain!r}: the scenario has no such guest")
    if plot is not None:
        draw(outcome, plot)
    told = [] if explain is None else outcome.history.about(explain)
    if as_json:
        from uvmm.sim.report import as_json as figures_of

        figures = figures_of(outcome)
        if explain is not None:
            figures["decisions_about"] = [one.as_json(explain) for one in told]
        print_json(figures)
        return
    from uvmm.sim.report import head_lines, kind_table, moment_table

    screen = console()
    lines = head_lines(outcome)
    screen.print("\n".join(lines), highlight=False, markup=False)
    screen.print(kind_table(outcome))
    screen.print(moment_table(outcome))
    for decision in told[-SHOWN_DECISIONS:]:
        screen.print("\n".join(decision.words(explain)), highlight=False, markup=False)
