# SPDX-License-Identifier: MIT
"""
Every figure once: its name in JSON, its metric, and what it means.

/metrics is made from this table, and so is docs/counters.md (`python -m uvmm.documents`). A
test holds that what the API tells is in it.

Metrics follow the conventions of Prometheus: base units (bytes, seconds, parts of 1),
`_total` for what only rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PAGE_BYTES = 4096
PREFIX = "uvmm_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """
    A figure of /v1/stats.

    `key` is its place in JSON. It is multiplied by `scale` for the metric; `label` is a
    label and its value, for those that share one metric. With `words` the figure is one
    of these, and the metric is 1 for that one and 0 for the others. Figures without a
    metric are told by another one, or are no measure.
    """

    key: str
    meaning: str
    metric: str = ""
    kind: Literal["gauge", "counter"] = "gauge"
    scale: float = 1
    label: tuple[str, str] | None = None
    words: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The metric's name as it is scraped."""
        return f"{PREFIX}{self.metric}{'_total' if self.kind == 'counter' else ''}"


def _gauge(key: str, metric: str, meaning: str) -> Counter:
    return Counter(key=key, metric=metric, meaning=meaning)


def _count(key: str, metric: str, meaning: str) -> Counter:
    return Counter(key=key, metric=metric, meaning=meaning, kind="counter")


def _pages(key: str, metric: str, meaning: str) -> Counter:
    return Counter(key=key, metric=metric, meaning=meaning, kind="counter", scale=PAGE_BYTES)


def _plain(key: str, meaning: str) -> Counter:
    return Counter(key=key, meaning=meaning)


def _place(place: str, meaning: str) -> Counter:
    return Counter(
        key=f"{place}_bytes", metric="guest_memory_bytes", label=("place", place),
        meaning=meaning,
    )


def _refusal(why: str, meaning: str) -> Counter:
    return Counter(
        key=f"sharing.refused.{why}", metric="share_refused_pages", kind="counter",
        label=("reason", why), meaning=f"pages that had a twin and were not shared: {meaning}",
    )


def _disk(key: str, what: str, meaning: str) -> Counter:
    return Counter(
        key=f"io.{key}", metric="guest_disk_requests", kind="counter",
        label=("what", what), meaning=meaning,
    )


def _idle(seconds: int) -> Counter:
    return Counter(
        key=f"idle.for_{seconds}s_bytes", metric="guest_idle_bytes",
        label=("seconds", str(seconds)),
        meaning=f"resident, and not touched for {seconds} s or more, as far as known",
    )


MACHINE = (
    _gauge("total_bytes", "memory_limit_bytes", "the budget: machine memory"),
    _gauge("used_bytes", "memory_used_bytes",
           "what the tmpfs, split pages and the daemon's own process hold"),
    _gauge("free_bytes", "memory_free_bytes", "limit - used, never below 0"),
    _gauge("overhead_bytes", "memory_overhead_bytes",
           "of used: what uvmm itself costs (page maps, tables, the daemon)"),
    _gauge("guest_bytes", "memory_guest_bytes", "of used: guests' own pages"),
    _gauge("daemon_bytes", "memory_daemon_bytes", "of overhead: the daemon's process"),
    _gauge("frame_bytes", "memory_frame_bytes",
           "of used: frames, each of which many pages share"),
    _gauge("shared_bytes", "memory_shared_bytes", "guests' pages that are mapped from frames"),
    _gauge("saved_bytes", "memory_saved_bytes", "shared - frames: what sharing saves"),
    _gauge("split_bytes", "memory_split_bytes",
           "of guest: pages that were shared and were written since"),
    _gauge("swap_total_bytes", "swap_size_bytes", "the swap file"),
    _gauge("swap_used_bytes", "swap_used_bytes", "of the swap file: what holds a page"),
    _plain("memory_via", "how guests get their memory: fuse or descriptor"),
    Counter(
        key="pressure", metric="pressure", words=("none", "some", "full"),
        label=("level", ""),
        meaning="none; some: reclaim runs in the background; full: guests wait for memory",
    ),
    Counter(
        key="state", metric="state", words=("high", "clear", "soft", "hard", "low"),
        label=("state", ""),
        meaning="how short memory is; soft: balloons take it from guests; hard: paging does; "
        "low: guests above their target are blocked besides",
    ),
    _gauge("reserved_bytes", "memory_reserved_bytes",
           "promised to guests: their mins, and what uvmm needs for each"),
    _gauge("reserved_swap_bytes", "swap_reserved_bytes",
           "promised to guests that named their max: what lies between it and their min"),
    _pages("reclaimed_pages", "reclaimed_bytes", "pages taken by the background reclaimer"),
    _count("refused", "requests_refused",
           "requests for memory that could not be met: memory and swap were full"),
    _count("damaged_pages", "damaged_pages",
           "stored pages that failed their checksum, or their disk"),
    _gauge("low_total_bytes", "low_memory_limit_bytes",
           "low memory, which devices reach without a copy: the most there may be"),
    _gauge("low_granted_bytes", "low_memory_bytes",
           "of used: low memory that guests have been given"),
    _pages("sharing.merged_pages", "share_merged_bytes", "pages that became shared"),
    _pages("sharing.zero_pages", "share_zero_bytes", "zero pages found and freed"),
    _pages("sharing.splits", "share_split_bytes", "shared pages that were written"),
    _pages("sharing.homed_pages", "share_homed_bytes",
           "split pages brought back into their guest's file"),
    _pages("sharing.scanned_pages", "share_scanned_bytes", "pages looked at"),
    _plain("sharing.scanned_pages_per_second", "the same, now"),
    _count("sharing.passes", "share_passes", "times that the scanner has been round"),
    _count("sharing.cpu_seconds", "share_cpu_seconds", "CPU time spent on sharing"),
    _gauge("sharing.hints", "share_hints", "pages whose hash waits for a twin"),
    _gauge("sharing.stale_hints", "share_stale_hints",
           "hints whose page has changed; many of all hints: contents change too fast"),
    _refusal("busy", "it was on its way elsewhere"),
    _refusal("changed", "it was written meanwhile"),
    _refusal("agent", "the guest's agent did not answer in time"),
    _refusal("mappings", "the guest would have too many mappings (vm.max_map_count)"),
    _refusal("memory", "there was no memory for a frame"),
)

