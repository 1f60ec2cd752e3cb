# SPDX-License-Identifier: MIT
"""
A policy from a user's own Python file, which must define `policy`: an object with a
`name` and a method `decide(seen)`. See `policy.contract` and docs/policy.md.

The file is a program: it may do whatever the one who runs it may do. But nobody waits
for it for longer than a while: what takes too long has failed.
"""

from __future__ import annotations

import threading
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from uvmm.errors import BadInputError
from uvmm.policy.contract import accept, reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from uvmm.policy.contract import Policy
    from uvmm.policy.decision import Decision
    from uvmm.policy.observation import Observation

VARIABLE = "policy"
LARGEST_BYTES = 1 << 20
LOAD_S = 10.0
DECIDE_S = 1.0
_T = TypeVar("_T")


class TooLateError(Exception):
    """A user's code took too long."""


class Punctual:
    """
    A policy that has failed when it does not decide in time.

    A thread cannot be ended: while one is still at a decision, no other is begun.
    """

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self._policy = policy
        self._busy = threading.Lock()

    def decide(self, seen: Observation) -> Decision:
        """
        Ask it.

        Raises:
            TooLateError: If it takes longer than `DECIDE_S`, or still is at the last one.
        """
        if not self._busy.acquire(blocking=False):
            raise TooLateError(f"it has not decided for more than {DECIDE_S:g} s")

        def ask() -> Decision:
            try:
                return self._policy.decide(seen)
            finally:
                self._busy.release()

        return _in_time(ask, DECIDE_S)


def _in_time(call: Callable[[], _T], limit_s: float) -> _T:
    """
    Return what *call* does, in a thread of its own.

    Raises:
        TooLateError: If it takes longer than that; it goes on then, and nobody listens.
        Exception: What it raises, or SystemExit.
    """
    done: list[_T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed and isinstance(failed[0], (Exception, SystemExit)):
        raise failed[0]
    if failed:
        # It is the user's code that says so, and not a user who interrupts us.
        raise RuntimeError(repr(failed[0]))
    if not done:
        raise TooLateError(f"it took longer than {limit_s:g} s")
    return done[0]


def load_policy(path: Path) -> Policy:
    """
    Return the policy that a file defines, guarded.

    Raises:
        BadInputError: If it cannot be read, is no Python, fails, defines no policy, or
            one that fails in a trial; says which.
    """
    try:
        with path.open("rb") as file:
            source = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BadInputError(f"--policy {path}: {error.strerror}") from None
    if len(source) > LARGEST_BYTES:
        raise BadInputError(f"--policy {path}: the file is larger than 1M")
    module = ModuleType("uvmm_policy_file")
    module.__file__ = str(path)
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise BadInputError(f"--policy {path}{line}: no Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadInputError(f"--policy {path}: no Python: {error}") from None
    try:
        _in_time(lambda: exec(code, module.__dict__), LOAD_S)  # noqa: S102 - as asked for
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise both
        raise BadInputError(f"--policy {path} failed: {_at(error, path)}") from None
    if not hasattr(module, VARIABLE):
        raise BadInputError(
            f"--policy {path} defines no {VARIABLE!r}: expected an object with a name and a "
            "method decide(seen)"
        )
    try:
        return accept(getattr(module, VARIABLE), within=Punctual)
    except BadInputError as error:
        raise BadInputError(f"--policy {path}: {error}") from None


def _at(error: BaseException, path: Path) -> str:
    """Say what was raised, and in which line of the file."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{reason(error)} (line {line})" if line else reason(error)
