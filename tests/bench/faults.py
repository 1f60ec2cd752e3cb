# SPDX-License-Identifier: MIT
"""The rows of `bench faults`: memory of one guest, in and out, against its peers."""

from __future__ import annotations

from .calm import numpy_workload, random_access
from .fresh import first_touch
from .overhead import idle_guests, page_overhead
from .swapped import fuse_read, random_read, reclaim, sequential_read

ROWS = {
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

