# SPDX-License-Identifier: MIT
"""
Those documents that are made from code: `python -m uvmm.documents` writes them anew.

A test holds that they are as this would write them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uvmm import counters, knobs

if TYPE_CHECKING:
    from collections.abc import Iterable

DOCS = Path(__file__).resolve().parents[1] / "docs"
_NOTE = "<!-- Made from code: python -m uvmm.documents -->"


def documents() -> dict[str, str]:
    """Return the documents by the names of their files."""
    return {"counters.md": _counters(), "knobs.md": _knobs()}


def write(directory: Path = DOCS) -> None:
    """Write them."""
    for name, text in documents().items():
        (directory / name).write_text(text)


def _counters() -> str:
    reading = "\n".join(f"- {line}" for line in counters.READING)
    return f"""{_NOTE}
# Figures and metrics

`uvmm stats --json` and GET /v1/stats tell figures; GET /metrics tells the same for Prometheus,
in base units: pages as bytes, percentages as parts of 1. A name with dots is a place in JSON:
`sharing.hints` is `hints` in the object `sharing`.

    scrape_configs:
      - job_name: uvmm
        authorization: {{ credentials_file: /run/uvmm/http.token }}
        static_configs: [ {{ targets: ["127.0.0.1:8080"] }} ]    # uvmm up --http 8080

A Prometheus that is not root's reads the token if it is in the daemon's `--group`.
[grafana-dashboard.json](grafana-dashboard.json) shows them.

## Machine

{_counter_table(counters.MACHINE)}

## Guests

Metrics of guests have the label `guest`.

{_counter_table(counters.GUEST)}

## How to read them

{reading}
"""


def _counter_table(table: Iterable[counters.Counter]) -> str:
    lines = ["| figure | metric | meaning |", "|---|---|---|"]
    for counter in table:
        metric = f"`{counter.full_name}{_labels(counter)}`" if counter.metric else "-"
        lines.append(f"| `{counter.key}` | {metric} | {counter.meaning} |")
    return "\n".join(lines)


def _labels(counter: counters.Counter) -> str:
    if counter.label is None:
        return ""
    name, value = counter.label
    return f'{{{name}="{value or "..."}"}}'


def _knobs() -> str:
    fixed = "\n".join(f"| {name} | {value} | {why} |" for name, value, why in knobs.FIXED)
    return f"""{_NOTE}
# Settings

Sizes are bytes or have a unit (`64M`, `1.5G`, powers of 1024); where it makes sense, a
percentage.

## Of the daemon

`uvmm up` takes them as options or from a TOML file (`--config`), which `uvmm config --init`
writes with all of them in comments; an option goes before the file.

{_knob_table(knobs.DAEMON, with_key=True)}

## Of a guest

`uvmm run` takes them as options; `uvmm set` changes min, max, shares, tax and the largest
balloon while it runs.

{_knob_table(knobs.GUEST, with_key=False)}

## Fixed

| what | value | why |
|---|---|---|
{fixed}
"""


def _knob_table(table: Iterable[knobs.Knob], *, with_key: bool) -> str:
    head = ["option", *(["in the file"] if with_key else []), "default", "meaning", "why"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for knob in table:
        key = [f"`{knob.key}`" if knob.key else "-"] if with_key else []
        cells = [f"`{knob.option}`", *key, knob.default, knob.meaning, knob.reason]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write()
