# SPDX-License-Identifier: MIT
"""Rows that the data plane fills (uvmm_core.h) as frozen snapshots."""

from __future__ import annotations

import struct
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from uvmm.model import Disks, Guest, Machine, Moved, Shared, Sharing, Sight, Standing

if TYPE_CHECKING:
    from collections.abc import Callable

VIA = ("fuse", "descriptor")
# Of a field of a row in struct's language.
_CODES = {"char": "s", "int32_t": "i", "uint32_t": "I", "uint64_t": "Q"}
_NAMES_IN_C = {"size_pages": "max_pages"}


def moved(result: Any) -> Moved:
    """Return what a job did."""
    return Moved(
        pages=result.pages, zero_pages=result.zero_pages,
        left_pages=result.left_pages, elapsed_ns=result.elapsed_ns,
    )


def shared(result: Any) -> Shared:
    """Return what a pass for pages to share did."""
    return Shared(
        scanned_pages=result.scanned_pages, shared_pages=result.shared_pages,
        zero_pages=result.zero_pages, elapsed_ns=result.elapsed_ns, cpu_ns=result.cpu_ns,
    )


def machine(m: Any) -> Machine:
    """Return the machine."""
    return Machine(
        now_ns=m.now_ns, total_pages=m.total_pages, tmpfs_pages=m.tmpfs_pages,
        daemon_pages=m.daemon_pages, guest_pages=m.guest_pages,
        swap_total_pages=m.swap_total_pages, swap_used_pages=m.swap_used_pages,
        pressure=m.pressure, via=VIA[m.via], reclaimed_pages=m.reclaimed_pages,
        refused=m.refused, damaged_pages=m.damaged_pages,
        frame_pages=m.frame_pages, shared_pages=m.shared_pages,
        saved_pages=m.saved_pages, split_pages=m.split_pages, sharing=_sharing(m),
        headroom_pages=m.headroom_pages, net_pages=m.net_pages, wait_pages=m.wait_pages,
        low_total_pages=m.low_total_pages, low_granted_pages=m.low_granted_pages,
    )


def _sharing(m: Any) -> Sharing:
    return Sharing(
        merged_pages=m.merged_pages, zero_pages=m.share_zero_pages, splits=m.splits,
        homed_pages=m.homed_pages, scanned_pages=m.share_scanned_pages,
        passes=m.share_passes, cpu_ns=m.share_cpu_ns, hints=m.hints,
        stale_hints=m.stale_hints,
        refused={
            "busy": m.share_refused_busy, "changed": m.share_refused_changed,
            "agent": m.share_refused_agent, "mappings": m.share_refused_mappings,
            "memory": m.share_refused_memory,
        },
    )


def guest(g: Any, name: str, standing: Standing) -> Guest:
    """Return a guest, with what the data plane does not know of it."""
    return Guest(
        id=g.id, name=name, pid=g.pid, uid=g.uid, attached=bool(g.attached),
        threads=g.threads, size_pages=g.max_pages, min_pages=standing.min_pages,
        max_pages=standing.max_pages, shares=standing.shares, tax=standing.tax,
        balloon_max_pages=standing.balloon_max_pages, active=standing.active,
        promised=standing.promised,
        target_pages=g.target_pages, resident_pages=g.resident_pages,
        swapped_pages=g.swapped_pages, untouched_pages=g.untouched_pages,
        pinned_pages=g.pinned_pages, unmanaged_pages=g.unmanaged_pages,
        faults=g.faults, pages_in=g.pages_in,
        pages_out=g.pages_out, zero_dropped=g.zero_dropped, aborted=g.aborted,
        damaged_pages=g.damaged_pages, stall_ns=g.stall_ns,
        shared_pages=g.shared_pages, split_pages=g.split_pages, splits=g.splits,
        merged_pages=g.merged_pages, share_zero_pages=g.share_zero_pages,
        share_scanned_pages=g.share_scanned_pages, share_mappings=g.share_mappings,
        run_ns=g.run_ns, samples=g.samples, sampled_pages=g.sampled_pages,
        sample_touched_pages=g.sample_touched_pages, idle_pages=tuple(g.idle_pages),
        idle_scanned_pages=g.idle_scanned_pages, blocked_until_ns=g.blocked_until_ns,
        blocks=g.blocks,
        ballooned_pages=g.ballooned_pages, balloon_target_pages=g.balloon_target_pages,
        balloon_able=bool(g.balloon_able), popped_pages=g.popped_pages,
        balloon_needed_pages=g.balloon_needed_pages,
        balloon_asked_pages=g.balloon_asked_pages, balloon_given_pages=g.balloon_given_pages,
        disks=_disks(g), low_pages=g.low_pages, low_limit_pages=g.low_limit_pages,
    )


def _disks(g: Any) -> Disks:
    return Disks(
        disks=g.disks, reads=g.disk_reads, writes=g.disk_writes, flushes=g.disk_flushes,
        discards=g.disk_discards, errors=g.disk_errors, read_bytes=g.disk_read_bytes,
        written_bytes=g.disk_written_bytes, copied_bytes=g.disk_copied_bytes,
        direct_bytes=g.disk_direct_bytes, remaps_in=g.remaps_in, remaps_out=g.remaps_out,
        remaps_refused=g.remaps_refused, hot_pages=g.disk_hot_pages,
    )


def layout(
    ffi: Any,
) -> tuple[struct.Struct, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """Return how to read a guest's row at once, and how to take a `Sight` from its values."""
    codes, place = ["="], {}
    values = end = 0
    row = ffi.typeof("struct uvmm_guest_stats")
    for name, field in row.fields:
        codes.append(f"{field.offset - end}x")
        end = field.offset + ffi.sizeof(field.type)
        place[name] = values
        count, kind = 1, field.type
        if kind.kind == "array":
            count, kind = kind.length, kind.item
        codes.append(f"{count}{_CODES[kind.cname]}")
        values += 1 if _CODES[kind.cname] == "s" else count
    codes.append(f"{ffi.sizeof(row) - end}x")
    names = (_NAMES_IN_C.get(name, name) for name in Sight._fields)
    return struct.Struct("".join(codes)), itemgetter(*(place[name] for name in names))
