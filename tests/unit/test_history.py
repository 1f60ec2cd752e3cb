# SPDX-License-Identifier: MIT
"""What the daemon remembers of its figures: what is told, and that it is bounded."""

from __future__ import annotations

import random
import sys
import tracemalloc
from typing import Any

import pytest

from tests.unit.samples import a_guest, a_machine
from uvmm.history import (
    COARSE_EVERY,
    COARSE_SAMPLES,
    FINE_SAMPLES,
    GUEST_FIELDS,
    LEAST_BYTES,
    MACHINE_FIELDS,
    History,
    bytes_for,
)
from uvmm.model import Snapshot
from uvmm.schema import figures


def seen(*guests: dict[str, Any], **machine: Any) -> dict[str, Any]:
    rows = [a_guest(id=at + 1, **{"pid": at + 1, **given}) for at, given in enumerate(guests)]
    told = figures(
        Snapshot(machine=a_machine(**machine), guests=tuple(rows)),
        {row.id: 1.25 * row.id for row in rows},
    )
    return {"machine": dict(told["machine"]), "guests": [dict(one) for one in told["guests"]]}


def a_history() -> History:
    return History(started_s=0.0, bytes_max=64 << 20)


def test_what_is_remembered_is_what_was_told() -> None:
    history = History(started_s=5.0, bytes_max=64 << 20)
    history.add(seen({"name": "a", "resident_pages": 3}, pressure=1), at_s=10.0)
    history.add(
        seen({"name": "a", "resident_pages": 4}, {"name": "b", "swapped_pages": 7}), at_s=11.0
    )
    told = history.told()
    assert (told["started_at"], told["last"]) == (5.0, 2)
    assert told["at_seconds"] == [10.0, 11.0]
    assert told["machine"]["pressure"] == ["some", "none"]
    assert told["machine"]["total_bytes"] == [1 << 30] * 2
    one, two = told["guests"]
    assert (one["name"], one["first"], one["resident_bytes"]) == ("a", 0, [12288, 16384])
    assert (two["name"], two["first"], two["swapped_bytes"]) == ("b", 1, [28672])
    assert (one["stall_percent"], two["stall_percent"]) == ([1.25, 1.25], [2.5])


def test_one_guest_of_many() -> None:
    history = a_history()
    for at in range(3):
        history.add(seen({"name": "a"}, {"name": "b"}, {"name": "c"}), at_s=float(at))
    assert [one["name"] for one in history.told(name="b")["guests"]] == ["b"]
    assert history.told(name="b")["guests"][0] == history.told()["guests"][1]
    assert history.told(name="d")["guests"] == []


def test_fields_are_fields_of_the_figures() -> None:
    told = seen({"name": "a"})
    policy = {"active_bytes"}
    assert set(MACHINE_FIELDS) <= set(told["machine"])
    assert set(GUEST_FIELDS) - policy <= set(told["guests"][0])


def test_what_is_new_can_be_asked_for() -> None:
    history = a_history()
    for at in range(5):
        history.add(seen({"name": "a", "faults": at}), at_s=float(at))
    told = history.told(since=3)
    assert told["numbers"] == [4, 5]
    assert told["guests"][0]["faults"] == [3, 4]
    assert history.told(since=5)["numbers"] == []
    assert history.told(since=99)["guests"] == []


def test_a_name_that_is_taken_again_is_another_guest() -> None:
    history = a_history()
    history.add(seen({"name": "a", "pid": 1}), at_s=0.0)
    history.add(seen(), at_s=1.0)
    history.add(seen({"name": "a", "pid": 2}), at_s=2.0)
    assert [(one["name"], one["first"]) for one in history.told()["guests"]] == [
        ("a", 0), ("a", 2),
    ]


def test_seconds_become_tens_of_seconds_and_the_worst_is_kept() -> None:
    history = a_history()
    count = FINE_SAMPLES + 20 * COARSE_EVERY
    for at in range(count):
        history.add(seen({"name": "a"}, pressure=2 if at == 13 else 0), at_s=float(at))
    told = history.told()
    steps = [later - before for before, later in zip(
        told["at_seconds"], told["at_seconds"][1:], strict=False
    )]
    assert steps == sorted(steps, reverse=True)
    assert set(steps) == {1.0, 10.0}
    assert told["machine"]["pressure"].count("full") == 1
    assert told["machine"]["pressure"][1] == "full"
    assert all(len(told["guests"][0][field]) == len(steps) + 1 for field in GUEST_FIELDS)


def test_it_is_bounded_in_samples() -> None:
    history = a_history()
    row = seen()
    for at in range(FINE_SAMPLES + (COARSE_SAMPLES + 100) * COARSE_EVERY):
        history.add(row, at_s=float(at))
    told = history.told()
    # Those tens of seconds that are told second by second are not told twice.
    assert len(told["numbers"]) == FINE_SAMPLES + COARSE_SAMPLES - FINE_SAMPLES // COARSE_EVERY
    assert told["numbers"] == sorted(set(told["numbers"]))


@pytest.mark.parametrize("guests", [1, 200])
def test_it_is_bounded_in_bytes(guests: int) -> None:
    """Also when each sample has other guests, with the longest names."""
    chance = random.Random(1)
    row = seen(*({"name": "a"} for _ in range(guests)))
    tracemalloc.start()
    try:
        history = History(started_s=0.0, bytes_max=LEAST_BYTES)
        for at in range(1500 if guests == 1 else 100):
            for guest in row["guests"]:
                guest["name"] = f"{chance.getrandbits(250):063d}"[:63]
                guest["resident_bytes"] = chance.getrandbits(40)
            history.add(row, at_s=float(at))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{guests} guests: {used >> 10} KiB of {LEAST_BYTES >> 10}")
    assert used < 1.1 * LEAST_BYTES + (64 << 10) + 200 * guests
    told = history.told()
    assert told["numbers"][-1] == told["last"]


def test_its_bytes_follow_the_memory() -> None:
    assert bytes_for(16 << 20) == LEAST_BYTES
    assert bytes_for(2 << 30) == 8 << 20
    assert bytes_for(1 << 40) == 32 << 20


def test_odd_figures_do_no_harm() -> None:
    history = a_history()
    row = seen({"name": "a"})
    row["machine"]["state"] = "unheard of"
    row["guests"][0]["active_bytes"] = None
    history.add(row, at_s=sys.float_info.max)
    assert history.told()["machine"]["state"] == ["high"]
