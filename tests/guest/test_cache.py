# SPDX-License-Identifier: MIT
"""The file cache of real guests: files, memory that is taken, loss, full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import wait_for
from tests.guest.test_guestlib import MIB, heard, start, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uvmm.scratch import Scratch


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a filesystem that has O_DIRECT, most likely."""
    with tempfile.TemporaryDirectory(prefix="uvmm-test-cache-", dir="/var/tmp") as name:
        yield Path(name)


@contextmanager
def small_filesystem(point: Path, size: str) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def resident_bytes(daemon: Scratch) -> int:
    return sum(guest["resident_bytes"] for guest in daemon.figures()["guests"])


def test_files_are_files(scratch: Scratch, disk: Path, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "files", f"""
        import io, pickle, shutil, zipfile
        os.chdir({str(disk)!r})
        cache = guest.cache(max_bytes=8 << 20)
        with cache.open("a", "w+b") as file:
            assert file.write(b"one\\ntwo\\n") == 8 and file.tell() == 8
            assert file.seek(4) == 4 and file.read() == b"two\\n" and file.read() == b""
            assert file.truncate(5) == 5 and file.size_bytes == 5
            assert file.pwrite(b"T", 4) == 1 and file.pread(10, 3) == b"\\nT"
            file.flush()
            assert open("a", "rb").read() == b"one\\nT"
        with cache.open("a", "ab") as file:
            file.write(np.arange(3, dtype="u1"))
        assert open("a", "rb").read() != b"", "what is appended comes later"
        with cache.open("a") as file:
            assert file.read(6) == b"one\\nT\\0" and file.readline() == b"\\1\\2"
            for wrong in (lambda: file.write(b"x"), lambda: file.truncate(0), file.fileno):
                try:
                    wrong()
                except io.UnsupportedOperation:
                    continue
                raise AssertionError(wrong)
        for mode, error in (("xb", FileExistsError), ("rb+x", ValueError), ("", ValueError)):
            try:
                cache.open("a", mode)
            except error:
                continue
            raise AssertionError(mode)
        for path, error in (("none", FileNotFoundError), (".", IsADirectoryError)):
            try:
                cache.open(path)
            except error as refused:
                assert refused.filename == path
                continue
            raise AssertionError(path)
        with cache.open("text", "w", encoding="utf-16") as text:
            print("zwölf", "dreizehn", sep="\\n", file=text)
        with cache.open("text", "r", encoding="utf-16") as text:
            assert list(text) == ["zwölf\\n", "dreizehn\\n"]
        data = np.random.default_rng(1).bytes(3 << 20)
        with zipfile.ZipFile(cache.open("zip", "wb"), "w") as archive:
            archive.writestr("data", data)
        with zipfile.ZipFile(io.BufferedReader(cache.open("zip"))) as archive:
            assert archive.read("data") == data
        with cache.open("copy", "w+b") as to, cache.open("zip") as source:
            shutil.copyfileobj(source, to)
            with to.page(0) as page:
                assert page[:2] == b"PK" and page.readonly
                try:
                    to.close()
                except BufferError:
                    to.seek(0)
            pickle.dump(data, to)
            to.seek(0)
            assert pickle.load(to) == data
            if not (child := os.fork()):
                try:
                    to.read()
                except ValueError:
                    to.close()
                    os._exit(3)
                os._exit(4)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
            try:
                cache.close()
            except OSError as error:
                assert "open" in error.strerror
        try:
            to.read()
        except ValueError:
            pass
        stats = cache.stats()
        assert stats.hits and stats.misses and 0 < stats.pages <= 2048
        cache.flush()
        assert cache.shrink(8 << 20) > 0 and cache.stats().pages == 0
        cache.close()
        say("right")
        hear()
    """)
    assert heard(guest) == "right"
    tell(guest)
    assert guest.wait(10) == 0


