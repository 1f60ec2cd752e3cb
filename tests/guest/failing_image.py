# SPDX-License-Identifier: MIT
"""
A filesystem with one file, `image`, that fails as it is told: `failing_image.py MOUNT MIB`.

The file's 64-bit words are their own numbers. Each line on stdin, `HOW ERRNO`, changes what
fails, and is answered by a line:

    read, write, sync   every such request, with that errno; 0: none does any more
"""

from __future__ import annotations

import stat
import sys
import threading
from array import array

import mfusepy


class FailingImage(mfusepy.Operations):  # type: ignore[misc]  # no types
    """The file, in memory."""

    use_ns = True

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(array("Q", range(size_bytes // 8)).tobytes())
        self.fails = {"read": 0, "write": 0, "sync": 0}

    def _may(self, how: str) -> None:
        if self.fails[how]:
            raise mfusepy.FuseOSError(self.fails[how])

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Attributes of the root or of the file."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": len(self.data)}

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names."""
        return [".", "..", "image"]

    def open(self, path: str, flags: int) -> int:
        """Any number of times."""
        return 1

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes of the file."""
        self._may("read")
        return bytes(self.data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """All of it."""
        self._may("write")
        self.data[offset : offset + len(data)] = data
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Nothing is kept anyway."""
        self._may("sync")
        return 0


def obey(image: FailingImage) -> None:
    """Change what fails."""
    for line in sys.stdin:
        how, number = line.split()
        image.fails[how] = int(number)
        print("done", flush=True)


if __name__ == "__main__":
    served = FailingImage(int(sys.argv[2]) << 20)
    threading.Thread(target=obey, args=(served,), daemon=True).start()
    mfusepy.FUSE(served, sys.argv[1], foreground=True, direct_io=True, nothreads=False)
