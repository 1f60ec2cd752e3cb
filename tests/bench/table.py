# SPDX-License-Identifier: MIT
"""How figures are told: as a table for people, as JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .figures import NotMeasured, Row, spread_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = ("what", "unit", "uvmm", "peer", "ratio", "low - high", "target", "met")
LEFT_COLUMNS = 2  # text; the others are figures and are set to the right
GAP = "  "
MET = {True: "yes", False: "NO", None: ""}


def number(value: float) -> str:
    """
    Write a figure with three digits that matter.

    >>> number(123456.7), number(12.34), number(0.1234)
    ('123,457', '12.3', '0.123')
    """
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def as_text(found: Sequence[Row | NotMeasured]) -> str:
    """Lay the figures out in columns; what was not measured is told below them."""
    rows = [found_row for found_row in found if isinstance(found_row, Row)]
    lines = _columns([HEAD, *(_cells(row) for row in rows)]) if rows else []
    for missing in found:
        if isinstance(missing, NotMeasured):
            lines.append(f"{missing.key}: not measured: {missing.reason}")
    return "\n".join(lines)


def as_json(found: Sequence[Row | NotMeasured]) -> list[dict[str, Any]]:
    """Make plain values of the figures; keys that do not apply are null."""
    return [
        _row_json(row) if isinstance(row, Row) else {"key": row.key, "error": row.reason}
        for row in found
    ]


def _cells(row: Row) -> tuple[str, ...]:
    peer = ratio = spread = ""
    if row.ratio is not None:
        peer = f"{row.peer_name} {number(spread_of(row.peer).median)}"
        ratio = f"{row.ratio.median:.2f}"
        spread = f"{row.ratio.low:.2f} - {row.ratio.high:.2f}"
    return (
        row.what, row.unit, number(spread_of(row.uvmm).median), peer, ratio, spread,
        "" if row.target is None else str(row.target), MET[row.met],
    )


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = [
        GAP.join(
            cell.ljust(width) if at < LEFT_COLUMNS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    lines.insert(1, GAP.join("-" * width for width in widths))
    return lines


def _row_json(row: Row) -> dict[str, Any]:
    ratio = row.ratio
    return {
        "key": row.key,
        "what": row.what,
        "unit": row.unit,
        "uvmm": list(row.uvmm),
        "uvmm_median": spread_of(row.uvmm).median,
        "peer_name": row.peer_name or None,
        "peer": list(row.peer) or None,
        "peer_median": spread_of(row.peer).median if row.peer else None,
        "ratio": ratio.median if ratio else None,
        "ratio_low": ratio.low if ratio else None,
        "ratio_high": ratio.high if ratio else None,
        "ratio_is": ("peer / uvmm" if row.speedup else "uvmm / peer") if ratio else None,
        "target": str(row.target) if row.target else None,
        "met": row.met,
    }