def test_all_memory_is_taken_while_threads_read_and_write(
    scratch: Scratch, disk: Path, tmp_path: Path
) -> None:
    """Pages are written, reclaimed, evicted and written back at once: no byte is wrong."""
    guest = start(scratch, tmp_path, "stress", f"""
        import hashlib, threading
        os.chdir({str(disk)!r})
        BLOCK, BLOCKS = 9000, 600
        cache = guest.cache()
        taken = guest.allocate(70 << 20)
        wrong, rounds, done = [], [], time.monotonic() + 3.5

        def use(number):
            own = np.random.default_rng(number)
            sums = {{}}
            file = cache.open("shared", "r+b")
            mine = cache.open(f"mine-{{number}}", "w+b")
            while time.monotonic() < done:
                block = int(own.integers(BLOCKS))
                kind = int(own.integers(20))
                target = mine if kind % 2 else file
                at = (block * 4 + (number if target is file else 0)) * BLOCK
                key = (target is file, block)
                if kind < 9:
                    data = own.bytes(BLOCK)
                    target.pwrite(data, at)
                    sums[key] = hashlib.md5(data).digest()
                elif key in sums:
                    if hashlib.md5(target.pread(BLOCK, at)).digest() != sums[key]:
                        wrong.append((number, key))
                if kind == 19 and not block % 8:
                    target.flush()
                if kind == 18 and not block % 8:
                    cache.shrink(1 << 20)
                rounds.append(number)
            for (shared, block), want in sums.items():
                at = (block * 4 + (number if shared else 0)) * BLOCK
                (file if shared else mine).flush() if not block % 50 else None
                got = (file if shared else mine).pread(BLOCK, at)
                if hashlib.md5(got).digest() != want:
                    wrong.append((number, shared, block))
            file.flush(), mine.flush()
            with open("shared", "rb") as plain, open(f"mine-{{number}}", "rb") as other:
                for (shared, block), want in sums.items():
                    at = (block * 4 + (number if shared else 0)) * BLOCK
                    if hashlib.md5(os.pread((plain if shared else other).fileno(), BLOCK, at)
                                   ).digest() != want:
                        wrong.append((number, shared, block, "on disk"))
            file.close(), mine.close()

        cache.open("shared", "wb").close()
        threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        say("ready")
        for thread in threads:
            thread.join()
        say(len(rounds) > 200, len(wrong))
        say(cache.stats())
        hear()
    """)
    assert heard(guest) == "ready"
    until = time.monotonic() + 3
    moved = rounds = 0
    while time.monotonic() < until:
        moved += scratch.reclaim("stress", 100).pages
        rounds += 1
    assert heard(guest) == "True 0"
    # The cache's O_DIRECT files do not make reclaim wait (protocol.h, UVMM_DIRECT_MARK).
    assert rounds > 10
    assert moved > 5000
    tell(guest)
    assert guest.wait(10) == 0


def test_no_second_copy_is_kept(scratch: Scratch, disk: Path, tmp_path: Path) -> None:
    (disk / "data").write_bytes(os.urandom(16 * MIB))
    guest = start(scratch, tmp_path, "direct", f"""
        import mmap
        os.chdir({str(disk)!r})
        os.sync()
        fd = os.open("data", os.O_RDWR)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

        def cached_pages():
            import ctypes
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
                array = np.frombuffer(view, dtype=np.uint8)
                there = np.zeros(array.size // 4096, dtype=np.uint8)
                libc = ctypes.CDLL(None, use_errno=True)
                libc.mincore(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.size),
                             ctypes.c_void_p(there.ctypes.data))
                del array
                return int((there & 1).sum())

        cache = guest.cache()
        with cache.open("data", "r+b") as file:
            data = file.read()
            assert data == open("data", "rb").read()
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            file.write(data[::-1])
            file.flush()
            cache.shrink(64 << 20)
            file.seek(0)
            assert file.read() == data[::-1]
        say(cached_pages() < 64, cache.stats().read_pages >= 4096)
        hear()
    """)
    assert heard(guest) == "True True"
    tell(guest)
    assert guest.wait(10) == 0


def test_gives_its_pages_to_others(scratch: Scratch, disk: Path, tmp_path: Path) -> None:
    (disk / "data").write_bytes(os.urandom(80 * MIB))
    guest = start(scratch, tmp_path, "cache", f"""
        cache = guest.cache(min_bytes=4 << 20)
        file = cache.open({str(disk / "data")!r}, "r+b")
        while file.read(1 << 20):
            pass
        file.pwrite(b"dirty", 0)
        held = cache.stats().pages
        say(held * 4096 >= 80 << 20)
        hear()
        stats = cache.stats()
        say(0 < stats.given_pages, stats.pages <= held - stats.given_pages)
        file.seek(0)
        assert file.read(5) == b"dirty"
        hear()
    """)
    assert heard(guest) == "True"
    before = resident_bytes(scratch)
    grower = start(scratch, tmp_path, "grower", """
        grown = pages(guest.allocate(120 << 20))
        grown[:] = np.arange(grown.size)
        say("grown")
        hear()
    """)
    assert heard(grower) == "grown"
    wait_for(
        lambda: scratch.figures()["guests"][0]["resident_bytes"] < before - 10 * MIB,
        "memory to move",
    )
    tell(guest)
    assert heard(guest) == "True True"
    for process in (guest, grower):
        tell(process)
        assert process.wait(10) == 0


