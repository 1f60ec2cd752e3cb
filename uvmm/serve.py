# SPDX-License-Identifier: MIT
"""
The daemon's process: `python -m uvmm.serve`, started by `uvmm up` and `uvmm run`.

It reads its settings as JSON from standard input and answers on standard output
with one line: `serving`, or a JSON object {kind, error, exit_code}. Order of life:
lock, leftovers, record, log, engine, control socket; its end is the mirror.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvmm import host, leftovers, machine_settings, rundir
from uvmm.api import make_app
from uvmm.control import CONNECTIONS, Server
from uvmm.core import Engine, EventKind
from uvmm.daemon import Daemon
from uvmm.engine_config import EngineConfig
from uvmm.errors import BadInputError, DaemonStartError, EngineError, NotReadyError, UvmmError
from uvmm.figures import remember
from uvmm.history import History, bytes_for
from uvmm.log import LOGGER, open_log, tell
from uvmm.look.serve import serve_looks
from uvmm.rules import in_force, rules_of
from uvmm.sense import PERIOD_S
from uvmm.settings import (
    VIA,
    Settings,
    Sizes,
    check_run_dir,
    http_port,
    idle_cost_permille,
    low_memory_bytes,
    remap_after,
    resolve,
    share_cpu_permille,
    swap_path,
)
from uvmm.units import LARGEST_BYTES, bytes_to_pages, format_size
from uvmm.web.gate import Gate
from uvmm.web.listen import LOOPBACK, listen
from uvmm.web.page import PAGE_PATHS

if TYPE_CHECKING:
    import socket
    from collections import deque
    from collections.abc import Callable

    from uvmm.core import Event
    from uvmm.host import Process
    from uvmm.log import LogEvent
    from uvmm.rundir import Record, RunDir

FIRST_GUEST_WAIT_S = 20.0  # of a daemon that ends with its last guest
EMPTY_CHECK_S = 1.0
SHORTEST_PERIOD_S = 0.02  # however much is urgent
_NO_PASSTHROUGH = (errno.EOPNOTSUPP, errno.ENODEV, errno.EPERM)


def main() -> None:
    """Serve until told to end, in a process that is nobody's child."""
    settings = Settings(**json.load(sys.stdin))
    if os.fork():
        os._exit(0)
    os.umask(0o022)
    try:
        asyncio.run(serve(settings, _answer))
    except UvmmError as error:
        _answer(_told(type(error).__name__, str(error), error.exit_code))
        sys.exit(error.exit_code)
    except Exception as error:
        _answer(_told("Exception", f"the daemon failed to start: {error!r}", 1))
        raise


async def serve(settings: Settings, ready: Callable[[str], bool]) -> None:
    """
    Be the daemon of a run directory until a signal or a request ends it.

    Args:
        settings: What it is asked to be.
        ready: Called with `serving` once it does; False ends it.

    Raises:
        UvmmError: If it cannot be; nothing is left behind.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    with ExitStack() as undo:
        urgent = asyncio.Event()

        def on_urgent() -> None:
            with suppress(RuntimeError):  # the loop has ended, and nothing is urgent any more
                loop.call_soon_threadsafe(urgent.set)

        parts = _open(settings, undo, on_urgent=on_urgent)
        pump = _EventPump(parts.engine, parts.daemon)
        loop.add_reader(parts.engine.event_fd, pump.drain)
        undo.callback(loop.remove_reader, parts.engine.event_fd)
        servers = _servers(settings, parts, stop, undo)
        serve_looks(parts.engine, parts.run_dir, undo)
        tasks = [
            asyncio.create_task(server.serve(sockets=[link])) for server, link in servers
        ]
        tasks += [
            asyncio.create_task(task) for task in (
                _tick(parts.daemon, urgent, stop), remember(parts.daemon, parts.history, stop),
            )
        ]
        ending = asyncio.create_task(_end_when_empty(parts.daemon, pump, stop, settings))
        parts.run_dir.pid.write_text(f"{os.getpid()}\n")
        if not settings.foreground:
            _redirect_stderr(parts.run_dir.log)
        if not ready("serving"):
            stop.set()
        await stop.wait()
        urgent.set()
        tell("ending")
        for server, _ in servers:
            server.should_exit = True
        ending.cancel()
        await asyncio.gather(*tasks, ending, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    run_dir: RunDir
    engine: Engine
    daemon: Daemon
    events: deque[LogEvent]
    history: History
    group: int | None
    config: dict[str, Any]


class _EventPump:
    """Brings the engine's events into the log and to the daemon."""

    def __init__(self, engine: Engine, daemon: Daemon) -> None:
        self._engine = engine
        self._daemon = daemon
        self.guest_ended = asyncio.Event()

    def drain(self) -> None:
        """Take all events that wait."""
        with suppress(NotReadyError):
            while event := self._engine.next_event():
                if event.kind == EventKind.KIN:
                    self._adopt(event)
                    continue
                name = self._daemon.take(event)
                if event.kind == EventKind.SHORT:
                    continue
                bad = event.kind in (EventKind.REFUSED, EventKind.DAMAGED)
                tell(
                    event.text, kind=event.kind.name.lower(), guest=name,
                    level=logging.ERROR if bad else logging.INFO,
                )
                if event.kind == EventKind.ENDED:
                    self.guest_ended.set()

    def _adopt(self, event: Event) -> None:
        try:
            self._daemon.adopt(event.guest_id, event.pid)
        except UvmmError as error:
            tell(f"process {event.pid} cannot be a guest: {error}", level=logging.ERROR)


