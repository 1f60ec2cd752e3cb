# SPDX-License-Identifier: MIT
"""What reads of disks are worth to others: blocks in common, and the file cache."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import wait_for
from tests.guest.test_disk import MIB, ended, heard, start, tell
from uvmm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE_MIB = 16
# Of the budget to look for pages to share, as little as there can be: a pass over these
# guests would take a minute.
SLOW = ("--share-cpu", "0.1")
SOON_S = 3.0


@pytest.fixture
def slow() -> Iterator[Scratch]:
    """A daemon that hardly scans."""
    with Scratch(
        purpose="test", memory_bytes=256 * MIB, swap_bytes=512 * MIB, options=SLOW
    ) as daemon:
        yield daemon


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"".join(
        hashlib.sha256(at.to_bytes(8, "little")).digest()
        for at in range(IMAGE_MIB * MIB // 32)
    ))
    return path


def test_blocks_read_by_several_are_one_frame(
    slow: Scratch, tmp_path: Path, image: Path
) -> None:
    program = f"""
        disk = guest.disk("data")
        block = guest.allocate({IMAGE_MIB} << 20)
        content = open({str(image)!r}, "rb").read()
        hear()
        # In pieces of different sizes, so that it is not the requests that are alike.
        size = int(sys.argv[0].split("guest")[-1].split(".")[0]) * 64 << 10
        for at in range(0, len(content), size):
            disk.read_into(block.memory[at : at + size], at)
        say("read")
        hear()
        assert block.memory == content
        block.memory[5 << 20 : 6 << 20] = bytes(1 << 20)
        assert block.memory[: 5 << 20] == content[: 5 << 20]
        assert block.memory[6 << 20 :] == content[6 << 20 :]
        disk.read_into(block.memory[4 << 20 : 8 << 20], 4 << 20)
        assert block.memory == content
        say("same")
        hear()
    """
    guests = [
        start(slow, tmp_path, f"guest{n}", program, f"data={image},ro") for n in (1, 2, 4)
    ]
    for guest in guests:
        tell(guest)
        assert heard(guest) == "read"
    began = time.monotonic()

    def saved() -> int:
        return slow.figures()["machine"]["saved_bytes"]

    wait_for(lambda: saved() >= 2 * IMAGE_MIB * MIB * 95 // 100, "what is saved")
    assert time.monotonic() - began < SOON_S
    for guest in guests:
        tell(guest)
        assert heard(guest) == "same"
        tell(guest)
        ended(guest)


def test_the_file_cache_on_a_disk(scratch: Scratch, tmp_path: Path, image: Path) -> None:
    content = image.read_bytes()
    guest = start(scratch, tmp_path, "cached", f"""
        model = bytearray(open({str(image)!r}, "rb").read())
        rng = np.random.default_rng(1)
        with guest.cache(max_bytes=6 << 20) as cache:
            assert "no disk" in fails(errno.ENOENT, cache.open_disk, "other")
            with cache.open_disk("data", "r+b") as file, cache.open_disk("data") as other:
                assert file.size_bytes == len(model)
                for turn in range(2000):
                    size = int(rng.integers(1, 40000))
                    at = int(rng.integers(0, len(model) - size))
                    if turn % 3:
                        assert other.pread(size, at) == model[at : at + size], turn
                    else:
                        data = rng.bytes(size)
                        assert file.pwrite(data, at) == size
                        model[at : at + size] = data
                # To its end, and no further.
                end = len(model)
                fails(errno.ENOSPC, file.pwrite, b"e" * 5000, end - 100)
                model[-100:] = b"e" * 100
                fails(errno.ENOSPC, file.pwrite, b"e", end)
                fails(errno.EINVAL, file.truncate, 4096)
                assert other.pread(200, end - 100) == model[-100:]
                file.flush()
                with open(sys.argv[0] + ".model", "wb") as copy:
                    copy.write(model)
                say("flushed")
                statistics = cache.stats()
                assert statistics.hits and statistics.misses and statistics.written_pages
                hear()
            # Kept, and found again.
            with cache.open_disk("data", "r+b") as file:
                assert file.pread(len(model), 0) == model
                file.pwrite(b"last", 4096)
        say("closed")
    """, f"data={image}")
    assert heard(guest).startswith("flushed")
    model = bytearray((tmp_path / "cached.py.model").read_bytes())
    assert image.read_bytes() == bytes(model) != content
    tell(guest)
    assert "closed" in ended(guest)
    model[4096:4100] = b"last"
    assert image.read_bytes() == bytes(model)


def test_the_file_cache_on_a_disk_that_is_read(
    scratch: Scratch, tmp_path: Path, image: Path
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(image.read_bytes()[: MIB + 1536])
    guest = start(scratch, tmp_path, "odd", f"""
        content = open({str(odd)!r}, "rb").read()
        with guest.cache() as cache:
            assert "read-only" in fails(errno.EROFS, cache.open_disk, "data", "r+b")
            with cache.open_disk("data") as file:
                size = file.size_bytes
                assert size in (len(content), len(content) // 4096 * 4096)
                assert file.read() == content[:size]
        say("done")
    """, f"data={odd},ro")
    assert "done" in ended(guest)


def test_the_file_cache_on_a_disk_without_memory(
    scratch: Scratch, tmp_path: Path, image: Path
) -> None:
    guest = start(scratch, tmp_path, "full", f"""
        model = bytearray(open({str(image)!r}, "rb").read())
        with guest.cache(max_bytes=1 << 20) as cache, cache.open_disk("data", "r+b") as file:
            kept, size = [], 16 << 20
            while size >= 4096:
                try:
                    kept.append(guest.allocate(size))
                except guestlib.GuestError:
                    size //= 2
            rng = np.random.default_rng(2)
            for turn in range(60):
                size = int(rng.integers(1, 300000))
                at = int(rng.integers(0, len(model) - size))
                assert file.pread(size, at) == model[at : at + size], turn
                data = rng.bytes(size)
                assert file.pwrite(data, at) == size
                model[at : at + size] = data
            file.flush()
            with open(sys.argv[0] + ".model", "wb") as copy:
                copy.write(model)
            say("full", len(kept))
            del kept
    """, f"data={image}", max_mib=32)
    assert "full" in ended(guest)
    assert image.read_bytes() == (tmp_path / "full.py.model").read_bytes()