def test_gives_its_pages_to_the_program(scratch: Scratch, disk: Path, tmp_path: Path) -> None:
    (disk / "data").write_bytes(os.urandom(100 * MIB))
    guest = start(scratch, tmp_path, "greedy", f"""
        cache = guest.cache()
        file = cache.open({str(disk / "data")!r}, "r+b")
        while file.read(1 << 20):
            pass
        for at in range(0, 20 << 20, 4096):
            file.pwrite(b"dirty", at)
        held = cache.stats().pages
        # One run, larger than what is free; then all that there is.
        block = guest.allocate(64 << 20)
        pages(block)[:] = 7
        with cache.open({str(disk / "data")!r}) as again:
            assert all(again.pread(5, at) == b"dirty" for at in range(0, 20 << 20, 4096))
        assert (pages(block) == 7).all()
        small = [guest.allocate(4096) for _ in range(15000)]
        assert file.pread(5, 4096) == b"dirty"
        say(held * 4096 > 95 << 20, cache.stats().pages * 4096 < 16 << 20)
        block.free()
        # It does not grow for a second after the daemon was short of memory.
        for _ in range(40):
            file.seek(0)
            while file.read(1 << 20):
                pass
            if cache.stats().pages * 4096 > 50 << 20:
                break
            time.sleep(0.25)
        say(cache.stats().pages * 4096 > 50 << 20)
        try:
            guest.allocate(127 << 20)
        except guestlib.OutOfMemoryError:
            say("refused")
        hear()
    """)
    assert heard(guest) == "True True"
    assert heard(guest) == "True"
    assert heard(guest) == "refused"
    tell(guest)
    assert guest.wait(10) == 0


def test_scan_leaves_the_hot_set(scratch: Scratch, disk: Path, tmp_path: Path) -> None:
    for name, size in (("hot", 8 * MIB), ("cold", 64 * MIB)):
        (disk / name).write_bytes(os.urandom(size))
    guest = start(scratch, tmp_path, "scan", f"""
        os.chdir({str(disk)!r})
        cache = guest.cache(max_bytes=12 << 20)
        hot, cold = cache.open("hot"), cache.open("cold")
        own = np.random.default_rng(1)
        for at in own.integers(2048, size=16384):
            hot.pread(100, int(at) * 4096)
        missed = 0
        while cold.read(16 << 10):
            # Three pages of four are the scan's.
            before = cache.stats()
            hot.pread(100, int(own.integers(2048)) * 4096)
            missed += cache.stats().misses - before.misses
        say(missed < 400, missed)
        hear()
    """)
    assert heard(guest).startswith("True")
    tell(guest)
    assert guest.wait(10) == 0


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_what_is_lost_with_a_guest(
    scratch: Scratch, disk: Path, tmp_path: Path, end: str
) -> None:
    guest = start(scratch, tmp_path, "mortal", f"""
        os.chdir({str(disk)!r})
        cache = guest.cache()
        file = cache.open("data", "wb")
        file.write(b"f" * 100_000)
        file.flush()
        file.write(b"u" * 100_000)
        cache.open("closed", "wb").write(b"c")
        say("ready")
        hear()
    """)
    assert heard(guest) == "ready"
    if end == "kill":
        os.kill(scratch.figures()["guests"][0]["pid"], signal.SIGKILL)
        assert guest.wait(10) in {-signal.SIGKILL, 128 + signal.SIGKILL}
        assert (disk / "data").read_bytes() in {
            b"f" * 100_000, b"f" * 100_000 + b"u" * 100_000
        }
    else:
        tell(guest)
        assert guest.wait(10) == 0
        assert (disk / "data").read_bytes() == b"f" * 100_000 + b"u" * 100_000
        assert (disk / "closed").read_bytes() == b"c"


def test_full_disk(scratch: Scratch, tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "full", "1m") as point:
        guest = start(scratch, tmp_path, "full", f"""
            os.chdir({str(point)!r})
            cache = guest.cache()
            ballast = open("ballast", "wb")
            ballast.write(bytes(512 << 10))
            ballast.flush()
            file = cache.open("data", "w+b")
            data = np.random.default_rng(1).bytes(800 << 10)
            file.write(data)
            for _ in range(2):
                try:
                    file.flush()
                except OSError as error:
                    say(error.errno)
            assert file.pread(len(data), 0) == data
            os.truncate("ballast", 0)
            file.flush()
            say(open("data", "rb").read() == data)
            os.truncate("data", 0)
            ballast.write(bytes(1 << 20))
        """ + """
            cache.shrink(64 << 20)
            file.pwrite(data, 0)
            try:
                file.flush()
            except OSError as error:
                say(error.errno)
            file.close()
            say("closed")
            hear()
            os._exit(0)
        """)
        assert [heard(guest) for _ in range(5)] == ["28", "28", "True", "28", "closed"]
        tell(guest)
        assert guest.wait(10) == 0
