# SPDX-License-Identifier: MIT
"""The inspection filesystem, mounted, on real guests."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import mmh3
import pytest

from tests.guest.conftest import WAIT_S, wait_for
from uvmm.host import mounts
from uvmm.look.wire import STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.guest.conftest import Place

PAGE = 4096
# Contents of its own, alike in pairs, written again at each line that it reads.
HOLD = """
import random, sys
own = random.Random(7).randbytes(12 << 20)
alike = bytearray(random.Random(8).randbytes(4096) * 2048)
print("up", flush=True)
for line in sys.stdin:
    for at in range(0, len(alike), 8192):
        alike[at : at + 8] = line.strip().encode()[:8].ljust(8)
    print("done", flush=True)
"""


@pytest.fixture
def look(served: Place) -> Iterator[Path]:
    """What `uvmm mount` shows of a daemon."""
    directory = served.path / "look"
    directory.mkdir()
    done = served.uvmm("mount", str(directory))
    assert done.returncode == 0, done.stderr
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=False, capture_output=True)


class Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@contextmanager
def holder(place: Place, name: str = "a") -> Iterator[subprocess.Popen[str]]:
    guest = place.start(
        "run", "--name", name, "--max", "96M", "--", sys.executable, "-c", HOLD,
        stdin=subprocess.PIPE,
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "up\n"
    try:
        yield guest
    finally:
        guest.kill()
        guest.communicate()


def tell(guest: subprocess.Popen[str], line: str) -> None:
    assert guest.stdin is not None
    assert guest.stdout is not None
    guest.stdin.write(f"{line}\n")
    guest.stdin.flush()
    assert guest.stdout.readline() == "done\n"


def own_view(place: Place, name: str) -> bytes:
    """A guest's memory as its process sees it, which faults stored pages in."""
    pid = place.client.get(f"/v1/guests/{name}")["pid"]
    size = place.client.get(f"/v1/guests/{name}")["size_bytes"]
    base = None
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if len(words) > 5 and words[5].endswith(f"/mem/{name}") and words[1] == "rw-s":
            base = int(words[0].split("-")[0], 16) - int(words[2], 16)
            break
    assert base is not None
    # /proc/PID/mem does not wait for pages that userfaultfd brings.
    libc = ctypes.CDLL(None, use_errno=True)
    seen = ctypes.create_string_buffer(size)
    for at in range(0, size, 1 << 20):
        here = Piece(ctypes.addressof(seen) + at, 1 << 20)
        there = Piece(base + at, 1 << 20)
        got = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        assert got == 1 << 20, os.strerror(ctypes.get_errno())
    return seen.raw


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@contextmanager
def fails(*codes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
    else:
        pytest.fail("nothing was refused")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_memory_is_what_the_guest_sees(served: Place, look: Path) -> None:
    with holder(served) as guest:
        pid = served.client.get("/v1/guests/a")["pid"]
        served.client.post("/v1/share", {"name": "a"})
        served.client.post("/v1/guests/a/reclaim", {"size": "8M"})
        tell(guest, "one")
        with stopped(pid):
            before = served.client.get("/v1/guests/a")
            seen = (look / "guests/a/memory").read_bytes()
            after = served.client.get("/v1/guests/a")
            assert seen == own_view(served, "a")
        assert before["swapped_bytes"] == after["swapped_bytes"] >= 1 << 20
        assert before["shared_bytes"] == after["shared_bytes"] > 0
        assert len(seen) == before["size_bytes"]
        # A file that stays open shows what is written later.
        with (look / "guests/a/memory").open("rb", buffering=0) as memory:
            at = seen.find(b"one     ")
            while seen[at + 8192 : at + 8200] != b"one     ":  # a copy of the word itself
                at = seen.find(b"one     ", at + 1)
                assert at >= 0
            assert os.pread(memory.fileno(), 8, at) == b"one     "
            tell(guest, "another1")
            time.sleep(0.15)
            assert os.pread(memory.fileno(), 8, at) == b"another1"
            # Odd places and lengths.
            for start, length in ((1, 1), (PAGE - 1, 2), (5000, 70000), (len(seen) - 3, 10)):
                got = os.pread(memory.fileno(), length, start)
                assert len(got) == min(length, len(seen) - start)
            assert os.pread(memory.fileno(), 10, len(seen)) == b""
            with mmap.mmap(memory.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                assert mapped.find(b"another1", at) == at


def test_memory_while_it_moves(served: Place, look: Path) -> None:
    with holder(served):
        stop = threading.Event()

        def move() -> None:
            while not stop.is_set():
                served.client.post("/v1/guests/a/reclaim", {"size": "100%"})
                served.client.post("/v1/share", {"name": "a"})
                served.client.post("/v1/guests/a/restore")

        mover = threading.Thread(target=move)
        mover.start()
        try:
            own = random.Random(7).randbytes(12 << 20)
            seen = (look / "guests/a/memory").read_bytes()
            at = seen.find(own[:64])
            assert at >= 0
            for _ in range(6):
                with (look / "guests/a/memory").open("rb") as memory:
                    memory.seek(at)
                    assert memory.read(len(own)) == own
        finally:
            stop.set()
            mover.join()


def test_page_map_and_frames(served: Place, look: Path) -> None:
    with holder(served), holder(served, "b"):
        for _ in range(5):
            served.client.post("/v1/share", {})
            if served.client.get("/v1/guests/b")["shared_bytes"] >= 4 << 20:
                break
            time.sleep(0.5)
        served.client.post("/v1/guests/a/reclaim", {"size": "4M"})
        pids = [served.client.get(f"/v1/guests/{name}")["pid"] for name in "ab"]
        with stopped(pids[0]), stopped(pids[1]):
            time.sleep(0.4)
            figures = served.client.get("/v1/guests/a")
            words = list(struct.iter_unpack("<Q", (look / "guests/a/pagemap").read_bytes()))
            assert len(words) * PAGE == figures["size_bytes"]
            counts = [0] * len(STATES)
            for (word,) in words:
                counts[word & 15] += 1
            places = dict(zip(STATES, counts, strict=True))
            assert places["swapped"] * PAGE == figures["swapped_bytes"] > 0
            assert places["shared"] * PAGE == figures["shared_bytes"] > 0
            assert places["untouched"] * PAGE == figures["untouched_bytes"]
            # The texts say the same.
            by_text = dict.fromkeys(STATES, 0)
            nxt = 0
            for line in (look / "guests/a/pagemap.txt").read_text().splitlines():
                first, last, size, state = line.split()
                assert int(first) == nxt
                assert int(last) - int(first) + 1 == int(size)
                nxt = int(last) + 1
                by_text[state] += int(size)
            assert by_text == places
            for state in STATES:
                told = (look / f"guests/a/pages/{state}").read_text().split()
                pages = sum(
                    int(run.partition("-")[2] or run) - int(run.partition("-")[0]) + 1
                    for run in told
                )
                assert pages == places[state]
            frames = [one for one in names(look / "frames") if not one.endswith(".refs")]
            assert frames
            memory = {name: (look / f"guests/{name}/memory").read_bytes() for name in "ab"}
            mapped = 0
            for frame in frames:
                content = (look / "frames" / frame).read_bytes()
                page_hash = mmh3.hash64(content, x64arch=True, signed=False)[0]
                assert frame == f"{page_hash:016x}"
                for line in (look / f"frames/{frame}.refs").read_text().splitlines():
                    name, ppn = line.split()
                    start = int(ppn) * PAGE
                    # One that was written since is the guest's own by now.
                    if words[int(ppn)][0] & 15 == 2 or name == "b":
                        mapped += memory[name][start : start + PAGE] == content
            assert mapped > 1024


def test_knobs(served: Place, look: Path) -> None:
    with holder(served):
        knobs = look / "guests/a"
        assert (knobs / "max").read_text() == f"{96 << 20}\n"
        (knobs / "min").write_text("8M\n")
        assert (knobs / "min").read_text() == f"{8 << 20}\n"
        assert served.client.get("/v1/guests/a")["min_bytes"] == 8 << 20
        (knobs / "shares").write_text("high")
        assert (knobs / "shares").read_text() == f"{20 * 96}\n"
        (knobs / "tax").write_text("50%\n")
        assert (knobs / "tax").read_text() == "50%\n"
        (knobs / "tax").write_text((knobs / "tax").read_text())
        (knobs / "balloon_target").write_text("4M")
        assert (knobs / "error").read_text() == ""
        for knob, value in (
            ("min", "x"), ("min", "-1"), ("max", "9" * 40), ("shares", "0"), ("tax", "120%"),
            ("min", "1T"), ("tax", "\xff"), ("balloon_target", "99G"), ("min", "x" * 5000),
            ("min", ""), ("min", "\0"),
        ):
            if not value:
                continue
            with fails(errno.EINVAL):
                (knobs / knob).write_text(value)
            assert (knobs / "error").read_text().startswith(f"{knob}: ")
        assert served.client.get("/v1/guests/a")["min_bytes"] == 8 << 20
        (knobs / "min").write_text("4M")
        assert (knobs / "error").read_text() == ""
        subprocess.run(["sh", "-c", "echo 2M > min"], cwd=knobs, check=True)
        assert (knobs / "min").read_text() == f"{2 << 20}\n"


def test_texts_and_tools(served: Place, look: Path, tmp_path: Path) -> None:
    with holder(served):
        assert "pagemap" in (look / "README").read_text()
        figures = served.client.get("/v1/stats")["machine"]
        told = dict(
            line.split(" ", 1) for line in (look / "machine/memory").read_text().splitlines()
        )
        assert int(told["total_bytes"]) == figures["total_bytes"]
        for name in ("state", "share", "tiers", "low_memory", "config"):
            assert (look / "machine" / name).read_text()
        assert json.loads((look / "machine/stats.json").read_text())["total_bytes"] == int(
            told["total_bytes"]
        )
        assert json.loads((look / "guests/a/stats.json").read_text())["name"] == "a"
        wait_for(
            lambda: (look / "guests/a/history").read_text().count("\n") > 1, "a sample"
        )
        assert "memory is" in (look / "guests/a/explain").read_text()
        # Sizes are true, for what trusts them.
        for path in (look / "machine/config", look / "guests/a/status", look / "README"):
            assert path.stat().st_size == len(path.read_bytes())
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", str(look), str(copy)], check=True)
        assert (copy / "guests/a/memory").stat().st_size == 96 << 20
        found = subprocess.run(
            ["grep", "-rl", "attached true", str(look / "guests/a/status")],
            check=True, capture_output=True, text=True,
        )
        assert "status" in found.stdout
        counted = subprocess.run(
            ["wc", "-c", str(look / "guests/a/pagemap")], check=True, capture_output=True,
            text=True,
        )
        assert int(counted.stdout.split()[0]) == (96 << 20) // PAGE * 8
        assert "attached" in (look / "events").read_text()
        for missing in (
            "x", "machine/x", "guests/a/x", "guests/x", "guests/a/pages/x", "frames/x",
            "guests/a/memory/x", "guests/\n",
        ):
            with fails(errno.ENOENT, errno.ENOTDIR):
                (look / missing).read_bytes()
        for change in (
            lambda: (look / "README").write_text("x"),
            lambda: (look / "new").write_text("x"),
            (look / "README").unlink,
            (look / "guests/b").mkdir,
            lambda: (look / "guests/a").rename(look / "guests/b"),
            lambda: (look / "guests/a/memory").write_bytes(b"x"),
        ):
            with pytest.raises(PermissionError):
                change()


def test_events_are_followed(served: Place, look: Path) -> None:
    tail = subprocess.Popen(
        ["tail", "-n", "+1", "-s", "0.1", "-f", str(look / "events")],
        stdout=subprocess.PIPE, text=True,
    )
    assert tail.stdout is not None
    try:
        with holder(served, "followed"):
            until = time.monotonic() + WAIT_S
            while "followed" not in tail.stdout.readline():
                assert time.monotonic() < until
    finally:
        tail.terminate()
        tail.communicate()


def test_users_see_their_own(served: Place, look: Path) -> None:
    nobody = 65534
    guest = served.start(
        "run", "--user", "nobody", "--name", "n", "--max", "16M", "--", "bash", "-c",
        "echo up; read line", stdin=subprocess.PIPE, cwd="/",
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "up\n"
    look.parent.chmod(0o755)

    def may(path: str, how: str = "-r") -> bool:
        words = ["test", how, str(look / path)]
        return not subprocess.run(words, check=False, user=nobody, group=nobody).returncode

    with holder(served):
        for own in ("status", "memory", "pagemap", "min", "history"):
            assert may(f"guests/n/{own}"), own
            assert not may(f"guests/a/{own}"), own
        assert may("machine/memory")
        assert not may("guests/n/min", "-w")
        assert not may("events")
        assert not may("frames")
        subprocess.run(
            ["cat", str(look / "guests/n/memory")], check=True, stdout=subprocess.DEVNULL,
            user=nobody, group=nobody,
        )
    guest.communicate("\n")


def test_guests_and_daemons_that_go(served: Place, look: Path) -> None:
    with holder(served):
        files = [
            (look / "guests/a" / name).open("rb", buffering=0)
            for name in ("memory", "pagemap", "status")
        ]
    wait_for(lambda: not served.client.get("/v1/guests"), "the guest's end")
    for file in files[:2]:
        time.sleep(0.12)
        with fails(errno.ESRCH, errno.ENOENT):
            os.pread(file.fileno(), 4096, 0)
    assert b"name a" in files[2].read()  # made when it was opened
    for file in files:
        file.close()
    assert names(look / "guests") == []
    served.uvmm("down")
    for path in ("machine/memory", "events", "machine/config"):
        began = time.monotonic()
        with fails(errno.EIO):
            (look / path).read_text()
        assert time.monotonic() - began < 3
    with fails(errno.EIO):
        names(look / "guests")
    assert (look / "README").read_text()
    assert served.up().returncode == 0
    with holder(served):
        assert names(look / "guests") == ["a"]
        assert len((look / "guests/a/memory").read_bytes()) == 96 << 20


def test_a_daemon_that_stands_still_is_an_error(served: Place, look: Path) -> None:
    with stopped(served.daemon_pid):
        began = time.monotonic()
        with fails(errno.EIO):
            (look / "machine/memory").read_text()
        assert time.monotonic() - began < 15
    assert (look / "machine/memory").read_text()


def read_all(look: Path) -> None:
    """Read whatever is there; guests may go meanwhile."""
    gone = (errno.ENOENT, errno.ESRCH, errno.EAGAIN, errno.EISDIR)
    for root, _, files in os.walk(look):
        for file in files:
            try:
                (Path(root) / file).read_bytes()
            except OSError as error:
                if error.errno not in gone:
                    raise


def test_readers_at_once_while_guests_come_and_go(served: Place, look: Path) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                read_all(look)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(3):
            with holder(served, f"g{turn}") as guest:
                served.client.post(f"/v1/guests/g{turn}/reclaim", {"size": "100%"})
                tell(guest, "on")
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not failed


def test_a_thousand_guests(served: Place, look: Path) -> None:
    # Registered is enough: they never attach.
    sleepers = [subprocess.Popen(["sleep", "1000"]) for _ in range(1000)]
    try:
        for at, sleeper in enumerate(sleepers):
            served.client.post("/v1/guests", {"name": f"s{at}", "pid": sleeper.pid})
        began = time.monotonic()
        listed = subprocess.run(
            ["ls", str(look / "guests")], check=True, capture_output=True, text=True
        )
        took_s = time.monotonic() - began
        print(f"ls of 1,000 guests: {took_s:.3f} s")
        assert len(listed.stdout.split()) == 1000
        subprocess.run(["ls", "-l", str(look / "guests")], check=True, capture_output=True)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
        for sleeper in sleepers:
            sleeper.wait()


def test_mount_and_umount(served: Place) -> None:
    directory = served.path / "there"
    missing = served.uvmm("mount", str(directory))
    assert missing.returncode == 2
    assert "no directory" in missing.stderr
    directory.mkdir()
    assert served.uvmm("umount", str(directory)).returncode == 2
    other = served.uvmm("mount", "--run-dir", "/run/none", str(directory))
    assert other.returncode == 1
    assert "no daemon" in other.stderr
    assert served.uvmm("mount", str(directory)).returncode == 0
    again = served.uvmm("mount", str(directory))
    assert again.returncode == 1
    assert "is mounted" in again.stderr
    with (directory / "README").open():
        busy = served.uvmm("umount", str(directory))
        assert busy.returncode == 1
        assert "busy" in busy.stderr
        assert "--lazy" in busy.stderr
    assert served.uvmm("umount", str(directory)).returncode == 0
    assert not any(point == directory for point, _ in mounts())
    front = served.start("mount", "--foreground", str(directory))
    wait_for(lambda: any(point == directory for point, _ in mounts()), "the mount")
    front.send_signal(signal.SIGINT)
    front.communicate(timeout=WAIT_S)
    assert not any(point == directory for point, _ in mounts())
