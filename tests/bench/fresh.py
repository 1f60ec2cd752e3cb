# SPDX-License-Identifier: MIT
"""Row 1: first touch of fresh memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import Row, at_most, column
from .probe import PAGE_BYTES, Probe, start, touch_argv
from .stage import Figures, Stage, new_name, size_text
from .subjects import roomy_daemon

if TYPE_CHECKING:
    from uvmm.scratch import Scratch

KEY = "first-touch"
PAGES = {"huge": "2 MiB", "small": "4 KiB"}


def first_touch(stage: Stage) -> list[Row]:
    """Measure both page sizes against tmpfs and anonymous memory."""
    rows: list[Row] = []
    with roomy_daemon(stage.scale.fresh_bytes, swap_dir=stage.memory_dir) as daemon:
        for pages in PAGES:
            rows += _with_pages(stage, daemon, pages)
    return rows


def _with_pages(stage: Stage, daemon: Scratch, pages: str) -> list[Row]:
    size_bytes = stage.scale.fresh_bytes

    def guest() -> Figures:
        argv = touch_argv("guest", size_bytes, pages)
        with Probe(daemon.run(argv, name=new_name(), max_bytes=size_bytes)) as probe:
            return probe.ask("first-touch")

    def plain_tmpfs() -> Figures:
        path = stage.memory_dir / "fresh"
        try:
            with start(touch_argv("shared", size_bytes, pages, path)) as probe:
                return probe.ask("first-touch")
        finally:
            path.unlink(missing_ok=True)

    def anonymous() -> Figures:
        with start(touch_argv("anon", size_bytes, pages)) as probe:
            return probe.ask("first-touch")

    of_guest, of_tmpfs, of_anonymous = stage.interleaved(guest, plain_tmpfs, anonymous)

    def row(peer_name: str, peer: list[Figures], limit: float | None) -> Row:
        return Row(
            key=KEY,
            what=f"first touch of {size_text(size_bytes)}, {PAGES[pages]} pages",
            unit=f"ns / {PAGE_BYTES // 1024} KiB",
            uvmm=column(of_guest, "ns_per_page"),
            peer_name=peer_name,
            peer=column(peer, "ns_per_page"),
            target=None if limit is None else at_most(limit),
        )

    return [row("tmpfs", of_tmpfs, 1.25), row("anonymous", of_anonymous, None)]
