# SPDX-License-Identifier: MIT
"""The table of figures, and the metrics that are made from it."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.unit.samples import a_guest, a_machine
from uvmm import schema
from uvmm.counters import FAMILIES, GUEST, MACHINE, Counter, value_at
from uvmm.metrics import exposition
from uvmm.model import Snapshot

UNITS = ("bytes", "seconds", "ratio", "info", "pages")


def keys_of(figures: type) -> set[str]:
    """All places in a typed dictionary, such as `sharing.hints`."""
    keys = set()
    for name, kind in get_type_hints(figures).items():
        if hasattr(kind, "__required_keys__"):
            keys |= {f"{name}.{key}" for key in keys_of(kind)}
        else:
            keys.add(name)
    return keys


def some_figures() -> schema.Figures:
    guests = tuple(
        a_guest(id=at, name=name, resident_pages=10 * at, swapped_pages=7, stall_ns=at * 10**9,
                pages_in=at)
        for at, name in enumerate(("a", "b.c+d-e_f"), 1)
    )
    return schema.figures(
        Snapshot(machine=a_machine(pressure=1, reclaimed_pages=3), guests=guests),
        {1: 2.5, 2: 0.0},
    )


def scraped(accept: str = "") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, _ = exposition(some_figures(), accept)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text.decode()) for sample in family.samples
    }


@pytest.mark.parametrize(
    ("table", "told"), [(MACHINE, schema.MachineFigures), (GUEST, schema.GuestFigures)]
)
def test_each_figure_is_in_the_table_once(table: tuple[Counter, ...], told: type) -> None:
    keys = [counter.key for counter in table]
    assert len(keys) == len(set(keys))
    # Whoever adds a figure to the API says in uvmm/counters.py what it means, and then runs
    # `python -m uvmm.documents`.
    assert set(keys) == keys_of(told)


def test_names_follow_the_conventions() -> None:
    for counter in (*MACHINE, *GUEST):
        if not counter.metric:
            continue
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", counter.metric), counter
        assert not counter.metric.endswith(("_total", "_count", "_sum")), counter
        if counter.key.endswith(("_bytes", "_seconds", "_percent")) or counter.scale != 1:
            assert counter.metric.endswith(UNITS), counter
        assert counter.meaning, counter
    shared = [c.metric for c in (*MACHINE, *GUEST) if c.label and c.label[1]]
    assert set(shared) == set(FAMILIES)


def test_all_figures_are_scraped_in_base_units() -> None:
    found = scraped()
    assert found["uvmm_memory_limit_bytes", frozenset()] == 1 << 30
    assert found["uvmm_reclaimed_bytes_total", frozenset()] == 3 * 4096
    assert found["uvmm_pressure", frozenset({("level", "some")})] == 1
    assert found["uvmm_pressure", frozenset({("level", "full")})] == 0
    guest = ("guest", "b.c+d-e_f")
    assert found["uvmm_guest_stall_seconds_total", frozenset({guest})] == 2
    assert found["uvmm_guest_paged_in_bytes_total", frozenset({guest})] == 2 * 4096
    assert found["uvmm_guest_stall_ratio", frozenset({("guest", "a")})] == 0.025
    places = {
        dict(labels)["place"]: value for (name, labels), value in found.items()
        if name == "uvmm_guest_memory_bytes" and guest in labels
    }
    assert len(places) == 7
    assert sum(places.values()) == found["uvmm_guest_max_bytes", frozenset({guest})]
    names = {name for name, _ in found}
    assert names == {c.full_name for c in (*MACHINE, *GUEST) if c.metric}


def test_a_scraper_may_ask_for_another_format() -> None:
    text, kind = exposition(some_figures(), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    _, kind = exposition(some_figures(), "text/html, */*;q=0.1")
    assert kind.startswith("text/plain")


def test_a_hostile_name_stays_a_label() -> None:
    figures: Any = some_figures()
    figures["guests"][0]["name"] = 'x"} 1\nuvmm_fake 7\n\\'
    text, _ = exposition(figures, "")
    families = list(parse_text(text.decode()))
    assert "uvmm_fake" not in {family.name for family in families}
    labels = {s.labels.get("guest") for family in families for s in family.samples}
    assert figures["guests"][0]["name"] in labels


def test_what_is_not_there_has_no_value() -> None:
    assert value_at({"a": 1}, "a.b") is None
    assert value_at({}, "a") is None
