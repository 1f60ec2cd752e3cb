# SPDX-License-Identifier: MIT
"""The launcher with real children; the test is the daemon on its WATCH connection."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from uvmm.launch import LAUNCHER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


HEAD = struct.Struct("=IHHIi")
NOTICE = struct.Struct("=II240s")
MAGIC, VERSION, NOTICE_TYPE, REFUSED = 0x4D4D5675, 1, 12, 2
GONE = "uvmm: the daemon is gone; g waits for memory that is not resident\n"
WAIT_S = 10.0


def notice(text: bytes) -> bytes:
    return HEAD.pack(MAGIC, VERSION, NOTICE_TYPE, 0, 0) + NOTICE.pack(REFUSED, 0, text)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", "import os, signal, sys, time\n" + code]


def catching(name: str) -> list[str]:
    """Say ready, then the signal's name when it comes."""
    return python(
        f"def caught(*_):\n    print({name!r}, flush=True)\n    os._exit(0)\n"
        f"signal.signal(signal.{name}, caught)\n"
        # A signal that comes just before a sleep is told after it.
        "print('ready', flush=True)\nfor _ in range(1200): time.sleep(0.05)"
    )


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.005)


class Launched:
    """A launcher and its child, which it is given as `uvmm run` does."""

    def __init__(
        self,
        argv: Sequence[str],
        before: Callable[[], object],
        stderr: int | None,
    ) -> None:
        self.watch, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stdout, stdout = os.pipe()
        self._stderr, own_stderr = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.dup2(stdout, 1)
            os.dup2(own_stderr if stderr is None else stderr, 2)
            self._become(argv, before, theirs)
        self.ended = False
        os.close(stdout)
        os.close(own_stderr)
        theirs.close()
        self.child = int(self.line())

    def _become(
        self, argv: Sequence[str], before: Callable[[], object], watch: socket.socket
    ) -> None:
        try:
            # A shell has the latter two ignored in what it runs in the background.
            for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            before()
            child = os.fork()
            if not child:
                os.execvp(argv[0], list(argv))
            os.write(1, b"%d\n" % child)
            os.set_inheritable(watch.fileno(), True)
            os.execv(LAUNCHER, [
                "uvmm-launch", "--pid", str(child), "--watch", str(watch.fileno()),
                "--name", "g",
            ])
        finally:
            os._exit(99)

    def line(self) -> str:
        """Return a line of the child's output."""
        text = b""
        while not text.endswith(b"\n"):
            assert select.select([self._stdout], [], [], WAIT_S)[0], f"no line after {text!r}"
            piece = os.read(self._stdout, 1)
            if not piece:
                break
            text += piece
        return text.decode().strip()

    def wait(self) -> int:
        """Return the launcher's raw wait status."""
        statuses: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                statuses.append(status)
            return bool(pid)

        wait_for(has_ended, "the launcher's end")
        self.ended = True
        return statuses[0]

    def exit_code(self) -> int:
        """Return the exit status, or minus the signal."""
        return os.waitstatus_to_exitcode(self.wait())

    def said(self) -> str:
        """Return what was written to stderr; after the end."""
        with os.fdopen(os.dup(self._stderr), "rb") as stream:
            return stream.read().decode()

    def close(self) -> None:
        if not self.ended:
            for pid in (self.child, self.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.watch.close()
        os.close(self._stdout)
        os.close(self._stderr)


@pytest.fixture
def run() -> Iterator[Callable[..., Launched]]:
    there: list[Launched] = []

    def start(
        argv: Sequence[str],
        before: Callable[[], object] = lambda: None,
        stderr: int | None = None,
    ) -> Launched:
        there.append(Launched(argv, before, stderr))
        return there[-1]

    yield start
    for launched in there:
        launched.close()


class TestEnd:
    @pytest.mark.parametrize("status", [0, 3, 127, 255])
    def test_exit_status_is_the_childs(self, run: Callable[..., Launched], status: int) -> None:
        assert run(["sh", "-c", f"exit {status}"]).exit_code() == status

    @pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "SEGV", "ABRT", "PIPE", "USR1"])
    def test_dies_by_the_childs_signal_without_a_core(
        self, run: Callable[..., Launched], name: str
    ) -> None:
        status = run(["sh", "-c", f"kill -{name} $$"]).wait()
        assert os.WTERMSIG(status) == signal.Signals[f"SIG{name}"]
        assert not os.WCOREDUMP(status)

    def test_an_ignored_sigchld_hides_no_end(self, run: Callable[..., Launched]) -> None:
        launched = run(
            ["sh", "-c", "sleep 0.2; exit 5"],
            before=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        )
        assert launched.exit_code() == 5


