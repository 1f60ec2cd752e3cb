# SPDX-License-Identifier: MIT
"""What `uvmm top` shows and what its keys do, without a terminal and a daemon."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import a_guest, a_machine
from uvmm import schema
from uvmm.errors import BadInputError, UvmmError
from uvmm.model import Snapshot
from uvmm.top import Top
from uvmm.top_jobs import settings_in
from uvmm.top_model import (
    COLUMNS,
    DAMAGED,
    FREE,
    MAP_KINDS,
    RESIDENT,
    SHARED,
    SWAPPED,
    TITLES,
    UNTOUCHED,
    Part,
    Rates,
    bar,
    cell_kind,
    headline,
    map_cells,
    memory_parts,
    ordered,
    rows_of,
)
from uvmm.top_screens import Keys, Map, Question
from uvmm.top_widgets import Guests

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from textual.pilot import Pilot

    from uvmm.client import Client


def figures_with(*guests: dict[str, Any], **machine: Any) -> dict[str, Any]:
    rows = tuple(a_guest(id=at + 1, **one) for at, one in enumerate(guests))
    told = schema.figures(
        Snapshot(machine=a_machine(**machine), guests=rows), {row.id: 0.0 for row in rows}
    )
    return cast("dict[str, Any]", told)


class Answers:
    """A daemon that is not there: it answers what it was told to, and notes what is asked."""

    def __init__(self, *guests: dict[str, Any]) -> None:
        self.figures = figures_with(*guests)
        self.asked: list[tuple[str, Any]] = []
        self.refusal: UvmmError | None = None

    def get(self, path: str) -> Any:
        if self.refusal is not None:
            raise self.refusal
        if path == "/v1/stats":
            return self.figures
        self.asked.append((path, None))
        cells = int(path.partition("cells=")[2])
        return {
            "name": "a", "max_pages": cells * 2, "cells": cells,
            "pages": {"resident": [2] * cells},
        }

    def patch(self, path: str, body: Any) -> Any:
        self.asked.append((path, body))
        return self.figures["guests"][0]

    def post(self, path: str, body: Any = None) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append((path, body))
        return {"pages": 256, "zero_pages": 0, "left_pages": 0, "elapsed_seconds": 0.5}


@pytest.mark.parametrize(
    "words", ["min", "min=", "=5", "colour=red", "min=1M min=2M", "min = 1M", "x" * 500]
)
def test_what_cannot_be_set(words: str) -> None:
    with pytest.raises(BadInputError):
        settings_in(words)


def test_what_can_be_set() -> None:
    assert settings_in("min=1M,  balloon-max=50% tax=0") == {
        "min": "1M", "balloon_max": "50%", "tax": "0",
    }


class TestModel:
    @given(st.lists(st.integers(0, 1 << 50), max_size=6), st.integers(0, 300))
    def test_a_bar_is_as_wide_as_it_has_to_be(self, sizes: list[int], width: int) -> None:
        kinds = MAP_KINDS[: len(sizes)]
        parts = [
            Part(kind=kind, size_bytes=size) for kind, size in zip(kinds, sizes, strict=True)
        ]
        drawn = bar(parts, width)
        assert sum(chars for _, chars in drawn) == width
        there = [kind for kind, size in zip(kinds, sizes, strict=True) if size]
        if 0 < len(there) <= width:
            assert [kind for kind, _ in drawn] == there
            assert all(chars >= 1 for _, chars in drawn)

    def test_a_bar_is_in_proportion(self) -> None:
        parts = [Part(kind=RESIDENT, size_bytes=300), Part(kind=FREE, size_bytes=100)]
        assert bar(parts, 40) == [(RESIDENT, 29), (FREE, 11)]

    def test_memory_adds_up(self) -> None:
        machine = figures_with(
            tmpfs_pages=1500, guest_pages=1000, split_pages=50, frame_pages=200
        )["machine"]
        total = sum(part.size_bytes for part in memory_parts(machine))
        assert total == machine["total_bytes"]

    def test_rates_are_of_the_same_guest(self) -> None:
        io = {"read_bytes": 0, "written_bytes": 0, "copied_bytes": 0}
        before = {"a": {"pid": 1, "pages_in": 10, "pages_out": 0, "faults": 3, "io": io}}
        guest = figures_with({"name": "a", "pages_in": 20, "faults": 7})["guests"][0]
        assert rows_of([guest], before, 2.0)[0].rates == Rates(
            bytes_in=5 * 4096, bytes_out=0, faults=2.0
        )
        for former in ({}, {"a": {**before["a"], "pid": 2}}):
            assert rows_of([guest], former, 2.0)[0].rates == Rates()
        assert rows_of([guest], {"a": {**before["a"], "pages_in": 99}}, 2.0)[
            0
        ].rates.bytes_in == 0
        assert rows_of([guest], before, 0.0)[0].rates == Rates()

    def test_order_is_by_any_column(self) -> None:
        guests = figures_with(*(
            {"name": name, "resident_pages": size, "pid": pid}
            for name, size, pid in (("b", 5, 9), ("a", 5, 3), ("c", 9, 7))
        ))["guests"]
        rows = rows_of(guests, {}, 1.0)

        def names(title: str, *, inverted: bool = False) -> str:
            column = COLUMNS[TITLES.index(title)]
            return "".join(row.name for row in ordered(rows, column, inverted=inverted))

        assert names("RESIDENT") == "cab"
        assert names("RESIDENT", inverted=True) == "abc"
        assert names("NAME") == "abc"
        assert names("NAME", inverted=True) == "cba"
        assert names("PID") == "bca"
        for column in COLUMNS:
            assert len(ordered(rows, column, inverted=False)) == 3
            assert all(len(column.cell(row)) < column.width for row in rows)

    def test_the_first_columns_fit_into_80(self) -> None:
        widths = [column.width for column in COLUMNS[: TITLES.index("ACTIVE")]]
        assert sum(widths) <= 79
        assert all(len(column.title) < column.width for column in COLUMNS[1:])

    def test_what_a_cell_is_drawn_as(self) -> None:
        def counts(**pages: int) -> list[int]:
            return [pages.get(kind.name, 0) for kind in MAP_KINDS]

        assert cell_kind(counts(untouched=9)) == (UNTOUCHED, True)
        assert cell_kind(counts(untouched=9, swapped=1)) == (SWAPPED, False)
        assert cell_kind(counts(resident=5, shared=4)) == (RESIDENT, True)
        assert cell_kind(counts(resident=4, shared=5)) == (SHARED, True)
        assert cell_kind(counts(resident=500, damaged=1)) == (DAMAGED, True)
        assert map_cells({"cells": 2, "pages": {"resident": [1, 0], "new": [1, 1]}}) == [
            (RESIDENT, True), (UNTOUCHED, True),
        ]

    def test_signs_and_colours_tell_kinds_apart(self) -> None:
        assert len({kind.sign for kind in MAP_KINDS}) == len(MAP_KINDS)
        assert len({kind.colour for kind in MAP_KINDS}) == len(MAP_KINDS)

    def test_the_headline_tells_what_is_wrong(self) -> None:
        machine = figures_with(pressure=2, refused=3, damaged_pages=1)["machine"]
        machine["state"] = "hard"
        words = headline(machine, 1)
        for word in ("state hard", "pressure full", "1 guest", "3 refused", "1 pages damaged"):
            assert word in words


def drive(answers: Answers, script: Any, size: tuple[int, int] = (80, 24)) -> None:
    async def go() -> None:
        app = Top(cast("Client", answers), "/run/x", period_s=0.3)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.query_one(Guests).names)
            step: Coroutine[Any, Any, None] = script(app, pilot)
            await step

    asyncio.run(go())


async def until(pilot: Pilot[None], true: Any) -> None:
    for _ in range(400):
        if true():
            return
        await pilot.pause(0.01)
    pytest.fail("waited in vain")


class TestKeys:
    def test_jobs_are_done_to_the_chosen_guest(self) -> None:
        answers = Answers({"name": "a", "pid": 5}, {"name": "b", "pid": 6})

        async def script(app: Top, pilot: Pilot[None]) -> None:
            await pilot.press("down", "t")
            await until(pilot, lambda: answers.asked)
            assert answers.asked == [("/v1/guests/b/restore", None)]
            await pilot.press("r")
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press("escape")
            await pilot.press("r")
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press(*"64M", "enter")
            await until(pilot, lambda: len(answers.asked) == 2)
            assert answers.asked[1] == ("/v1/guests/b/reclaim", {"size": "64M"})
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press(*"min=1M,tax=5%", "enter")
            await until(pilot, lambda: len(answers.asked) == 3)
            assert answers.asked[2] == ("/v1/guests/b", {"min": "1M", "tax": "5%"})

        drive(answers, script)

    def test_the_cursor_stays_with_its_guest(self) -> None:
        answers = Answers({"name": "a", "resident_pages": 5}, {"name": "b"}, {"name": "c"})

        async def script(app: Top, pilot: Pilot[None]) -> None:
            table = app.query_one(Guests)
            await pilot.press("less_than_sign", "down")
            assert (table.names, table.chosen) == (["a", "b", "c"], "b")
            await pilot.press("i")
            assert (table.names, table.chosen) == (["c", "b", "a"], "b")
            answers.figures = figures_with({"name": "b"}, {"name": "z"})
            await until(pilot, lambda: table.names == ["z", "b"])
            assert table.chosen == "b"
            answers.figures = figures_with()
            await until(pilot, lambda: not table.names and table.chosen is None)
            await pilot.press("r", "t", "m", "enter")
            assert len(app.screen_stack) == 1

        drive(answers, script)

    def test_maps(self) -> None:
        answers = Answers({"name": "a"}, {"name": "b"})

        async def script(app: Top, pilot: Pilot[None]) -> None:
            await pilot.press("enter")
            await until(pilot, lambda: answers.asked)
            assert answers.asked[0][0].startswith("/v1/guests/a/map?cells=")
            await pilot.press("right")
            await until(pilot, lambda: "/b/" in answers.asked[-1][0])
            answers.refusal = UvmmError("gone [bold]")
            await pilot.pause(0.1)
            assert isinstance(app.screen, Map)
            await pilot.press("escape", "question_mark")
            await until(pilot, lambda: isinstance(app.screen, Keys))
            await pilot.press("escape", "q")

        drive(answers, script)

    def test_a_pause_stands_still(self) -> None:
        answers = Answers({"name": "a"})

        async def script(app: Top, pilot: Pilot[None]) -> None:
            await pilot.press("space")
            await pilot.pause(0.1)
            answers.figures = figures_with({"name": "b"})
            await pilot.pause(0.3)
            assert app.query_one(Guests).names == ["a"]
            await pilot.press("space")
            await until(pilot, lambda: app.query_one(Guests).names == ["b"])

        drive(answers, script)

    def test_a_daemon_that_goes_and_comes(self) -> None:
        answers = Answers({"name": "a"})

        async def script(app: Top, pilot: Pilot[None]) -> None:
            answers.refusal = UvmmError("no daemon [red]serves[/red] [")
            await until(pilot, lambda: "no daemon [red]" in app.export_screenshot()
                        .replace("&#160;", " "))
            await pilot.press("t")
            await pilot.pause(0.1)
            answers.refusal = None
            answers.figures = figures_with({"name": "b"})
            await until(pilot, lambda: app.query_one(Guests).names == ["b"])

        drive(answers, script)

    def test_a_thousand_guests(self) -> None:
        chance = random.Random(1)

        def many() -> dict[str, Any]:
            return figures_with(*(
                {"name": f"guest-{at}", "resident_pages": chance.randrange(1 << 18)}
                for at in range(1000)
            ))

        answers = Answers({"name": "a"})

        async def script(app: Top, pilot: Pilot[None]) -> None:
            table = app.query_one(Guests)
            answers.figures = many()
            await until(pilot, lambda: len(table.names) == 1000)
            rows = rows_of(many()["guests"], {}, 1.0)
            since = time.process_time()
            table.show(rows)
            took_s = time.process_time() - since
            print(f"1000 guests shown in {took_s:.2f} s")
            assert took_s < 1.0
            await pilot.press("q")

        drive(answers, script)

    @pytest.mark.parametrize("size", [(20, 6), (190, 50)])
    def test_other_sizes(self, size: tuple[int, int]) -> None:
        answers = Answers(*({"name": f"guest-{at}"} for at in range(20)))

        async def script(app: Top, pilot: Pilot[None]) -> None:
            shown = app.export_screenshot()
            assert ("FAULTS/s" in shown) == (size[0] > 100)
            await pilot.press("end", "enter")
            await until(pilot, lambda: answers.asked)
            await pilot.press("escape", "r")
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press("escape", "q")

        drive(answers, script, size)
