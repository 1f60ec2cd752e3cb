# SPDX-License-Identifier: MIT
"""
The library of a guest program in Python.

    import guestlib, numpy
    guest = guestlib.attach()
    block = guest.allocate(1 << 30)
    array = numpy.frombuffer(block.memory, dtype=numpy.float64)
    with guest.cache() as cache, cache.open("data") as file:
        head = file.read(100)

Start the program with `uvmm run -- python3 PROGRAM`.
"""

from guestlib.cache import Cache, CachedFile, CacheStatistics
from guestlib.disk import Disk
from guestlib.errors import GuestError, NotAGuestError, OutOfMemoryError
from guestlib.guest import Block, Guest, Pressure, Statistics, attach

__all__ = [
    "Block",
    "Cache",
    "CacheStatistics",
    "CachedFile",
    "Disk",
    "Guest",
    "GuestError",
    "NotAGuestError",
    "OutOfMemoryError",
    "Pressure",
    "Statistics",
    "attach",
]
