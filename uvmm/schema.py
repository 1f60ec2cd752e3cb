# SPDX-License-Identifier: MIT
"""What goes over the control API: its bodies, and how a snapshot is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic reads typing's only since 3.12

from uvmm.model import StateName  # noqa: TC001 - pydantic reads it
from uvmm.policy.decision import HISTORY_LENGTH
from uvmm.units import pages_to_bytes

if TYPE_CHECKING:
    from uvmm.daemon import Explanation
    from uvmm.model import Disks, Guest, Machine, Moved, PageMap, Shared, Sharing, Snapshot

SIZE_CHARACTERS = 64
ID_MAX = 0xFFFFFFFE  # the largest user and group number
PID_MAX = 1 << 22
DECISIONS_MAX = HISTORY_LENGTH

SizeText = Annotated[str, Field(max_length=SIZE_CHARACTERS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GuestRequest(_Body):
    """A guest to be registered; its process waits until it is."""

    name: Annotated[str, Field(max_length=63)]
    numbered: bool = False
    pid: Annotated[int, Field(ge=1, le=PID_MAX)]
    uid: Annotated[int, Field(ge=0, le=ID_MAX)] | None = None
    gid: Annotated[int, Field(ge=0, le=ID_MAX)] | None = None
    min: SizeText | int | None = None
    max: SizeText | int | None = None
    shares: SizeText | int | None = None
    tax: SizeText | int | float | None = None
    balloon_max: SizeText | int | None = None
    share_group: str | None = None


class ChangeRequest(_Body):
    """What a guest is to be allowed; what is not named stays as it is."""

    min: SizeText | int | None = None
    max: SizeText | int | None = None
    shares: SizeText | int | None = None
    tax: SizeText | int | float | None = None
    balloon_max: SizeText | int | None = None


class ShareRequest(_Body):
    """Whose pages to look through at once; all guests' if no name is given."""

    name: Annotated[str, Field(max_length=63)] | None = None


class ReclaimRequest(_Body):
    """How much to take, such as `64M` or `50%` of what is resident, and where to."""

    size: SizeText | int
    tier: Literal["swap"] = "swap"


class BalloonRequest(_Body):
    """How much to give back, such as `64M` or `50%` of max; 0 lets go of all."""

    size: SizeText | int


class GuestAnswer(TypedDict):
    """What a registered guest's process needs to attach."""

    name: str
    token: str
    socket: str
    max_bytes: int


class MovedAnswer(TypedDict):
    """What a reclaim or a restore did; `zero_pages` of `pages` needed no store."""

    pages: int
    zero_pages: int
    left_pages: int
    elapsed_seconds: float


class SharedAnswer(TypedDict):
    """What a pass over guests did."""

    scanned_pages: int
    shared_pages: int
    zero_pages: int
    elapsed_seconds: float
    cpu_seconds: float


class RefusalFigures(TypedDict):
    """Pages that had a twin and were not shared at that time, by reason."""

    busy: int
    changed: int
    agent: int
    mappings: int
    memory: int


class SharingFigures(TypedDict):
    """The search for pages to share, since the start; the rate is of the last second."""

    merged_pages: int
    zero_pages: int
    splits: int
    homed_pages: int
    scanned_pages: int
    scanned_pages_per_second: float
    passes: int
    cpu_seconds: float
    hints: int
    stale_hints: int
    refused: RefusalFigures


class MachineFigures(TypedDict):
    """The machine; what each means is in docs/reference.md."""

    total_bytes: int
    used_bytes: int
    free_bytes: int
    overhead_bytes: int
    guest_bytes: int
    daemon_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int
    memory_via: str
    pressure: Literal["none", "some", "full"]
    state: StateName
    reserved_bytes: int
    reserved_swap_bytes: int
    reclaimed_pages: int
    refused: int
    damaged_pages: int
    frame_bytes: int
    shared_bytes: int
    saved_bytes: int
    split_bytes: int
    low_total_bytes: int
    low_granted_bytes: int
    sharing: SharingFigures


