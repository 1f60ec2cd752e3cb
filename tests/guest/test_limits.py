# SPDX-License-Identifier: MIT
"""Programs that limit their memory, as guests and without uvmm: what they may have is alike."""

from __future__ import annotations

import os
import subprocess
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.guest.reclaiming import machine, run, uvmm_argv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uvmm.scratch import Scratch

PYTHON = "/usr/bin/python3"
MACHINE_BYTES = 512 << 20
SETS_A_LIMIT = """
    import mmap, os, resource, subprocess, sys, threading
    kind = getattr(resource, "RLIMIT_" + sys.argv[1])
    MIB = 1 << 20
    def may_have(what, *given):
        try:
            return len(what(*given)) > 0
        except (MemoryError, OSError) as error:
            return type(error).__name__
    kept = bytearray(64 * MIB)
    former = resource.getrlimit(kind)
    resource.setrlimit(kind, (512 * MIB, former[1]))
    print(former, resource.getrlimit(kind))
    print(may_have(bytearray, 1 << 30), may_have(mmap.mmap, -1, 1 << 30))
    print(may_have(bytearray, 100 * MIB), may_have(mmap.mmap, -1, 100 * MIB))
    held = [bytearray(100 * MIB) for _ in range(3)]
    print(may_have(bytearray, 250 * MIB))
    del held
    print(may_have(bytearray, 250 * MIB))
    heard = []
    threads = [threading.Thread(target=heard.append, args=(i,)) for i in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    print(sorted(heard), len(open("/bin/sh", "rb").read()) > 0)
    ask = [sys.executable, "-c", "import resource; print(resource.getrlimit(%d))" % kind]
    print(subprocess.run(ask, capture_output=True, close_fds=False).stdout)
    print(subprocess.run(ask, capture_output=True, preexec_fn=lambda: None).stdout)
    pid = os.posix_spawn(sys.executable, ask, os.environ)
    print(os.waitpid(pid, 0)[1])
    child = os.fork()
    if not child:
        ok = may_have(bytearray, 1 << 30) == "MemoryError" and may_have(bytearray, 100 * MIB)
        os._exit(0 if ok is True and resource.getrlimit(kind)[0] == 512 * MIB else 1)
    print(os.waitpid(child, 0)[1])
    resource.setrlimit(kind, (32 * MIB, former[1]))
    print(kept.count(0) == len(kept), len([str(i) for i in range(1000)]))
    resource.setrlimit(kind, former)
    print(may_have(bytearray, 700 * MIB), resource.getrlimit(kind) == former)
    try:
        resource.setrlimit(kind, (2 * MIB, MIB))
    except ValueError as error:
        print(error)
    sys.stdout.flush()
    os.execv(sys.executable, ask)
"""
SEES_A_LIMIT = """
    import resource
    print(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_DATA))
    try:
        print(len(bytearray(1 << 30)))
    except MemoryError:
        print("none")
    print(len(bytearray(100 << 20)))
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Scratch]:
    """A daemon with memory for all that is allowed here."""
    with machine(MACHINE_BYTES) as there:
        yield there


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def alike(daemon: Scratch, argv: list[str]) -> str:
    """Run it without and with uvmm; return what it said both times."""
    plain, done = run(argv), run(argv, daemon=daemon)
    assert plain.returncode == 0, plain.stderr
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (plain.stdout, b"")
    return plain.stdout.decode()


@pytest.mark.parametrize("kind", ["AS", "DATA"])
def test_a_program_sets_a_limit(daemon: Scratch, tmp_path: Path, kind: str) -> None:
    said = alike(daemon, [PYTHON, script(tmp_path, SETS_A_LIMIT), kind])
    assert "MemoryError" in said


@pytest.mark.parametrize("how", ["exec {}", "{}; true", "(ulimit -Sv 700000; {}); {}"])
def test_a_shell_sets_a_limit(daemon: Scratch, tmp_path: Path, how: str) -> None:
    program = f"{PYTHON} {script(tmp_path, SEES_A_LIMIT)}"
    said = alike(daemon, ["/bin/sh", "-c", "ulimit -v 800000; " + how.replace("{}", program)])
    assert "819200000" in said
    assert "none\n104857600\n" in said


@pytest.mark.parametrize("user", [None, "nobody"])
def test_a_limit_from_outside(daemon: Scratch, user: str | None) -> None:
    program = [PYTHON, "-c", textwrap.dedent(SEES_A_LIMIT)]
    limited = ["/bin/sh", "-c", 'ulimit -Sv 800000; exec "$@"', "sh"]
    environment = {**os.environ, "UVMM_RUN_DIR": str(daemon.run_dir)}
    plain = subprocess.run([*limited, *program], capture_output=True, check=True)
    done = subprocess.run(
        [*limited, *uvmm_argv(program, user=user)], capture_output=True,
        env=environment, check=False, cwd="/",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, b"")


def test_a_limit_that_may_not_be_raised(daemon: Scratch) -> None:
    """Then guest memory counts as a whole: it has to fit."""
    environment = {**os.environ, "UVMM_RUN_DIR": str(daemon.run_dir)}
    limited = [
        "setpriv", "--bounding-set=-sys_resource", "/bin/sh", "-c",
        'ulimit -v 800000; exec "$@"', "sh",
    ]
    program = [PYTHON, "-c", "print(len(bytearray(50 << 20)))"]
    done = {
        mib: subprocess.run(
            [*limited, *uvmm_argv(program, max_bytes=mib << 20)], capture_output=True,
            env=environment, check=False,
        )
        for mib in (256, 1024)
    }
    assert (done[256].returncode, done[256].stdout) == (0, b"52428800\n"), done[256].stderr
    assert done[1024].returncode != 0
    assert b"ulimit -v" in done[1024].stderr
