# SPDX-License-Identifier: MIT
"""Disks whose images fail: the guest hears of it, and nobody else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.guest.conftest import wait_for
from tests.guest.test_disk import ended, heard, names, start, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uvmm.scratch import Scratch

IMAGE_MIB = 4
FAILING = Path(__file__).with_name("failing_image.py")
# Reads words at an offset and compares them; buffers come back to, so that they are remapped.
GUEST = """
    disk = guest.disk("data")
    block = guest.allocate(2 << 20)
    words = np.frombuffer(block.memory, dtype=np.uint64)
    def check(at=0, size=2 << 20):
        disk.read_into(block.memory[:size], at)
        assert (words[: size // 8] == np.arange(at // 8, (at + size) // 8)).all()
    check()
    say("ready")
"""


def with_disk(program: str) -> str:
    """What a guest with the disk does."""
    return textwrap.dedent(GUEST) + textwrap.dedent(program)


class Image:
    """A file in a filesystem that fails as it is told."""

    def __init__(self, where: Path) -> None:
        where.mkdir()
        self.path = where / "image"
        self._where = where
        self.server = subprocess.Popen(
            [sys.executable, str(FAILING), str(where), str(IMAGE_MIB)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        wait_for(lambda: os.path.ismount(where), "the filesystem")

    def fail(self, how: str, number: int) -> None:
        """From now, until it is told otherwise."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(f"{how} {number}\n")
        self.server.stdin.flush()
        assert self.server.stdout.readline() == "done\n"

    def end(self) -> None:
        """Whatever state it is in."""
        with suppress(ProcessLookupError):
            self.server.send_signal(signal.SIGCONT)
        self.server.kill()
        self.server.communicate()
        subprocess.run(["umount", "-l", str(self._where)], check=False, capture_output=True)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    made = Image(tmp_path / "failing")
    yield made
    made.end()


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The same on a disk that does not fail."""
    path = tmp_path / "plain"
    path.write_bytes(b"".join(n.to_bytes(8, "little") for n in range(IMAGE_MIB << 17)))
    return path


def io_of(daemon: Scratch, name: str) -> dict[str, Any]:
    (found,) = (guest for guest in daemon.figures()["guests"] if guest["name"] == name)
    told: dict[str, Any] = dict(found)
    return dict(told["io"])


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOLINK])
def test_each_error_reaches_the_guest(
    scratch: Scratch, tmp_path: Path, image: Image, plain: Path, number: int
) -> None:
    other = start(scratch, tmp_path, "other", with_disk("""
        while not os.path.exists(sys.argv[0] + ".stop"):
            check()
        say("fine")
    """), f"data={plain}")
    guest = start(scratch, tmp_path, "guest", with_disk(f"""
        for turn in range(3):
            hear()
            fails({number}, check)
            fails({number}, check, 4096, 4096)
            say("failed")
            hear()
            check()
            say("read")
        hear()
        fails({number}, disk.write, bytes(8192), 4096)
        say("failed")
        hear()
        check()
        disk.write(np.arange(512, 1024, dtype=np.uint64).tobytes(), 4096)
        say("written")
        hear()
        fails({number}, disk.flush)
        say("failed")
        hear()
        disk.flush()
        check()
        say("done")
    """), f"data={image.path}")
    assert heard(guest) == heard(other) == "ready"
    for how, turns, well in (("read", 3, "read"), ("write", 1, "written"), ("sync", 1, "done")):
        for _ in range(turns):
            image.fail(how, number)
            tell(guest)
            assert heard(guest) == "failed"
            image.fail(how, 0)
            tell(guest)
            assert heard(guest) == well
    assert io_of(scratch, "guest")["errors"] >= 8
    assert io_of(scratch, "other")["errors"] == 0
    ended(guest)
    (tmp_path / "other.py.stop").touch()
    assert "fine" in ended(other)


def test_an_image_that_hangs_holds_up_its_guest_alone(
    scratch: Scratch, tmp_path: Path, image: Image, plain: Path
) -> None:
    program = with_disk("""
        hear()
        check()
        say("read")
        hear()
    """)
    guest = start(scratch, tmp_path, "hangs", program, f"data={image.path}")
    other = start(scratch, tmp_path, "other", program, f"data={plain}")
    assert heard(guest) == heard(other) == "ready"
    image.server.send_signal(signal.SIGSTOP)
    tell(guest)
    tell(other)
    assert heard(other) == "read"
    assert scratch.reclaim("other", 100).pages > 0
    late = start(scratch, tmp_path, "late", program, f"data={plain},ro", max_mib=32)
    late.kill()
    late.communicate()
    image.server.send_signal(signal.SIGCONT)
    assert heard(guest) == "read"
    for each in (guest, other):
        tell(each)
        ended(each)


def test_killed_while_its_image_hangs(
    scratch: Scratch, tmp_path: Path, image: Image, plain: Path
) -> None:
    guest = start(scratch, tmp_path, "hangs", with_disk("""
        hear()
        check()
    """), f"data={image.path}")
    assert heard(guest) == "ready"
    image.server.send_signal(signal.SIGSTOP)
    tell(guest)
    guest.kill()
    guest.communicate()
    other = start(scratch, tmp_path, "other", with_disk(""), f"data={plain}")
    assert "ready" in ended(other)
    image.server.send_signal(signal.SIGCONT)
    wait_for(lambda: not names(scratch), "its end")


def test_the_filesystem_is_killed(scratch: Scratch, tmp_path: Path, image: Image) -> None:
    guest = start(scratch, tmp_path, "lost", with_disk("""
        hear()
        try:
            check()
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
            say("failed")
        assert words[5] == 5
    """), f"data={image.path}")
    assert heard(guest) == "ready"
    image.server.kill()
    image.server.wait()
    tell(guest)
    assert "failed" in ended(guest)
    assert not names(scratch)
