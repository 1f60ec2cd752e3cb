# SPDX-License-Identifier: MIT
"""The table `bench faults`: memory of one guest, in and out, against its peers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from uvmm.scratch import ScratchError

from .calm import numpy_workload, random_access
from .figures import NotMeasured, Row
from .fresh import first_touch
from .overhead import idle_guests, page_overhead
from .stage import FULL, QUICK, Stage, say, stage_for, warm_memory
from .swapped import fuse_read, random_read, reclaim, sequential_read
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ROWS: dict[str, Callable[[Stage], list[Row]]] = {
    "first-touch": first_touch,
    "random-access": random_access,
    "numpy": numpy_workload,
    "random-read": random_read,
    "fusepy": fuse_read,
    "sequential": sequential_read,
    "reclaim": reclaim,
    "overhead": page_overhead,
    "idle-guests": idle_guests,
}


def measure(*, quick: bool, only: Collection[str]) -> list[Row | NotMeasured]:
    """
    Measure the rows of *only*, or all of them if it is empty.

    Raises:
        BenchError: If nothing can be measured here at all.
    """
    found: list[Row | NotMeasured] = []
    scale = QUICK if quick else FULL
    with stage_for(scale) as stage:
        say("warming memory")
        warm_memory(scale.warm_bytes)
        for key, row in ROWS.items():
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
