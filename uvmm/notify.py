# SPDX-License-Identifier: MIT
"""Tells systemd, if it has started us with Type=notify, that we serve or are ending."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

VARIABLE = "NOTIFY_SOCKET"
READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(word: str) -> None:
    """Send *word* if there is somebody who wants it; that he has gone is no matter."""
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    # A name that begins with @ is abstract: there its first byte is 0.
    path = "\0" + address[1:] if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(word.encode(), path)
