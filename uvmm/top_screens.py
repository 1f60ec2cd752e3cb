# SPDX-License-Identifier: MIT
"""What `uvmm top` puts over its table: a guest's page map, a question, the keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Input, Static

from uvmm.client import guest_path
from uvmm.errors import UvmmError
from uvmm.top_jobs import ask
from uvmm.top_widgets import Grid, Legend
from uvmm.units import PAGE_BYTES, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from uvmm.client import Client

MOST_CELLS = 16384


class Map(Screen[None]):
    """A guest's memory from its first page to its last, redrawn as it changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,m", "dismiss", "Back"),
        Binding("right,n", "next(1)", "Next guest"),
        Binding("left,p", "next(-1)", "Former"),
        Binding("s", "app.set", "Set"),
        Binding("r", "app.reclaim", "Reclaim"),
        Binding("t", "app.restore", "Restore"),
    ]
    CSS = """
    Map #title { height: 1; text-style: bold; }
    Map Legend { height: auto; max-height: 3; }
    Map #note { height: 1; color: $warning; }
    Map Grid { height: 1fr; }
    """

    def __init__(
        self, client: Client, name: str, *, period_s: float, names: Callable[[], list[str]]
    ) -> None:
        super().__init__()
        self.guest = name
        self._client = client
        self._period_s = period_s
        self._names = names
        self._title_line = Static(id="title", markup=False)
        self._legend = Legend(markup=False)
        self._grid = Grid(markup=False)
        self._note_line = Static(id="note", markup=False)

    def compose(self) -> ComposeResult:
        """Make the parts."""
        yield self._title_line
        yield self._legend
        yield self._grid
        yield self._note_line
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self.run_worker(self._watch(), exclusive=True)

    def action_next(self, step: int) -> None:
        """Go to the next guest, in the order of the table."""
        names = self._names()
        if names:
            at = names.index(self.guest) if self.guest in names else -step
            self.guest = names[(at + step) % len(names)]
            self.run_worker(self._watch(), exclusive=True)

    async def _watch(self) -> None:
        while True:
            # Not before it is laid out: then there is room for one cell.
            laid_out = self._grid.size.height > 0
            if laid_out:
                await self._look()
            await asyncio.sleep(self._period_s if laid_out else 0.05)

    async def _look(self) -> None:
        name, cells = self.guest, min(MOST_CELLS, self._grid.cells())
        note = ""
        try:
            path = f"{guest_path(name, 'map')}?cells={cells}"
            told = await ask(lambda: self._client.get(path))
        except UvmmError as error:
            note = str(error)
        else:
            size_bytes = told["max_pages"] * PAGE_BYTES
            self._grid.show(told)
            self._legend.show(told)
            self._title_line.update(
                f"{name}: {format_size(size_bytes)} from left to right, line by line; each "
                f"cell is {format_size(size_bytes // told['cells'])}"
            )
        self._note_line.update(note)


class Question(ModalScreen[str | None]):
    """Asks for a line; None if the user does not want after all."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Leave it")]
    CSS = """
    Question { align: center middle; }
    Question Vertical { width: 70; max-width: 96%; height: auto; border: round $accent;
        background: $surface; padding: 0 1; }
    """

    def __init__(self, words: str, value: str = "") -> None:
        super().__init__()
        self._words = words
        self._value = value

    def compose(self) -> ComposeResult:
        """Make the parts."""
        with Vertical():
            yield Static(self._words, markup=False)
            yield Input(value=self._value)
            yield Static("Enter does it, Escape leaves it.")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer."""
        self.dismiss(event.value.strip() or None)


class Keys(ModalScreen[None]):
    """What the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark", "dismiss", "Back"),
    ]
    CSS = """
    Keys { align: center middle; }
    Keys Static { width: 70; max-width: 98%; height: auto; max-height: 98%;
        border: round $accent; background: $surface; padding: 0 1; }
    """
    WORDS = """\
up, down       choose a guest
left, right    see more columns
<, >           sort by the column before, or after; or click on a title
i              the other way round
enter, m       the guest's memory as a map
s              set its min, max, shares ...
r              reclaim: take memory out of it
t              restore: bring its stored pages back
space          stand still, go on
q              quit

STALL% is the part of its time that a guest waited for memory in the last
10 s: below 1 nobody notices. STORED is what is compressed, swapped or
far. IN and OUT are from and to where that is."""

    def compose(self) -> ComposeResult:
        """Make the parts."""
        yield Static(self.WORDS, markup=False)
