# SPDX-License-Identifier: MIT
"""What can go wrong for a guest program."""

from __future__ import annotations


class GuestError(OSError):
    """A call failed; `errno` says how, `strerror` why, in words."""


class NotAGuestError(GuestError):
    """This process was not started by `uvmm run`."""


class OutOfMemoryError(GuestError, MemoryError):
    """Guest physical memory, or machine memory for pins, has no room."""
