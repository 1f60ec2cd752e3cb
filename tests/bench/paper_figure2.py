# SPDX-License-Identifier: MIT
"""
Figure 2 of the paper: what a balloon costs its guest.

40 clients work on files, as dbench has them do, through the guest's file cache: in a guest of
some size, and in one of 256 MiB whose balloon leaves it that size. The larger guest has its
cache full of files before, so the balloon takes what is in use. Both are there at the same
time, and are measured in turn. Whichever was made first is slower by some percent, also of
two that are alike: so there are pairs in either order, and two of these are one measurement.
The files lie on a tmpfs, since what a disk does swings by more than is looked for. The data
plane runs in this process: a policy would set the balloon anew meanwhile.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .balloon import running
from .figures import Row, at_least, column
from .probe import PAGE_BYTES, ROOT
from .stage import MIB, Figures, Stage, say
from .undo import BenchError, Undo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .balloon import Subject

FILES = ROOT / "build" / "bench" / "files"
PICTURE = ROOT / "build" / "bench" / "figure2.png"
LARGE_BYTES = 256 * MIB
CLIENTS = 40
DATA_BYTES = 240 * MIB
# MiB to what the paper measured, in percent: its two ends, and between them.
PAPER = {128: 4.4, 160: 3.4, 192: 2.4, 224: 1.4}


def figure2(stage: Stage) -> list[Row]:
    """Measure clients in a guest with a balloon, and in one that is as large without."""
    rows = []
    curves: dict[int, tuple[list[Figures], list[Figures]]] = {}
    for mib, percent in PAPER.items():
        with_balloon, without = curves[mib] = [], []
        for _ in range(stage.scale.client_pairs):
            first, later = (_pair(stage, mib * MIB, later=later) for later in (False, True))
            with_balloon += _means(first[0], later[0])
            without += _means(first[1], later[1])
        for name, what, unit in (
            ("speed", "speed", "MiB / s"), ("read", "read from files", "MiB"),
        ):
            rows.append(Row(
                key="figure2", unit=unit, what=f"256 MiB, {256 - mib} of it ballooned: {what}",
                uvmm=column(with_balloon, name), peer_name=f"{mib} MiB",
                peer=column(without, name),
                target=at_least(1 - percent / 100) if name == "speed" else None,
            ))
    say("  overhead of the balloon, % (paper):" + "".join(
        f"  {mib} MiB {_overhead(*sides):.1f} ({PAPER[mib]:.1f})"
        for mib, sides in curves.items()
    ))
    _draw(curves)
    say(f"  drawn: {PICTURE}")
    return rows


def _pair(stage: Stage, left_bytes: int, *, later: bool) -> list[list[Figures]]:
    """Measure both, the one with the balloon made as the first, or later."""
    sizes = {LARGE_BYTES: 0, left_bytes: 1}
    with Undo() as undo:
        sides: dict[int, Clients] = {}
        for size_bytes in sorted(sizes, reverse=not later):
            sides[sizes[size_bytes]] = undo.enter_context(
                _clients(stage, size_bytes, left_bytes)
            )
        found = stage.interleaved(
            *(sides[side].work for side in (0, 1)), turns=stage.scale.client_turns
        )
        for side in sides.values():
            side.check()
    return found


def _means(some: list[Figures], others: list[Figures]) -> list[Figures]:
    return [
        {name: (one[name] + other[name]) / 2 for name in one}
        for one, other in zip(some, others, strict=True)
    ]


class Clients:
    """A guest with clients that work when they are told."""

    def __init__(self, guest: Subject, steps: int, balloon_pages: int) -> None:
        self._guest = guest
        self._steps = steps
        self._balloon_pages = balloon_pages
        self._runs = 0

    def work(self) -> Figures:
        """Have them work, another time on each call: the same for all such guests."""
        self._runs += 1
        found = self._guest.probe.ask(f"run {CLIENTS} {self._steps} {self._runs}")
        if found["wrong"]:
            raise BenchError(f"{found['wrong']:.0f} pieces of files have a wrong content")
        return {
            "speed": found["bytes"] / found["ns"] * 1e9 / MIB,
            "read": found["read"] * PAGE_BYTES / MIB,
        }

    def check(self) -> None:
        """See to it that what was measured had the balloon that it should have."""
        if (pages := self._guest.seen().ballooned_pages) != self._balloon_pages:
            raise BenchError(f"{pages} of {self._balloon_pages} pages are left in the balloon")


@contextmanager
def _clients(stage: Stage, size_bytes: int, left_bytes: int) -> Iterator[Clients]:
    """Run a guest of *size_bytes* that is left *left_bytes*; its clients have worked once."""
    with tempfile.TemporaryDirectory(dir=stage.memory_dir) as folder, running(
        [str(FILES), folder], size_bytes
    ) as guest:
        guest.probe.ask(f"prepare {CLIENTS} {DATA_BYTES}")
        balloon_pages = (size_bytes - left_bytes) // PAGE_BYTES
        if balloon_pages:
            guest.make(balloon_pages)
        clients = Clients(guest, stage.scale.client_steps, balloon_pages)
        clients.work()
        yield clients


def _overhead(with_balloon: list[Figures], without: list[Figures]) -> float:
    row = Row(
        key="", what="", unit="", uvmm=column(with_balloon, "speed"), peer_name="",
        peer=column(without, "speed"),
    )
    assert row.ratio is not None
    return 100 * (1 - row.ratio.median)


def _draw(curves: dict[int, tuple[list[Figures], list[Figures]]]) -> None:
    # It takes a second to import, and the other rows do without.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    speed, overhead = figure.subplots(1, 2)
    sizes = list(curves)
    for side, label, style in (
        (0, "ballooned from 256 MiB", "C0-o"), (1, "that size from the start", "C1--s"),
    ):
        samples = [sorted(column(sides[side], "speed")) for sides in curves.values()]
        speed.plot(sizes, [one[len(one) // 2] for one in samples], style, label=label)
        speed.fill_between(
            sizes, [one[0] for one in samples], [one[-1] for one in samples],
            color=style[:2], alpha=0.15,
        )
    speed.set(xlabel="MiB of the guest", ylabel="MiB / s", title=f"{CLIENTS} clients", ylim=0)
    overhead.plot(sizes, [_overhead(*sides) for sides in curves.values()], "C0-o", label="uvmm")
    overhead.plot(sizes, list(PAPER.values()), "C3:^", label="paper, 1.4 to 4.4 %")
    overhead.axhline(0, color="grey", lw=0.5)
    overhead.set(xlabel="MiB of the guest", ylabel="%", title="overhead of the balloon")
    for axes in (speed, overhead):
        axes.set_xticks(sizes)
        axes.legend()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, format="png", dpi=100)
