# SPDX-License-Identifier: MIT
"""Virtual disks, on a real daemon: contents, errors, hostile rings, images that fail."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import wait_for
from uvmm.scratch import ScratchError

if TYPE_CHECKING:
    from pathlib import Path

    from uvmm.scratch import Scratch

MIB = 1 << 20
HEAD = """
    import errno, os, sys, time
    import numpy as np
    import guestlib
    guest = guestlib.attach()
    def say(*words): print(*words, flush=True)
    def hear(): return sys.stdin.readline().strip()
    def fails(number, call, *given):
        try:
            call(*given)
        except OSError as error:
            assert error.errno == number, error
            return str(error)
        raise AssertionError(f"expected errno {number}")
"""


def start(
    daemon: Scratch, tmp_path: Path, name: str, program: str, *disks: str, max_mib: int = 64
) -> subprocess.Popen[str]:
    """Run *program* as a guest with disks."""
    script = tmp_path / f"{name}.py"
    script.write_text(textwrap.dedent(HEAD) + textwrap.dedent(program))
    options = [word for disk in disks for word in ("--disk", disk)]
    return daemon.run(
        [sys.executable, str(script)], name=name, max_bytes=max_mib * MIB, options=options
    )


def ended(guest: subprocess.Popen[str]) -> str:
    """Wait for its end; what it said."""
    out, err = guest.communicate(timeout=60)
    assert guest.returncode == 0, out + err
    return out


def names(daemon: Scratch) -> list[str]:
    return [guest["name"] for guest in daemon.figures()["guests"]]


def heard(guest: subprocess.Popen[str]) -> str:
    assert guest.stdout is not None
    return guest.stdout.readline().strip()


def tell(guest: subprocess.Popen[str], line: str = "go") -> None:
    assert guest.stdin is not None
    guest.stdin.write(line + "\n")
    guest.stdin.flush()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB of what is nowhere alike."""
    path = tmp_path / "image"
    path.write_bytes(b"".join(
        hashlib.sha256(at.to_bytes(8, "little")).digest() for at in range(8 * MIB // 32)
    ))
    return path


def test_contents(scratch: Scratch, tmp_path: Path, image: Path) -> None:
    content = image.read_bytes()
    guest = start(scratch, tmp_path, "contents", f"""
        disk = guest.disk("data")
        assert (disk.size_bytes, disk.read_only) == ({8 * MIB}, False)
        assert disk.block_bytes in (512, 1024, 2048, 4096)
        content = open({str(image)!r}, "rb").read()
        assert disk.read(disk.size_bytes, 0) == content
        block = guest.allocate(3 << 20)
        # At any address.
        at = block.memory[77 : 77 + (2 << 20)]
        disk.read_into(at, 1 << 20)
        assert at == content[1 << 20 : 3 << 20]
        # Many at once, each of several buffers, over the whole of a ring and more.
        requests, parts = [], []
        for number in range(700):
            here = block.memory[number * 4096 : (number + 1) * 4096]
            pieces = [here[:2048], here[2048:]] if disk.block_bytes < 4096 else [here]
            parts.append(here)
            requests.append(disk.begin_read(pieces, number * 4096))
        for request in requests:
            request.wait()
        assert all(part == content[n * 4096 : (n + 1) * 4096] for n, part in enumerate(parts))
        # Written back elsewhere, out of order.
        requests = [
            disk.begin_write([part], (8 << 20) - (n + 1) * 4096) for n, part in enumerate(parts)
        ]
        while not all(request.done for request in requests):
            disk.wait(1)
        disk.begin_flush().wait()
        disk.write(b"x" * disk.block_bytes * 3, 0)
        disk.flush()
        disk.discard(1 << 20, 1 << 20)
        assert disk.read(1 << 20, 1 << 20) == bytes(1 << 20)
        disk.close()
        say("block", disk.block_bytes)
    """, f"data={image}")
    size = int(ended(guest).split()[1])
    expected = bytearray(content)
    for number in range(700):
        to = 8 * MIB - (number + 1) * 4096
        expected[to : to + 4096] = content[number * 4096 : (number + 1) * 4096]
    expected[: 3 * size] = b"x" * 3 * size
    expected[MIB : 2 * MIB] = bytes(MIB)
    assert image.read_bytes() == bytes(expected)


def test_errors_have_words(scratch: Scratch, tmp_path: Path, image: Path) -> None:
    (tmp_path / "kept").write_bytes(image.read_bytes())
    guest = start(scratch, tmp_path, "errors", """
        assert "no disk" in fails(errno.ENOENT, guest.disk, "other")
        disk, kept = guest.disk("data"), guest.disk("kept")
        size, block = disk.size_bytes, disk.block_bytes
        say(fails(errno.EINVAL, disk.read, block, 1))
        say(fails(errno.EINVAL, disk.read, block + 1, 0))
        say(fails(errno.EIO, disk.read, block, size))
        say(fails(errno.ENOSPC, disk.write, bytes(2 * block), size - block))
        say(fails(errno.EROFS, kept.write, bytes(block), 0))
        say(fails(errno.EROFS, kept.discard, 0, block))
        say(fails(errno.EINVAL, disk.begin_read, [bytearray(block)], 0))
        assert disk.read(block, size - block) and kept.read(size, 0)
        disk.close()
        fails(errno.EBADF, disk.read, block, 0)
    """, f"data={image}", f"kept={tmp_path / 'kept'},ro")
    said = ended(guest)
    for words in ("whole blocks", "beyond its end", "read-only", "not in guest memory"):
        assert words in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("data", "NAME=FILE"),
        ("=file", "NAME=FILE"),
        ("a/b=/dev/zero", "visible"),
        ("data=/nowhere", "No such file"),
        ("data=/dev/zero", "neither a file nor a block device"),
        ("data=/", "directory"),
    ],
)
def test_what_is_no_disk(
    scratch: Scratch, capfd: pytest.CaptureFixture[str], given: str, words: str
) -> None:
    guest = scratch.run(
        ["/bin/true"], name="none", max_bytes=MIB * 2, options=["--disk", given]
    )
    guest.communicate(timeout=60)
    err = capfd.readouterr().err
    assert guest.returncode in (1, 2)
    assert words.lower() in err.lower()
    assert err.count("\n") == 1