def _open(
    settings: Settings, undo: ExitStack, *, on_urgent: Callable[[], None]
) -> _Parts:
    """Bring up all that serves; *undo* takes it down, in mirrored order."""
    check_run_dir(settings.run_dir)
    if os.geteuid() != 0:
        raise DaemonStartError("the daemon needs root; start it with sudo")
    _check_words(settings)
    rules = rules_of(settings)
    group = None if settings.group is None else host.group_id(settings.group)
    run_dir = rundir.RunDir(Path(settings.run_dir))
    undo.callback(os.close, rundir.claim(run_dir))
    leftovers.clean(run_dir, force=settings.force)
    undo.callback(rundir.remove, run_dir)
    # Not earlier: the swap file of a killed daemon may have filled the disk.
    sizes = _sizes(settings)
    _check_swap_path(settings, sizes)
    record = rundir.Record(swap_path=str(sizes.swap_path) if sizes.swap_path else None)
    rundir.write_record(run_dir, record)
    events = open_log(run_dir.log, also_stderr=settings.foreground)
    engine = _engine(run_dir, settings, sizes, group)
    undo.callback(engine.stop)
    undo.enter_context(machine_settings.allowed())
    daemon = Daemon(
        engine, on_change=_recorder(run_dir, record), on_urgent=on_urgent, rules=rules
    )
    undo.callback(daemon.close)
    place = f" at {sizes.swap_path}" if sizes.swap_path else ""
    tell(
        f"machine memory {format_size(sizes.memory_bytes)}, "
        f"swap {format_size(sizes.swap_bytes)}{place}"
    )
    history = History(started_s=time.time(), bytes_max=bytes_for(sizes.memory_bytes))
    return _Parts(
        run_dir=run_dir, engine=engine, daemon=daemon, events=events, history=history,
        group=group, config=in_force(settings, sizes, rules),
    )


def _check_words(settings: Settings) -> None:
    """Refuse what no host could give, before anything is touched."""
    if settings.memory_via not in (None, *VIA):
        raise BadInputError(f"--memory-via {settings.memory_via}: give one of {', '.join(VIA)}")
    share_cpu_permille(settings)
    idle_cost_permille(settings)
    remap_after(settings)
    http_port(settings)
    host.free_disk_bytes(swap_path(settings).parent)
    resolve(settings, ram_bytes=host.ram_bytes(), free_disk_bytes=LARGEST_BYTES)


def _sizes(settings: Settings) -> Sizes:
    """Return the sizes; what is in the swap file's place will be gone by then."""
    path = swap_path(settings)
    return resolve(
        settings, ram_bytes=host.ram_bytes(),
        free_disk_bytes=host.free_disk_bytes(path.parent) + host.file_disk_bytes(path),
    )


def _check_swap_path(settings: Settings, sizes: Sizes) -> None:
    """The engine replaces what is there: that must not be a user's own file."""
    path = sizes.swap_path
    if path is None or not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        raise BadInputError(f"--swap {path} is no regular file; name one that can be made")
    if settings.swap is not None and not settings.force:
        raise BadInputError(
            f"--swap {path} exists; remove it, name another, or replace it with --force"
        )


