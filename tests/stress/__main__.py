# SPDX-License-Identifier: MIT
"""`bin/stress-pages`: stress, with a progress bar, and say how it went."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from uvmm.scratch import ScratchError, terminable
from uvmm.units import format_size

from . import counts as counting
from .findings import WrongError
from .settings import Settings, parse
from .stress_pages import stress

INTERRUPTED = 130


def _describe(settings: Settings) -> str:
    return (
        f"seed {settings.seed}: {settings.guests} guests x {settings.threads} threads of "
        f"{format_size(settings.size_bytes)} on {format_size(settings.memory_bytes)}, "
        f"{settings.seconds:g} s, {settings.movers} movers, "
        f"a kill every {settings.kill_every_s:g} s"
    )


def _run(settings: Settings, counts: counting.Counts, console: Console) -> None:
    columns = (
        BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=settings.seconds)
        start = time.monotonic()

        def show(running: tuple[int, int]) -> None:
            totals = counts.totals()
            totals.pages_written += running[0]
            totals.pages_verified += running[1]
            progress.update(
                task, completed=time.monotonic() - start, description=counting.short(totals)
            )

        try:
            stress(settings, counts, show)
        finally:
            progress.stop()
            if not console.is_terminal:
                console.print()


def main() -> int:
    """Stress; 0 if nothing was wrong."""
    settings = parse()
    console = Console(stderr=True, highlight=False)
    counts = counting.Counts()
    print(_describe(settings), flush=True)
    try:
        with terminable():
            _run(settings, counts, console)
    except (WrongError, ScratchError) as error:
        print(f"WRONG with seed {settings.seed}: {error}")
        print(counting.summary(counts.totals()))
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything was cleaned up")
        return INTERRUPTED
    print(counting.summary(counts.totals()))
    print("never a wrong byte; nothing was left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
