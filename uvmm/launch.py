# SPDX-License-Identifier: MIT
"""
`uvmm run`: a program as a guest, with its streams, signals and exit status.

The child is forked first and waits on a pipe, since the daemon registers a
process that exists. Once it may go it executes the program, and this process
becomes the small launcher in C, which costs no Python while the guest runs. The
launcher starts with the signals that it passes on blocked, so that none is lost
between the two: it takes them by signalfd, or unblocks them when it is ready.

Nothing here may be slow to import.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from uvmm import disks, host, image, program
from uvmm.client import Client, RefusedError
from uvmm.errors import NotReadyError, NotRunningError, ServedError, UvmmError
from uvmm.program import Heap
from uvmm.rundir import RUN_DIR_VARIABLE, RunDir
from uvmm.watch import give_disk, watch

if TYPE_CHECKING:
    import pwd
    from collections.abc import Mapping, Sequence

_BUILT = Path(__file__).resolve().parents[1] / "build/plain"
LAUNCHER = _BUILT / "uvmm-launch"
HEAP = _BUILT / "libuvmm_heap.so"
REGISTER_WAIT_S = 30.0
SERVE_WAIT_S = 20.0
_POLL_S = 0.05
_PRELOAD = "LD_PRELOAD"
_PR_SET_PDEATHSIG = 1
_LIFT = 1 << 46  # bytes: any guest memory can be mapped
_PASSED_ON = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1,
    signal.SIGUSR2, signal.SIGWINCH,
)
_STATUS = struct.Struct("=i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What `uvmm run` was asked for; None means the default."""

    argv: Sequence[str]
    name: str | None
    min_size: str | None
    max_size: str | None
    shares: str | None
    tax: str | None
    balloon_max: str | None
    user: str | None
    heap: Heap
    follow: bool
    share_group: str | None
    disks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Child:
    """A forked process that waits to be let go, and tells if it cannot execute."""

    pid: int
    go: int
    status: int


def launch(run_dir: RunDir, wanted: Launch) -> NoReturn:
    """
    Run a program as a guest, in the place of this process.

    Raises:
        ProgramError: If it cannot be executed.
        UvmmError: If it cannot be a guest; nothing is left of it.
    """
    path = program.find(wanted.argv[0], os.environ.get("PATH", os.defpath))
    user = None if wanted.user is None else host.user(wanted.user)
    if user is not None and os.geteuid() not in (0, user.pw_uid):
        raise UvmmError(f"--user {wanted.user}: only root may start a program as another user")
    given = [(disk, disks.open_image(disk)) for disk in disks.parse_all(wanted.disks)]
    heap = _heap(path, wanted, user)
    for built in (LAUNCHER, HEAP):
        if not built.is_file():
            raise UvmmError(f"{built} is missing; run bin/setup-env")
    child = _fork(path, wanted.argv, user, heap)
    try:
        admitted = _register(run_dir, _application(path, wanted, child.pid, user))
        token = bytes.fromhex(admitted["token"])
        link = watch(Path(admitted["socket"]), admitted["name"], token)
        for disk, opened in given:
            give_disk(link, disk, opened)
            os.close(opened)
        notices = link.detach()
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        _let_go(child, path, _environment(run_dir, wanted, child.pid, admitted, heap))
    except BaseException:
        _kill(child)
        raise
    os.set_inheritable(notices, True)
    _default_signals()
    os.execv(
        LAUNCHER,
        [
            "uvmm-launch", "--pid", str(child.pid), "--watch", str(notices),
            "--name", admitted["name"],
        ],
    )


def _application(
    path: str, wanted: Launch, pid: int, user: pwd.struct_passwd | None
) -> dict[str, object]:
    body: dict[str, object] = {
        "name": program.guest_name(path) if wanted.name is None else wanted.name,
        "numbered": wanted.name is None,
        "pid": pid,
        "min": wanted.min_size,
        "max": wanted.max_size,
    }
    if wanted.share_group is not None:
        body["share_group"] = wanted.share_group
    given = {
        "shares": wanted.shares, "tax": wanted.tax, "balloon_max": wanted.balloon_max
    }
    body |= {key: value for key, value in given.items() if value is not None}
    if user is not None:
        body |= {"uid": user.pw_uid, "gid": user.pw_gid}
    return body


def _register(run_dir: RunDir, body: Mapping[str, object]) -> dict[str, str]:
    """Register the guest, with a daemon that is started if none serves."""
    client = Client(run_dir.control_socket)
    until = time.monotonic() + SERVE_WAIT_S
    while True:
        try:
            answer: dict[str, str] = client.post("/v1/guests", body, wait_s=REGISTER_WAIT_S)
        except NotRunningError:
            if time.monotonic() > until:
                raise
        except RefusedError as error:
            # A daemon that ends with its last guest may be doing so just now.
            if error.status != NotReadyError.status or time.monotonic() > until:
                raise
        else:
            return answer
        _start_daemon(run_dir)


