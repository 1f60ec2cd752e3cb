# SPDX-License-Identifier: MIT
"""The simulator: its scenarios come to what the paper says, and what it prints."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from uvmm.cli import app
from uvmm.errors import BadInputError, UvmmError
from uvmm.policy.admission import overhead
from uvmm.policy.shares import TaxedShares
from uvmm.sim import scenario as files
from uvmm.sim.report import as_json
from uvmm.sim.run import GuestTrace, Outcome, run

if TYPE_CHECKING:
    from pathlib import Path

MIB = 256  # pages
SMALL = """
title = "small"
duration_s = {duration}
step_s = {step}
seed = {seed}
[machine]
memory = "{memory}M"
swap = "2G"
[[guest]]
name = "a"
count = {count}
every_s = 3
max = "64M"
min = "{low}M"
balloon = {balloon}
phase = [
    {{ at_s = 0, touched = "64M", active = "8M", zeros = true }},
    {{ at_s = 10, touched = "60M", active = "{active}M" }},
]
[[guest]]
name = "b"
max = "100M"
stop_s = 40
balloon_after_s = 5
phase = [{{ touched = "90M", active = "50M", sweep_s = 2, cpu = 0.5 }}]
[[change]]
at_s = 20
guest = "a"
shares = "high"
tax = "0"
"""


def simulated(name: str) -> Outcome:
    return run(files.load(name), TaxedShares())


def between(
    trace: GuestTrace, values: list[int] | list[float], since_s: float, until_s: float
) -> float:
    """Return the mean of a figure over a time."""
    return fmean(
        value for at_s, value in zip(trace.times_s, values, strict=True)
        if since_s <= at_s < until_s
    )


class TestPaper:
    def test_figure_6(self) -> None:
        """The estimate rises within seconds and falls within minutes."""
        toucher = simulated("figure6").guests["toucher"]
        for since_s, truth in ((190, 25), (375, 56), (555, 87)):
            got = 100 * between(toucher, toucher.estimate, since_s, since_s + 160)
            assert got == pytest.approx(truth, abs=10)
        at_once = 100 * between(toucher, toucher.estimate, 725, 735)
        assert at_once > 75
        assert 100 * between(toucher, toucher.estimate, 1100, 1200) < 25
        assert 100 * between(toucher, toucher.fast, 990, 1200) == pytest.approx(6, abs=6)

    def test_figure_7(self) -> None:
        """179 and 179 MB without a tax; with it memory moves, and speed rises by 30%."""
        outcome = simulated("figure7")
        idle, busy = outcome.guests["idle"], outcome.guests["dbench"]
        for trace in (idle, busy):
            assert between(trace, trace.held, 300, 600) == pytest.approx(180 * MIB, rel=0.02)
        assert between(idle, idle.held, 700, 1200) < 110 * MIB
        assert between(busy, busy.held, 700, 1200) > 250 * MIB
        before, after = (
            between(busy, busy.speed, since_s, since_s + 200) for since_s in (300, 800)
        )
        assert after / before > 1.3

    def test_figure_8(self) -> None:
        """Boot is survived by dropping zeros; sql falls to its min, and comes back."""
        outcome = simulated("figure8")
        assert outcome.refused == {}
        assert outcome.paged_out < 35 * MIB
        assert outcome.machine.zeros_dropped[-1] > 325 * MIB
        states = outcome.machine.state
        assert states.count("hard") + states.count("low") < 5  # while all boot
        assert states.count("high") > 0.9 * len(states)
        assert sum(before != after for before, after in pairwise(states)) < 40
        sql = outcome.guests["sql"]
        assert between(sql, sql.held, 2000, 2600) == pytest.approx(160 * MIB, rel=0.02)
        assert between(sql, sql.held, 2900, 3500) > 195 * MIB
        for trace in outcome.guests.values():
            low = trace.guest.parameters.min_pages
            assert all(target >= low for target in trace.targets)

    def test_memory_follows_the_load(self) -> None:
        outcome = simulated("dynamic")
        day, night = outcome.guests["day"], outcome.guests["night"]
        assert between(day, day.held, 200, 300) > 2 * between(night, night.held, 200, 300)
        assert between(day, day.held, 500, 600) < between(night, night.held, 500, 600) / 1.9
        both_busy = between(day, day.held, 750, 850) / between(night, night.held, 750, 850)
        assert both_busy == pytest.approx(1, abs=0.2)
        # Twice the shares: as much as it can use, or twice as much.
        assert between(night, night.held, 950, 1050) > 1.7 * between(day, day.held, 950, 1050)
        # Soon after its awakening at 300 s it has its due, as fast as it can grow.
        due = between(night, night.targets, 305, 310)
        assert due > 1.3 * between(night, night.targets, 200, 300)
        assert between(night, night.held, 305, 310) > 0.9 * due
        assert outcome.guests["visitor"].ended
        assert outcome.guests["no-balloon"].guest.swapped > 0

    def test_a_crowd(self) -> None:
        """As many kinds as in the scenario, a tenth of the guests, for the time's sake."""
        text = (files.SHIPPED_DIR / "crowd.toml").read_text()
        for many, few in (("7000", "70"), ("2000", "20"), ("1000", "10"), ("400G", "4G"),
                          ("0.006", "0.6"), ("0.02", "2"), ("0.04", "4"), ("20G", "200M")):
            text = text.replace(many, few)
        outcome = run(files.read(text.encode()), TaxedShares())
        assert len(outcome.guests) == 100
        busy = [t for name, t in outcome.guests.items() if name.startswith("busy")]
        idle = [t for name, t in outcome.guests.items() if name.startswith("idle")]
        assert fmean(t.guest.held for t in busy) > 50 * MIB
        assert fmean(t.guest.held for t in idle) < 40 * MIB


