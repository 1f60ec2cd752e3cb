# SPDX-License-Identifier: MIT
"""
A policy from a user's own Python file, which must define `policy`: an object with a
`name` and a method `decide(seen)`. See `policy.contract` and docs/policy.md.

The file is a program: it may do whatever the one who runs it may do.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from uvmm.errors import BadInputError
from uvmm.policy.contract import accept, reason

if TYPE_CHECKING:
    from pathlib import Path

    from uvmm.policy.contract import Policy

VARIABLE = "policy"
LARGEST_BYTES = 1 << 20


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
        exec(code, module.__dict__)  # noqa: S102 - it is what the user asks for
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise both
        raise BadInputError(f"--policy {path} failed: {_at(error, path)}") from None
    if not hasattr(module, VARIABLE):
        raise BadInputError(
            f"--policy {path} defines no {VARIABLE!r}: expected an object with a name and a "
            "method decide(seen)"
        )
    try:
        return accept(getattr(module, VARIABLE))
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
