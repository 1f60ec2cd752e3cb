# SPDX-License-Identifier: MIT
"""
Build `uvmm._core`, the binding of csrc/include/uvmm_core.h.

The declarations are the header itself, without what cffi cannot read, so they
cannot drift from it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

_CSRC = Path(os.path.relpath(Path(__file__).resolve().parents[1] / "csrc"))
_CONSTANT = re.compile(r"#define\s+\w+\s+(0x)?[0-9a-fA-F]+\s*$")


def declarations(header: str) -> str:
    """Return *header* without comments and directives, but with its constants."""
    bare = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return "\n".join(
        line
        for line in bare.splitlines()
        if not line.startswith("#") or _CONSTANT.match(line)
    )


ffibuilder = FFI()
ffibuilder.cdef(declarations((_CSRC / "include/uvmm_core.h").read_text()))
ffibuilder.set_source(
    "uvmm._core",
    '#include "uvmm_core.h"',
    sources=sorted(str(path) for path in (_CSRC / "core").glob("*.c")),
    include_dirs=[str(_CSRC / "include"), str(_CSRC / "core")],
    depends=sorted(str(path) for path in _CSRC.glob("*/**/*.h")),
    extra_compile_args=[
        "-O2", "-g", "-std=c11", "-D_GNU_SOURCE", "-pthread", "-fvisibility=hidden",
    ],
    libraries=["xxhash", "uring"],
    extra_link_args=["-pthread"],
)
