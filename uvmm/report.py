# SPDX-License-Identifier: MIT
"""`uvmm report`: the figures of the past as pictures and one self-contained page."""

from __future__ import annotations

import base64
import math
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from uvmm.errors import BadInputError, ConflictError
from uvmm.history import WORDS
from uvmm.report_plots import guest_picture, machine_picture, stall_picture
from uvmm.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from uvmm.past import GuestKey, Past

PAGE = "index.html"
GUESTS_DRAWN = 24  # the largest; the table has all
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 66rem; margin: 1rem auto;
  padding: 0 1rem; color: #1d1f21; background: #fff; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    file: str
    title: str
    draw: Callable[[], bytes]


def make_report(
    past: Past, directory: Path, *, force: bool, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """
    Write the page and its pictures into a directory, which is made if need be.

    Args:
        past: What to tell; at least one moment.
        directory: Where to; new, empty, or with *force*.
        force: Write into it all the same.
        progress: Told how many of how many pictures are done.

    Returns:
        What is in it, as plain values.

    Raises:
        BadInputError: If there is nothing to tell.
        ConflictError: If there is something in the directory.
        OSError: If a file cannot be written.
    """
    if not past.moments:
        raise BadInputError("there is no sample to report on; the daemon takes one a second")
    directory.mkdir(exist_ok=True)
    if not force and any(directory.iterdir()):
        raise ConflictError(f"{directory} is not empty; give --force to write into it")
    summary = summary_of(past)
    pictures = _pictures(past)
    drawn = []
    for number, picture in enumerate(pictures):
        progress(number, len(pictures))
        content = picture.draw()
        (directory / picture.file).write_bytes(content)
        drawn.append((picture, content))
    progress(len(pictures), len(pictures))
    (directory / PAGE).write_text(_page(summary, drawn), encoding="utf-8")
    return {**summary, "files": [PAGE, *(picture.file for picture in pictures)]}


def summary_of(past: Past) -> dict[str, Any]:
    """Return the figures that matter, as plain values."""
    times, states = past.times(), Counter(past.word("state"))
    held = past.of_guests("resident_bytes", "shared_bytes")
    return {
        "from_seconds": times[0],
        "to_seconds": times[-1],
        "samples": len(times),
        "memory_bytes": int(past.of_machine("total_bytes")[-1]),
        "peak_allocated_bytes": int(max(held)),
        "peak_used_bytes": int(max(past.of_machine("used_bytes"))),
        "peak_saved_bytes": int(max(past.of_machine("saved_bytes"))),
        "peak_ballooned_bytes": int(max(past.of_guests("ballooned_bytes"))),
        "peak_swapped_bytes": int(max(past.of_guests("swapped_bytes"))),
        "state_percent": {
            word: round(100 * states[word] / len(times), 1) for word in WORDS["state"]
        },
        "guests": [_guest_summary(past, key) for key in past.guests],
    }


def _guest_summary(past: Past, key: GuestKey) -> dict[str, Any]:
    def there(*names: str) -> list[float]:
        return [v for v in past.of_guest(key, *names) if not math.isnan(v)]

    stalls, came_in, went_out = (
        there(name) for name in ("stall_percent", "pages_in", "pages_out")
    )
    return {
        "name": key.name,
        "peak_allocated_bytes": int(max(there("resident_bytes", "shared_bytes"))),
        "peak_shared_bytes": int(max(there("shared_bytes"))),
        "peak_ballooned_bytes": int(max(there("ballooned_bytes"))),
        "peak_swapped_bytes": int(max(there("swapped_bytes"))),
        "pages_in": int(max(came_in) - came_in[0]),
        "pages_out": int(max(went_out) - went_out[0]),
        "mean_stall_percent": round(sum(stalls) / len(stalls), 2),
        "peak_stall_percent": round(max(stalls), 2),
    }


def _pictures(past: Past) -> list[_Picture]:
    summaries = {key: _guest_summary(past, key) for key in past.guests}
    by_size = sorted(summaries, key=lambda key: -summaries[key]["peak_allocated_bytes"])
    by_stall = sorted(summaries, key=lambda key: -summaries[key]["peak_stall_percent"])
    pictures = [
        _Picture(file="machine.png", title="All guests", draw=lambda: machine_picture(past)),
        _Picture(
            file="stalls.png", title="Time waited for memory",
            draw=lambda: stall_picture(past, by_stall),
        ),
    ]
    # Files have numbers: what a guest is called is no file's name.
    for number, key in enumerate(by_size[:GUESTS_DRAWN], 1):
        pictures.append(
            _Picture(
                file=f"guest-{number:02}.png", title=f"Guest {key.name}",
                draw=lambda key=key: guest_picture(past, key),  # type: ignore[misc]
            )
        )
    return pictures


def _page(summary: dict[str, Any], drawn: list[tuple[_Picture, bytes]]) -> str:
    figures = "\n".join(
        f"<h2>{escape(picture.title)}</h2>\n"
        f'<img alt="{escape(picture.title)} over time" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for picture, content in drawn
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>uvmm: report</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>uvmm: report</h1>
<p>{escape(_when(summary["from_seconds"]))} to {escape(_when(summary["to_seconds"]))}</p>
{_machine_table(summary)}
{figures}
<h2>Guests</h2>
{_guest_table(summary)}
</body>
</html>
"""


def _machine_table(summary: dict[str, Any]) -> str:
    states = ", ".join(
        f"{word} {percent:g}%" for word, percent in summary["state_percent"].items() if percent
    )
    rows = [
        ("machine memory", format_size(summary["memory_bytes"])),
        ("allocated to guests, at most", format_size(summary["peak_allocated_bytes"])),
        ("used, at most", format_size(summary["peak_used_bytes"])),
        ("saved by sharing, at most", format_size(summary["peak_saved_bytes"])),
        ("ballooned, at most", format_size(summary["peak_ballooned_bytes"])),
        ("swapped, at most", format_size(summary["peak_swapped_bytes"])),
        ("states of memory", states),
    ]
    return _table((), rows)


def _guest_table(summary: dict[str, Any]) -> str:
    head = (
        "Name", "Allocated", "Shared", "Ballooned", "Swapped", "Pages in", "Pages out",
        "Stall %, mean", "Stall %, most",
    )
    rows = [
        (
            guest["name"], format_size(guest["peak_allocated_bytes"]),
            format_size(guest["peak_shared_bytes"]), format_size(guest["peak_ballooned_bytes"]),
            format_size(guest["peak_swapped_bytes"]), str(guest["pages_in"]),
            str(guest["pages_out"]), f"{guest['mean_stall_percent']:.2f}",
            f"{guest['peak_stall_percent']:.2f}",
        )
        for guest in summary["guests"]
    ]
    return _table(head, rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    lines = [line(head, "th")] if head else []
    lines += [line(row, "td") for row in rows]
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n{body}\n</table></div>'


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
