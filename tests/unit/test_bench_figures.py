# SPDX-License-Identifier: MIT
"""What the benchmarks make of their values."""

from __future__ import annotations

import pytest

from tests.bench.figures import Row, Target, at_least, at_most, column, spread_of


class TestSpread:
    def test_median_and_extremes(self) -> None:
        spread = spread_of((3.0, 1.0, 8.0))
        assert (spread.low, spread.median, spread.high) == (1.0, 3.0, 8.0)

    def test_no_values_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            spread_of(())


class TestTarget:
    @pytest.mark.parametrize(
        ("target", "value", "met"),
        [
            (at_most(1.25), 1.25, True),
            (at_most(1.25), 1.26, False),
            (at_least(0.97), 0.97, True),
            (at_least(0.97), 0.96, False),
        ],
    )
    def test_the_limit_itself_is_met(self, target: Target, value: float, met: bool) -> None:
        row = Row(key="k", what="w", unit="u", uvmm=(value,), target=target)
        assert met is row.met

    def test_is_written_as_a_bound(self) -> None:
        assert str(at_most(1.25)) == "<= 1.25"
        assert str(at_least(10.0)) == ">= 10"


class TestRow:
    def test_ratio_is_taken_in_each_repetition(self) -> None:
        """The second repetition was slow for both sides; its ratio is like the others."""
        row = Row(key="k", what="w", unit="u", uvmm=(2.0, 20.0, 4.0), peer_name="p",
                  peer=(1.0, 10.0, 1.0))
        assert row.ratio is not None
        assert (row.ratio.low, row.ratio.median, row.ratio.high) == (2.0, 2.0, 4.0)

    def test_speedup_turns_the_ratio(self) -> None:
        row = Row(key="k", what="w", unit="u", uvmm=(2.0,), peer_name="p", peer=(8.0,),
                  speedup=True)
        assert row.ratio is not None
        assert row.ratio.median == 4.0

    def test_target_judges_the_ratio(self) -> None:
        row = Row(key="k", what="w", unit="u", uvmm=(100.0,), peer_name="p", peer=(90.0,),
                  target=at_most(1.25))
        assert row.met is True

    def test_target_judges_the_figure_without_a_peer(self) -> None:
        row = Row(key="k", what="w", unit="u", uvmm=(17.0,), target=at_most(16))
        assert row.ratio is None
        assert row.met is False

    def test_no_target_is_neither_met_nor_missed(self) -> None:
        assert Row(key="k", what="w", unit="u", uvmm=(1.0,)).met is None

    def test_values_that_do_not_pair_up_are_refused(self) -> None:
        with pytest.raises(ValueError, match="2 values of uvmm, 1 of its peer"):
            Row(key="k", what="w", unit="u", uvmm=(1.0, 2.0), peer_name="p", peer=(1.0,))


def test_column_takes_one_figure_of_each_repetition() -> None:
    samples = [{"a": 1000.0, "b": 0.0}, {"a": 3000.0, "b": 0.0}]
    assert column(samples, "a", 1 / 1000) == (1.0, 3.0)
