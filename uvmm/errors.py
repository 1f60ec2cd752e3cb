# SPDX-License-Identifier: MIT
"""
What can go wrong, as users see it.

Every message is one line that says what happened and, where something can be
done, what to do. The CLI prints it after `uvmm: `; the API answers it as
`{"error": message}` with the class's `status`.
"""

from __future__ import annotations


class UvmmError(Exception):
    """Anything that uvmm refuses or fails at; the message is for people."""

    status = 500
    exit_code = 1


class BadInputError(UvmmError):
    """A value that cannot be meant: a size, a name, a setting."""

    status = 422
    exit_code = 2


class ConflictError(UvmmError):
    """It clashes with what there is: a name that is taken, a second daemon."""

    status = 409


class ServedError(ConflictError):
    """Another daemon serves the run directory."""


class UnknownGuestError(UvmmError):
    """There is no guest of that name."""

    status = 404


class NotReadyError(UvmmError):
    """Not now: a guest that has not attached yet, a daemon that ends."""

    status = 503


class NoRoomError(UvmmError):
    """Memory, swap or another bound is used up."""

    status = 507


class EngineError(UvmmError):
    """The data plane failed at what the kernel or a disk refused; `errno` is 0 if unknown."""

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class NotRunningError(UvmmError):
    """No daemon serves the run directory."""


class DaemonStartError(UvmmError):
    """The daemon could not be started."""


class ProgramError(UvmmError):
    """The program of `uvmm run` cannot be executed; exit codes as a shell's."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