def test_one_writer(
    scratch: Scratch, tmp_path: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = """
        disk = guest.disk("data")
        say("ready")
        hear()
    """
    first = start(scratch, tmp_path, "first", program, f"data={image}")
    assert heard(first) == "ready"
    for disk in (f"data={image}", f"data={image},ro"):
        second = start(scratch, tmp_path, "second", program, disk)
        second.communicate(timeout=60)
        assert second.returncode == 1
        assert "in use" in capfd.readouterr().err
    tell(first)
    ended(first)
    readers = [
        start(scratch, tmp_path, f"reader{n}", program, f"data={image},ro") for n in range(2)
    ]
    assert [heard(reader) for reader in readers] == ["ready", "ready"]
    for reader in readers:
        tell(reader)
        ended(reader)


def test_pages_anywhere(scratch: Scratch, tmp_path: Path, image: Path) -> None:
    """
    Buffers are reclaimed, shared and split, and what is free is ballooned, while they are read
    into and written from.
    """
    program = f"""
        content = open({str(image)!r}, "rb").read()
        disk = guest.disk("data")
        block = guest.allocate(8 << 20)
        memory = block.memory
        say("ready")
        rng = np.random.default_rng(os.getpid())
        until = time.monotonic() + 8
        rounds = 0
        while time.monotonic() < until:
            pieces = []
            for _ in range(64):
                n = int(rng.integers(1, 64)) * 4096
                at = int(rng.integers(0, (8 << 20) - n)) & ~511
                pieces.append((at, n))
            at, n = pieces[rounds % 64]
            disk.read_into(memory[at : at + n], at - at % disk.block_bytes)
            start = at - at % disk.block_bytes
            assert memory[at : at + n] == content[start : start + n], "read"
            requests = [disk.begin_read([memory[p * 4096 : (p + 1) * 4096]], p * 4096)
                        for p in rng.permutation(2048)[:300].tolist()]
            for request in requests:
                request.wait()
            disk.read_into(memory, 0)
            assert memory == content, "all"
            rounds += 1
        say("rounds", rounds)
    """
    guests = [
        start(scratch, tmp_path, f"page{n}", program, f"data={image},ro") for n in range(2)
    ]
    assert [heard(guest) for guest in guests] == ["ready", "ready"]
    until = time.monotonic() + 7
    while time.monotonic() < until:
        for n in range(2):
            scratch.reclaim(f"page{n}", 100)
            scratch.balloon(f"page{n}", 40)
            scratch.share()
    for guest in guests:
        assert int(ended(guest).split()[1]) > 0


def test_written_from_anywhere(scratch: Scratch, tmp_path: Path) -> None:
    image = tmp_path / "written"
    image.write_bytes(bytes(4 * MIB))
    guest = start(scratch, tmp_path, "writer", """
        disk = guest.disk("data")
        block = guest.allocate(4 << 20)
        numbers = np.frombuffer(block.memory, dtype=np.uint64)
        say("ready")
        rng = np.random.default_rng(1)
        for round in range(30):
            numbers[:] = np.arange(numbers.size, dtype=np.uint64) * np.uint64(round + 1)
            time.sleep(0.05)
            requests = [disk.begin_write([block.memory[p * 4096 : (p + 1) * 4096]], p * 4096)
                        for p in rng.permutation(1024).tolist()]
            for request in requests:
                request.wait()
            got = np.frombuffer(disk.read(4 << 20, 0), dtype=np.uint64)
            assert (got == numbers).all(), round
        disk.flush()
        say("right")
    """, f"data={image}")
    assert heard(guest) == "ready"
    # It may end at any moment.
    with suppress(ScratchError):
        while guest.poll() is None:
            scratch.reclaim("writer", 100)
            time.sleep(0.02)
    assert ended(guest).strip() == "right"


def test_killed_in_the_middle(scratch: Scratch, tmp_path: Path) -> None:
    """What was flushed is in the image, whatever happens to the guest."""
    image = tmp_path / "flushed"
    image.write_bytes(bytes(16 * MIB))
    program = """
        disk = guest.disk("data")
        block = guest.allocate(1 << 20)
        numbers = np.frombuffer(block.memory, dtype=np.uint64)
        round = 0
        while True:
            round += 1
            numbers[:] = round
            disk.write(block.memory, round % 16 << 20)
            disk.flush()
            say(round)
    """
    for _ in range(5):
        guest = start(scratch, tmp_path, "killed", program, f"data={image}")
        told = 0
        while told < 20:
            told = int(heard(guest))
        (pid,) = (each["pid"] for each in scratch.figures()["guests"])
        os.kill(pid, signal.SIGKILL)
        rest = guest.communicate(timeout=60)[0].split()
        told = int(rest[-1]) if rest else told
        # Its image is closed with it, and free for the next one.
        wait_for(lambda: "killed" not in names(scratch), "the end")
        content = image.read_bytes()
        for round_ in range(max(1, told - 14), told + 1):
            part = content[(round_ % 16) * MIB : (round_ % 16 + 1) * MIB]
            # What comes after the last one may be half written over the oldest.
            assert part == round_.to_bytes(8, "little") * (MIB // 8)


def test_images_that_fail(scratch: Scratch, tmp_path: Path, image: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(full)], check=True)
    try:
        with (full / "image").open("wb") as sparse:
            sparse.truncate(8 * MIB)
        guest = start(scratch, tmp_path, "failing", """
            cut, full = guest.disk("cut"), guest.disk("full")
            say("ready")
            hear()
            fails(errno.EIO, cut.read, 1 << 20, 4 << 20)
            assert cut.read(1 << 20, 0)
            fails(errno.ENOSPC, full.write, b"x" * (4 << 20), 0)
            assert full.read(4096, 7 << 20) == bytes(4096)
            say("told")
        """, f"cut={image},ro", f"full={full / 'image'}")
        assert heard(guest) == "ready"
        os.truncate(image, 2 * MIB)
        tell(guest)
        assert ended(guest).strip() == "told"
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)


