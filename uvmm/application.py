# SPDX-License-Identifier: MIT
"""What a launcher asks for a guest, checked: whose process it is, and what it may hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.errors import BadInputError
from uvmm.host import child, owner
from uvmm.policy import admission
from uvmm.policy.parameters import Wanted, parse
from uvmm.units import format_size, pages_to_bytes, parse_size, shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from uvmm.host import Peer, Process
    from uvmm.model import Machine
    from uvmm.policy.parameters import Defaults, Parameters

NAME_BYTES = 63
SHARE_OFF = "off"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """
    What a launcher asks for a guest.

    With `numbered` a name that is taken gets -2, -3 and so on. The group that it shares
    pages with is "off" for none, else one of the user who asks.
    """

    peer: Peer
    name: str
    numbered: bool
    pid: int
    uid: int | None
    gid: int | None
    wanted: Wanted
    share_group: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Whose process it is that asks to be a guest."""

    process: Process
    uid: int
    gid: int
    share_group: str  # its full name


def applicant(asked: Application) -> Applicant:
    """
    Check names, and whose the process is.

    Raises:
        BadInputError: If a name cannot be one, or the process is not there, or not the
            peer's to give away.
    """
    if not _NAME.fullmatch(asked.name):
        raise BadInputError(
            f"--name {shown(asked.name)}: 1 to {NAME_BYTES} of letters, digits and _.+-, "
            "not starting with a sign"
        )
    found, owned = child(asked.pid, parent=asked.peer.pid), owner(asked.pid)
    if owned is None:
        raise BadInputError(f"there is no process {asked.pid}")
    if found is None:
        raise BadInputError(
            f"process {asked.pid} is no child of process {asked.peer.pid}, which asks"
        )
    if asked.peer.uid not in (0, owned[0]):
        raise BadInputError(
            f"process {asked.pid} belongs to user {owned[0]}, not to user "
            f"{asked.peer.uid}, who asks"
        )
    uid = owned[0] if asked.uid is None else asked.uid
    gid = owned[1] if asked.gid is None else asked.gid
    if owned[0] not in (0, uid):
        raise BadInputError(f"process {asked.pid} belongs to user {owned[0]}, not {uid}")
    return Applicant(process=found, uid=uid, gid=gid, share_group=_share_group(asked, uid))


def parameters(asked: Wanted, machine: Machine, defaults: Defaults) -> Parameters:
    """
    Return what a guest that asks for that may hold; its max is the size of its memory.

    Raises:
        BadInputError: If a value cannot be had.
    """
    total_bytes = pages_to_bytes(machine.total_pages)
    asked_pages = None
    if asked.max is not None:
        # Rounded up: whoever asks for a byte means to have it.
        max_bytes = parse_size(asked.max, percent_of=total_bytes, what="--max")
        asked_pages = -(-max_bytes // pages_to_bytes(1))
    max_pages = admission.admitted_max(machine, asked_pages)
    min_bytes = 0 if asked.min is None else parse_size(
        asked.min, percent_of=total_bytes, what="--min"
    )
    if min_bytes > pages_to_bytes(max_pages):
        raise BadInputError(
            f"--min {format_size(min_bytes)} is more than --max "
            f"{format_size(pages_to_bytes(max_pages))}"
        )
    return parse(
        Wanted(
            min=asked.min, max=str(pages_to_bytes(max_pages)), shares=asked.shares,
            tax=asked.tax, balloon_max=asked.balloon_max,
        ),
        memory_pages=machine.total_pages, defaults=defaults,
    )


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return *wanted*, or with the first number that makes it free, cut to be a name."""
    name, number = wanted, 2
    while name in taken:
        suffix = f"-{number}"
        name, number = wanted[: NAME_BYTES - len(suffix)] + suffix, number + 1
    return name


def _share_group(asked: Application, uid: int) -> str:
    """Return the group's full name: nobody can name one of another user's."""
    if asked.share_group == SHARE_OFF:
        return ""
    if asked.share_group is None:
        return f"{uid}/"
    if not _NAME.fullmatch(asked.share_group):
        raise BadInputError(
            f"--share-group {shown(asked.share_group)}: {SHARE_OFF}, or 1 to {NAME_BYTES} of "
            "letters, digits and _.+-, not starting with a sign"
        )
    # Only root can start guests as other users, and so have these in one group.
    return f"{asked.peer.uid}/{asked.share_group}"