def _engine(run_dir: RunDir, settings: Settings, sizes: Sizes, group: int | None) -> Engine:
    config = EngineConfig(
        run_dir=run_dir.path, swap_path=sizes.swap_path,
        memory_pages=bytes_to_pages(sizes.memory_bytes),
        swap_pages=bytes_to_pages(sizes.swap_bytes),
        via=settings.memory_via or VIA[0], group=group,
        share_cpu_permille=share_cpu_permille(settings),
        idle_cost_permille=idle_cost_permille(settings),
        low_pages=bytes_to_pages(low_memory_bytes(settings, sizes.memory_bytes)),
        remap_after=remap_after(settings),
    )
    try:
        return Engine(config)
    except UvmmError as error:
        code = error.errno if isinstance(error, EngineError) else 0
        if code not in _NO_PASSTHROUGH or settings.memory_via == VIA[1]:
            raise
        if settings.memory_via is not None:
            raise EngineError(f"{error}; try --memory-via {VIA[1]}") from None
        return _engine_by_descriptor(config, error)


def _engine_by_descriptor(config: EngineConfig, why: UvmmError) -> Engine:
    """Do without the memory filesystem where the kernel has no passthrough."""
    try:
        engine = Engine(replace(config, via="descriptor"))
    except UvmmError:
        raise why from None
    tell(f"memory is handed over as descriptors: {why}", level=logging.WARNING)
    return engine


def _recorder(run_dir: RunDir, record: Record) -> Callable[[dict[str, Process]], None]:
    def write(guests: dict[str, Process]) -> None:
        try:
            rundir.write_record(run_dir, replace(record, guests=guests))
        except OSError as error:
            tell(f"cannot write {run_dir.state}: {error.strerror}", level=logging.ERROR)

    return write


def _listen(run_dir: RunDir, group: int | None) -> socket.socket:
    control = rundir.bound(run_dir.control_socket)
    if group is not None:
        os.chown(run_dir.control_socket, -1, group)
        run_dir.control_socket.chmod(0o660)
    control.listen(CONNECTIONS)
    return control


def _servers(
    settings: Settings, parts: _Parts, stop: asyncio.Event, undo: ExitStack
) -> list[tuple[Server, socket.socket]]:
    """Return what serves the control socket and, if it is wanted, the page's port."""
    control = _listen(parts.run_dir, parts.group)
    undo.callback(control.close)
    port = http_port(settings)
    page = None if port is None else listen(parts.run_dir, port, parts.group, undo)
    app = make_app(
        parts.daemon, guest_socket=parts.run_dir.guest_socket, events=parts.events,
        history=parts.history, config=parts.config, shut_down=stop.set,
        http_port=page.port if page else None,
    )
    servers = [(Server(app), control)]
    if page is not None:
        gate = Gate(app, token=page.token, port=page.port, open_paths=PAGE_PATHS)
        servers.append((Server(gate), page.link))
        tell(f"the web page is at {LOOPBACK} port {page.port}")
    return servers


async def _tick(daemon: Daemon, urgent: asyncio.Event, stop: asyncio.Event) -> None:
    """
    Let the daemon think, four times a second or more, whatever goes wrong once.

    What is urgent does not wait for the next time, and once for all that comes together.
    """
    while not stop.is_set():
        urgent.clear()
        pause_s = PERIOD_S
        try:
            pause_s = await asyncio.to_thread(daemon.step)
        except NotReadyError:
            return
        except Exception:  # noqa: BLE001 - the daemon's top: it lives on, and tells
            LOGGER.exception("a step of the control loop failed")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SHORTEST_PERIOD_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(urgent.wait(), pause_s - SHORTEST_PERIOD_S)


async def _end_when_empty(
    daemon: Daemon, pump: _EventPump, stop: asyncio.Event, settings: Settings
) -> None:
    if not settings.exit_when_empty:
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(pump.guest_ended.wait(), FIRST_GUEST_WAIT_S)
    while not daemon.empty():
        pump.guest_ended.clear()
        # Also without an event: an admission that failed may have been the last thing.
        with suppress(TimeoutError):
            await asyncio.wait_for(pump.guest_ended.wait(), EMPTY_CHECK_S)
    stop.set()


def _redirect_stderr(log: Path) -> None:
    """Let the last words of C code, or of Python's, come into the log."""
    sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.dup2(sink, sys.stderr.fileno())
    os.close(sink)


def _told(kind: str, error: str, exit_code: int) -> str:
    return json.dumps({"kind": kind, "error": error, "exit_code": exit_code})


def _answer(line: str) -> bool:
    """Tell the starter; False if it has gone, interrupted: nobody wants us any more."""
    try:
        os.write(sys.stdout.fileno(), f"{line}\n".encode(errors="backslashreplace"))
    except OSError:
        return False
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return True


if __name__ == "__main__":
    main()
