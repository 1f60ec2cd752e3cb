# SPDX-License-Identifier: MIT
"""
What a daemon is asked to be, and what that comes to on this host.

`Settings` are words as users give them; `resolve` turns them, with facts about
the host, into numbers. It is pure, so each rule is a line in a test.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from uvmm.errors import BadInputError
from uvmm.units import PAGE_BYTES, format_size, parse_size, shown

VIA = ("fuse", "descriptor")
SMALLEST_MEMORY_BYTES = 16 << 20  # below this a few threads starve each other
DEFAULT_RAM_PERCENT = 25
DEFAULT_MEMORY_BYTES = 256 << 20  # on a host where the percentage is less
DEFAULT_SWAP_TIMES = 2  # as large as memory: guests overcommit by three
DEFAULT_SHARE_CPU_PERMILLE = 50
DEFAULT_IDLE_COST_PERMILLE = 4
DEFAULT_LOW_PART = 16  # of machine memory: one in so many
DEFAULT_REMAP_AFTER = 4
LARGEST_REMAP_AFTER = 255
LARGE_PAGE_BYTES = 2 << 20
LARGEST_PORT = 65535
SOCKET_PATH_BYTES = 107  # of a unix socket, without NUL
_LONGEST_SOCKET = "/control.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a user asked for; None means the default."""

    run_dir: str
    memory: str | None = None
    swap: str | None = None
    swap_size: str | None = None
    memory_via: str | None = None
    group: str | None = None
    share_cpu: str | None = None
    idle_cost: str | None = None
    low_memory: str | None = None
    remap_after: str | None = None
    http: str | None = None
    policy: str | None = None
    sample_pages: str | None = None
    sample_seconds: str | None = None
    tax: str | None = None
    balloon_max: str | None = None
    force: bool = False
    exit_when_empty: bool = False
    foreground: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Machine memory and swap in numbers; `swap_path` None is no swap at all."""

    memory_bytes: int
    swap_bytes: int
    swap_path: Path | None


def swap_path(settings: Settings) -> Path:
    """Return where the swap file is to be, by default one place a run directory."""
    if settings.swap is not None:
        return Path(settings.swap).absolute()
    mark = hashlib.sha256(settings.run_dir.encode(errors="surrogateescape")).hexdigest()[:12]
    return Path(f"/var/tmp/uvmm-{mark}.swap")


def resolve(settings: Settings, *, ram_bytes: int, free_disk_bytes: int) -> Sizes:
    """
    Return the sizes that *settings* mean on a host.

    Args:
        settings: What was asked for.
        ram_bytes: The host's RAM.
        free_disk_bytes: What is free where the swap file is to be.

    Raises:
        BadInputError: If a size cannot be had.
    """
    memory_bytes = _memory(settings, ram_bytes)
    swap_bytes = _swap(settings, memory_bytes, free_disk_bytes)
    if not swap_bytes:
        return Sizes(memory_bytes=memory_bytes, swap_bytes=0, swap_path=None)
    return Sizes(
        memory_bytes=memory_bytes, swap_bytes=swap_bytes, swap_path=swap_path(settings)
    )


def share_cpu_permille(settings: Settings) -> int:
    """
    Return how much of one CPU may be used to look for pages to share, in thousandths.

    Raises:
        BadInputError: If it is no percentage from 0 to 100.
    """
    if settings.share_cpu is None:
        return DEFAULT_SHARE_CPU_PERMILLE
    return _permille("--share-cpu", settings.share_cpu, of="one CPU", such_as="5%")


def idle_cost_permille(settings: Settings) -> int:
    """
    Return how much of a guest's CPU time the look for its idle pages may cost, in thousandths.

    Raises:
        BadInputError: If it is no percentage from 0 to 100.
    """
    if settings.idle_cost is None:
        return DEFAULT_IDLE_COST_PERMILLE
    return _permille(
        "--idle-cost", settings.idle_cost, of="a guest's CPU time", such_as="0.4%"
    )


def _permille(option: str, given: str, *, of: str, such_as: str) -> int:
    try:
        percent = Decimal(given.strip().removesuffix("%").rstrip())
    except InvalidOperation:
        percent = Decimal(-1)
    # Not a number compares as no number does.
    if not (percent.is_finite() and 0 <= percent <= 100):
        raise BadInputError(
            f"{option} {shown(given)}: a percentage of {of} is expected, from 0 "
            f"(never look) to 100, such as {such_as}"
        )
    return int(percent * 10)


def low_memory_bytes(settings: Settings, memory_bytes: int) -> int:
    """
    Return how much of machine memory may be low memory, in large pages.

    Raises:
        BadInputError: If it is no size, or more than machine memory.
    """
    given = settings.low_memory
    wanted = memory_bytes // DEFAULT_LOW_PART if given is None else parse_size(
        given, percent_of=memory_bytes, what="--low-memory"
    )
    if wanted > memory_bytes:
        raise BadInputError(
            f"--low-memory {given} is more than machine memory ({format_size(memory_bytes)})"
        )
    return min(wanted // LARGE_PAGE_BYTES, 8191) * LARGE_PAGE_BYTES


def remap_after(settings: Settings) -> int:
    """
    Return how many copies of a page have it moved into low memory; 0: never.

    Raises:
        BadInputError: If it is no such number.
    """
    given = settings.remap_after
    if given is None:
        return DEFAULT_REMAP_AFTER
    if not (given.isascii() and given.isdigit()) or len(given) > 3 or (
        int(given) > LARGEST_REMAP_AFTER
    ):
        raise BadInputError(
            f"--remap-after {shown(given)}: a number of copies is expected, 1 to "
            f"{LARGEST_REMAP_AFTER}, or 0 for never"
        )
    return int(given)


def http_port(settings: Settings) -> int | None:
    """
    Return the TCP port of the web page, 0 for any, None for no page.

    Raises:
        BadInputError: If it is no port number.
    """
    given = settings.http
    if given is None:
        return None
    if not (given.isascii() and given.isdigit()) or len(given) > 5 or int(given) > LARGEST_PORT:
        raise BadInputError(
            f"--http {shown(given)}: a port number is expected, 1 to {LARGEST_PORT}, or 0 for "
            "any that is free"
        )
    return int(given)


def check_run_dir(run_dir: str) -> None:
    """
    Refuse a run directory in which a socket could not be.

    Raises:
        BadInputError: If it is not absolute, no text, or too long.
    """
    try:
        run_dir.encode()
    except UnicodeEncodeError:
        # Guests are told where their socket is in JSON, which is text.
        raise BadInputError(
            f"the run directory's path must be UTF-8, not {shown(run_dir)}"
        ) from None
    room = SOCKET_PATH_BYTES - len(_LONGEST_SOCKET)
    if len(run_dir.encode()) > room:
        raise BadInputError(f"the run directory's path is longer than {room} bytes: {run_dir}")
    if not run_dir.startswith("/") or run_dir == "/":
        raise BadInputError(f"the run directory must be a full path, not {run_dir!r}")


def _memory(settings: Settings, ram_bytes: int) -> int:
    if settings.memory is None:
        wanted = max(DEFAULT_MEMORY_BYTES, ram_bytes * DEFAULT_RAM_PERCENT // 100)
        return min(wanted, ram_bytes) // PAGE_BYTES * PAGE_BYTES
    memory_bytes = parse_size(settings.memory, percent_of=ram_bytes, what="--memory")
    if memory_bytes < SMALLEST_MEMORY_BYTES:
        raise BadInputError(
            f"--memory {settings.memory} is too small; give at least "
            f"{format_size(SMALLEST_MEMORY_BYTES)}"
        )
    if memory_bytes > ram_bytes:
        raise BadInputError(
            f"--memory {settings.memory} is more than this machine's RAM "
            f"({format_size(ram_bytes)})"
        )
    return memory_bytes // PAGE_BYTES * PAGE_BYTES


def _swap(settings: Settings, memory_bytes: int, free_disk_bytes: int) -> int:
    if settings.swap_size is None:
        wanted = min(DEFAULT_SWAP_TIMES * memory_bytes, free_disk_bytes // 2)
        return wanted // PAGE_BYTES * PAGE_BYTES
    swap_bytes = parse_size(settings.swap_size, percent_of=memory_bytes, what="--swap-size")
    if swap_bytes > free_disk_bytes:
        raise BadInputError(
            f"--swap-size {settings.swap_size} does not fit: {format_size(free_disk_bytes)} "
            f"is free at {swap_path(settings).parent}"
        )
    return swap_bytes // PAGE_BYTES * PAGE_BYTES
