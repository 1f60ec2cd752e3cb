# SPDX-License-Identifier: MIT
"""Five real programs, as guests from their start on, and what they are asked to do."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figure6 import TOUCHER
from .jobs import PYTHON
from .redis import Server
from .stage import MIB
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from uvmm.scratch import Scratch

BOOT = str(TOUCHER.with_name("boot"))
BOOT_S = 3
BOOT_LEAVES_BYTES = 24 * MIB  # of its max
PAUSE_S = 2.0
LOOK_S = 0.25
_LINES = 2_500_000
_LINE_BYTES = 40

# Objects of which it goes through a third, again and again, with pauses.
_OBJECTS = """
import random, sys, time
random.seed(1)
held = [{"number": at, "text": "%020d" % random.getrandbits(60)} for at in range(500_000)]
total = sum(one["number"] for one in held)
until = time.monotonic() + float(sys.argv[1])
turn = 0
while time.monotonic() < until:
    for one in held[: len(held) // 3]:
        one["number"] += 1
    turn += 1
    time.sleep(1.0)
assert sum(one["number"] for one in held) == total + turn * (len(held) // 3)
"""

_TABLE = """
PRAGMA cache_size=-400000; PRAGMA temp_store=MEMORY;
CREATE TABLE item (id INTEGER PRIMARY KEY, kind INTEGER, text TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200000)
INSERT INTO item SELECT i, i * 7919 % 1000, hex(randomblob(40)) FROM n;
SELECT 'made', count(*) FROM item;
"""
_QUERY = """
SELECT 'asked', count(*), sum(length(text)), count(DISTINCT substr(text, 1, 3)) FROM item;
SELECT 'joined', count(*) FROM item a JOIN item b ON b.id = a.id % 1000000 + 1;
"""

_TEMPLATES = """
#include <map>
#include <regex>
#include <string>
#include <variant>
#include <vector>
template <int N> struct table : table<N - 1> { std::map<int, std::vector<std::pair<
  std::string, std::variant<int, std::string, double>>>> of[N % 7 + 1]; };
template <> struct table<0> {};
int main() { table<300> t; std::regex r("a+b|c*d"); return t.of[0].size() +
  std::regex_match("aab", r); }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the programs run, and for how long in all."""

    daemon: Scratch
    folder: Path
    run_s: float


class Program:
    """
    One program, started as a guest again each time that it ends.

    `load` is called meanwhile, every now and then, with the seconds since the start.
    """

    def __init__(
        self, place: Place, name: str, max_mib: int, argv: tuple[str, ...], *,
        load: Callable[[float, subprocess.Popen[str]], None] = lambda _at, _process: None,
    ) -> None:
        self.name = name
        self.max_bytes = max_mib * MIB
        self.runs = 0
        self.failures: list[str] = []
        self._place = place
        self._argv = argv
        self._load = load
        self._thread = threading.Thread(target=self._work)
        self._stop = threading.Event()
        self._began = time.monotonic()

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        """End it, in whatever it is."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        zeros = str(self.max_bytes - BOOT_LEAVES_BYTES)
        argv = (BOOT, zeros, str(BOOT_S), *self._argv)
        while not self._stop.is_set():
            self._run(argv)
            argv = self._argv
            self._stop.wait(PAUSE_S)

    def _run(self, argv: tuple[str, ...]) -> None:
        # A name is free once its last guest is gone, which may take a moment.
        process = self._place.daemon.run(
            argv, name=self.name if not self.runs else f"{self.name}-{self.runs}",
            max_bytes=self.max_bytes,
            options=("--min", str(self.max_bytes // 2), "--shares", "normal"),
            env={"PATH": f"{self._place.folder}:/usr/bin:/bin"},
        )
        while process.poll() is None and not self._stop.is_set():
            try:
                self._load(time.monotonic() - self._began, process)
            except (OSError, subprocess.SubprocessError, BenchError) as error:
                self.failures.append(f"{self.name}: {error}")
            self._stop.wait(LOOK_S)
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        elif process.returncode:
            self.failures.append(f"{self.name} ended with {process.returncode}")
        self.runs += 1


def programs(place: Place) -> list[Program]:
    """Make what they read in the folder, and return them; maxes as in the paper, in all."""
    lines, source = place.folder / "lines", place.folder / "program.cc"
    words = random.Random(1)
    lines.write_text(
        "".join(f"{words.getrandbits(120):030x} {at:08d}\n" for at in range(_LINES))
    )
    source.write_text(_TEMPLATES)
    (place.folder / "objects.py").write_text(_OBJECTS)
    whole = place.folder / "program.ii"
    _tool("g++", "-std=c++20", "-E", "-o", str(whole), str(source))
    # Not g++, which would start it: its memory is that of a process of its own.
    compiler = _tool("g++", "-print-prog-name=cc1plus").strip()
    redis = Server(place.folder)
    return [
        Program(place, "sqlite3", 320, ("sqlite3", ":memory:"), load=_Query(place)),
        Program(place, "redis", 288, redis.argv, load=_Requests(redis, place)),
        Program(place, "python", 288,
                (PYTHON, str(place.folder / "objects.py"), str(place.run_s))),
        Program(place, "sort", 288,
                ("sort", "-S", "200M", "--parallel=1", "-o", "/dev/null", str(lines))),
        Program(place, "gcc", 288,
                (compiler, "-quiet", "-fpreprocessed", "-std=c++20", "-O2", str(whole),
                 "-o", "/dev/null")),
    ]


def _tool(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"{argv[0]}: {error}") from None
    return done.stdout


class _Query:
    """A table at first, then nothing, then a long query, then nothing."""

    def __init__(self, place: Place) -> None:
        self._query_s = 0.55 * place.run_s
        self._made = self._asked = False

    def __call__(self, at_s: float, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        if not self._made:
            self._made = True
            self._tell(process, _TABLE)
        elif at_s > self._query_s and not self._asked:
            self._asked = True
            self._tell(process, _QUERY * 3)

    def _tell(self, process: subprocess.Popen[str], words: str) -> None:
        assert process.stdin is not None
        process.stdin.write(words)
        process.stdin.flush()


class _Requests:
    """Filled at first; then requests for a while, nothing for a while, and so on."""

    def __init__(self, server: Server, place: Place) -> None:
        self._server = server
        self._turn_s = place.run_s / 6
        self._filled = False

    def __call__(self, at_s: float, process: subprocess.Popen[str]) -> None:
        if not self._filled:
            self._filled = self._server.is_up()
            if self._filled:
                self._server.fill(160 * MIB)
        elif int(at_s / self._turn_s) % 2:
            self._server.ask(20_000)
