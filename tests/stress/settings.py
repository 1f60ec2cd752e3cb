# SPDX-License-Identifier: MIT
"""What a run of the page stress is asked to do."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from uvmm.errors import BadInputError
from uvmm.units import CHUNK_BYTES, parse_size

SWAP_SPARE = 2  # times what all guests together may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Immutable; `seed` decides every random choice of the driver and the guests."""

    seconds: float
    guests: int
    threads: int  # of each guest
    seed: int
    size_bytes: int  # of each guest
    memory_bytes: int
    movers: int  # threads that reclaim and restore
    kill_every_s: float  # on average; 0 is never
    memory_via: str | None
    share: bool

    @property
    def swap_bytes(self) -> int:
        """Enough that no guest is ever refused a page."""
        return SWAP_SPARE * self.guests * self.size_bytes

    def random(self, what: str) -> random.Random:
        """Return a generator of its own for each purpose."""
        return random.Random(f"{self.seed}/{what}")


def _size(text: str) -> int:
    try:
        size_bytes = parse_size(text)
    except BadInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size_bytes < 2 * CHUNK_BYTES:
        raise argparse.ArgumentTypeError("too small: guests take whole pages of 2M")
    return size_bytes


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _not_negative(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds")
    return value


def parse(argv: list[str] | None = None) -> Settings:
    """Read the command line; ends the process if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="stress-pages", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Guests write and verify their memory while it is reclaimed, restored "
        "and while guests are killed. Exits 1 with a precise report at the first thing wrong.",
    )
    parser.add_argument("--seconds", type=_not_negative, default=60.0, help="how long")
    parser.add_argument("--guests", type=_positive, default=4, help="at a time")
    parser.add_argument("--threads", type=_positive, default=4, help="of each guest")
    parser.add_argument("--seed", type=int, default=None,
                        help="of all choices; random by default")
    parser.add_argument("--size", type=_size, default="64M", help="of each guest")
    parser.add_argument("--memory", type=_size, default="160M", help="of the machine")
    parser.add_argument("--movers", type=int, default=3,
                        help="threads that reclaim and restore")
    parser.add_argument("--kill-every", type=_not_negative, default=5.0, metavar="SECONDS",
                        help="on average; 0 is never")
    parser.add_argument("--memory-via", choices=["fuse", "descriptor"], default=None,
                        help="how guests get their memory; what the kernel has by default")
    parser.add_argument("--share", action="store_true",
                        help="guests write pages alike, and these are shared all the time")
    given = parser.parse_args(argv)
    return Settings(
        seconds=given.seconds, guests=given.guests, threads=given.threads,
        seed=random.SystemRandom().randrange(1 << 31) if given.seed is None else given.seed,
        size_bytes=given.size, memory_bytes=given.memory, movers=given.movers,
        kill_every_s=given.kill_every, memory_via=given.memory_via, share=given.share,
    )
