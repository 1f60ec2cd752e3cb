# SPDX-License-Identifier: MIT
"""A PostgreSQL server of its own, plain or with each of its processes a guest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.guest.conftest import copied, wait_for
from tests.guest.reclaiming import uvmm_argv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uvmm.scratch import Scratch

USER = "postgres"  # its package makes it; the server refuses root
MAX_BYTES = 128 << 20
ROWS = 200_000
CLIENT_S = 120
SETTINGS = (
    "listen_addresses=", "fsync=off", "shared_buffers=16MB", "work_mem=32MB",
    "max_parallel_workers_per_gather=2", "min_parallel_table_scan_size=0",
)
FILL = f"""
create table t as select i, md5(i::text) as text, i % 1000 as part
  from generate_series(1, {ROWS}) as i;
create index on t (text);
analyze t;
"""
QUESTIONS = (
    "select md5(string_agg(text || part, ',' order by text)) from t",
    "select md5(string_agg(x::text, ';' order by part)) from"
    " (select part, count(*), sum(i), max(text) from t group by part) as x",
    "select count(*), sum(a.i) from t as a join t as b using (text) where b.part < 500",
)
BALANCES = """
select (select sum(abalance) from pgbench_accounts), (select sum(delta) from pgbench_history),
       (select sum(tbalance) from pgbench_tellers), (select count(*) from pgbench_history)
"""


@dataclass(frozen=True)
class Postgres:
    """A server that is reached by a socket in its folder."""

    folder: Path

    def _client(self, name: str, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [programs() / name, "-h", self.folder, "-U", USER, *argv, "postgres"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def _sql(self, text: str) -> subprocess.Popen[str]:
        return self._client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text)

    def serves(self) -> bool:
        """Tell whether it answers."""
        with self._sql("select 1") as client:
            return client.communicate(timeout=CLIENT_S)[0] == "1\n"

    def work(self) -> list[str]:
        """Load tables, change them and ask, several clients at once; what it answered."""
        _answer(self._client("pgbench", "--initialize", "--scale", "1", "--quiet"))
        _answer(self._sql(FILL))
        bench = self._client(
            "pgbench", "--client", "4", "--jobs", "2", "--transactions", "500",
            "--random-seed", "7", "--no-vacuum",
        )
        clients = [self._sql(question) for question in QUESTIONS * 2]
        answers = [_answer(client) for client in clients]
        assert "transactions actually processed: 2000/2000" in _answer(bench)
        return [*answers, _answer(self._sql(BALANCES))]


def programs() -> Path:
    """Return where the newest version's programs are."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"))


def _answer(client: subprocess.Popen[str]) -> str:
    with client:
        out, complaint = client.communicate(timeout=CLIENT_S)
    assert client.returncode == 0, complaint
    return out


@contextmanager
def postgres(daemon: Scratch | None = None) -> Iterator[Postgres]:
    """Run a server, as a guest if there is a daemon, and end it in good order."""
    folder = Path(tempfile.mkdtemp(prefix="uvmm-test-", dir="/var/tmp"))
    # Where this checkout is, the server's user may have no way to.
    uvmm = copied(folder)
    try:
        shutil.chown(folder, USER, USER)
        subprocess.run(
            [programs() / "initdb", "--pgdata", folder / "data", "--auth", "trust",
             "--no-sync", "--encoding", "UTF8", "--locale", "C"],
            user=USER, group=USER, extra_groups=[], cwd=folder, check=True,
            stdout=subprocess.DEVNULL,
        )
        yield from _serve(folder, daemon, uvmm)
    finally:
        shutil.rmtree(folder)


def _serve(
    folder: Path, daemon: Scratch | None, uvmm: Mapping[str, str]
) -> Iterator[Postgres]:
    argv = [str(programs() / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    for setting in SETTINGS:
        argv += ["-c", setting]
    environment = dict(os.environ)
    user: str | None = USER
    if daemon is not None:
        argv = uvmm_argv(argv, max_bytes=MAX_BYTES, follow=True, user=USER)
        environment |= {"UVMM_RUN_DIR": str(daemon.run_dir), **uvmm}
        user = None
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=folder,
        user=user, group=user, extra_groups=None if user is None else [],
    ) as process:
        server = Postgres(folder)
        try:
            wait_for(server.serves, "PostgreSQL to serve")
            yield server
            process.send_signal(signal.SIGINT)  # to it a word, not an end
            assert process.wait(30) == 0, (folder / "log").read_text()
            assert "database system is shut down" in (folder / "log").read_text()
        finally:
            process.kill()
