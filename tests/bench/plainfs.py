# SPDX-License-Identifier: MIT
"""
The peer "a mapped file on a plain fusepy filesystem": `plainfs.py DATA MOUNT`.

One read-only file `data`, served from memory, as simple as fusepy allows; what
a page fault costs there is what FUSE costs without passthrough.
"""

from __future__ import annotations

import errno
import stat
import sys
from pathlib import Path

import fuse


class PlainFilesystem(fuse.Operations):  # type: ignore[misc]  # fusepy has no types
    """A directory with one file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Attributes of the root or of the file."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2}
        if path == "/data":
            return {
                "st_mode": stat.S_IFREG | 0o400,
                "st_nlink": 1,
                "st_size": len(self._data),
            }
        raise fuse.FuseOSError(errno.ENOENT)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes of the file; the kernel asks for nothing beyond its end."""
        return self._data[offset : offset + size]


if __name__ == "__main__":
    fuse.FUSE(
        PlainFilesystem(Path(sys.argv[1]).read_bytes()),
        sys.argv[2],
        foreground=True,
        ro=True,
    )
