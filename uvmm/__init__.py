# SPDX-License-Identifier: MIT
"""uvmm: a userspace memory virtualizer for Linux processes."""
