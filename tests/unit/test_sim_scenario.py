# SPDX-License-Identifier: MIT
"""Scenario files: what they say, and what is said of those that are wrong."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uvmm.errors import BadInputError
from uvmm.policy.shares import TaxedShares
from uvmm.sim.report import as_json, head_lines, moment_table
from uvmm.sim.run import run
from uvmm.sim.scenario import SHIPPED_DIR, load, read, shipped

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
title = "t"
duration_s = 10
[machine]
memory = "100M"
swap = "1G"
[[guest]]
name = "a"
max = "50M"
phase = [{ touched = "50%", active = "10M" }]
[[change]]
at_s = 5
guest = "a"
shares = 5
"""
SHIPPED = [(SHIPPED_DIR / f"{name}.toml").read_bytes() for name in shipped()]


def refused(text: str | bytes) -> str:
    with pytest.raises(BadInputError) as error:
        read(text.encode() if isinstance(text, str) else text)
    said = str(error.value)
    assert len(said) < 400
    return said


def test_it_says_what_it_means() -> None:
    scenario = read(GOOD.encode())
    assert scenario.memory_pages == 25_600
    (kind,) = scenario.kinds
    assert (kind.parameters.max_pages, kind.parameters.shares) == (12_800, 1000)
    assert (kind.phases[0].touched_pages, kind.phases[0].active_pages) == (6400, 2560)
    assert scenario.changes[0].parameters.shares == 5