def _start_daemon(run_dir: RunDir) -> None:
    """Start one, unless another process does so or the former one still ends."""
    # Imported here: with a daemon up there is no need of it.
    from uvmm.settings import Settings  # noqa: PLC0415
    from uvmm.spawn import start  # noqa: PLC0415

    try:
        start(Settings(run_dir=str(run_dir.path), exit_when_empty=True))
    except ServedError:
        time.sleep(_POLL_S)


def _heap(path: str, wanted: Launch, user: pwd.struct_passwd | None) -> Heap:
    """Decide where the heap of the program will be; refuse what cannot be had."""
    if wanted.heap is Heap.NONE:
        return Heap.NONE
    if wanted.heap is Heap.AUTO and image.uses_guest_library(path, wanted.argv[1:]):
        return Heap.NONE
    uid, gid = (os.geteuid(), os.getegid()) if user is None else (user.pw_uid, user.pw_gid)
    image.check_heap(path, image.User(uid, gid))
    if user is not None and not _may_read(user, HEAP):
        raise UvmmError(
            f"{user.pw_name} may not read {HEAP}, without which the heap cannot be in guest "
            "memory; move the checkout where all may read it, or use --heap none"
        )
    return Heap.GUEST


def _may_read(user: pwd.struct_passwd, path: Path) -> bool:
    """Ask as that user: the way there counts, too. The loader would go on without."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    try:
        _change_user(user, {})
        os._exit(0 if os.access(path, os.R_OK) else 1)
    finally:
        os._exit(1)


def _environment(
    run_dir: RunDir, wanted: Launch, pid: int, admitted: Mapping[str, str], heap: Heap
) -> bytes:
    told = {
        "UVMM_SOCKET": admitted["socket"],
        "UVMM_NAME": admitted["name"],
        "UVMM_TOKEN": admitted["token"],
        RUN_DIR_VARIABLE: str(run_dir.path),
    }
    if heap is Heap.GUEST:
        others = os.environ.get(_PRELOAD)
        told["UVMM_PID"] = str(pid)
        told[_PRELOAD] = f"{HEAP}:{others}" if others else str(HEAP)
        if wanted.follow:
            told["UVMM_FOLLOW"] = "1"
    return b"\0".join(os.fsencode(f"{key}={value}") for key, value in told.items())


def _fork(
    path: str, argv: Sequence[str], user: pwd.struct_passwd | None, heap: Heap
) -> _Child:
    go_read, go_write = os.pipe()
    status_read, status_write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(go_read)
        os.close(status_write)
        return _Child(pid, go_write, status_read)
    try:
        os.close(go_write)
        os.close(status_read)
        _become(path, argv, user, parent, go_read, _lift(heap))
    except OSError as error:
        os.write(status_write, _STATUS.pack(error.errno or 0))
    finally:
        os._exit(program.NOT_EXECUTABLE)


def _lift(heap: Heap) -> int:
    """Raise the limit of the address space, if one may, so that guest memory can be mapped."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = resource.RLIM_INFINITY
    if heap is not Heap.GUEST or limits == (unlimited, unlimited):
        return 0
    soft, hard = (each if each == unlimited else each + _LIFT for each in limits)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    except (OSError, ValueError):
        return 0
    return _LIFT


def _become(
    path: str, argv: Sequence[str], user: pwd.struct_passwd | None, parent: int, go: int,
    lift: int,
) -> None:
    """In the child: wait for the word, then execute. Returns if there is none."""
    told = b""
    while piece := os.read(go, 65536):
        told += piece
    if not told:
        return
    environment = dict(os.environb)
    environment.update(
        (key, value) for key, _, value in (pair.partition(b"=") for pair in told.split(b"\0"))
    )
    if lift:
        environment[b"UVMM_LIFT"] = str(lift).encode()
    if user is not None:
        _change_user(user, environment)
    # After the change of user, which clears it: no guest outlives its launcher.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    _default_signals()
    os.execve(path, list(argv), environment)


def _change_user(user: pwd.struct_passwd, environment: dict[bytes, bytes]) -> None:
    if os.geteuid() == 0:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    name = os.fsencode(user.pw_name)
    environment.update(
        {b"HOME": os.fsencode(user.pw_dir), b"USER": name, b"LOGNAME": name}
    )


def _let_go(child: _Child, path: str, environment: bytes) -> None:
    """
    Let the child execute; returns when it has.

    Raises:
        ProgramError: If it could not.
    """
    os.write(child.go, environment)
    os.close(child.go)
    failed = os.read(child.status, _STATUS.size)
    os.close(child.status)
    if failed:
        raise program.failure(path, _STATUS.unpack(failed)[0])


def _kill(child: _Child) -> None:
    try:
        os.kill(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    os.waitpid(child.pid, 0)


def _default_signals() -> None:
    """Undo what Python does to signals, which an exec would pass on."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
