# SPDX-License-Identifier: MIT
"""
Snapshots of the machine and its guests: the language of policy and views.

Units: pages of 4 KiB, nanoseconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


StateName = Literal["high", "clear", "soft", "hard", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What looking for pages to share has come to since the start."""

    merged_pages: int
    zero_pages: int
    splits: int
    homed_pages: int
    scanned_pages: int
    passes: int
    cpu_ns: int
    hints: int
    stale_hints: int
    refused: Mapping[str, int]


NO_SHARING = Sharing(
    merged_pages=0, zero_pages=0, splits=0, homed_pages=0, scanned_pages=0, passes=0,
    cpu_ns=0, hints=0, stale_hints=0, refused={},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disks:
    """
    What a guest's virtual disks have done since it started.

    `copied_bytes` went by way of a buffer, `direct_bytes` did not. Remaps are pages that
    moved into low memory and out of it.
    """

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
    hot_pages: int


NO_DISKS = Disks(
    disks=0, reads=0, writes=0, flushes=0, discards=0, errors=0, read_bytes=0,
    written_bytes=0, copied_bytes=0, direct_bytes=0, remaps_in=0, remaps_out=0,
    remaps_refused=0, hot_pages=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """
    Machine memory and swap at one moment.

    `state` is how short memory is to the policy; `reserved_pages` and
    `reserved_swap_pages` are promised to guests that run. `headroom_pages` are free,
    without what sharing may have split unseen: below `net_pages` of them the background
    reclaimer takes from guests, below `wait_pages` they wait.
    """

    now_ns: int
    total_pages: int
    tmpfs_pages: int
    daemon_pages: int
    guest_pages: int
    swap_total_pages: int
    swap_used_pages: int
    pressure: int
    via: str
    reclaimed_pages: int
    refused: int
    damaged_pages: int
    frame_pages: int = 0
    shared_pages: int = 0
    saved_pages: int = 0
    split_pages: int = 0
    sharing: Sharing = NO_SHARING
    headroom_pages: int = 0
    net_pages: int = 0
    wait_pages: int = 0
    state: StateName = "high"
    reserved_pages: int = 0
    reserved_swap_pages: int = 0
    low_total_pages: int = 0
    low_granted_pages: int = 0

    @property
    def used_pages(self) -> int:
        """What the tmpfs, split pages and the daemon hold of the host's RAM."""
        return self.tmpfs_pages + self.split_pages + self.daemon_pages

    @property
    def free_pages(self) -> int:
        """What is left of the budget; 0 when it is overdrawn."""
        return max(0, self.total_pages - self.used_pages)

    @property
    def overhead_pages(self) -> int:
        """What uvmm itself costs: all that is used and is no page of guests."""
        return max(0, self.used_pages - self.guest_pages - self.frame_pages)

    @property
    def guest_budget_pages(self) -> int:
        """What the guests together may hold: the budget without uvmm's own."""
        return max(0, self.total_pages - self.overhead_pages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    What the data plane does not know of a guest.

    `active` is the part of its memory that it uses, as far as is known. What a guest
    that is not `promised` may hold beyond its min is reserved for nobody.
    """

    min_pages: int
    max_pages: int
    shares: int
    tax: float
    balloon_max_pages: int
    active: float
    promised: bool


NO_STANDING = Standing(
    min_pages=0, max_pages=0, shares=1, tax=0.0, balloon_max_pages=0, active=1.0,
    promised=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """
    One guest at one moment.

    Each page of its memory is in exactly one place, so the seven figures from
    `resident_pages` to `untouched_pages` add up to `size_pages`. Of these it may hold
    `max_pages`.

    `run_ns` is the CPU time of its process. `sample_touched_pages` of the
    `sampled_pages` were touched since the last `Engine.sample`. `idle_pages` are
    resident pages not touched for at least 1, 2, 4, ... 128 seconds, as far as known.
    """

    id: int
    name: str
    pid: int
    uid: int
    attached: bool
    threads: int
    size_pages: int
    min_pages: int
    max_pages: int
    shares: int
    tax: float
    balloon_max_pages: int
    active: float
    promised: bool
    target_pages: int
    resident_pages: int
    shared_pages: int = 0
    ballooned_pages: int = 0
    compressed_pages: int = 0
    swapped_pages: int
    far_pages: int = 0
    untouched_pages: int
    pinned_pages: int
    unmanaged_pages: int = 0
    faults: int
    pages_in: int
    pages_out: int
    zero_dropped: int
    aborted: int
    damaged_pages: int
    stall_ns: int
    split_pages: int = 0
    splits: int = 0
    merged_pages: int = 0
    share_zero_pages: int = 0
    share_scanned_pages: int = 0
    share_mappings: int = 0
    run_ns: int = 0
    samples: int = 0
    sampled_pages: int = 0
    sample_touched_pages: int = 0
    idle_pages: tuple[int, ...] = ()
    idle_scanned_pages: int = 0
    blocked_until_ns: int = 0
    blocks: int = 0
    balloon_target_pages: int = 0
    balloon_able: bool = False
    balloon_asked_pages: int = 0
    balloon_given_pages: int = 0
    popped_pages: int = 0
    balloon_needed_pages: int = 0
    disks: Disks = NO_DISKS
    low_pages: int = 0
    low_limit_pages: int = 0

    @property
    def placed_pages(self) -> int:
        """Sum over all places; equals `size_pages`."""
        return (
            self.resident_pages + self.shared_pages + self.ballooned_pages
            + self.compressed_pages + self.swapped_pages + self.far_pages
            + self.untouched_pages
        )

    @property
    def touched_pages(self) -> int:
        """Pages with contents, wherever they are."""
        return self.size_pages - self.untouched_pages - self.ballooned_pages

    @property
    def active_pages(self) -> int:
        """What it uses of its touched pages, as far as is known; split pages are in use."""
        return self.split_pages + round(self.active * (self.touched_pages - self.split_pages))


class Sight(NamedTuple):
    """
    What the control loop sees of a guest, many times a second.

    `size_pages` is its memory; the others are as in `Guest`.
    """

    id: int
    attached: int
    size_pages: int
    target_pages: int
    resident_pages: int
    untouched_pages: int
    shared_pages: int
    split_pages: int
    ballooned_pages: int
    balloon_able: int
    balloon_asked_pages: int
    balloon_given_pages: int
    run_ns: int
    stall_ns: int
    samples: int
    sampled_pages: int
    sample_touched_pages: int
    blocked_until_ns: int
    blocks: int
    disks: int = 0
    low_limit_pages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The machine and all guests at one moment."""

    machine: Machine
    guests: tuple[Guest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMap:
    """
    Where a guest's pages are, cell by cell: equal ranges of its memory.

    The first `max_pages % cells` cells have a page more than the others. `pages` gives
    for each state how many pages of each cell are in it.
    """

    max_pages: int
    cells: int
    pages: Mapping[str, list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a reclaim or a restore did."""

    pages: int
    zero_pages: int
    left_pages: int
    elapsed_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What a pass on request over guests did."""

    scanned_pages: int
    shared_pages: int
    zero_pages: int
    elapsed_ns: int
    cpu_ns: int
