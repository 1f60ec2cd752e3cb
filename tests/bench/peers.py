# SPDX-License-Identifier: MIT
"""
What uvmm is measured against, set up for a `with` block and gone after it.

Everything here changes the machine (a swap device, a mount), so each context
undoes its steps in reverse order, whatever happened inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .probe import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

ZRAM_CONTROL = Path("/sys/class/zram-control")
# Above any other swap area, so that pages go there and nowhere else.
ZRAM_PRIORITY = 32767
MOUNT_WAIT_S = 10.0


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}: {done.stderr.strip()}")


@contextmanager
def _zram_device() -> Iterator[str]:
    """Yield the name of a zram device that nobody else uses (zram0, zram1, ...)."""
    try:
        number = (ZRAM_CONTROL / "hot_add").read_text().strip()
    except OSError as error:
        raise BenchError(f"no zram in this kernel: {error}") from None
    try:
        yield f"zram{number}"
    finally:
        (ZRAM_CONTROL / "hot_remove").write_text(number)


@contextmanager
def zram_swap(size_bytes: int, algorithm: str = "lz4") -> Iterator[None]:
    """
    The kernel's compressed swap in memory: all pages out go there meanwhile.

    Raises:
        BenchError: If the kernel has no zram, or not this algorithm.
    """
    with ExitStack() as undo:
        name = undo.enter_context(_zram_device())
        settings = Path("/sys/block") / name
        try:
            (settings / "comp_algorithm").write_text(algorithm)
        except OSError as error:
            raise BenchError(f"zram has no {algorithm}: {error}") from None
        (settings / "disksize").write_text(str(size_bytes))
        undo.callback((settings / "reset").write_text, "1")
        device = f"/dev/{name}"
        _run("mkswap", device)
        _run("swapon", "-p", str(ZRAM_PRIORITY), device)
        undo.callback(_run, "swapoff", device)
        yield


@contextmanager
def tmpfs(where: Path, size_bytes: int) -> Iterator[Path]:
    """A plain tmpfs with the mount option of uvmm's own (huge=advise)."""
    where.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"huge=advise,size={size_bytes}",
             "uvmm-bench", str(where))
        try:
            yield where
        finally:
            _run("umount", str(where))
    finally:
        where.rmdir()


@contextmanager
def plain_filesystem(data: Path, where: Path) -> Iterator[Path]:
    """
    A fusepy filesystem that serves *data*; yields the file's path in it.

    Each mount starts with nothing in the kernel's page cache.
    """
    where.mkdir()
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("plainfs.py")), str(data),
         str(where)]
    )
    try:
        until = time.monotonic() + MOUNT_WAIT_S
        while not os.path.ismount(where):
            if server.poll() is not None or time.monotonic() > until:
                raise BenchError("the plain fusepy filesystem did not come up")
            time.sleep(0.01)
        yield where / "data"
    finally:
        if os.path.ismount(where):
            _run("umount", str(where))
        try:
            server.wait(timeout=MOUNT_WAIT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        where.rmdir()
