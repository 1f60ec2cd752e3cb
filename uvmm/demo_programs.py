# SPDX-License-Identifier: MIT
"""
The demo's second act: programs that know nothing of uvmm.

redis-server and python3 with numpy do the same work twice, as ordinary processes
and as guests whose memory is all taken out in between, and give the same.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch, ScratchError
from uvmm.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Debian's server and its tool for saved data are one program, which goes by its name.
_SERVER = Path("/usr/bin/redis-check-rdb")
_MAX_BYTES = 512 << 20
_WAIT_S = 60.0
_FILL = (
    "for i = 1, ARGV[1] do redis.call('set', 'key' .. i, string.rep('value' .. i, 20)) "
    "redis.call('hset', 'hash' .. (i % 1000), i, i) end return redis.call('dbsize')"
)
_NUMPY = """
import hashlib, sys
import numpy
numbers = numpy.random.default_rng(7).random((ORDER, ORDER))
print(hashlib.sha256((numbers @ numbers.T).tobytes()).hexdigest(), flush=True)
sys.stdin.read(1)
print(hashlib.sha256((numbers + numbers.T).tobytes()).hexdigest())
"""


class ProgramsError(Exception):
    """What was not the same; one line."""


@dataclass(frozen=True, slots=True)
class Same:
    """A program that gave the same as a guest: what it did, with how much taken out."""

    name: str
    did: str
    out_bytes: int


def compare(scratch: Scratch, *, keys: int, order: int) -> Iterator[Same]:
    """
    Run both programs without and with uvmm; one result as each is done.

    Args:
        scratch: The daemon.
        keys: How many redis is to hold.
        order: Of numpy's matrix.

    Raises:
        ProgramsError: If one gave something else as a guest.
        ScratchError: If the daemon fails.
    """
    yield _redis(scratch, keys)
    yield _python(scratch, order)


def _taken(scratch: Scratch, name: str) -> int:
    return scratch.reclaim(name, 100).pages * 4096


def _redis(scratch: Scratch, keys: int) -> Same:
    with _server(_ordinary) as ask:
        ask("eval", _FILL, "0", str(keys))
        wanted = ask("debug", "digest")
    with _server(
        lambda argv: scratch.run(argv, name="redis-server", max_bytes=_MAX_BYTES)
    ) as ask:
        ask("eval", _FILL, "0", str(keys))
        out_bytes = _taken(scratch, "redis-server")
        got = ask("debug", "digest")
    if got != wanted or len(got.split()) != 1:
        raise ProgramsError(f"redis-server's digest is {got} as a guest, {wanted} without uvmm")
    return Same("redis-server", f"{keys} keys, digest {got[:12]}...", out_bytes)


@contextmanager
def _server(
    start: Callable[[Sequence[str]], subprocess.Popen[str]]
) -> Iterator[Callable[..., str]]:
    """Run a server; yields what asks it."""
    with tempfile.TemporaryDirectory(prefix="uvmm-demo-redis-", dir="/var/tmp") as folder:
        program, link = Path(folder) / "redis-server", Path(folder) / "socket"
        program.symlink_to(_SERVER)
        process = start([
            str(program), "--port", "0", "--unixsocket", str(link), "--dir", folder,
            "--save", "", "--logfile", f"{folder}/log", "--enable-debug-command", "local",
        ])

        def ask(*words: str) -> str:
            done = subprocess.run(
                ["redis-cli", "-s", str(link), *words], capture_output=True, text=True,
                timeout=_WAIT_S, check=False,
            )
            return done.stdout.strip()

        try:
            until = time.monotonic() + _WAIT_S
            while ask("ping") != "PONG":
                if process.poll() is not None or time.monotonic() > until:
                    raise ProgramsError("redis-server does not serve")
                time.sleep(0.05)
            yield ask
            ask("shutdown", "nosave")
            if process.wait(_WAIT_S):
                raise ProgramsError(f"redis-server ended with status {process.returncode}")
        finally:
            process.kill()


def _python(scratch: Scratch, order: int) -> Same:
    argv = [sys.executable, "-c", _NUMPY.replace("ORDER", str(order))]
    wanted, _ = _job(_ordinary(argv), lambda: 0)
    got, out_bytes = _job(
        scratch.run(argv, name="python3", max_bytes=_MAX_BYTES),
        lambda: _taken(scratch, "python3"),
    )
    if got != wanted:
        raise ProgramsError(f"numpy's sums are {got} as a guest, {wanted} without uvmm")
    did = f"matrices of order {order}, sha256 {got[0][:12]}..."
    return Same("python3 numpy", did, out_bytes)


def _job(process: subprocess.Popen[str], between: Callable[[], int]) -> tuple[list[str], int]:
    if process.stdout is None:
        raise ScratchError("a program has no stdout")
    first = process.stdout.readline().strip()
    out_bytes = between()
    rest, _ = process.communicate("go", timeout=_WAIT_S)
    if process.returncode:
        raise ProgramsError(f"python3 ended with status {process.returncode}")
    return [first, rest.strip()], out_bytes


def _ordinary(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def told(same: Same) -> str:
    """Return a result in words."""
    return (
        f"{same.name}, unmodified: {same.did}, the same as without uvmm; "
        f"{format_size(same.out_bytes)} were taken out in between, 0 wrong"
    )