class TestSignals:
    @pytest.mark.parametrize(
        "name",
        ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH",
         "SIGALRM", "SIGCONT", "SIGRTMIN"],
    )
    def test_are_passed_on(self, run: Callable[..., Launched], name: str) -> None:
        launched = run(catching(name))
        assert launched.line() == "ready"
        os.kill(launched.pid, getattr(signal, name))
        assert launched.line() == name
        assert launched.exit_code() == 0

    def test_that_came_before_the_launcher_are_passed_on(
        self, run: Callable[..., Launched]
    ) -> None:
        def block_and_send() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            os.kill(os.getpid(), signal.SIGTERM)

        unblocking = "signal.pthread_sigmask(signal.SIG_UNBLOCK, [15])\ntime.sleep(10)"
        launched = run(python(unblocking), before=block_and_send)
        assert launched.exit_code() == -signal.SIGTERM

    def test_of_the_child_to_its_group_come_once(self, run: Callable[..., Launched]) -> None:
        launched = run(
            python(
                "got = []\nsignal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n"
                "os.kill(0, signal.SIGUSR1)\ntime.sleep(0.3)\nprint(len(got), flush=True)"
            ),
            before=os.setpgrp,
        )
        assert launched.line() == "1"

    def test_a_stopped_child_stops_the_launcher(self, run: Callable[..., Launched]) -> None:
        # In a group of its own: the kernel stops nobody in a group without a parent.
        launched = run(catching("SIGUSR1"), before=os.setpgrp)
        launched.line()

        def both(stopped: bool) -> bool:
            return {state(launched.pid) == "T", state(launched.child) == "T"} == {stopped}

        for stop in (launched.child, signal.SIGTSTP), (launched.pid, signal.SIGTSTP):
            os.kill(*stop)
            wait_for(lambda: both(stopped=True), "the stop")
            os.kill(launched.pid, signal.SIGCONT)
            wait_for(lambda: both(stopped=False), "the continuation")
        os.kill(launched.child, signal.SIGUSR1)
        assert launched.exit_code() == 0

    def test_a_child_stopped_and_continued_alone_ends_as_ever(
        self, run: Callable[..., Launched]
    ) -> None:
        launched = run(catching("SIGUSR1"), before=os.setpgrp)
        launched.line()
        os.kill(launched.child, signal.SIGSTOP)
        wait_for(lambda: state(launched.child) == "T", "the stop")
        time.sleep(0.1)
        os.kill(launched.child, signal.SIGCONT)
        os.kill(launched.child, signal.SIGUSR1)
        assert launched.exit_code() == 0


class TestNotices:
    def test_are_printed_without_control_characters(
        self, run: Callable[..., Launched]
    ) -> None:
        launched = run(["sleep", "0.2"])
        launched.watch.send(notice(b"first"))
        launched.watch.send(notice(b"a\x1b[2J\nb\xff"))
        assert launched.exit_code() == 0
        assert launched.said() == "uvmm: first\nuvmm: a?[2J?b?\n"

    def test_that_come_after_a_death_are_printed(self, run: Callable[..., Launched]) -> None:
        launched = run(["sh", "-c", "kill -BUS $$"])
        time.sleep(0.05)
        launched.watch.send(notice(b"refused"))
        assert launched.exit_code() == -signal.SIGBUS
        assert launched.said() == "uvmm: refused\n"

    def test_that_nobody_reads_do_not_hurt_the_child(
        self, run: Callable[..., Launched]
    ) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        launched = run(
            python("signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
                   "print('ready', flush=True)\ntime.sleep(0.3)\nos._exit(7)"),
            stderr=writer,
        )
        os.close(writer)
        launched.line()
        launched.watch.send(notice(b"hello"))
        assert launched.exit_code() == 7

    def test_the_daemons_end_is_told_once(self, run: Callable[..., Launched]) -> None:
        launched = run(["sleep", "0.6"])
        launched.watch.close()
        assert launched.exit_code() == 0
        assert launched.said() == GONE

    def test_the_daemons_end_with_the_childs_is_not_told(
        self, run: Callable[..., Launched]
    ) -> None:
        launched = run(["sleep", "9"])
        launched.watch.close()
        time.sleep(0.02)
        os.kill(launched.child, signal.SIGKILL)
        assert launched.exit_code() == -signal.SIGKILL
        assert launched.said() == ""


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--nonsense"],
        ["--pid", "1", "--watch", "0"],
        ["--pid", "0", "--watch", "0", "--name", "g"],
        ["--pid", "x", "--watch", "0", "--name", "g"],
        ["--pid", "1", "--watch", "0", "--name", "g"],
        ["--pid", "1", "--watch", "77", "--name", "g"],
    ],
)
def test_bad_arguments_are_one_line_and_2(argv: list[str]) -> None:
    done = subprocess.run(
        [LAUNCHER, *argv], capture_output=True, text=True, check=False, timeout=WAIT_S
    )
    assert done.returncode == 2
    assert done.stderr.startswith("uvmm-launch: ")
    assert done.stderr.count("\n") == 1