class IdleFigures(TypedDict):
    """Resident memory that was not touched for so many seconds or more, as far as known."""

    for_1s_bytes: int
    for_2s_bytes: int
    for_4s_bytes: int
    for_8s_bytes: int
    for_16s_bytes: int
    for_32s_bytes: int
    for_64s_bytes: int
    for_128s_bytes: int


class DiskFigures(TypedDict):
    """What a guest's virtual disks have done since it started; remaps are pages."""

    disks: int
    reads: int
    writes: int
    flushes: int
    discards: int
    errors: int
    read_bytes: int
    written_bytes: int
    copied_bytes: int
    direct_bytes: int
    remaps_in: int
    remaps_out: int
    remaps_refused: int
    hot_bytes: int


class GuestFigures(TypedDict):
    """
    A guest; the seven places of its pages add up to `size_bytes`.

    `unmanaged_bytes` is writable memory of its process that is no guest memory.
    """

    name: str
    pid: int
    uid: int
    attached: bool
    threads: int
    size_bytes: int
    min_bytes: int
    max_bytes: int
    shares: int
    tax_percent: float
    balloon_max_bytes: int
    promised: bool
    target_bytes: int
    active_bytes: int
    active_percent: float
    blocked: bool
    resident_bytes: int
    shared_bytes: int
    ballooned_bytes: int
    compressed_bytes: int
    swapped_bytes: int
    far_bytes: int
    untouched_bytes: int
    pinned_bytes: int
    unmanaged_bytes: int
    faults: int
    pages_in: int
    pages_out: int
    zero_dropped: int
    aborted: int
    damaged_pages: int
    stall_seconds: float
    stall_percent: float
    split_bytes: int
    splits: int
    merged_pages: int
    share_zero_pages: int
    share_scanned_pages: int
    share_yield_percent: float
    share_mappings: int
    balloon_target_bytes: int
    balloon_able: bool
    balloon_asked_pages: int
    balloon_given_pages: int
    popped_pages: int
    balloon_needed_pages: int
    cpu_seconds: float
    samples: int
    sampled_pages: int
    sample_touched_pages: int
    idle: IdleFigures
    idle_scanned_pages: int
    blocks: int
    low_bytes: int
    low_limit_bytes: int
    io: DiskFigures


class Figures(TypedDict):
    """One sample of everything."""

    machine: MachineFigures
    guests: list[GuestFigures]


class MapAnswer(TypedDict):
    """
    Where a guest's pages are, in cells: equal ranges of its memory.

    The first `max_pages % cells` cells have a page more than the others. `pages` gives,
    for each state, how many pages of each cell are in it.
    """

    name: str
    max_pages: int
    cells: int
    pages: dict[str, list[int]]


class ExplainAnswer(TypedDict):
    """
    Decisions, oldest first, as values and in words.

    `state` is that of now; each decision has its own. `words` has a list of lines for each.
    """

    state: StateName
    policy: str
    decisions: list[dict[str, Any]]
    words: list[list[str]]


class Health(TypedDict):
    """That the daemon serves, and who it is."""

    status: Literal["serving"]
    pid: int
    guests: int
    http_port: int | None


class ErrorAnswer(TypedDict):
    """Why a request was refused, in one line."""

    error: str


_PRESSURE: tuple[Literal["none"], Literal["some"], Literal["full"]] = ("none", "some", "full")


