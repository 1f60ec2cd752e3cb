# SPDX-License-Identifier: MIT
"""What must hold at any time and at the end; each check tells what is wrong, or nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm import host
from uvmm.scratch import stored_and_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uvmm.scratch import Figures

END_WAIT_S = 10.0


class WrongError(Exception):
    """The stress found something; the report of it."""


def check_figures(figures: Figures) -> None:
    """
    Check one sample.

    Raises:
        WrongError: If the figures contradict themselves.
    """
    machine = figures["machine"]
    if machine["used_bytes"] > machine["total_bytes"]:
        raise WrongError(
            f"over budget: used_bytes {machine['used_bytes']} > total_bytes "
            f"{machine['total_bytes']}: {figures}"
        )
    shared_bytes = sum(guest["shared_bytes"] for guest in figures["guests"])
    # A frame may be about to get its first page, or to go with its last.
    if machine["saved_bytes"] != max(0, shared_bytes - machine["frame_bytes"]):
        raise WrongError(
            f"saved_bytes {machine['saved_bytes']} is not what guests share, {shared_bytes}, "
            f"less frame_bytes {machine['frame_bytes']}: {figures}"
        )
    for guest in figures["guests"]:
        if (total_bytes := stored_and_held(guest)) != guest["max_bytes"]:
            raise WrongError(
                f"the places of guest {guest['name']} add up to {total_bytes} bytes, "
                f"not to its max {guest['max_bytes']}: {guest}"
            )
        if guest["popped_pages"]:
            raise WrongError(f"guest {guest['name']} touched pages that it gave back: {guest}")


def check_nothing_left(run_dir: Path, swap_file: Path, pids: set[int]) -> None:
    """
    Check that an ended daemon has cleaned up.

    Args:
        run_dir: Where it was.
        swap_file: What it swapped to.
        pids: Processes that were started for it.

    Raises:
        WrongError: If something of it is left.
    """
    until = time.monotonic() + END_WAIT_S
    while left := [*_left(run_dir, swap_file, pids)]:
        if time.monotonic() > until:
            raise WrongError(f"left after the end: {'; '.join(left)}")
        time.sleep(0.05)


def _left(run_dir: Path, swap_file: Path, pids: set[int]) -> Iterator[str]:
    for point in host.mounts_below(run_dir):
        yield f"mount {point}"
    for path in (swap_file, *(run_dir.rglob("*") if run_dir.is_dir() else ())):
        if path.exists():
            yield f"file {path}"
    # A number alone may be someone else's by now.
    mark = f"UVMM_RUN_DIR={run_dir}".encode()
    for pid in {*pids, *_processes()}:
        if pid != os.getpid() and mark in _environment(pid) and host.process(pid):
            yield f"process {pid}"


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
