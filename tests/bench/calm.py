# SPDX-License-Identifier: MIT
"""Row 2: a guest that is not under pressure, against the same program without uvmm."""

from __future__ import annotations

from functools import partial
from math import isclose

from .figures import Row, Target, at_least, column
from .probe import Probe, numpy_argv, start, touch_argv
from .stage import Figures, Stage, new_name, size_text
from .subjects import roomy_daemon
from .undo import BenchError

SPEED = at_least(0.97)
NS_PER_MS = 1e6
SAME_RESULT = 1e-9  # the order of a sum depends on how its array is aligned


def random_access(stage: Stage) -> list[Row]:
    """Measure 8-byte reads at random places; with large pages on both sides too."""
    size_bytes = stage.scale.calm_bytes

    def measured(probe: Probe) -> Figures:
        with probe:
            probe.ask("first-touch")
            return probe.ask(f"random {stage.scale.calm_accesses}")

    def ordinary(kind: str, pages: str) -> Figures:
        return measured(start(touch_argv(kind, size_bytes, pages)))

    with roomy_daemon(size_bytes, swap_dir=stage.memory_dir) as daemon:

        def guest() -> Figures:
            argv = touch_argv("guest", size_bytes)
            return measured(Probe(daemon.run(argv, name=new_name(), max_bytes=size_bytes)))

        of_guest, of_malloc, of_huge = stage.interleaved(
            guest, partial(ordinary, "malloc", "default"), partial(ordinary, "anon", "huge")
        )

    def row(peer_name: str, peer: list[Figures], target: Target | None) -> Row:
        return Row(
            key="random-access",
            what=f"random access over {size_text(size_bytes)}, speed",
            unit="ns",
            uvmm=column(of_guest, "ns_per_access"),
            peer_name=peer_name,
            peer=column(peer, "ns_per_access"),
            speedup=True,
            target=target,
        )

    return [row("malloc", of_malloc, SPEED), row("2 MiB pages", of_huge, None)]


def numpy_workload(stage: Stage) -> list[Row]:
    """Measure the same script with its arrays on guest memory and on ordinary memory."""
    size_bytes = stage.scale.numpy_bytes

    def measured(probe: Probe) -> Figures:
        with probe:
            return probe.ask("run")

    def ordinary() -> Figures:
        return measured(start(numpy_argv("ordinary", size_bytes)))

    with roomy_daemon(size_bytes, swap_dir=stage.memory_dir) as daemon:

        def guest() -> Figures:
            argv = numpy_argv("guest", size_bytes)
            return measured(Probe(daemon.run(argv, name=new_name(), max_bytes=size_bytes)))

        of_guest, of_ordinary = stage.interleaved(guest, ordinary)
    if not isclose(of_guest[0]["sum"], of_ordinary[0]["sum"], rel_tol=SAME_RESULT):
        raise BenchError("the numpy workload has another result on guest memory")
    return [
        Row(
            key="numpy",
            what=f"numpy workload on {size_text(size_bytes)}, speed",
            unit="ms",
            uvmm=column(of_guest, "ns", 1 / NS_PER_MS),
            peer_name="numpy alone",
            peer=column(of_ordinary, "ns", 1 / NS_PER_MS),
            speedup=True,
            target=SPEED,
        )
    ]
