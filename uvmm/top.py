# SPDX-License-Identifier: MIT
"""
`uvmm top`: the machine and its guests, live.

It asks the daemon again and again. While there is none it says so and waits, so that it
survives a daemon that goes away and comes back.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from uvmm.errors import UvmmError
from uvmm.top_jobs import ask, change, reclaim, restore
from uvmm.top_model import STALL, headline, rows_of
from uvmm.top_screens import Keys, Map, Question
from uvmm.top_widgets import Guests, Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from uvmm.client import Client

    Job = Callable[[Client, str, str], str]

PERIOD_S = 1.0
RESULT_S = 15.0  # for so long it is shown what came of a job
_TABLE_ACTIONS = ("map", "sort_next", "invert", "pause", "keys", "quit")
_GUEST_ACTIONS = ("reclaim", "restore", "set")
STALE_S = 3.0  # without an answer for so long the figures are called old


class Top(App[None]):
    """The whole screen."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "map", "Map"),
        Binding("s", "set", "Set"),
        Binding("r", "reclaim", "Reclaim"),
        Binding("t", "restore", "Restore"),
        Binding("greater_than_sign", "sort_next(1)", "Sort", key_display="<>"),
        Binding("less_than_sign", "sort_next(-1)", "Sort", show=False),
        Binding("i", "invert", "Invert", show=False),
        Binding("space", "pause", "Pause"),
        Binding("question_mark", "keys", "Keys"),
        Binding("q,ctrl+c", "quit", "Quit"),
    ]
    CSS = """
    #head { height: 1; text-style: bold; }
    Machine { height: 4; }
    #note { height: 1; color: $warning; }
    Guests { height: 1fr; overflow-x: auto; scrollbar-size: 0 1; }
    Guests > .datatable--fixed { background: $surface; color: $foreground; }
    """

    def __init__(
        self, client: Client, place: str, *, period_s: float = PERIOD_S, sort: int = STALL
    ) -> None:
        super().__init__()
        self._client = client
        self._place = place
        self._period_s = period_s
        self._head_line = Static(id="head", markup=False)
        self._machine = Machine(markup=False)
        self._note_line = Static(id="note", markup=False)
        self._guests = Guests(sort)
        self._before: tuple[float, dict[str, Any]] = (0.0, {})
        self._answered_s = time.monotonic()
        self._head = "waiting for the daemon"
        self._lost = ""
        self._result = ""
        self._result_until_s = 0.0
        self._paused = False

    def compose(self) -> ComposeResult:
        """Make the parts."""
        yield self._head_line
        yield self._machine
        yield self._note_line
        yield self._guests
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self._guests.focus()
        self.run_worker(self._watch())
        self.set_interval(self._period_s, self._tell)
        self._tell()

    async def _watch(self) -> None:
        while True:
            since = time.monotonic()
            if not self._paused:
                await self._look()
            await asyncio.sleep(max(0.05, self._period_s - (time.monotonic() - since)))

    async def _look(self) -> None:
        try:
            figures = await ask(lambda: self._client.get("/v1/stats"))
        except UvmmError as error:
            self._lost = str(error)
        else:
            self._lost = ""
            self._answered_s = time.monotonic()
            self._see(figures)
        self._tell()

    def _see(self, figures: dict[str, Any]) -> None:
        now_s, (then_s, before) = time.monotonic(), self._before
        guests = figures["guests"]
        self._machine.show(figures["machine"])
        self._guests.show(rows_of(guests, before, now_s - then_s))
        self._head = headline(figures["machine"], len(guests))
        self._before = now_s, {guest["name"]: guest for guest in guests}

    def _tell(self) -> None:
        clock = time.strftime("%H:%M:%S")
        paused = "   paused" if self._paused else ""
        self._head_line.update(
            f"uvmm {self._place}   {self._head}{paused}   {clock}"
        )
        silent_s = time.monotonic() - self._answered_s
        result = self._result if time.monotonic() < self._result_until_s else ""
        note = self._lost or result
        if silent_s > STALE_S and not self._paused:
            note = f"figures are {silent_s:.0f} s old; {self._lost or 'waiting for an answer'}"
        self._note_line.update(note)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave those keys to the table that are about it, or about its guests."""
        on_table = len(self.screen_stack) == 1
        if action in _GUEST_ACTIONS:
            return on_table or isinstance(self.screen, Map)
        return on_table or action not in _TABLE_ACTIONS

    @property
    def _chosen(self) -> str | None:
        """The guest that keys act on: that of the map, or the one under the cursor."""
        if isinstance(self.screen, Map):
            return self.screen.guest
        return self._guests.chosen

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Show the map of the guest, by Enter or a click."""
        self.action_map()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose title was clicked; again, the other way round."""
        table = self._guests
        table.sort_by(event.column_index, invert=event.column_index == table.sorted_by)

    def action_sort_next(self, step: int) -> None:
        """Sort by the next column."""
        self._guests.sort_by(self._guests.sorted_by + step)

    def action_invert(self) -> None:
        """Sort the other way round."""
        self._guests.sort_by(self._guests.sorted_by, invert=True)

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._paused = not self._paused
        self._answered_s = time.monotonic()
        self._tell()

    def action_keys(self) -> None:
        """Tell what the keys do."""
        self.push_screen(Keys())

    def action_map(self) -> None:
        """Show the memory of the chosen guest."""
        if (name := self._chosen) is not None:
            self.push_screen(
                Map(
                    self._client, name, period_s=self._period_s,
                    names=lambda: self._guests.names,
                )
            )

    def action_set(self) -> None:
        """Ask what to set, and set it."""
        self._ask(
            "Set what {} may hold: min=64M max=1G shares=2000 tax=75% balloon_max=65%, one or "
            "more", "", change,
        )

    def action_reclaim(self) -> None:
        """Ask how much, and take it."""
        self._ask("Reclaim from {}: a size, or a part of what is resident", "10%", reclaim)

    def action_restore(self) -> None:
        """Bring stored pages back."""
        if (name := self._chosen) is not None:
            self.run_worker(self._do(name, "", restore))

    def _ask(self, words: str, value: str, job: Job) -> None:
        name = self._chosen
        if name is None:
            return

        def answered(answer: str | None) -> None:
            if answer is not None:
                self.run_worker(self._do(name, answer, job))

        self.push_screen(Question(words.format(name), value), answered)

    async def _do(self, name: str, answer: str, job: Job) -> None:
        self._say(f"{name}: under way ...")
        try:
            result = await ask(lambda: job(self._client, name, answer))
        except UvmmError as error:
            result = str(error)
        self._say(result)

    def _say(self, result: str) -> None:
        self._result, self._result_until_s = result, time.monotonic() + RESULT_S
        self._tell()
