# SPDX-License-Identifier: MIT
"""How the benchmarks repeat what they measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.stage import GIB, MIB, QUICK, Figures, Stage, size_text


class TestInterleaved:
    def run(self, repetitions: int) -> tuple[list[str], list[list[Figures]]]:
        """Measure two sides; what is "measured" is when a call was made."""
        calls: list[str] = []

        def measure(side: str) -> Figures:
            calls.append(side)
            return {"call": float(len(calls))}

        stage = Stage(scale=replace(QUICK, repetitions=repetitions), scratch_dir=Path(),
                      memory_dir=Path())
        found = stage.interleaved(lambda: measure("uvmm"), lambda: measure("peer"))
        return calls, found

    def test_the_order_turns_round(self) -> None:
        calls, _ = self.run(repetitions=3)
        assert calls == ["peer", "uvmm", "uvmm", "peer", "peer", "uvmm", "uvmm", "peer"]

    def test_the_first_round_is_thrown_away(self) -> None:
        _, (uvmm, peer) = self.run(repetitions=2)
        assert [figures["call"] for figures in uvmm] == [3.0, 6.0]
        assert [figures["call"] for figures in peer] == [4.0, 5.0]


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(GIB, "1 GiB"), (1536 * MIB, "1536 MiB"), (96 * MIB, "96 MiB")]
)
def test_size_text(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
