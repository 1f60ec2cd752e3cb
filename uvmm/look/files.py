# SPDX-License-Identifier: MIT
"""
The inspection filesystem: `tree.py` as the kernel asks for it, by libfuse.

A text is made when it is opened, and whoever has it open reads that, whole, however long
that takes; a look at its size a moment before makes it, too (`FRESH_S`). Texts are read
past the kernel's page cache. What is bulk goes through that, so that it can be mapped,
and is forgotten there when it is opened, and a moment (`ATTRIBUTES_S`) after it was read.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvmm.look.tree import Bulk, Directory, Growing, Text

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # the newer one, where there are two

from mfusepy import FUSE, Operations

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvmm.look.tree import Node, Tree

__all__ = ["ATTRIBUTES_S", "FUSE", "Files"]

FRESH_S = 0.5
ATTRIBUTES_S = 0.1
VALUE_BYTES = 4096
_TEXTS_KEPT = 8192


@dataclass(slots=True)
class _Made:
    """A text as it was made, and when it was last different."""

    content: bytes
    at_s: float
    changed_ns: int


class Files(Operations):  # type: ignore[misc]
    """The filesystem's operations; any number of threads."""

    use_ns = True

    def __init__(self, tree: Tree, on_mounted: Callable[[], None]) -> None:
        self._tree = tree
        self._on_mounted = on_mounted
        self._lock = threading.Lock()
        self._made: dict[str, _Made] = {}
        self._open: dict[int, tuple[Node, bytes]] = {}
        self._numbers = itertools.count(1)

    def init(self, _path: str) -> None:
        """Tell that the kernel has mounted it."""
        self._on_mounted()

    def getattr(self, path: str, _fh: Any = None) -> dict[str, int]:
        """Return what stat(2) tells."""
        node = self._tree.find(_parts(path))
        now = time.time_ns()
        size, changed = 0, now
        if isinstance(node, Text):
            made = self._make(path, node)
            size, changed = len(made.content), made.changed_ns
        elif isinstance(node, Growing):
            size = len(node.content())
        elif isinstance(node, Bulk):
            size = node.size
        return {
            "st_mode": node.mode, "st_uid": node.uid, "st_gid": 0, "st_size": size,
            "st_nlink": 2 if isinstance(node, Directory) else 1,
            "st_blocks": -(-size // 512), "st_blksize": 4096,
            "st_mtime": changed, "st_ctime": changed, "st_atime": changed,
        }

    def readdir(self, path: str, _fh: int) -> list[str]:
        """Return the names in a directory."""
        node = self._tree.find(_parts(path))
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "it is no directory")
        return [".", "..", *node.names()]

    def open(self, path: str, info: Any) -> int:
        """Open a file."""
        node = self._tree.find(_parts(path))
        writes = info.flags & os.O_ACCMODE != os.O_RDONLY
        if writes and not (isinstance(node, Text) and node.write):
            raise OSError(errno.EACCES, "it is for reading")
        content = b""
        if isinstance(node, Text):
            info.direct_io = True
            content = self._make(path, node).content
        elif isinstance(node, Growing):
            info.direct_io = True
        with self._lock:
            info.fh = next(self._numbers)
            self._open[info.fh] = (node, content)
        return 0

    def read(self, _path: str, size: int, offset: int, info: Any) -> Any:
        """Return bytes of a file that is open."""
        node, content = self._open[info.fh]
        if isinstance(node, Growing):
            return node.content()[offset : offset + size]
        if not isinstance(node, Bulk):
            return content[offset : offset + size]
        size = min(size, node.size - offset)
        if size <= 0:
            return b""
        told = node.read(offset, size)
        # Memory that can be written is handed on without a copy.
        return bytes(told) if told.readonly else (ctypes.c_char * len(told)).from_buffer(told)

    def write(self, path: str, data: bytes, _offset: int, info: Any) -> int:
        """Take a value, whole: each write is one."""
        node, _ = self._open[info.fh]
        if not isinstance(node, Text) or node.write is None:
            raise OSError(errno.EBADF, "it is for reading")
        try:
            value = data.decode("ascii").strip()
        except UnicodeDecodeError:
            value = repr(data[:VALUE_BYTES])
        # A refusal is explained in the file `error`, also of what cannot be a value.
        try:
            node.write(value[:VALUE_BYTES])
        finally:
            self._forget(path.rpartition("/")[0])
        return len(data)

    def truncate(self, path: str, length: int, _info: Any = None) -> None:
        """Do nothing, for a shell's `>`, where a value can be written."""
        node = self._tree.find(_parts(path))
        if not isinstance(node, Text) or node.write is None:
            raise OSError(errno.EACCES, "it is for reading")
        if length:
            raise OSError(errno.EINVAL, "a value is written as a whole")

    def release(self, _path: str, info: Any) -> None:
        """Close a file."""
        with self._lock:
            self._open.pop(info.fh, None)

    def _forget(self, directory: str) -> None:
        """Make the texts there anew: something has changed."""
        with self._lock:
            for one in [one for one in self._made if one.startswith(directory)]:
                del self._made[one]

    def _make(self, path: str, node: Text) -> _Made:
        with self._lock:
            made = self._made.get(path)
        now_s = time.monotonic()
        if made is not None and now_s - made.at_s < FRESH_S:
            return made
        content = node.text().encode(errors="surrogateescape")
        changed = time.time_ns()
        if made is not None and made.content == content:
            changed = made.changed_ns
        fresh = _Made(content, now_s, changed)
        with self._lock:
            if len(self._made) >= _TEXTS_KEPT:
                self._made.clear()
            self._made[path] = fresh
        return fresh


def refuse_all(*_: Any) -> int:
    """Refuse what would change the tree itself."""
    raise OSError(errno.EPERM, "the files are the daemon's")


for _name in (
    "chmod", "chown", "create", "link", "mkdir", "mknod", "rename", "rmdir", "symlink",
    "unlink", "utimens",
):
    setattr(Files, _name, refuse_all)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)

