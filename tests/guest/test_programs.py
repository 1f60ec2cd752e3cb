# SPDX-License-Identifier: MIT
"""
Real programs as guests, each to give byte for byte what it gives without uvmm.

Machine memory is about half of what they need, and all they have is taken out of
memory again and again.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import wait_for
from tests.guest.reclaiming import check, machine, reclaiming, run, uvmm_argv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uvmm.scratch import Scratch

MIB = 1 << 20
PYTHON = "/usr/bin/python3"
REDIS = "/usr/bin/redis-check-rdb"  # which is the server, too, by its name
TESTS_OF_PYTHON = (
    "test_dict", "test_list", "test_bytes", "test_json", "test_zlib", "test_subprocess",
    "test_threading",
)

SQL = """
create table t(a int primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 150000)
  insert into t select x, hex(x * 7919) || x from c;
create index i on t(b);
select count(*), sum(length(b)), max(b) from t;
select a from t where b like '3%' order by b limit 5;
delete from t where a % 3 = 0;
select sum(a * length(b)) from t;
"""

JOB = """
import hashlib, json
d = {str(i): [i, str(i) * 3] for i in range(120000)}
text = json.dumps(d)
print(hashlib.sha256(text.encode()).hexdigest(), json.loads(text) == d)
"""

CPLUSPLUS = """
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
int main() {
  std::map<std::string, int> m; std::regex r("a+b");
  m["x"] = std::regex_match("aab", r);
  for (auto &[k, v] : m) std::cout << k << v << std::endl;
}
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 8 MB of lines in no order."""
    path = tmp_path_factory.mktemp("inputs") / "text"
    words = random.Random(1)
    path.write_text("".join(f"{words.getrandbits(64):x} {i}\n" for i in range(350_000)))
    return str(path)


def test_sort(text: str) -> None:
    check(["sort", "-S", "64M", "--parallel=2", text], 16 * MIB)


def test_gzip(text: str) -> None:
    check(["gzip", "-nc", text], 16 * MIB)


def test_xz(text: str) -> None:
    check(["xz", "-1", "-T1", "-c", text], 16 * MIB)


def test_sqlite3() -> None:
    check(["sqlite3", ":memory:", SQL], 16 * MIB)


def test_python() -> None:
    check([PYTHON, "-c", JOB], 40 * MIB)


@pytest.mark.parametrize("name", TESTS_OF_PYTHON)
def test_tests_of_python(name: str, tmp_path: Path) -> None:
    with machine(32 * MIB) as daemon, reclaiming(daemon) as taken:
        done = run([PYTHON, "-m", "test", "-q", name], daemon=daemon, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rb"Result: SUCCESS|== Tests result: SUCCESS", done.stdout), done.stdout
    assert taken.rounds


@pytest.mark.parametrize("suffix", ["c", "cc"])
def test_compilers(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"program.{suffix}"
    source.write_text(
        CPLUSPLUS if suffix == "cc" else (Path(__file__).parent / "programs/heap_check.c")
        .read_text()
    )
    compiler = "g++" if suffix == "cc" else "gcc"
    check([compiler, "-O2", "-S", "-o", "-", source.name], 64 * MIB, cwd=tmp_path, follow=True)


def test_git_gc(tmp_path: Path) -> None:
    checkout, copies = Path(__file__).parents[2], []
    for name in ("plain", "guest"):
        copies.append(tmp_path / name)
        subprocess.run(["git", "clone", "-q", "--mirror", checkout, copies[-1]], check=True)
        subprocess.run(["git", "repack", "-q", "-a", "-d"], cwd=copies[-1], check=True)
    gc = ["git", "-c", "pack.threads=1", "gc", "-q", "--aggressive", "--prune=now"]
    assert run(gc, cwd=copies[0]).returncode == 0
    with machine(24 * MIB) as daemon, reclaiming(daemon) as taken:
        done = run(gc, daemon=daemon, cwd=copies[1], follow=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert taken.rounds
    objects = [run(["git", "rev-list", "--objects", "--all"], cwd=copy) for copy in copies]
    assert objects[0].stdout == objects[1].stdout
    assert run(["git", "fsck", "--full"], cwd=copies[1]).returncode == 0


def test_stress_ng(tmp_path: Path) -> None:
    with machine(32 * MIB) as daemon, reclaiming(daemon) as taken:
        done = run(
            ["stress-ng", "--vm", "2", "--vm-bytes", "64M", "--verify", "--vm-ops", "300",
             "--timeout", "60", "--quiet"],
            daemon=daemon, cwd=tmp_path,
        )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert taken.rounds


# --- redis ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Redis:
    port: int
    process: subprocess.Popen[bytes]

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words], capture_output=True, text=True,
            check=False, timeout=120,
        )
        return done.stdout.strip()

    def fill(self) -> None:
        script = (
            "for i = 1, 60000 do redis.call('set', 'k' .. i, string.rep('v' .. i, 20)) "
            "redis.call('hset', 'h' .. (i % 1000), i, 'x' .. i) "
            "redis.call('zadd', 'z' .. (i % 100), i, i) end return redis.call('dbsize')"
        )
        assert self.ask("eval", script, "0") == "61100"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def redis(folder: Path, daemon: Scratch | None = None) -> Iterator[Redis]:
    folder.mkdir(exist_ok=True)
    program, port = folder / "redis-server", free_port()
    shutil.copy(REDIS, program)
    argv = [
        str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
        "--save", "", "--appendonly", "no", "--enable-debug-command", "local",
    ]
    environment = dict(os.environ)
    if daemon is not None:
        argv = uvmm_argv(argv)
        environment["UVMM_RUN_DIR"] = str(daemon.run_dir)
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(argv, stdout=log, stderr=log, env=environment) as process:
        server = Redis(port, process)
        try:
            wait_for(lambda: server.ask("ping") == "PONG", "redis to serve")
            yield server
            assert server.ask("shutdown", "nosave") == ""
            assert process.wait(30) == 0
        finally:
            process.terminate()


def test_redis(tmp_path: Path) -> None:
    with redis(tmp_path / "plain") as server:
        server.fill()
        digest = server.ask("debug", "digest")
    assert re.fullmatch("[0-9a-f]{40}", digest)
    with machine(20 * MIB) as daemon, reclaiming(daemon) as taken:
        with redis(tmp_path / "guest", daemon) as server:
            server.fill()
            assert server.ask("debug", "digest") == digest
            benchmark = ["redis-benchmark", "-p", str(server.port), "-n", "20000", "-q",
                         "-t", "get", "-r", "60000"]
            subprocess.run(benchmark, check=True, stdout=subprocess.DEVNULL, timeout=120)
            started = server.ask("lastsave")
            time.sleep(1.1)  # it is told in seconds
            assert "started" in server.ask("bgsave")
            wait_for(lambda: server.ask("lastsave") != started, "BGSAVE")
            assert server.ask("debug", "digest") == digest
        (tmp_path / "second").mkdir()
        shutil.copy(tmp_path / "guest/dump.rdb", tmp_path / "second")
        with redis(tmp_path / "second", daemon) as server:
            wait_for(lambda: server.ask("dbsize") == "61100", "redis to load")
            assert server.ask("debug", "digest") == digest
    assert taken.pages
