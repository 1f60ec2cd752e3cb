# SPDX-License-Identifier: MIT
"""The daemon's log: one JSON object a line, bounded, and the last lines in memory."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

from typing_extensions import TypedDict  # pydantic reads typing's only since 3.12

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

LOG_BYTES = 4 << 20  # the run directory usually lies in RAM
RECENT_EVENTS = 1000
LOGGER = logging.getLogger("uvmm")


class LogEvent(TypedDict):
    """A line of the log; `guest` is empty if it is about nobody."""

    time: str
    level: str
    kind: str
    guest: str
    text: str


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line, with its traceback if it has one."""
        trace = {"trace": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps({**_event(record), **trace})


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        os.fchmod(stream.fileno(), 0o600)
        return stream


class _Recent(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.events: deque[LogEvent] = deque(maxlen=RECENT_EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.events.append(_event(record))


def open_log(path: Path, *, also_stderr: bool) -> deque[LogEvent]:
    """
    Send the log to *path*.

    Args:
        path: The file; it is kept below two times `LOG_BYTES`.
        also_stderr: Show the texts on standard error, too.

    Returns:
        The newest events, oldest first; it goes on filling.
    """
    file = _PrivateFile(path, maxBytes=LOG_BYTES, backupCount=1)
    file.setFormatter(_JsonLines())
    recent = _Recent()
    LOGGER.handlers = [file, recent]
    if also_stderr:
        LOGGER.addHandler(logging.StreamHandler())
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    return recent.events


def tell(
    text: str, *, kind: str = "daemon", guest: str = "", level: int = logging.INFO
) -> None:
    """Log *text* as an event of a kind, about a guest."""
    LOGGER.log(level, "%s", text, extra={"kind": kind, "guest": guest})


def _event(record: logging.LogRecord) -> LogEvent:
    return LogEvent(
        time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        level=record.levelname.lower(),
        kind=getattr(record, "kind", "daemon"),
        guest=getattr(record, "guest", ""),
        text=record.getMessage(),
    )
