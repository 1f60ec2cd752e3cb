# SPDX-License-Identifier: MIT
"""guestlib where there is no daemon, and its blocks on memory that is none of a guest."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import guestlib
from guestlib import low_level
from guestlib._guest import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = "00112233445566778899aabbccddeeff"
PAGE = 4096


class FakeLibrary:
    """Stands for the C library: blocks are ordinary memory."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Any, int]] = {}
        self.calls: list[tuple[str, int, int]] = []

    def allocate(self, _guest: object, size: int) -> int:
        memory = ffi.new("char[]", size)
        address = int(ffi.cast("uintptr_t", memory))
        self.held[address] = memory, size
        return address

    def free(self, _guest: object, address: int, size: int) -> None:
        assert self.held.pop(address)[1] == size

    def record(self, name: str) -> Callable[[object, int, int], None]:
        return lambda _guest, address, size: self.calls.append((name, address, size))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    monkeypatch.setattr(low_level, "allocate", fake.allocate)
    monkeypatch.setattr(low_level, "free", fake.free)
    for name in ("pin", "unpin", "discard"):
        monkeypatch.setattr(low_level, name, fake.record(name))
    return fake


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What `uvmm run` sets, with a socket that nobody serves."""
    path = tmp_path / "guest.sock"
    monkeypatch.setenv("UVMM_SOCKET", str(path))
    monkeypatch.setenv("UVMM_NAME", "g")
    monkeypatch.setenv("UVMM_TOKEN", TOKEN)
    return path


class TestAttach:
    """In this process: no test here gets as far as a guest."""

    @pytest.mark.parametrize("missing", ["UVMM_SOCKET", "UVMM_NAME", "UVMM_TOKEN"])
    @pytest.mark.usefixtures("environment")
    def test_without_uvmm_run(self, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
        monkeypatch.delenv(missing)
        with pytest.raises(guestlib.NotAGuestError, match="uvmm run") as refused:
            guestlib.attach()
        assert refused.value.errno == errno.ENOENT

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("UVMM_TOKEN", ""), ("UVMM_TOKEN", TOKEN[1:]), ("UVMM_TOKEN", "x" * 32),
            ("UVMM_TOKEN", TOKEN + "0"), ("UVMM_TOKEN", "+1" * 16),
            ("UVMM_NAME", "n" * 64), ("UVMM_SOCKET", "/" + "s" * 200),
        ],
    )
    @pytest.mark.usefixtures("environment")
    def test_with_a_bad_environment(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(guestlib.NotAGuestError, match="not those of"):
            guestlib.attach()

    @pytest.mark.usefixtures("environment")
    def test_without_a_daemon(self) -> None:
        with pytest.raises(guestlib.GuestError, match="cannot reach") as refused:
            guestlib.attach()
        assert refused.value.errno == errno.ECONNREFUSED

    def test_with_a_daemon_that_hangs_up(self, environment: Path) -> None:
        program = [sys.executable, "-c", "import guestlib; guestlib.attach()"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(environment))
            listener.listen()
            guest = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
            listener.accept()[0].close()
            _, stderr = guest.communicate(timeout=30)
        assert "the daemon is gone" in stderr.splitlines()[-1]


@pytest.mark.usefixtures("library")
class TestBlock:
    def test_memory_is_writable_bytes(self) -> None:
        with guestlib.Block(None, 10_000) as block:
            assert len(block) == block.memory.nbytes == 10_000
            np.frombuffer(block.memory, dtype=np.uint8)[:] = 7
            assert bytes(block.memory) == b"\7" * 10_000

    def test_freed_memory_is_not_usable(self, library: FakeLibrary) -> None:
        block = guestlib.Block(None, PAGE)
        block.free()
        assert not library.held
        with pytest.raises(ValueError, match="released"):
            block.memory[0] = 1
        block.free()

    @pytest.mark.parametrize(
        "use",
        [
            lambda memory: np.frombuffer(memory, dtype=np.uint8),
            lambda memory: memory[10:20],
            lambda memory: np.frombuffer(memory[16:], dtype=np.uint8)[3:],
        ],
        ids=["array", "slice", "array of a slice"],
    )
    def test_used_memory_is_never_freed(
        self, library: FakeLibrary, use: Callable[[memoryview], Any]
    ) -> None:
        block = guestlib.Block(None, PAGE)
        user = use(block.memory)
        for _ in range(3):
            with pytest.raises(BufferError):
                block.free()
            assert library.held
            block.memory[0] = user[0] = 1
        del user
        block.free()
        assert not library.held

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_block_has_bytes(self, size: int) -> None:
        with pytest.raises(guestlib.GuestError, match=f"got {size}"):
            guestlib.Block(None, size)

    def test_whole_pages_are_pinned_and_discarded(self, library: FakeLibrary) -> None:
        block = guestlib.Block(None, PAGE + 1)
        with block.pinned():
            block.pin()
        block.unpin()
        block.discard()
        names = ["pin", "pin", "unpin", "unpin", "discard"]
        assert library.calls == [(name, block.address, 2 * PAGE) for name in names]

    @pytest.mark.parametrize("name", ["pin", "unpin", "discard"])
    def test_a_freed_block_can_do_nothing(self, library: FakeLibrary, name: str) -> None:
        block = guestlib.Block(None, PAGE)
        block.free()
        with pytest.raises(guestlib.GuestError, match="freed"):
            getattr(block, name)()
        assert not library.calls


def test_more_than_there_are_addresses_is_out_of_memory() -> None:
    with pytest.raises(MemoryError, match="no free run") as refused:
        low_level.allocate(None, 1 << 70)
    assert isinstance(refused.value, guestlib.OutOfMemoryError)


class TestCallback:
    """What the C library calls on its agent thread."""

    @pytest.fixture
    def unraisable(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
        seen: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda told: seen.append(told.exc_value))
        yield seen
        seen.clear()

    @pytest.mark.parametrize(
        ("answer", "pages"), [(None, 0), (0, 0), (17, 17), (-3, 0), (True, 1)]
    )
    def test_answers_pages(self, answer: int | None, pages: int) -> None:
        handle = ffi.new_handle(lambda level, wanted: answer)
        assert lib.guestlib_on_pressure(handle, 1, 5) == pages

    @pytest.mark.parametrize("answer", ["many", 1 << 64])
    def test_nonsense_is_told_and_counts_as_0(
        self, unraisable: list[Any], answer: object
    ) -> None:
        handle = ffi.new_handle(lambda level, wanted: answer)
        assert lib.guestlib_on_pressure(handle, 1, 5) == 0
        assert len(unraisable) == 1

    def test_an_exception_is_told_and_counts_as_0(self, unraisable: list[Any]) -> None:
        def broken(_level: int, _wanted: int) -> int:
            raise RuntimeError("boom")

        assert lib.guestlib_on_pressure(ffi.new_handle(broken), 2, 5) == 0
        assert [str(error) for error in unraisable] == ["boom"]
