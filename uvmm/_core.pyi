# SPDX-License-Identifier: MIT
# What cffi builds from csrc/include/uvmm_core.h; see _build.py.
from typing import Any

ffi: Any
lib: Any
