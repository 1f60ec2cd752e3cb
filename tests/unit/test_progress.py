# SPDX-License-Identifier: MIT
"""Progress: a bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr

import pytest

from uvmm.errors import UvmmError
from uvmm.progress import progress, watched


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal; a test makes it standard error itself, which pytest sets anew for it."""
    shown = _Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("uvmm.progress.SHOWN_AFTER_S", 0.01)
    monkeypatch.setattr("uvmm.progress.LOOK_S", 0.01)
    return shown


def test_it_is_drawn_on_a_terminal(terminal: io.StringIO) -> None:
    with redirect_stderr(terminal), progress("drawing [x]") as bar:
        for done in range(4):
            bar(done, 4)
            time.sleep(0.05)
    assert "drawing [x]" in terminal.getvalue()


def test_what_is_done_elsewhere_is_looked_at(terminal: io.StringIO) -> None:
    looks = iter([(1, 4), (3, 4)])

    def look() -> tuple[int, int]:
        try:
            return next(looks)
        except StopIteration:
            raise UvmmError("gone") from None

    with redirect_stderr(terminal), watched("moving", look):
        time.sleep(0.3)
    assert "moving" in terminal.getvalue()
    assert "75%" in terminal.getvalue()


def test_an_error_of_the_work_is_the_errors_alone(terminal: io.StringIO) -> None:
    def work() -> None:
        with redirect_stderr(terminal), watched("moving", lambda: (0, 0)):
            time.sleep(0.05)
            raise UvmmError("failed")

    with pytest.raises(UvmmError, match="failed"):
        work()
    assert terminal.getvalue()


def test_nothing_is_said_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("drawing") as bar, watched("moving", lambda: (1, 2)):
        bar(1, 2)
    assert capsys.readouterr() == ("", "")