GUEST = (
    _plain("name", "its name; a label of all its metrics"),
    _plain("pid", "its process"),
    _plain("uid", "whose process that is"),
    _gauge("attached", "guest_attached", "1 once its memory is mapped"),
    _gauge("threads", "guest_threads", "of its process, without uvmm's own"),
    _gauge("size_bytes", "guest_size_bytes", "its memory; the sum of all places"),
    _gauge("min_bytes", "guest_min_bytes", "held in any case"),
    _gauge("max_bytes", "guest_max_bytes", "what it may hold of its memory"),
    _gauge("shares", "guest_shares", "weight when memory is short"),
    Counter(
        key="tax_percent", metric="guest_idle_tax_ratio", scale=0.01,
        meaning="its tax on idle memory: at 75 an idle page costs as much as 4 in use",
    ),
    _gauge("balloon_max_bytes", "guest_balloon_max_bytes", "its balloon takes no more"),
    _gauge("promised", "guest_promised", "1 if its max was named, and so is reserved"),
    _gauge("active_bytes", "guest_active_bytes",
           "what it uses of its memory, estimated; all, while nothing is known"),
    _plain("active_percent", "the same, of its pages with contents"),
    _gauge("blocked", "guest_blocked", "1 while it has to wait, as memory is very low"),
    _gauge("target_bytes", "guest_target_bytes",
           "what the policy wants it to hold; guests above it are reclaimed first"),
    _place("resident", "where its pages are: in memory, its own"),
    _place("shared", "in memory, mapped from frames"),
    _place("ballooned", "given back by the guest itself"),
    _place("compressed", "stored compressed"),
    _place("swapped", "in the swap file"),
    _place("far", "on another machine"),
    _place("untouched", "never touched, or zero: nowhere"),
    _gauge("pinned_bytes", "guest_pinned_bytes", "of resident: not to be reclaimed"),
    _gauge("unmanaged_bytes", "guest_unmanaged_bytes",
           "writable memory of its process that is no guest memory (stacks, libraries' data)"),
    _count("faults", "guest_faults", "page faults served by the daemon"),
    _pages("pages_in", "guest_paged_in_bytes", "pages read from the tiers"),
    _pages("pages_out", "guest_paged_out_bytes", "pages written to the tiers"),
    _pages("zero_dropped", "guest_zero_dropped_bytes",
           "zero pages reclaimed without being stored"),
    _pages("aborted", "guest_reclaim_aborted_bytes",
           "pages that the guest wrote while they were being reclaimed, so they stayed"),
    _count("damaged_pages", "guest_damaged_pages", "lost; an access gets SIGBUS"),
    _count("stall_seconds", "guest_stall_seconds",
           "time its threads waited for memory, all threads added"),
    Counter(
        key="stall_percent", metric="guest_stall_ratio", scale=0.01,
        meaning="the share of its threads' time in the last 10 s that they waited",
    ),
    _gauge("split_bytes", "guest_split_bytes",
           "of resident: pages that were shared and were written since"),
    _pages("splits", "guest_share_split_bytes", "shared pages that it wrote"),
    _pages("merged_pages", "guest_share_merged_bytes", "pages that became shared"),
    _pages("share_zero_pages", "guest_share_zero_bytes", "zero pages found and freed"),
    _pages("share_scanned_pages", "guest_share_scanned_bytes",
           "pages looked at, to be shared"),
    _plain("share_yield_percent", "merged and zero pages, of those looked at"),
    _gauge("share_mappings", "guest_share_mappings",
           "mappings that sharing has made in its process, about"),
    _gauge("balloon_target_bytes", "guest_balloon_target_bytes",
           "how large its balloon is to be"),
    _gauge("balloon_able", "guest_balloon_able", "1 while its agent takes requests"),
    _pages("balloon_asked_pages", "guest_balloon_asked_bytes",
           "what its balloon was asked to take"),
    _pages("balloon_given_pages", "guest_balloon_given_bytes",
           "what of machine memory was freed by that"),
    _pages("popped_pages", "guest_balloon_popped_bytes", "pages touched in its balloon"),
    _pages("balloon_needed_pages", "guest_balloon_needed_bytes",
           "pages that it took back by itself, as it had no others"),
    _count("cpu_seconds", "guest_cpu_seconds", "CPU time of its process, but uvmm's"),
    _count("samples", "guest_samples", "samples of its pages that were begun"),
    _gauge("sampled_pages", "guest_sampled_pages", "pages that are watched now"),
    _gauge("sample_touched_pages", "guest_sample_touched_pages",
           "of these: touched since the sample began"),
    *(_idle(seconds) for seconds in (1, 2, 4, 8, 16, 32, 64, 128)),
    _pages("idle_scanned_pages", "guest_idle_scanned_bytes",
           "pages that were in use when the scan for idle ones looked"),
    _count("blocks", "guest_blocks", "times that it had to wait, as memory was very low"),
    _gauge("low_bytes", "guest_low_memory_bytes",
           "of resident: in low memory, which devices reach without a copy"),
    _gauge("low_limit_bytes", "guest_low_memory_limit_bytes",
           "how much of low memory it may have"),
    _gauge("io.disks", "guest_disks", "virtual disks that it has"),
    _disk("reads", "read", "requests to read"),
    _disk("writes", "write", "requests to write"),
    _disk("flushes", "flush", "requests to flush"),
    _disk("discards", "discard", "requests to discard"),
    _count("io.errors", "guest_disk_errors", "requests that failed, or were refused"),
    _count("io.read_bytes", "guest_disk_read_bytes", "what was read from its disks"),
    _count("io.written_bytes", "guest_disk_written_bytes", "what was written to its disks"),
    _count("io.copied_bytes", "guest_disk_copied_bytes",
           "of these, by way of a buffer, since the pages were not in low memory"),
    _count("io.direct_bytes", "guest_disk_direct_bytes",
           "and without: copies that were avoided"),
    _pages("io.remaps_in", "guest_remapped_in_bytes", "pages that moved into low memory"),
    _pages("io.remaps_out", "guest_remapped_out_bytes", "pages that moved out of it"),
    _pages("io.remaps_refused", "guest_remap_refused_bytes",
           "pages that its agent did not move"),
    _gauge("io.hot_bytes", "guest_disk_hot_bytes",
           "pages that were copied for a disk more than once in the last ten seconds or so"),
)

