# SPDX-License-Identifier: MIT
"""What the host is asked, where others have left it in an odd state."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from uvmm import host

if TYPE_CHECKING:
    from pathlib import Path

# What no text holds, what the kernel escapes, and what splits lines in text only.
ODD_NAMES = [b"\xff\xfe", b"a b\tc\nd\\040e", "\u00e9\u2028\x85".encode()]


def unmount(point: Path) -> None:
    subprocess.run(["umount", point], check=True)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_mounts_of_any_name_are_found(tmp_path: Path, name: bytes) -> None:
    odd = tmp_path / os.fsdecode(name)
    inner = odd / "in it"
    with ExitStack() as undo:
        for point in (odd, inner):
            point.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "uvmm-test", point], check=True)
            undo.callback(unmount, point)
        assert host.mounts_below(tmp_path) == [inner, odd]
        assert host.mounts_below(odd) == [inner]
    assert host.mounts_below(tmp_path) == []
