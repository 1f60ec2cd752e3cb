# SPDX-License-Identifier: MIT
"""Policy: admission, stall percentages."""

from __future__ import annotations

import pytest

from tests.unit.policy_samples import MIB, a_parameters
from tests.unit.samples import a_machine
from uvmm.errors import BadInputError, NoRoomError
from uvmm.policy.admission import (
    admitted_max,
    booking,
    machine_room,
    overhead,
    release,
    reserve,
    room,
)
from uvmm.policy.stall import WINDOW_NS, StallSample, Window, observe, percent

SECOND_NS = 1_000_000_000


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


class TestReservation:
    guests = [booking(a_parameters(min_pages=64 * MIB, max_pages=256 * MIB))] * 3

    def test_it_fits_until_memory_is_promised(self) -> None:
        there = room(
            self.guests, total_pages=320 * MIB, own_pages=10 * MIB, swap_pages=1024 * MIB
        )
        wanted = self.guests[0]
        assert reserve(there, wanted) == room(
            [*self.guests, wanted], total_pages=320 * MIB, own_pages=10 * MIB,
            swap_pages=1024 * MIB,
        )
        with pytest.raises(NoRoomError) as refused:
            reserve(reserve(there, wanted), wanted)
        assert str(refused.value) == (
            "min 64M + overhead 1M = 65M cannot be guaranteed: of 320M machine memory uvmm "
            "itself takes 10M, 4 other guests were promised 260M, 49.7M is left"
        )

    def test_some_is_kept_free(self) -> None:
        """When all guests hold their mins, memory is not low: none has to wait."""
        machine = a_machine(total_pages=320 * MIB, daemon_pages=30 * MIB, wait_pages=4 * MIB)
        there = machine_room(machine, self.guests, own_pages=20 * MIB)
        assert there.own_pages == 30 * MIB - 3 * self.guests[0].overhead_pages
        assert there.spare_pages == 6 * MIB
        assert release(reserve(there, self.guests[0]), self.guests[0]) == there
        with pytest.raises(NoRoomError) as refused:
            reserve(there, booking(a_parameters(min_pages=128 * MIB)))
        assert (
            "memory uvmm itself takes 26.8M and keeps 6M free, 3 other guests were promised"
        ) in str(refused.value)
        less = machine_room(a_machine(daemon_pages=MIB), [], own_pages=20 * MIB)
        assert less.own_pages == 20 * MIB

    def test_it_fits_until_swap_is_reserved(self) -> None:
        there = room(
            self.guests, total_pages=1024 * MIB, own_pages=0, swap_pages=700 * MIB
        )
        with pytest.raises(NoRoomError) as refused:
            reserve(there, self.guests[0])
        assert str(refused.value) == (
            "max 256M - min 64M = 192M of swap cannot be reserved: of 700M 3 other guests "
            "have 576M, 124M is left; a smaller max, a larger min or more swap would do"
        )

    def test_nothing_is_reserved_for_what_was_not_named(self) -> None:
        whole = a_parameters(min_pages=8 * MIB, max_pages=4096 * MIB)
        wanted = booking(whole, promised=False)
        assert (wanted.min_pages, wanted.swap_pages) == (8 * MIB, 0)
        there = room([wanted] * 3, total_pages=40 * MIB, own_pages=0, swap_pages=0)
        assert reserve(there, wanted).reserved_swap_pages == 0
        with pytest.raises(NoRoomError, match="cannot be guaranteed"):
            reserve(reserve(there, wanted), wanted)

    def test_a_lower_max_gives_swap_back_but_no_tables(self) -> None:
        lowered = a_parameters(min_pages=0, max_pages=64 * MIB)
        booked = booking(lowered, size_pages=512 * MIB)
        assert (booked.swap_pages, booked.overhead_pages) == (64 * MIB, overhead(512 * MIB))

    def test_all_of_it_can_be_promised(self) -> None:
        wanted = booking(a_parameters(min_pages=0, max_pages=512 * MIB))
        there = room(
            [], total_pages=overhead(512 * MIB), own_pages=0, swap_pages=512 * MIB
        )
        full = reserve(there, wanted)
        assert (full.reserved_pages, full.reserved_swap_pages) == (
            full.total_pages, full.swap_pages
        )


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
