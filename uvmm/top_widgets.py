# SPDX-License-Identifier: MIT
"""The parts of `uvmm top`: bars, the table of guests, the grid of a page map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.widgets import DataTable, Static

from uvmm.top_model import (
    COLUMNS,
    STALL,
    UNTOUCHED,
    Kind,
    bar,
    legend,
    map_cells,
    map_legend,
    memory_parts,
    ordered,
    swap_parts,
)
from uvmm.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uvmm.top_model import Part, Row

_LABEL = 7  # characters before a bar
_SIZES = 16  # and behind it
_CALM, _NOTICED = 1.0, 10.0  # percent of stall
_SPACE = "\N{NO-BREAK SPACE}"
_BAD, _WORSE = "#d9a441", "bold #ff5050"


def _drawn(kind: Kind, count: int) -> Text:
    return Text(kind.sign * count, style=kind.colour)


def _legend_line(parts: Sequence[tuple[Kind, str]]) -> Text:
    line = Text()
    for kind, words in parts:
        # It breaks between kinds, not within one.
        line.append(f"{kind.sign}{_SPACE}", style=kind.colour)
        line.append(f"{words.replace(' ', _SPACE)}  ")
    return line


class Machine(Static):
    """Machine memory and swap as bars, by kind of page."""

    def show(self, machine: Mapping[str, Any]) -> None:
        """Draw it."""
        width = max(10, self.size.width - _LABEL - _SIZES)
        memory, swap = memory_parts(machine), swap_parts(machine)
        lines = [
            _bar_line("memory", memory, machine["used_bytes"], machine["total_bytes"], width),
            _legend_line(legend(memory)),
            _bar_line(
                "swap", swap, machine["swap_used_bytes"], machine["swap_total_bytes"], width
            ),
            Text(
                f"{format_size(machine['shared_bytes'])} of guests' pages shared, "
                f"{format_size(machine['saved_bytes'])} saved by that"
            ),
        ]
        self.update(Text("\n").join(lines))


def _bar_line(label: str, parts: list[Part], used: int, total: int, width: int) -> Text:
    line = Text(f"{label:<{_LABEL}}")
    for kind, chars in bar(parts, width):
        line.append_text(_drawn(kind, chars))
    return line.append(f" {format_size(used)} of {format_size(total)}")


class Guests(DataTable[Text]):
    """The guests, sorted by a column; the chosen one stays chosen wherever it goes."""

    def __init__(self, sort: int = STALL) -> None:
        super().__init__(cursor_type="row", cell_padding=0, zebra_stripes=False)
        self.fixed_columns = 1
        self.sorted_by = sort
        self.inverted = False
        self._rows: list[Row] = []
        self._shown: list[tuple[str, ...]] = []

    def on_mount(self) -> None:
        """Make the columns."""
        for column in COLUMNS:
            self.add_column(Text(""), width=column.width, key=column.title)
        self._label()

    @property
    def chosen(self) -> str | None:
        """The name of the guest under the cursor; None if there is none."""
        at = self.cursor_row
        return self._shown[at][0] if 0 <= at < len(self._shown) else None

    @property
    def names(self) -> list[str]:
        """The guests in the order that is shown."""
        return [cells[0] for cells in self._shown]

    def show(self, rows: list[Row]) -> None:
        """Show the guests as they are now."""
        self._rows = rows
        self._order()

    def sort_by(self, column: int, *, invert: bool = False) -> None:
        """Sort by a column, or the other way round."""
        self.sorted_by = column % len(COLUMNS)
        self.inverted = invert and not self.inverted
        self._label()
        self._order()

    def _order(self) -> None:
        chosen, scrolled = self.chosen, self.scroll_offset
        rows = ordered(self._rows, COLUMNS[self.sorted_by], inverted=self.inverted)
        cells = [tuple(column.cell(row) for column in COLUMNS) for row in rows]
        if cells == self._shown:
            return
        with self.app.batch_update():
            self.clear()
            for line in cells:
                self.add_row(*(_cell(at, words) for at, words in enumerate(line)))
            self._shown = cells
            if chosen in self.names:
                self.move_cursor(row=self.names.index(chosen), scroll=False)
            self.scroll_to(scrolled.x, scrolled.y, animate=False, force=True)

    def _label(self) -> None:
        for at, column in enumerate(self.ordered_columns):
            title = COLUMNS[at].title
            if at == self.sorted_by:
                title = f"{'▲' if self.inverted else '▼'}{title}"
            label = Text(title, style="bold" if at == self.sorted_by else "")
            label.justify = "right" if COLUMNS[at].numeric else "left"
            label.truncate(COLUMNS[at].width)
            if COLUMNS[at].numeric:
                label.pad_left(COLUMNS[at].width - len(label))
            column.label = label
        self.refresh()


def _cell(at: int, words: str) -> Text:
    column = COLUMNS[at]
    if not column.numeric:
        text = Text(words, no_wrap=True)
        text.truncate(column.width - 1, overflow="ellipsis")
        return text
    style = ""
    if at == STALL and float(words) >= _CALM:
        style = _WORSE if float(words) >= _NOTICED else _BAD
    return Text(f"{words:>{column.width}}", style=style)


class Grid(Static):
    """A guest's page map: a character a cell, in the colour of what most of it is."""

    def cells(self) -> int:
        """Return how many cells there is room for."""
        return max(1, self.size.width * self.size.height)

    def show(self, told: Mapping[str, Any]) -> None:
        """Draw a map of the API."""
        text = Text(no_wrap=False, end="")
        for kind, mostly in map_cells(told):
            dim = "" if mostly or kind is UNTOUCHED else " dim"
            text.append(kind.sign, style=f"{kind.colour}{dim}")
        self.update(text)


class Legend(Static):
    """What the characters of a map mean, and how much there is of each."""

    def show(self, told: Mapping[str, Any]) -> None:
        """Tell of a map of the API."""
        self.update(_legend_line(map_legend(told)))
