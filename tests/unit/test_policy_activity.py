# SPDX-License-Identifier: MIT
"""How much of its memory a guest uses: rises at once, falls slowly."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvmm.policy.activity import Activity, Sampling, observe


def after(activity: Activity, *touched: int) -> Activity:
    """Let whole periods go by, in which so many of 100 pages are touched."""
    for count in touched:
        activity = observe(activity, touched=count, sampled=100, fraction=1)
    return activity


class TestEstimate:
    def test_at_first_all_counts_as_active(self) -> None:
        assert Activity().estimate == 1.0
        assert observe(Activity(), touched=0, sampled=100, fraction=0.9).estimate == 1.0

    def test_the_first_period_tells(self) -> None:
        assert after(Activity(), 30).estimate == 0.3

    @given(st.integers(0, 100), st.integers(1, 50))
    def test_what_is_constant_is_found(self, touched: int, periods: int) -> None:
        activity = after(Activity(), *[touched] * periods)
        assert activity.estimate == pytest.approx(touched / 100)

    def test_it_falls_slowly(self) -> None:
        high = after(Activity(), 80)
        assert after(high, 10).estimate > 0.6
        assert after(high, *[10] * 10).estimate == pytest.approx(0.1, abs=0.1)

    def test_it_rises_within_a_period(self) -> None:
        """After 5 of 30 s an awakened guest counts for what it has touched by then."""
        activity = after(Activity(), *[5] * 20)
        for second in range(1, 6):
            activity = observe(activity, touched=80, sampled=100, fraction=second / 30)
        assert activity.estimate == pytest.approx(0.8, abs=0.08)
        assert activity.slow == pytest.approx(0.05)

    def test_what_was_found_in_a_period_is_not_forgotten_at_its_end(self) -> None:
        activity = after(Activity(), *[5] * 20)
        estimates = []
        for _ in range(4):
            for second in range(1, 31):
                touched = min(80, 20 * second)
                activity = observe(
                    activity, touched=touched, sampled=100, fraction=second / 30
                )
                estimates.append(activity.estimate)
        assert min(estimates[10:]) > 0.75

    def test_pages_not_touched_yet_say_nothing(self) -> None:
        activity = after(Activity(), *[60] * 20)
        assert observe(activity, touched=0, sampled=100, fraction=0.5).estimate == (
            pytest.approx(0.6)
        )

    def test_how_often_one_looks_does_not_matter(self) -> None:
        start = after(Activity(), 10)
        often, seldom = start, start
        for part in range(1, 51):
            often = observe(often, touched=70, sampled=100, fraction=part / 100)
        seldom = observe(seldom, touched=70, sampled=100, fraction=0.5)
        assert often.estimate == pytest.approx(seldom.estimate)

    @given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), max_size=60))
    def test_it_is_a_part_and_no_less_than_any_average(
        self, seen: list[tuple[int, float]]
    ) -> None:
        activity = Activity()
        for touched, fraction in seen:
            activity = observe(activity, touched=touched, sampled=50, fraction=fraction)
            assert 0 <= activity.estimate <= 1
            parts = (activity.slow, activity.fast, activity.running)
            assert activity.estimate == max(parts)

    def test_a_sampled_truth_is_met(self) -> None:
        """With 100 pages a period it is off by a few points, mostly upwards."""
        chance = Random(1)
        for truth in (0.1, 0.5, 0.9):
            activity = Activity()
            estimates = []
            for _ in range(200):
                touched = sum(chance.random() < truth for _ in range(100))
                activity = after(activity, touched)
                estimates.append(activity.estimate)
            assert truth - 0.05 < sum(estimates) / 200 < truth + 0.06

    def test_a_guest_without_memory_teaches_nothing(self) -> None:
        activity = after(Activity(), 40)
        assert observe(activity, touched=0, sampled=0, fraction=1) == activity

    @pytest.mark.parametrize(
        ("touched", "fraction"), [(101, 0.5), (-1, 0.5), (5, -0.1), (5, 1.1)]
    )
    def test_nonsense_is_refused(self, touched: int, fraction: float) -> None:
        with pytest.raises(ValueError, match=r"touched|fraction"):
            observe(Activity(), touched=touched, sampled=100, fraction=fraction)


class TestSampling:
    def test_periods_are_execution_time(self) -> None:
        assert Sampling().fraction(executed_s=15, elapsed_s=20) == 0.5
        assert Sampling().fraction(executed_s=31, elapsed_s=31) == 1

    def test_a_guest_that_sleeps_has_periods_too(self) -> None:
        assert Sampling().fraction(executed_s=0, elapsed_s=30) == 0.5
        assert Sampling().fraction(executed_s=0, elapsed_s=60) == 1

    @pytest.mark.parametrize(
        ("pages", "period_s", "longest_s"), [(0, 30, 60), (100, 0, 60), (100, 30, 20)]
    )
    def test_nonsense_is_refused(self, pages: int, period_s: float, longest_s: float) -> None:
        with pytest.raises(ValueError, match="pages for"):
            Sampling(pages=pages, period_s=period_s, longest_s=longest_s)