# Of metrics that several figures share.
FAMILIES = {
    "guest_disk_requests": "requests to its virtual disks, by what they are",
    "guest_idle_bytes": "resident memory not touched for so many seconds or more",
    "guest_memory_bytes": "where the guest's pages are; the sum over all places is its size",
    "share_refused_pages": "pages that had a twin and were not shared, by reason",
}

READING = (
    "`stall_percent` says whether anyone suffers; below 1 nobody notices.",
    "Many `pages_in` with many `pages_out` of the same guest: it needs more than its target. "
    "Give it shares or memory.",
    "`aborted` high in relation to `pages_out`: pages in use are being reclaimed.",
    "`sharing.refused.changed` and stale hints high in relation to `merged_pages`: contents "
    "change too fast to be shared.",
    "`share_yield_percent` low: the guest has little that others have, and is hardly looked at "
    "any more.",
    "`splits` near `merged_pages`: what is shared is written soon; sharing costs more than it "
    "saves.",
    "`balloon_needed_pages` that rise: its balloon is too large for it.",
    "`copied_bytes` that rise much faster than `direct_bytes`: its requests use ever other "
    "buffers, or low memory is too small (`low_bytes` near `low_limit_bytes`).",
    "`popped_pages` that rise: the guest, or something in it, uses memory that it gave back.",
)


def value_at(figures: object, key: str) -> object:
    """Return what *figures* have at a place such as `sharing.hints`; None if nothing."""
    value = figures
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