def test_hostile_ring(scratch: Scratch, tmp_path: Path, image: Path) -> None:
    """Whatever is written into the ring, others go on."""
    hostile = start(scratch, tmp_path, "hostile", """
        disk = guest.disk("data")
        disk.read(4096, 0)
        ring = next(line for line in open("/proc/self/maps") if "uvmm-disk-ring" in line)
        low, high = (int(each, 16) for each in ring.split()[0].split("-"))
        import ctypes
        memory = (ctypes.c_char * (high - low)).from_address(low)
        rng = np.random.default_rng(3)
        say("ready")
        until = time.monotonic() + 4
        while time.monotonic() < until:
            noise = rng.integers(0, 256, high - low, dtype=np.uint8)
            # Mostly requests that are nearly sound.
            noise[192:] %= 4
            memory[:] = noise.tobytes()
            for fd in os.listdir("/proc/self/fd"):
                try:
                    if "eventfd" in os.readlink(f"/proc/self/fd/{fd}"):
                        os.write(int(fd), (1).to_bytes(8, "little"))
                except OSError:
                    pass
        os._exit(0)
    """, f"data={image},ro")
    assert heard(hostile) == "ready"
    guest = start(scratch, tmp_path, "good", f"""
        content = open({str(image)!r}, "rb").read()
        disk = guest.disk("data")
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert disk.read(disk.size_bytes, 0) == content
    """, f"data={image},ro")
    ended(guest)
    hostile.communicate(timeout=60)
    assert image.stat().st_size == 8 * MIB
    assert names(scratch) == []