def machine_figures(machine: Machine, scan_rate: float) -> MachineFigures:
    """Tell *machine* in bytes; *scan_rate* is in pages a second."""
    return MachineFigures(
        total_bytes=pages_to_bytes(machine.total_pages),
        used_bytes=pages_to_bytes(machine.used_pages),
        free_bytes=pages_to_bytes(machine.free_pages),
        overhead_bytes=pages_to_bytes(machine.overhead_pages),
        guest_bytes=pages_to_bytes(machine.guest_pages),
        daemon_bytes=pages_to_bytes(machine.daemon_pages),
        swap_total_bytes=pages_to_bytes(machine.swap_total_pages),
        swap_used_bytes=pages_to_bytes(machine.swap_used_pages),
        memory_via=machine.via,
        pressure=_PRESSURE[machine.pressure],
        state=machine.state,
        reserved_bytes=pages_to_bytes(machine.reserved_pages),
        reserved_swap_bytes=pages_to_bytes(machine.reserved_swap_pages),
        reclaimed_pages=machine.reclaimed_pages,
        refused=machine.refused,
        damaged_pages=machine.damaged_pages,
        frame_bytes=pages_to_bytes(machine.frame_pages),
        shared_bytes=pages_to_bytes(machine.shared_pages),
        saved_bytes=pages_to_bytes(machine.saved_pages),
        split_bytes=pages_to_bytes(machine.split_pages),
        low_total_bytes=pages_to_bytes(machine.low_total_pages),
        low_granted_bytes=pages_to_bytes(machine.low_granted_pages),
        sharing=_sharing_figures(machine.sharing, scan_rate),
    )


def _sharing_figures(sharing: Sharing, scan_rate: float) -> SharingFigures:
    refused = sharing.refused
    return SharingFigures(
        merged_pages=sharing.merged_pages, zero_pages=sharing.zero_pages,
        splits=sharing.splits, homed_pages=sharing.homed_pages,
        scanned_pages=sharing.scanned_pages, scanned_pages_per_second=round(scan_rate, 1),
        passes=sharing.passes, cpu_seconds=sharing.cpu_ns / 1e9,
        hints=sharing.hints, stale_hints=sharing.stale_hints,
        refused=RefusalFigures(
            busy=refused.get("busy", 0), changed=refused.get("changed", 0),
            agent=refused.get("agent", 0), mappings=refused.get("mappings", 0),
            memory=refused.get("memory", 0),
        ),
    )


def _idle(guest: Guest) -> IdleFigures:
    pages = guest.idle_pages or (0,) * 8
    ages = [pages_to_bytes(count) for count in pages]
    return IdleFigures(
        for_1s_bytes=ages[0], for_2s_bytes=ages[1], for_4s_bytes=ages[2],
        for_8s_bytes=ages[3], for_16s_bytes=ages[4], for_32s_bytes=ages[5],
        for_64s_bytes=ages[6], for_128s_bytes=ages[7],
    )


def guest_figures(guest: Guest, stall_percent: float) -> GuestFigures:
    """Tell *guest* in bytes and seconds."""
    return GuestFigures(
        name=guest.name, pid=guest.pid, uid=guest.uid, attached=guest.attached,
        threads=guest.threads,
        size_bytes=pages_to_bytes(guest.size_pages),
        min_bytes=pages_to_bytes(guest.min_pages),
        max_bytes=pages_to_bytes(guest.max_pages),
        shares=guest.shares,
        tax_percent=round(100 * guest.tax, 1),
        balloon_max_bytes=pages_to_bytes(guest.balloon_max_pages),
        promised=guest.promised,
        target_bytes=pages_to_bytes(guest.target_pages),
        active_bytes=pages_to_bytes(guest.active_pages),
        active_percent=round(100 * guest.active, 1),
        blocked=guest.blocked_until_ns > 0,
        resident_bytes=pages_to_bytes(guest.resident_pages),
        shared_bytes=pages_to_bytes(guest.shared_pages),
        ballooned_bytes=pages_to_bytes(guest.ballooned_pages),
        compressed_bytes=pages_to_bytes(guest.compressed_pages),
        swapped_bytes=pages_to_bytes(guest.swapped_pages),
        far_bytes=pages_to_bytes(guest.far_pages),
        untouched_bytes=pages_to_bytes(guest.untouched_pages),
        pinned_bytes=pages_to_bytes(guest.pinned_pages),
        unmanaged_bytes=pages_to_bytes(guest.unmanaged_pages),
        faults=guest.faults, pages_in=guest.pages_in, pages_out=guest.pages_out,
        zero_dropped=guest.zero_dropped, aborted=guest.aborted,
        damaged_pages=guest.damaged_pages,
        stall_seconds=guest.stall_ns / 1e9,
        stall_percent=round(stall_percent, 2),
        split_bytes=pages_to_bytes(guest.split_pages),
        splits=guest.splits,
        merged_pages=guest.merged_pages,
        share_zero_pages=guest.share_zero_pages,
        share_scanned_pages=guest.share_scanned_pages,
        share_yield_percent=round(
            100 * (guest.merged_pages + guest.share_zero_pages)
            / max(1, guest.share_scanned_pages), 2
        ),
        share_mappings=guest.share_mappings,
        balloon_target_bytes=pages_to_bytes(guest.balloon_target_pages),
        balloon_able=guest.balloon_able,
        balloon_asked_pages=guest.balloon_asked_pages,
        balloon_given_pages=guest.balloon_given_pages,
        popped_pages=guest.popped_pages,
        balloon_needed_pages=guest.balloon_needed_pages,
        cpu_seconds=guest.run_ns / 1e9,
        samples=guest.samples, sampled_pages=guest.sampled_pages,
        sample_touched_pages=guest.sample_touched_pages,
        idle=_idle(guest), idle_scanned_pages=guest.idle_scanned_pages,
        blocks=guest.blocks,
        low_bytes=pages_to_bytes(guest.low_pages),
        low_limit_bytes=pages_to_bytes(guest.low_limit_pages),
        io=_disk_figures(guest.disks),
    )