class TestRun:
    @settings(max_examples=40, deadline=None)
    @given(
        duration=st.integers(1, 60), step=st.sampled_from((0.25, 1, 5)), seed=st.integers(0, 9),
        memory=st.integers(100, 600), count=st.integers(1, 5), low=st.integers(0, 64),
        balloon=st.sampled_from(("true", "false")), active=st.integers(0, 60),
    )
    def test_pages_are_somewhere_and_memory_is_never_exceeded(self, **values: object) -> None:
        outcome = run(files.read(SMALL.format(**values).encode()), TaxedShares())
        machine = outcome.machine
        # But for the tables of a guest that comes when nothing is free.
        tables = sum(overhead(t.guest.size) for t in outcome.guests.values())
        assert min(machine.free) >= -tables
        for trace in outcome.guests.values():
            guest = trace.guest
            places = (
                guest.zeros, guest.idle, guest.idle_out, guest.used, guest.used_out,
                guest.ballooned,
            )
            assert min(places) >= 0
            assert sum(places) <= guest.size
            assert guest.ballooned <= guest.parameters.balloon_max_pages
            assert all(0 <= speed <= 1.0001 for speed in trace.speed)
        assert len(outcome.guests) + len(outcome.refused) <= int(str(values["count"])) + 1

    def test_the_same_seed_gives_the_same(self) -> None:
        assert as_json(simulated("figure7")) == as_json(simulated("figure7"))

    def test_who_does_not_fit_is_refused_with_the_arithmetic(self) -> None:
        values = {"duration": 20, "step": 1, "seed": 1, "memory": 100, "count": 3, "low": 40,
                  "balloon": "true", "active": 8}
        outcome = run(files.read(SMALL.format(**values).encode()), TaxedShares())
        assert "a-3" in outcome.refused
        assert "min 40M + overhead" in outcome.refused["a-3"]

    def test_changes_are_promised_or_refused(self) -> None:
        def changed(word: str, memory: int) -> Outcome:
            text = SMALL.format(duration=40, step=1, seed=1, memory=memory, count=2, low=20,
                                balloon="true", active=30)
            read = files.read(text.replace('tax = "0"', word).encode())
            return run(read, TaxedShares())

        outcome = changed('max = "24M"', 200)
        assert outcome.refused == {}
        for name in ("a-1", "a-2"):
            assert outcome.guests[name].guest.parameters.max_pages == 24 * MIB
            assert outcome.guests[name].held[-1] == pytest.approx(24 * MIB, abs=MIB)
        assert changed('min = "64M"', 200).refused == {}
        outcome = changed('min = "64M"', 120)
        assert list(outcome.refused) == ["a-2 at 20 s"]
        assert "min 64M + overhead" in outcome.refused["a-2 at 20 s"]
        assert outcome.guests["a-1"].guest.parameters.min_pages == 64 * MIB
        assert outcome.guests["a-2"].guest.parameters.min_pages == 20 * MIB


class TestCommand:
    def sim(self, *argv: str) -> str:
        done = CliRunner().invoke(app, ["sim", *argv])
        assert done.exit_code == 0, done.output
        return done.output

    def test_tables(self) -> None:
        said = self.sim("figure7", "--explain", "idle")
        assert "Figure 7" in said
        assert "dbench held/target" in said
        assert "idle: target 104M" in said
        assert "an idle page counts 4-fold" in said

    def test_json(self) -> None:
        told = json.loads(self.sim("dynamic", "--json", "--explain", "night"))
        assert {guest["name"] for guest in told["guests"]} == {
            "day", "night", "visitor", "no-balloon"
        }
        assert told["state_percent"]["high"] > 50
        assert len(told["machine"]["at_seconds"]) == 3000
        assert told["decisions_about"][-1]["guests"][0]["name"] == "night"

    def test_plot(self, tmp_path: Path) -> None:
        path = tmp_path / "x.png"
        self.sim("figure6", "--plot", str(path))
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_without_matplotlib_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        monkeypatch.delitem(sys.modules, "uvmm.sim.plot", raising=False)
        done = CliRunner().invoke(app, ["sim", "figure6", "--plot", "x.png"])
        assert isinstance(done.exception, UvmmError)
        assert "pip install 'uvmm[plot]'" in str(done.exception)

    def test_another_policy(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text(
            "from uvmm.policy.shares import TaxedShares\n"
            "class Mine(TaxedShares):\n    name = 'mine'\n"
            "policy = Mine()\n"
        )
        assert "by mine" in self.sim("figure6", "--policy", str(path))

    def test_an_unknown_guest_is_refused(self) -> None:
        done = CliRunner().invoke(app, ["sim", "figure6", "--explain", "nobody"])
        assert isinstance(done.exception, BadInputError)
