# SPDX-License-Identifier: MIT
"""What systemd is told."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from uvmm.notify import READY, VARIABLE, notify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(f"\0{name}" if abstract else name)
        monkeypatch.setenv(VARIABLE, f"@{name}" if abstract else name)
        notify(READY)
        link.settimeout(5)
        assert link.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/no/such/socket", "nonsense", "@" + "x" * 500])
def test_nobody_is_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(VARIABLE, address)
    notify(READY)