def _disk_figures(disks: Disks) -> DiskFigures:
    return DiskFigures(
        disks=disks.disks, reads=disks.reads, writes=disks.writes, flushes=disks.flushes,
        discards=disks.discards, errors=disks.errors, read_bytes=disks.read_bytes,
        written_bytes=disks.written_bytes, copied_bytes=disks.copied_bytes,
        direct_bytes=disks.direct_bytes, remaps_in=disks.remaps_in,
        remaps_out=disks.remaps_out, remaps_refused=disks.remaps_refused,
        hot_bytes=pages_to_bytes(disks.hot_pages),
    )


def figures(
    snapshot: Snapshot, stalls: dict[int, float], scan_rate: float = 0.0
) -> Figures:
    """Tell a snapshot; *stalls* are percentages by guest id, the rate pages a second."""
    return Figures(
        machine=machine_figures(snapshot.machine, scan_rate),
        guests=[guest_figures(guest, stalls[guest.id]) for guest in snapshot.guests],
    )


def explanation(told: Explanation, name: str | None, limit: int) -> ExplainAnswer:
    """Tell the newest *limit* decisions, about one guest or all."""
    decisions = told.decisions[-limit:]
    return ExplainAnswer(
        state=told.state, policy=told.policy,
        decisions=[
            {
                **one.as_json(name),
                "age_seconds": round(max(0, told.now_ns - one.at_ns) / 1e9, 3),
            }
            for one in decisions
        ],
        words=[one.words(name, now_ns=told.now_ns) for one in decisions],
    )


def moved(done: Moved) -> MovedAnswer:
    """Tell what a job did."""
    return MovedAnswer(
        pages=done.pages, zero_pages=done.zero_pages, left_pages=done.left_pages,
        elapsed_seconds=done.elapsed_ns / 1e9,
    )


def shared(done: Shared) -> SharedAnswer:
    """Tell what a pass over guests did."""
    return SharedAnswer(
        scanned_pages=done.scanned_pages, shared_pages=done.shared_pages,
        zero_pages=done.zero_pages, elapsed_seconds=done.elapsed_ns / 1e9,
        cpu_seconds=done.cpu_ns / 1e9,
    )


def page_map(name: str, found: PageMap) -> MapAnswer:
    """Tell where a guest's pages are."""
    return MapAnswer(
        name=name, max_pages=found.max_pages, cells=found.cells, pages=dict(found.pages)
    )