def test_those_that_come_with_uvmm() -> None:
    assert shipped() == ["crowd", "dynamic", "figure6", "figure7", "figure8"]
    for name in shipped():
        assert load(name).about
    assert sum(kind.count for kind in load("crowd").kinds) == 10_000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("duration_s = 10", "duration_s = 'soon'",
         "duration_s: expected a valid number, got \"'soon'\""),
        ("duration_s = 10", "duration_s = -1", "duration_s: expected greater than 0, got '-1'"),
        ("duration_s = 10", "duration_s = nan", "duration_s: expected a finite number"),
        ("duration_s = 10", "", "duration_s: this key is missing"),
        ("duration_s = 10", "duration_s = 1e8", "steps; at most 1000000"),
        ('title = "t"', 'title = "t"\nweather = 1', "weather: this key is unknown"),
        ('title = "t"', "title = 5", "title: expected a valid string, got '5'"),
        ('"100M"', '"100X"', "machine.memory: '100X' is no size"),
        ('"100M"', '"0"', "machine.memory: '0' is less than a page"),
        ('"100M"', "100", "machine, memory: expected a valid string, got '100'"),
        ('name = "a"', 'name = "a b"', "guest 1, name: "),
        ('name = "a"', 'name = "a"\ncount = 0', "guest 1, count: expected greater than"),
        ('name = "a"', 'name = "a"\nmin = "60M"', "guest a: min 60M is not between"),
        ('name = "a"', 'name = "a"\ntax = "100%"', "guest a: the idle tax must be 0%"),
        ('name = "a"', 'name = "a"\nshares = true', "guest 1, shares"),
        ("[[change]]", "[guest.more]\nx = 1\n[[change]]", "guest 1, more: this key is unknown"),
        ('active = "10M"', 'active = "30M"', "expected active <= touched <= max, got 30M"),
        ('active = "10M"', 'active = "10M", cpu = 2', "guest 1, phase 1, cpu: expected less"),
        ("phase = [", "phase = [] #", "guest 1, phase: "),
        ("phase = [", 'phase = [{ at_s = 5, touched = "1M", active = "0" }, ',
         "each phase must begin later"),
        ('guest = "a"', 'guest = "b"', "change at 5 s: there is no guest b"),
        ("shares = 5", 'max = "60M"',
         "change at 5 s: max 60M is more than the memory that a was started with"),
        ("[[change]]", GOOD[GOOD.index("[[guest]]"):GOOD.index("[[change]]")] + "[[change]]",
         "two guests are named a"),
        ("[[guest]]", "[guest]", "guest: expected a valid list"),
        ("[machine]", '[machine]\nown = "101M"', "machine.own: 101M is more than memory, 100M"),
        ("[machine]", "[machine", "it is no TOML"),
        ("duration_s = 10", "duration_s = " + "9" * 5000, "it is no TOML"),
        ("duration_s = 10", "duration_s = " + "9" * 4000, "duration_s: expected"),
        ('title = "t"', "title = " + "[" * 5000, "it is no TOML"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in refused(GOOD.replace(old, new, 1))


def test_too_many_guests_would_take_too_long() -> None:
    many = GOOD.replace('name = "a"', 'name = "a"\ncount = 100000')
    assert "make step_s larger" in refused(many.replace("= 10\n", "= 1000\n", 1))
    twice = many.replace(
        "[[change]]",
        '[[guest]]\nname = "b"\nphase = [{ touched = "0", active = "0" }]\n[[change]]',
    )
    assert "100001 guests; at most 100000" in refused(twice)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load(str(path)).title == "t"
    path.write_bytes(b"\xff")
    with pytest.raises(BadInputError, match="it is no TOML"):
        load(str(path))
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(BadInputError, match="larger than 1M"):
        load(str(path))
    for name in ("none", str(tmp_path), "a\0b", "x" * 5000):
        with pytest.raises(BadInputError, match="give a file, or one of crowd, dynamic"):
            load(name)


def taken(raw: bytes) -> None:
    """Read it: a scenario, or one line that says why it is none."""
    try:
        read(raw)
    except BadInputError as error:
        said = str(error)
    else:
        return
    assert len(said) < 1000


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    taken(raw)


@settings(deadline=None)
@given(st.sampled_from(SHIPPED), st.data())
def test_damaged_files(raw: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    taken(raw[:start] + data.draw(st.binary(max_size=20)) + raw[end:])


SOME_VALUES: tuple[Any, ...] = (
    "64M", "50%", "0", "1E", "1", "100%", "low", "high", "99%", 0, 1, 2, 5, 0.5, 1e-9, 1e9, True
)


@settings(deadline=None)
@given(st.sampled_from(SHIPPED[1:]), st.sampled_from(SOME_VALUES), st.data())
def test_whatever_can_be_read_can_be_run(raw: bytes, value: Any, data: st.DataObject) -> None:
    words = tomllib.loads(raw.decode())
    way = data.draw(st.sampled_from(places(words)))
    inner = words
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    words |= {"duration_s": 300, "step_s": 60}
    text = "\n".join(f"{key} = {written(one)}" for key, one in words.items())
    try:
        scenario = read(text.encode())
    except BadInputError:
        return
    if sum(kind.count for kind in scenario.kinds) > 10:
        return
    outcome = run(scenario, TaxedShares())
    assert head_lines(outcome)
    assert moment_table(outcome).row_count == 13
    assert as_json(outcome)["decisions"] == outcome.decisions >= 1
    assert all(decision.words() and decision.as_json() for decision in outcome.history)


VALUES = st.recursive(
    st.one_of(
        st.integers(), st.floats(), st.booleans(), st.text(max_size=10),
        st.sampled_from(("64M", "50%", "0", "1E", "-1", "low", "1e400")),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to all values in a file."""
    found = [path] if path else []
    inner: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value)
    for key, one in inner:
        found += places(one, (*path, key))
    return found


def written(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = ", ".join(f"{written(key)} = {written(one)}" for key, one in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return repr(value)


@settings(deadline=None)
@given(st.sampled_from(SHIPPED), VALUES, st.data())
def test_any_value_in_any_place(raw: bytes, value: Any, data: st.DataObject) -> None:
    words = tomllib.loads(raw.decode())
    way = data.draw(st.sampled_from(places(words)))
    inner = words
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    text = "\n".join(f"{key} = {written(one)}" for key, one in words.items())
    taken(text.encode(errors="surrogatepass"))
