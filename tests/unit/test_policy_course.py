# SPDX-License-Identifier: MIT
"""From observation to orders: states, when to decide anew, how memory is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy_samples import MIB, a_seen, an_observation, seen_guests
from uvmm.policy.course import BALANCE_NS, Course, Step, advance
from uvmm.policy.decision import FREE, Decision, History, decision_of
from uvmm.policy.observation import Tried
from uvmm.policy.reclaim import BLOCK_NS, FIRST_PACE, Order, Plan, Track, plan
from uvmm.policy.shares import TaxedShares
from uvmm.policy.states import State, min_free, next_state, thresholds

if TYPE_CHECKING:
    from uvmm.policy.observation import GuestSeen, Observation

GIB = 1 << 18  # pages
SECOND_NS = 1_000_000_000
TOTAL = 100_000  # pages; 6000 of them should be free
OF = thresholds(TOTAL)


class TestStates:
    @pytest.mark.parametrize(
        ("gib", "mib"), [(1, 61.44), (4, 245.76), (12, 573.44), (28, 901.12), (100, 1638.4)]
    )
    def test_min_free_grows_slower_than_memory(self, gib: int, mib: float) -> None:
        assert min_free(gib * GIB) == pytest.approx(mib * MIB, abs=1)

    @pytest.mark.parametrize(
        ("state", "free", "then"),
        [
            (State.HIGH, 6000, State.HIGH), (State.HIGH, 5999, State.CLEAR),
            (State.HIGH, 3839, State.SOFT), (State.HIGH, 1919, State.HARD),
            (State.HIGH, 0, State.LOW), (State.HIGH, -5, State.LOW),
            (State.LOW, 1440, State.LOW), (State.LOW, 1441, State.HARD),
            (State.LOW, TOTAL, State.HARD),
            (State.SOFT, 4920, State.SOFT), (State.SOFT, 4921, State.CLEAR),
            (State.CLEAR, 7500, State.CLEAR), (State.CLEAR, 7501, State.HIGH),
        ],
    )
    def test_boundaries(self, state: State, free: int, then: State) -> None:
        assert next_state(state, free, OF) == then

    @given(st.sampled_from(list(State)[1:]), st.lists(st.integers(0, 1000), max_size=50))
    def test_it_never_flaps_within_a_band(self, state: State, moves: list[int]) -> None:
        """While free memory stays between a state's two thresholds nothing changes."""
        band = OF.boundaries[state]
        for below in (state, State(state - 1)):
            now = below
            for move in moves:
                width = band.leave_pages - band.enter_pages
                now = next_state(now, band.enter_pages + move * width // 1000, OF)
                assert now == below

    @given(st.sampled_from(list(State)), st.integers(0, TOTAL))
    def test_what_is_constant_settles(self, state: State, free: int) -> None:
        for _ in State:
            state = next_state(state, free, OF)
        assert next_state(state, free, OF) == state

    def test_enough_is_high(self) -> None:
        assert OF.aim_pages > OF.boundaries[State.CLEAR].leave_pages


POLICY = TaxedShares()


def stepped(course: Course, seen: Observation) -> Step:
    return advance(course, seen, POLICY)


def at(seconds: float, *guests: GuestSeen, free: int = TOTAL) -> Observation:
    return an_observation(
        *guests, available_pages=0, total_pages=TOTAL, free_pages=free,
        now_ns=round(seconds * SECOND_NS),
    )


class TestWhenToDecide:
    guests = (a_seen(id=1), a_seen(id=2, active=0.5))

    def causes(self, *seen: Observation) -> list[str | None]:
        course, causes = Course(), []
        for one in seen:
            step = stepped(course, one)
            course = step.course
            causes.append(None if step.decision is None else step.decision.cause)
        return causes

    def test_every_15_s(self) -> None:
        assert self.causes(
            at(0, *self.guests), at(14.9, *self.guests), at(15, *self.guests),
            at(29, *self.guests), at(30, *self.guests),
        ) == ["the first decision", None, "15 s have passed", None, "15 s have passed"]

    def test_at_once_when_something_changes(self) -> None:
        one, two = self.guests
        richer = a_seen(id=1, shares=2000)
        assert self.causes(
            at(0, one), at(0.1, one, two), at(0.2, richer, two), at(0.3, two, richer),
            at(0.4, two), at(0.5, two, free=0), at(0.6, two, free=0),
        ) == [
            "the first decision", "g2 has come", "the parameters of g1 have changed",
            "the guests are in another order", "g1 has gone", "memory was high and is low",
            None,
        ]

    def test_soon_when_a_guest_awakes(self) -> None:
        one, two = self.guests
        awake = replace(two, active=0.7)
        assert self.causes(
            at(0, one, two), at(0.4, one, awake), at(0.5, one, awake), at(2, one, awake)
        ) == ["the first decision", None, "g2 was 50% active and is 70%", None]

    def test_between_decisions_targets_stay(self) -> None:
        first = stepped(Course(), at(0, *self.guests))
        second = stepped(first.course, at(1, *self.guests))
        assert second.course.decision is first.decision

    @given(seen_guests(), st.integers(0, TOTAL))
    def test_under_constant_load_targets_are_constant(
        self, guests: tuple[GuestSeen, ...], free: int
    ) -> None:
        course, decided = Course(), []
        for number in range(5):
            seen = at(number * BALANCE_NS / SECOND_NS, *guests, free=free)
            step = stepped(course, seen)
            course = step.course
            assert step.decision is not None
            decided.append([verdict.target_pages for verdict in step.decision.verdicts])
        assert all(targets == decided[0] for targets in decided)


def decided(seen: Observation, *targets: int) -> Decision:
    return decision_of(seen, targets, ["because"] * len(targets))


def planned(
    seen: Observation, *targets: int, state: State = State.SOFT, taking: bool = True,
    tracks: dict[int, Track] | None = None, elapsed_ns: int = SECOND_NS,
) -> Plan:
    return plan(
        decided(seen, *targets), seen, state, taking=taking, tracks=tracks or {},
        elapsed_ns=elapsed_ns,
    )


class TestPlan:
    big = a_seen(id=1, max_pages=80_000, held_pages=60_000)
    small = a_seen(id=2, max_pages=80_000, held_pages=10_000)

    def test_balloons_take_what_is_short(self) -> None:
        seen = at(0, self.big, self.small, free=3000)
        (order,) = planned(seen, 50_000, 10_000).orders
        assert order == Order(id=1, balloon_pages=OF.aim_pages - 3000)

    def test_no_more_than_down_to_the_target(self) -> None:
        seen = at(0, self.big, self.small, free=0)
        orders = planned(seen, 59_000, 8000).orders
        assert orders == (Order(id=1, balloon_pages=1000), Order(id=2, balloon_pages=2000))

    def test_who_pays_least_a_page_gives_first(self) -> None:
        seen = at(0, self.big, self.small, free=OF.aim_pages - 3000)
        assert planned(seen, 50_000, 5000).orders == (Order(id=1, balloon_pages=3000),)

    def test_nothing_is_taken_while_there_is_enough(self) -> None:
        seen = at(0, self.big, free=3000)
        assert planned(seen, 10_000, taking=False).orders == ()
        assert planned(at(0, self.big, free=OF.aim_pages), 10_000).orders == ()

    def test_what_a_balloon_cannot_hold_is_paged(self) -> None:
        guest = replace(self.big, ballooned_pages=39_000)  # of at most 40,000
        (order,) = planned(at(0, guest, free=0), 50_000).orders
        assert order == Order(id=1, balloon_pages=40_000, page_out_pages=OF.aim_pages - 1000)

    @pytest.mark.parametrize("target", [50_000, 60_000])
    @pytest.mark.parametrize("taking", [True, False])
    def test_a_balloon_over_its_bound_shrinks_at_once(self, target: int, taking: bool) -> None:
        guest = replace(self.big, ballooned_pages=45_000)  # of at most 40,000
        (order,) = planned(at(0, guest, free=OF.aim_pages), target, taking=taking).orders
        assert order == Order(id=1, balloon_pages=40_000)

    def test_without_an_agent_all_is_paged(self) -> None:
        guest = replace(self.big, balloon_able=False)
        (order,) = planned(at(0, guest, free=0), 50_000).orders
        assert order == Order(id=1, balloon_pages=0, page_out_pages=OF.aim_pages)

    def test_what_was_asked_for_in_vain_is_paged(self) -> None:
        guest = replace(self.big, tried=Tried(asked_pages=5000, given_pages=1000))
        (order,) = planned(at(0, guest, free=0), 50_000).orders
        assert order.page_out_pages == 4000
        assert order.balloon_pages == OF.aim_pages - 4000

    @pytest.mark.parametrize("state", [State.HARD, State.LOW])
    def test_when_it_is_urgent_all_is_paged(self, state: State) -> None:
        (order,) = planned(at(0, self.big, free=0), 50_000, state=state).orders
        assert (order.balloon_pages, order.page_out_pages) == (0, OF.aim_pages)

    def test_taking_is_gradual(self) -> None:
        seen = at(0, self.big, free=0)
        tracks = {1: Track(pace_pages=4000)}
        (order,) = planned(seen, 10_000, tracks=tracks, elapsed_ns=SECOND_NS // 4).orders
        assert order == Order(id=1, balloon_pages=1000)

    @pytest.mark.parametrize(
        ("given_pages", "pace"), [(1000, 2.0), (900, 2.0), (700, 1.0), (499, 0.5), (0, 0.5)]
    )
    def test_the_pace_follows_what_is_given(self, given_pages: int, pace: float) -> None:
        guest = replace(self.big, tried=Tried(asked_pages=1000, given_pages=given_pages))
        tracks = planned(at(0, guest), 60_000).tracks
        assert tracks[1].pace_pages == pace * FIRST_PACE

    @pytest.mark.parametrize("state", list(State))
    def test_giving_back_is_immediate(self, state: State) -> None:
        guest = replace(self.big, ballooned_pages=15_000)
        seen = at(0, guest, free=0)
        assert planned(seen, 70_000, state=state).orders == (Order(id=1, balloon_pages=5000),)
        assert planned(seen, 80_000, state=state).orders == (Order(id=1, balloon_pages=0),)

    @pytest.mark.parametrize(("wish", "kept"), [(9000, 9000), (3000, 5000), (40_000, 15_000)])
    def test_what_was_asked_for_is_not_given_back(self, wish: int, kept: int) -> None:
        guest = replace(self.big, ballooned_pages=15_000, balloon_wish_pages=wish)
        orders = planned(at(0, guest, free=0), 70_000).orders
        assert orders == (() if kept == 15_000 else (Order(id=1, balloon_pages=kept),))

    @pytest.mark.parametrize("state", [State.SOFT, State.HARD])
    def test_what_was_asked_for_goes_on_while_memory_is_short(self, state: State) -> None:
        guest = replace(self.big, ballooned_pages=5000, balloon_wish_pages=39_000)
        (order,) = planned(at(0, guest, free=0), 50_000, state=state).orders
        assert order.balloon_pages == 39_000

    def test_a_guest_of_1_gib_is_reclaimed_in_half_a_second(self) -> None:
        """At the first pace 90 % of free memory is asked for within two looks."""
        guest = a_seen(id=1, max_pages=2 * GIB, balloon_max_pages=2 * GIB, held_pages=GIB)
        seen = an_observation(guest, available_pages=64 * GIB, free_pages=0)
        (order,) = planned(seen, 0, elapsed_ns=SECOND_NS // 4).orders
        tried = Tried(asked_pages=order.balloon_pages, given_pages=order.balloon_pages)
        less = GIB - order.balloon_pages
        then = replace(
            seen,
            guests=(replace(guest, held_pages=less, tried=tried,
                            ballooned_pages=order.balloon_pages),),
        )
        (order,) = planned(then, 0, tracks={1: Track()}, elapsed_ns=SECOND_NS // 4).orders
        assert order.balloon_pages >= 0.9 * GIB

    @given(
        seen_guests(least=1), st.integers(0, 300), st.sampled_from(list(State)),
        st.integers(0, 300),
    )
    def test_min_wins_over_every_way(
        self, guests: tuple[GuestSeen, ...], available: int, state: State, free: int
    ) -> None:
        seen = an_observation(*guests, available_pages=available, free_pages=free)
        orders = {
            order.id: order
            for order in plan(
                POLICY.decide(seen), seen, state, taking=True, tracks={},
                elapsed_ns=SECOND_NS,
            ).orders
        }
        for guest in guests:
            if order := orders.get(guest.id):
                inflated = max(0, order.balloon_pages - guest.ballooned_pages)
                left = guest.held_pages - inflated - order.page_out_pages
                assert left >= min(guest.held_pages, guest.parameters.min_pages)
                if inflated:
                    assert order.balloon_pages <= guest.parameters.balloon_max_pages


class TestBlocking:
    above = a_seen(id=1, max_pages=80_000, held_pages=60_000)
    below = a_seen(id=2, max_pages=80_000, held_pages=10_000)

    def blocked(self, *looks: tuple[float, State]) -> list[list[int]]:
        tracks: dict[int, Track] = {}
        found = []
        for seconds, state in looks:
            seen = at(seconds, self.above, self.below, free=0)
            done = planned(seen, 50_000, 10_000, state=state, tracks=tracks)
            tracks = dict(done.tracks)
            found.append([order.id for order in done.orders if order.blocked_until_ns])
        return found

    def test_only_in_low_and_only_above_target(self) -> None:
        assert self.blocked((0, State.HARD), (1, State.LOW)) == [[], [1]]

    def test_for_a_bounded_time_each(self) -> None:
        looks = [(number / 4, State.LOW) for number in range(13)]
        found = self.blocked(*looks)
        # Half a second of one and a half.
        assert found == [[1], [1], [], [], [], [], [1], [1], [], [], [], [], [1]]

    def test_it_ends_with_the_state(self) -> None:
        assert self.blocked((0, State.LOW), (0.1, State.HARD), (0.2, State.LOW)) == [
            [1], [], []
        ]

    def test_the_end_is_said_at_the_beginning(self) -> None:
        seen = at(7, self.above, free=0)
        (order,) = planned(seen, 50_000, state=State.LOW).orders
        assert order.blocked_until_ns == 7 * SECOND_NS + BLOCK_NS


def test_taking_goes_on_until_high() -> None:
    guest = a_seen(id=1, max_pages=95_000, held_pages=95_000)
    course = Course()
    taken = []
    for seconds, free in enumerate((5000, 3000, 5000, 6000, 7600, 5000)):
        step = stepped(course, at(seconds, guest, free=free))
        course = step.course
        taken.append((str(course.state), bool(step.orders)))
    assert taken == [
        ("clear", False), ("soft", True), ("clear", True), ("clear", True), ("high", False),
        ("clear", False),
    ]


class TestExplained:
    guests = (
        a_seen(id=1, name="a", held_pages=900 * MIB, active=0.1,
               tried=Tried(asked_pages=64 * MIB, given_pages=16 * MIB, paged_pages=48 * MIB)),
        a_seen(id=2, name="b", held_pages=300 * MIB, touched_pages=700 * MIB),
    )
    seen = an_observation(*guests, available_pages=1000 * MIB)

    def decision(self) -> Decision:
        found = stepped(Course(), self.seen).decision
        assert found is not None
        return found

    def test_who_pays_whom(self) -> None:
        decision = self.decision()
        of_a, of_b = (verdict.target_pages for verdict in decision.verdicts)
        paid = {(p.payer, p.receiver): p.pages for p in decision.payments()}
        assert paid[("a", "b")] == of_b - 300 * MIB
        assert sum(paid.values()) == 900 * MIB - of_a
        assert paid.get(("a", FREE), 0) == 900 * MIB - of_a - (of_b - 300 * MIB)

    def test_words(self) -> None:
        lines = self.decision().words("a")
        assert lines[0].startswith("0.0 s: the first decision; memory is low, 1000M for 2")
        assert lines[1].startswith("  a: target 212M, holds 900M of 1G: ")
        assert "asked for 64M its balloon gave 16M; 48M were paged out" in lines[1]
        assert "10% active, an idle page counts 4-fold" in lines[1]
        assert lines[2].startswith("  a gives ")
        assert not any(line.startswith("  b:") for line in lines)

    def test_who_cannot_be_asked(self) -> None:
        mute = replace(self.guests[0], balloon_able=False)
        decision = stepped(Course(), replace(self.seen, guests=(mute, self.guests[1]))).decision
        assert decision is not None
        words = decision.words("a")[1]
        assert "its balloon gave 16M; its agent does not answer; 48M were paged out" in words
        assert not decision.as_json("a")["guests"][0]["balloon_able"]

    def test_json(self) -> None:
        told = self.decision().as_json()
        assert [guest["name"] for guest in told["guests"]] == ["a", "b"]
        assert told["guests"][0]["tried"]["given_bytes"] == 16 << 20
        assert told["policy"] == POLICY.name
        assert told["payments"][0]["payer"] == "a"
        only = self.decision().as_json("b")
        assert [guest["name"] for guest in only["guests"]] == ["b"]

    @given(seen_guests(), st.integers(0, 300))
    def test_payments_add_up(self, guests: tuple[GuestSeen, ...], available: int) -> None:
        decision = POLICY.decide(an_observation(*guests, available_pages=available))
        paid = sum(payment.pages for payment in decision.payments())
        assert paid == sum(
            max(0, verdict.guest.held_pages - verdict.target_pages)
            for verdict in decision.verdicts
        )
        assert all(payment.pages > 0 for payment in decision.payments())

    def test_history_is_bounded_and_tells_of_changes(self) -> None:
        history = History(length=4)
        one = at(0, a_seen(id=1))
        for target in (9, 1, 1, 2, 2):
            history.add(decided(one, target))
        assert len(history) == len(list(history)) == 4
        assert [d.verdicts[0].target_pages for d in history.about("g1")] == [1, 2, 2]
        assert history.about("nobody") == []
