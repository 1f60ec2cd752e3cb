# SPDX-License-Identifier: MIT
"""The setting for large pages, on a file that behaves as the kernel's does."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import pytest

from uvmm.machine_settings import Setting, allowed

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("always", "within_size", "advise", "never", "deny", "force")


class Shown:
    """Shows all words, the chosen one in brackets."""

    def __init__(self, path: Path, word: str) -> None:
        self._path = path
        self.write_text(word)

    @property
    def word(self) -> str:
        return self._path.read_text()

    def read_text(self) -> str:
        return " ".join(f"[{word}]" if word == self.word else word for word in WORDS)

    def write_text(self, word: str) -> None:
        assert word in WORDS
        self._path.write_text(word)


class Machine:
    def __init__(self, directory: Path, word: str) -> None:
        self.setting = Shown(directory / "setting", word)
        self.book = directory / "book"

    def daemon(self) -> ExitStack:
        """Begin to serve; closing it ends."""
        serving = ExitStack()
        path = cast("Path", self.setting)
        serving.enter_context(allowed([Setting(path=path, on="advise", book=self.book)]))
        return serving

    def killed_daemon(self) -> None:
        pid = os.fork()
        if not pid:
            try:
                with self.daemon():
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_the_last_one_puts_it_back(tmp_path: Path, first_to_end: int) -> None:
    machine = Machine(tmp_path, "never")
    serving = [machine.daemon(), machine.daemon()]
    serving.pop(first_to_end).close()
    assert machine.setting.word == "advise"
    serving.append(machine.daemon())
    serving.pop(0).close()
    assert machine.setting.word == "advise"
    serving.pop().close()
    assert machine.setting.word == "never"
    assert not machine.book.exists()


def test_what_a_killed_one_left_is_put_back_by_the_next(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "never")
    with machine.daemon():
        machine.killed_daemon()
        assert machine.setting.word == "advise"
    assert machine.setting.word == "never"
    machine.killed_daemon()
    machine.killed_daemon()
    assert machine.setting.word == "advise"
    assert machine.book.stat().st_mode & 0o777 == 0o600
    machine.daemon().close()
    assert machine.setting.word == "never"
    assert not machine.book.exists()


@pytest.mark.parametrize("word", ["always", "advise", "deny"])
def test_what_the_user_has_chosen_stays(tmp_path: Path, word: str) -> None:
    machine = Machine(tmp_path, word)
    with machine.daemon():
        assert machine.setting.word == word
    assert machine.setting.word == word
    assert not machine.book.exists()


def test_what_the_user_chooses_meanwhile_stays(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "never")
    with machine.daemon():
        machine.setting.write_text("always")
    assert machine.setting.word == "always"
    machine.setting.write_text("never")
    machine.killed_daemon()
    machine.setting.write_text("always")
    with machine.daemon():
        machine.setting.write_text("advise")
    assert machine.setting.word == "advise"


def test_many_that_come_and_go_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "never")
    children = []
    for _ in range(8):
        children.append(os.fork())
        if not children[-1]:
            seen = set()
            for _ in range(200):
                with machine.daemon():
                    seen.add(machine.setting.word)
            os._exit(0 if seen == {"advise"} else 1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert machine.setting.word == "never"
    assert not machine.book.exists()


def test_a_machine_that_cannot_be_set_is_left_alone(tmp_path: Path) -> None:
    for book in (tmp_path / "no" / "book", tmp_path / "book"):
        with allowed([Setting(path=tmp_path / "no-setting", on="advise", book=book)]):
            pass
    assert list(tmp_path.iterdir()) == []
