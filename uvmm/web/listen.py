# SPDX-License-Identifier: MIT
"""The loopback port and the token of a daemon that has a page."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.errors import DaemonStartError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from uvmm.rundir import RunDir

LOOPBACK = "127.0.0.1"
TOKEN_BYTES = 32
_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the page is served, and what opens it."""

    link: socket.socket
    port: int
    token: str


def listen(run_dir: RunDir, port: int, group: int | None, undo: ExitStack) -> Listener:
    """
    Take the port and write a new token into the run directory.

    Args:
        run_dir: There it is removed at the daemon's end.
        port: 0 is any that is free.
        group: May read the token, too.
        undo: Closes the port.

    Raises:
        DaemonStartError: If the port cannot be had.
    """
    link = socket.socket(socket.AF_INET)
    undo.callback(link.close)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        link.bind((LOOPBACK, port))
        link.listen(_BACKLOG)
    except OSError as error:
        raise DaemonStartError(
            f"cannot listen on {LOOPBACK} port {port}: {error.strerror}; choose another --http"
        ) from None
    token = secrets.token_hex(TOKEN_BYTES)
    _write(run_dir, token, group)
    return Listener(link, link.getsockname()[1], token)


def _write(run_dir: RunDir, token: str, group: int | None) -> None:
    run_dir.http_token.unlink(missing_ok=True)
    file = os.open(run_dir.http_token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as out:
        out.write(f"{token}\n")
        if group is not None:
            os.fchown(file, -1, group)
            os.fchmod(file, 0o640)
