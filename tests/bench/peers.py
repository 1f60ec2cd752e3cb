# SPDX-License-Identifier: MIT
"""What uvmm is measured against, set up for a `with` block and gone after it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .undo import BenchError, Undo, held, run

if TYPE_CHECKING:
    from collections.abc import Iterator

ZRAM_CONTROL = Path("/sys/class/zram-control")
# Above any other swap area, so that pages go there and nowhere else.
ZRAM_PRIORITY = 32767
WAIT_S = 10.0


def _remove_zram(number: str) -> None:
    """Remove the device; whoever looks at new block devices may hold it for a moment."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            (ZRAM_CONTROL / "hot_remove").write_text(number)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def zram_swap(size_bytes: int, algorithm: str = "lz4") -> Iterator[None]:
    """
    The kernel's compressed swap in memory: all pages out go there meanwhile.

    Raises:
        BenchError: If the kernel has no zram, or not this algorithm.
    """
    with Undo() as undo:
        with held():
            try:
                number = (ZRAM_CONTROL / "hot_add").read_text().strip()
            except OSError as error:
                raise BenchError(f"no zram in this kernel: {error}") from None
            undo.callback(_remove_zram, number)
        settings = Path("/sys/block") / f"zram{number}"
        try:
            (settings / "comp_algorithm").write_text(algorithm)
        except OSError as error:
            raise BenchError(f"zram has no {algorithm}: {error}") from None
        (settings / "disksize").write_text(str(size_bytes))
        device = f"/dev/zram{number}"
        run("mkswap", device)
        with held():
            run("swapon", "-p", str(ZRAM_PRIORITY), device)
            undo.callback(run, "swapoff", device)
        yield


@contextmanager
def tmpfs(where: Path, size_bytes: int) -> Iterator[Path]:
    """A plain tmpfs with the mount option of uvmm's own (huge=advise)."""
    with Undo() as undo:
        with held():
            where.mkdir()
            undo.callback(where.rmdir)
            run("mount", "-t", "tmpfs", "-o", f"huge=advise,size={size_bytes}",
                "uvmm-bench", str(where))
            undo.callback(run, "umount", "-l", str(where))
        yield where


def _stop_server(server: subprocess.Popen[bytes], where: Path) -> None:
    # The server first: it may be just about to mount.
    server.kill()
    server.wait()
    # And no look before: a mount whose server is gone does not look like one.
    with suppress(BenchError):
        run("umount", "-l", str(where))


@contextmanager
def plain_filesystem(data: Path, where: Path) -> Iterator[Path]:
    """
    A fusepy filesystem that serves *data*; yields the file's path in it.

    Each mount starts with nothing in the kernel's page cache.
    """
    script = str(Path(__file__).with_name("plainfs.py"))
    with Undo() as undo:
        with held():
            where.mkdir()
            undo.callback(where.rmdir)
            server = subprocess.Popen(
                [sys.executable, script, str(data), str(where)], start_new_session=True
            )
            undo.callback(_stop_server, server, where)
        until = time.monotonic() + WAIT_S
        while not os.path.ismount(where):
            if server.poll() is not None or time.monotonic() > until:
                raise BenchError("the plain fusepy filesystem did not come up")
            time.sleep(0.01)
        yield where / "data"
