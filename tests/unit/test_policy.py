# SPDX-License-Identifier: MIT
"""Policy: division of memory by shares, admission, stall percentages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import a_guest, a_machine
from uvmm.errors import BadInputError, NoRoomError
from uvmm.model import Snapshot
from uvmm.policy.admission import admitted_max, check_min
from uvmm.policy.stall import WINDOW_NS, StallSample, Window, observe, percent
from uvmm.policy.targets import Claim, divide, targets

SECOND_NS = 1_000_000_000


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    floor = draw(st.integers(min_value=0, max_value=1 << 20))
    return Claim(
        floor_pages=floor,
        ceiling_pages=floor + draw(st.integers(min_value=0, max_value=1 << 22)),
        shares=draw(st.integers(min_value=1, max_value=1_000_000)),
    )


class TestDivide:
    @given(st.lists(claims(), max_size=12), st.integers(min_value=0, max_value=1 << 24))
    def test_everybody_is_within_bounds_and_all_is_given(
        self, wanted: list[Claim], budget: int
    ) -> None:
        given_pages = divide(budget, wanted)
        assert len(given_pages) == len(wanted)
        for claim, pages in zip(wanted, given_pages, strict=True):
            assert claim.floor_pages <= pages <= claim.ceiling_pages
        floors = sum(claim.floor_pages for claim in wanted)
        ceilings = sum(claim.ceiling_pages for claim in wanted)
        assert sum(given_pages) == max(floors, min(budget, ceilings))

    @given(st.lists(claims(), min_size=2, max_size=6), st.integers(1, 1 << 22))
    def test_who_has_more_shares_gets_no_less(self, wanted: list[Claim], budget: int) -> None:
        equal = [Claim(floor_pages=0, ceiling_pages=1 << 23, shares=c.shares) for c in wanted]
        pairs = sorted(zip([c.shares for c in equal], divide(budget, equal), strict=True))
        for (fewer, less), (more, greater) in pairwise(pairs):
            assert fewer <= more
            assert less <= greater + 1

    def test_proportion_and_min(self) -> None:
        given_pages = divide(
            1000,
            [
                Claim(floor_pages=0, ceiling_pages=800, shares=1000),
                Claim(floor_pages=0, ceiling_pages=800, shares=3000),
                Claim(floor_pages=300, ceiling_pages=300, shares=1),
            ],
        )
        assert given_pages == [175, 525, 300]

    def test_need_bounds_a_target(self) -> None:
        small = a_guest(id=1, max_pages=1 << 20, resident_pages=8192)
        large = a_guest(id=2, max_pages=1 << 20, resident_pages=1 << 19)
        snapshot = Snapshot(machine=a_machine(total_pages=1 << 18), guests=(small, large))
        got = targets(snapshot)
        assert got[1] == 8192 + 4096
        assert got[2] == snapshot.machine.guest_budget_pages - got[1]

    def test_bad_claims_are_refused(self) -> None:
        with pytest.raises(ValueError, match="floor"):
            Claim(floor_pages=2, ceiling_pages=1, shares=1)
        with pytest.raises(ValueError, match="shares"):
            Claim(floor_pages=0, ceiling_pages=1, shares=0)


class TestAdmission:
    machine = a_machine(
        total_pages=10_000, swap_total_pages=1_000, tmpfs_pages=0, daemon_pages=0
    )

    def test_the_default_is_all_that_can_be_backed(self) -> None:
        assert admitted_max(self.machine, None) == 21 * 512

    def test_max_is_rounded_up_to_large_pages(self) -> None:
        assert admitted_max(self.machine, 513) == 1024

    @pytest.mark.parametrize("pages", [11_000, 10_753, 1 << 60])
    def test_more_than_can_be_backed_names_the_limit(self, pages: int) -> None:
        with pytest.raises(BadInputError, match=r"at most 42M"):
            admitted_max(self.machine, pages)

    def test_mins_must_fit_together(self) -> None:
        check_min(self.machine, [4000, 5000], 1000, 2048)
        with pytest.raises(NoRoomError, match="left"):
            check_min(self.machine, [4000, 5000], 1001, 2048)
        with pytest.raises(BadInputError, match="--max"):
            check_min(self.machine, [], 4096, 2048)


class TestStall:
    def window(self, *samples: tuple[float, float, int]) -> Window:
        window: Window = ()
        for at_s, stall_s, threads in samples:
            window = observe(
                window,
                StallSample(
                    at_ns=int(at_s * SECOND_NS), stall_ns=int(stall_s * SECOND_NS),
                    threads=threads,
                ),
            )
        return window

    def test_one_of_two_threads_waiting_is_half(self) -> None:
        assert percent(self.window((0, 0, 2), (1, 1, 2))) == 50.0

    def test_nothing_is_known_at_first(self) -> None:
        assert percent(()) == 0.0
        assert percent(self.window((5, 3, 1))) == 0.0

    def test_what_is_older_than_the_window_does_not_count(self) -> None:
        window = self.window((0, 0, 1), (1, 1, 1), *((t, 1, 1) for t in range(2, 13)))
        assert percent(window) == 0.0
        assert window[-1].at_ns - window[0].at_ns <= WINDOW_NS

    def test_it_stays_small_however_often_it_is_asked(self) -> None:
        window = self.window(*((i / 1000, i / 2000, 1) for i in range(12_000)))
        assert len(window) < 120
        assert percent(window) == pytest.approx(50, abs=0.5)

    def test_another_program_starts_anew(self) -> None:
        assert percent(self.window((0, 5, 1), (1, 6, 1), (2, 0, 1))) == 0.0

    def test_it_never_exceeds_100(self) -> None:
        assert percent(self.window((0, 0, 0), (1, 9, 1))) == 100.0
