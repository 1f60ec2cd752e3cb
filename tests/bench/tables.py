# SPDX-License-Identifier: MIT
"""The tables of `bin/bench`, and how one is filled."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.scratch import ScratchError

from . import active, balloon, disks, faults, heap, paper, policy, sharing
from .figures import NotMeasured, Row
from .stage import FULL, QUICK, Stage, say, stage_for, warm_memory
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What is measured together; each function gives the rows of its key."""

    about: str
    rows: Mapping[str, Callable[[Stage], list[Row]]]
    warms: bool = True  # its rows touch much memory


TABLES = {
    "faults": Table(
        about="memory of one guest, in and out, against its peers", rows=faults.ROWS
    ),
    "heap": Table(
        about="unmodified programs as guests, against glibc and jemalloc", rows=heap.ROWS
    ),
    "sharing": Table(
        about="pages in common of many guests, against the kernel's same-page merging",
        rows=sharing.ROWS,
    ),
    "balloon": Table(
        about="free memory of a guest, given back and taken again", rows=balloon.ROWS
    ),
    "active": Table(
        about="what guests use of their memory: what finding out costs, and how true it is",
        rows=active.ROWS,
    ),
    "io": Table(
        about="virtual disks, with buffers remapped and copied, against fio", rows=disks.ROWS
    ),
    "paper": Table(
        about="figures of the ESX Server paper, on real guests", rows=paper.ROWS
    ),
    "policy": Table(
        about="decisions for many guests; without a daemon", rows=policy.ROWS, warms=False
    ),
}


def measure(table: Table, *, quick: bool, only: Collection[str]) -> list[Row | NotMeasured]:
    """
    Measure the rows of *only*, or all of them if it is empty.

    Raises:
        BenchError: If nothing can be measured here at all.
    """
    found: list[Row | NotMeasured] = []
    scale = QUICK if quick else FULL
    with stage_for(scale) as stage, ExitStack() as warm:
        if table.warms:
            say("warming memory")
            warm.enter_context(warm_memory(scale.warm_bytes))
        for key, row in table.rows.items():
            if only and key not in only:
                continue
            began = time.monotonic()
            say(f"measuring {key}")
            try:
                found += row(stage)
            except (BenchError, ScratchError) as error:
                found.append(NotMeasured(key=key, reason=str(error)))
            say(f"  took {time.monotonic() - began:.1f} s")
    return found
