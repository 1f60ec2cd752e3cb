# SPDX-License-Identifier: MIT
"""The parts of the build that pyproject.toml cannot say: the C bindings."""

from pathlib import Path

from setuptools import setup

BUILDERS = ("uvmm/_build.py", "guestlib/_build.py")
setup(cffi_modules=[f"{path}:ffibuilder" for path in BUILDERS if Path(path).exists()])
