# SPDX-License-Identifier: MIT
"""The parts of the build that pyproject.toml cannot say: the C bindings."""

from setuptools import setup

setup(cffi_modules=["uvmm/_build.py:ffibuilder", "guestlib/_build.py:ffibuilder"])
