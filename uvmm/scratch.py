# SPDX-License-Identifier: MIT
"""
A daemon for one purpose: the demo, the page stress and the benchmarks.

It has a run directory, a swap file and a budget of its own, so it disturbs no
daemon that runs already, and it leaves nothing behind: not when the purpose
fails, not when it is interrupted, and not when the daemon itself dies.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypedDict, cast

from uvmm.host import mounts_below

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

DOWN_WAIT_S = 30.0
END_WAIT_S = 5.0
UP_WAIT_S = 60.0


class ScratchError(Exception):
    """The daemon could not be started or refused a request; one line of words."""


class GuestFigures(TypedDict):
    """One guest as `uvmm stats --json` tells it; the first seven add up to max."""

    name: str
    pid: int
    resident_bytes: int
    shared_bytes: int
    ballooned_bytes: int
    compressed_bytes: int
    swapped_bytes: int
    far_bytes: int
    untouched_bytes: int
    unmanaged_bytes: int
    max_bytes: int
    target_bytes: int
    active_bytes: int
    active_percent: float
    faults: int
    pages_in: int
    pages_out: int
    stall_seconds: float
    stall_percent: float
    zero_dropped: int
    share_zero_pages: int
    balloon_target_bytes: int
    balloon_able: bool
    balloon_asked_pages: int
    balloon_given_pages: int
    popped_pages: int
    cpu_seconds: float
    sampled_pages: int
    sample_touched_pages: int
    idle: dict[str, int]


class MachineFigures(TypedDict):
    """The machine as `uvmm stats --json` tells it."""

    total_bytes: int
    used_bytes: int
    overhead_bytes: int
    frame_bytes: int
    shared_bytes: int
    saved_bytes: int
    split_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int
    free_bytes: int
    state: str


class Figures(TypedDict):
    """One sample of everything."""

    machine: MachineFigures
    guests: list[GuestFigures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a reclaim or a restore did."""

    pages: int
    left_pages: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What a pass for pages to share did."""

    scanned_pages: int
    pages: int
    zero_pages: int
    elapsed_s: float
    cpu_s: float


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("uvmm", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Scratch:
    """
    A daemon that lives as long as a `with` block.

    Calls may be made from any thread. Guests started with `run` that still live
    when the block ends are ended with the daemon.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        *,
        purpose: str,
        memory_bytes: int,
        swap_bytes: int,
        swap_dir: Path | None = None,
        memory_via: str | None = None,
        share_cpu: int | None = None,
        idle_cost: float | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """
        Describe the daemon; entering the block starts it.

        Args:
            purpose: A word for the names of the directories.
            memory_bytes: Machine memory.
            swap_bytes: Size of the swap file.
            swap_dir: Where the swap file goes; by default a directory on disk.
            memory_via: `fuse` or `descriptor`; by default what the kernel has.
            share_cpu: Percent of a CPU to look for pages to share with.
            idle_cost: Percent of guests' CPU time to look for idle pages with.
            options: More options of `uvmm up`.
        """
        self._purpose = purpose
        self._memory_bytes = memory_bytes
        self._swap_bytes = swap_bytes
        self._swap_dir = swap_dir or Path("/var/tmp")
        self._memory_via = memory_via
        self._share_cpu = share_cpu
        self._idle_cost = idle_cost
        self._options = tuple(options)
        self._launched: list[subprocess.Popen[str]] = []
        self.run_dir = Path()
        self.swap_file = Path()

    def __enter__(self) -> Self:
        """
        Start the daemon.

        Raises:
            ScratchError: With what `uvmm up` said.
        """
        base = "/run" if os.access("/run", os.W_OK) else tempfile.gettempdir()
        self.run_dir = Path(tempfile.mkdtemp(prefix=f"uvmm-{self._purpose}-", dir=base))
        # Guests of other users have to get through.
        self.run_dir.chmod(0o711)
        self.swap_file = self._swap_dir / f"{self.run_dir.name}.swap"
        argv = ["up", "--memory", str(self._memory_bytes),
                "--swap", str(self.swap_file), "--swap-size", str(self._swap_bytes)]
        if self._memory_via is not None:
            argv += ["--memory-via", self._memory_via]
        if self._share_cpu is not None:
            argv += ["--share-cpu", str(self._share_cpu)]
        if self._idle_cost is not None:
            argv += ["--idle-cost", str(self._idle_cost)]
        argv += self._options
        try:
            self._start_daemon(argv)
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clean_up()

    @property
    def daemon_pid(self) -> int:
        """Process id of the daemon."""
        return int((self.run_dir / "daemon.pid").read_text())

    def environment(self) -> dict[str, str]:
        """Return the environment in which `uvmm` speaks to this daemon."""
        return {**os.environ, "UVMM_RUN_DIR": str(self.run_dir)}

    def command(self, *argv: str) -> list[str]:
        """Return the command `uvmm ARGV...`, for that environment."""
        return [str(Path(sys.executable).with_name("uvmm")), *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        name: str,
        max_bytes: int,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> subprocess.Popen[str]:
        """
        Start *argv* as a guest, with more *options*; its stdin and stdout are pipes of text.

        It is in a session of its own: an interrupt at the terminal reaches the
        purpose alone, which then ends the guests in good order.
        """
        process = subprocess.Popen(
            self.command(
                "run", "--name", name, "--max", str(max_bytes), *options, "--", *argv
            ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**self.environment(), **(env or {})}, start_new_session=True,
        )
        self._launched.append(process)
        return process

    def figures(self) -> Figures:
        """Return the daemon's figures of now."""
        return cast("Figures", self.request("GET", "/v1/stats"))

    def set(self, name: str, **values: str) -> None:
        """Change what a guest may hold: min, max, shares, tax, balloon_max."""
        self.request("PATCH", f"/v1/guests/{name}", values)

    def explain(self, name: str | None = None, *, limit: int = 1) -> list[dict[str, Any]]:
        """Return the newest decisions, oldest first."""
        about = "" if name is None else f"&name={name}"
        told = self.request("GET", f"/v1/explain?limit={limit}{about}")
        return cast("list[dict[str, Any]]", told["decisions"])

    def reclaim(self, name: str, percent: int) -> Moved:
        """Take *percent* of a guest's memory out of it; returns when done."""
        return self._move("reclaim", name, {"size": f"{percent}%"})

    def restore(self, name: str) -> Moved:
        """Bring a guest's stored pages back; returns when done."""
        return self._move("restore", name, {})

    def balloon(self, name: str, percent: int) -> None:
        """Ask a guest to give back *percent* of its max; the policy may differ."""
        self.request("POST", f"/v1/guests/{name}/balloon", {"size": f"{percent}%"})

    def share(self, name: str | None = None) -> Shared:
        """Look for pages to share, in one guest or all; returns when done."""
        done = self.request("POST", "/v1/share", {"name": name})
        return Shared(
            scanned_pages=done["scanned_pages"], pages=done["shared_pages"],
            zero_pages=done["zero_pages"], elapsed_s=done["elapsed_seconds"],
            cpu_s=done["cpu_seconds"],
        )

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """
        Ask the daemon's control API.

        Raises:
            ScratchError: If it does not answer, or refuses.
        """
        link = _UnixConnection(self.run_dir / "control.sock", timeout_s=120.0)
        try:
            link.request(
                method, path, None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = link.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ScratchError(f"the daemon does not answer: {error}") from None
        finally:
            link.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise ScratchError(f"{method} {path}: {answer.status} {text}")
        return cast("dict[str, Any]", json.loads(text))

    def _move(self, verb: str, name: str, body: Mapping[str, Any]) -> Moved:
        done = self.request("POST", f"/v1/guests/{name}/{verb}", body)
        return Moved(
            pages=done["pages"], left_pages=done["left_pages"],
            elapsed_s=done["elapsed_seconds"],
        )

    def _clean_up(self) -> None:
        with _uninterrupted():
            self._stop_daemon()
            _end(self._launched)
            for mounted in mounts_below(self.run_dir):
                subprocess.run(["umount", "-l", mounted], check=False)
            self.swap_file.unlink(missing_ok=True)
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def _start_daemon(self, argv: Sequence[str]) -> None:
        up = subprocess.Popen(
            self.command(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env=self.environment(), start_new_session=True,
        )
        try:
            complaint = up.communicate(timeout=UP_WAIT_S)[1].strip()
        except BaseException:
            # Only once the daemon is up can it be ended: until then it has no process id.
            with _uninterrupted(), suppress(subprocess.TimeoutExpired):
                up.wait(UP_WAIT_S)
            raise
        if up.returncode:
            raise ScratchError(complaint or "uvmm up failed")

    def _stop_daemon(self) -> None:
        """Ask it to end; if it does not, end it."""
        try:
            pid = self.daemon_pid
        except (OSError, ValueError):
            return
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                self.command("down"), env=self.environment(), check=False,
                capture_output=True, timeout=DOWN_WAIT_S,
            )
        until = time.monotonic() + DOWN_WAIT_S
        while _alive(pid):
            if time.monotonic() > until:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.02)


def stored_and_held(guest: GuestFigures) -> int:
    """Sum of the places a guest's pages can be in; must equal its max."""
    return (
        guest["resident_bytes"] + guest["shared_bytes"] + guest["ballooned_bytes"]
        + guest["compressed_bytes"] + guest["swapped_bytes"] + guest["far_bytes"]
        + guest["untouched_bytes"]
    )


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM and SIGHUP unwind like an interrupt, so `with` blocks clean up."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = {
        number: signal.signal(number, unwind)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back: a second Ctrl-C must not cut the cleaning short."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    former = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _alive(pid: int) -> bool:
    """Tell whether the process runs; one that ended but was not reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in b"ZX"


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        _close(process.stdin)
    until = time.monotonic() + END_WAIT_S
    for process in processes:
        try:
            process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Not earlier: closing waits for whoever reads it, and that for the guest's end.
        _close(process.stdout)


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with suppress(OSError):
            stream.close()
