# SPDX-License-Identifier: MIT
"""Build `guestlib._guest`, the binding of csrc/include/uvmm/guest.h, cache.h and disk.h."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

_CSRC = Path(os.path.relpath(Path(__file__).resolve().parents[1] / "csrc"))
_HEADERS = tuple(
    _CSRC / "include/uvmm" / name for name in ("guest.h", "cache.h", "disk.h")
)
_KNOWN = """
#define UVMM_ORDER_MAX ...
typedef int... mode_t;
struct iovec { void *iov_base; size_t iov_len; ...; };
"""
_CALLBACK = """
extern "Python" uint64_t guestlib_on_pressure(void *arg, int level, uint64_t wanted_pages);
"""


def declarations(header: str) -> str:
    """Return the declarations of *header* as cffi reads them."""
    bare = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL).replace("UVMM_PUBLIC ", "")
    bare = re.sub(r'extern "C" \{|#ifdef __cplusplus\n\}\n#endif', "", bare)
    lines = [line for line in bare.splitlines() if not line.startswith("#")]
    return "\n".join(lines)


ffibuilder = FFI()
ffibuilder.cdef(_KNOWN + "".join(declarations(path.read_text()) for path in _HEADERS))
ffibuilder.cdef(_CALLBACK)
ffibuilder.set_source(
    "guestlib._guest",
    '#include "uvmm/cache.h"\n#include "uvmm/disk.h"',
    sources=sorted(
        str(path) for path in (_CSRC / "guest").glob("*.c") if path.name != "launch.c"
    ),
    include_dirs=[str(_CSRC / "include"), str(_CSRC / "guest")],
    depends=sorted(str(path) for path in _CSRC.glob("*/**/*.h")),
    extra_compile_args=[
        "-O2", "-g", "-std=c11", "-D_GNU_SOURCE", "-pthread", "-fvisibility=hidden",
    ],
    extra_link_args=["-pthread"],
)
