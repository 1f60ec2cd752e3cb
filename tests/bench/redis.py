# SPDX-License-Identifier: MIT
"""A redis-server for a `with` block, as it is or as a guest, and what it does a second."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .undo import BenchError, held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# The package of the tools has the server, which goes by its name, and starts none.
_PROGRAM = "/usr/bin/redis-check-rdb"
_UP_S = 20.0
_REQUESTS = 1_000_000
_KEYS = 100_000


class Server:
    """A server that keeps nothing; its files are in *folder*."""

    def __init__(self, folder: Path) -> None:
        program = folder / "redis-server"
        if not program.exists():
            shutil.copy(_PROGRAM, program)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.argv = (
            str(program), "--port", str(self._port), "--bind", "127.0.0.1", "--dir",
            str(folder), "--save", "", "--appendonly", "no", "--enable-debug-command", "local",
        )

    @contextmanager
    def running(self, argv: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
        """
        Run it by *argv*, which holds its own arguments at the end.

        Raises:
            BenchError: If it does not serve.
        """
        # Not with signals held: it would not hear the one that ends it.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
        )
        try:
            self._wait(process)
            yield
        finally:
            with held():
                process.terminate()
                process.wait()

    def is_up(self) -> bool:
        """Tell whether it answers."""
        return self._tool("redis-cli", "ping") == "PONG\n"

    def ask(self, requests: int) -> None:
        """Have it set and get so many keys."""
        self._tool(
            "redis-benchmark", "-q", "-P", "4", "-d", "800", "-t", "set,get",
            "-n", str(requests), "-r", str(_KEYS),
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + _UP_S
        while process.poll() is None and time.monotonic() < until:
            if self.is_up():
                return
            time.sleep(0.02)
        raise BenchError("redis-server does not serve")

    def benchmark(self) -> dict[str, float]:
        """Fill it, and read what was written; requests a second of each."""
        text = self._tool(
            "redis-benchmark", "--csv", "-P", "4", "-d", "200", "-t", "set,get,lpush,hset",
            "-n", str(_REQUESTS), "-r", str(_KEYS),
        )
        rows = csv.DictReader(text.splitlines())
        return {row["test"]: float(row["rps"]) for row in rows}

    def fill(self, size_bytes: int) -> None:
        """Write so much to it."""
        self._tool("redis-cli", "debug", "populate", str(size_bytes // 1000), "key", "800")

    def _tool(self, name: str, *argv: str) -> str:
        done = subprocess.run(
            [name, "-p", str(self._port), *argv], capture_output=True, text=True, check=False
        )
        return done.stdout
