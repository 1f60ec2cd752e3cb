# SPDX-License-Identifier: MIT
"""Min-funding revocation, and the policy that is made of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy_samples import MIB, a_seen, an_observation, seen_guests
from uvmm.policy import shares as words
from uvmm.policy.division import WEIGHT_SCALE, Claim, divide, weight
from uvmm.policy.shares import TaxedShares

if TYPE_CHECKING:
    from random import Random

    from uvmm.policy.observation import GuestSeen, Observation


def a_claim(floor: int, ceiling: int, shares: int) -> Claim:
    return Claim(floor_pages=floor, ceiling_pages=ceiling, weight=weight(shares, 1.0, 1.0))


@st.composite
def claims(draw: st.DrawFn, largest: int = 1 << 22) -> Claim:
    floor = draw(st.integers(0, largest // 4))
    return a_claim(
        floor, floor + draw(st.integers(0, largest)), draw(st.integers(1, 1_000_000))
    )


def page_by_page(budget_pages: int, wanted: list[Claim]) -> list[int]:
    """Revoke from who pays least a page, one after another; equals lose together."""
    given_pages = [claim.ceiling_pages for claim in wanted]
    while sum(given_pages) > budget_pages:
        prices = {
            i: wanted[i].weight / pages for i, pages in enumerate(given_pages)
            if pages > wanted[i].floor_pages
        }
        if not prices:
            break
        least = min(prices.values())
        for i in (i for i, price in prices.items() if price == least):
            given_pages[i] -= 1
    return given_pages


class TestDivide:
    @given(st.lists(claims(), max_size=12), st.integers(0, 1 << 24))
    def test_everybody_is_within_bounds_and_all_is_given(
        self, wanted: list[Claim], budget: int
    ) -> None:
        given_pages = divide(budget, wanted)
        for claim, pages in zip(wanted, given_pages, strict=True):
            assert claim.floor_pages <= pages <= claim.ceiling_pages
        floors = sum(claim.floor_pages for claim in wanted)
        ceilings = sum(claim.ceiling_pages for claim in wanted)
        all_of_it = max(floors, min(budget, ceilings))
        # Equals get a page each or none, so that fewer than there are claims are left.
        assert all_of_it - len(wanted) < sum(given_pages) <= all_of_it or not wanted

    @given(st.lists(claims(40), max_size=8), st.integers(0, 200))
    def test_it_is_what_revoking_page_by_page_comes_to(
        self, wanted: list[Claim], budget: int
    ) -> None:
        assert divide(budget, wanted) == page_by_page(budget, wanted)

    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, 30), st.sampled_from((1, 2, 3, 4, 8))),
            max_size=8,
        ),
        st.integers(0, 200),
    )
    def test_also_where_many_prices_are_equal(
        self, shapes: list[tuple[int, int, int]], budget: int
    ) -> None:
        wanted = [a_claim(floor, floor + more, shares) for floor, more, shares in shapes]
        assert divide(budget, wanted) == page_by_page(budget, wanted)

    @given(st.lists(claims(), min_size=2, max_size=6), st.integers(1, 1 << 22))
    def test_who_has_more_shares_gets_no_less(self, wanted: list[Claim], budget: int) -> None:
        equal = [replace(claim, floor_pages=0, ceiling_pages=1 << 23) for claim in wanted]
        pairs = sorted(zip([c.weight for c in equal], divide(budget, equal), strict=True))
        for (_, less), (_, greater) in pairwise(pairs):
            assert less <= greater

    @given(st.lists(claims(), max_size=8), st.integers(0, 1 << 24), st.integers(0, 1 << 20))
    def test_more_memory_is_less_for_nobody(
        self, wanted: list[Claim], budget: int, more: int
    ) -> None:
        before, after = divide(budget, wanted), divide(budget + more, wanted)
        assert all(less <= greater for less, greater in zip(before, after, strict=True))

    def test_proportion_and_min(self) -> None:
        wanted = [a_claim(0, 800, 1000), a_claim(0, 800, 3000), a_claim(300, 300, 1)]
        assert divide(1000, wanted) == [175, 525, 300]

    def test_extremes_add_up(self) -> None:
        wanted = [
            Claim(floor_pages=0, ceiling_pages=1 << 50, weight=weight(shares, 0.0, 100.0))
            for shares in (1, 1, 1_000_000_000, 1_000_000_000, 7)
        ]
        for budget in (1, 5, 1 << 20, 1 << 50):
            assert budget - 5 <= sum(divide(budget, wanted)) <= budget

    def test_bad_claims_are_refused(self) -> None:
        with pytest.raises(ValueError, match="floor"):
            Claim(floor_pages=2, ceiling_pages=1, weight=1)
        with pytest.raises(ValueError, match="weight"):
            Claim(floor_pages=0, ceiling_pages=1, weight=0)


class TestPaper:
    """The formula, and the examples that are known for it."""

    def test_the_formula(self) -> None:
        guest = a_seen(shares=6000, active=0.25, tax=0.8)
        assert guest.shares_per_page(4000) == pytest.approx(6000 / (4000 * (0.25 + 5 * 0.75)))

    @pytest.mark.parametrize(
        ("tax", "of_a", "of_b"), [(0.8, 0.375, 0.625), (0.0, 1.5, 1.0)]
    )
    def test_the_tax_changes_who_is_the_victim(
        self, tax: float, of_a: float, of_b: float
    ) -> None:
        a = a_seen(shares=6000, active=0.25, tax=tax)
        b = a_seen(shares=2000, active=0.85, tax=tax)
        assert a.shares_per_page(4000) == pytest.approx(of_a)
        assert b.shares_per_page(2000) == pytest.approx(of_b)

    @pytest.mark.parametrize(("tax", "times"), [(0.0, 1), (0.5, 2), (0.75, 4), (0.99, 100)])
    def test_what_is_idle_pays_the_tax(self, tax: float, times: int) -> None:
        idle = a_seen(id=1, active=0.0, tax=tax, held_pages=1000 * MIB)
        busy = a_seen(id=2, active=1.0, tax=tax, held_pages=1000 * MIB)
        seen = an_observation(idle, busy, available_pages=1010 * MIB)
        of_idle, of_busy = targets_of(seen)
        assert of_busy / of_idle == pytest.approx(times, rel=0.001)

    def test_figure_7(self) -> None:
        for tax, of_idle in ((0.0, 180), (0.75, 104)):
            idle, busy = (
                a_seen(id=1, active=0.05, tax=tax, max_pages=256 * MIB),
                a_seen(id=2, active=0.9, tax=tax, max_pages=256 * MIB),
            )
            seen = an_observation(idle, busy, available_pages=360 * MIB)
            assert targets_of(seen)[0] == pytest.approx(of_idle * MIB, abs=1)


def targets_of(seen: Observation) -> list[int]:
    return [verdict.target_pages for verdict in TaxedShares().decide(seen).verdicts]


class TestTaxedShares:
    @given(seen_guests(), st.integers(0, 300))
    def test_invariants(self, guests: tuple[GuestSeen, ...], available: int) -> None:
        seen = an_observation(*guests, available_pages=available)
        given_pages = targets_of(seen)
        for guest, pages in zip(guests, given_pages, strict=True):
            assert guest.parameters.min_pages <= pages <= guest.parameters.max_pages
        mins = sum(guest.parameters.min_pages for guest in guests)
        assert sum(given_pages) <= max(mins, seen.available_pages)

    @given(seen_guests(least=1), st.integers(0, 300), st.integers(1, 1 << 20), st.data())
    def test_more_shares_are_never_less_memory(
        self, guests: tuple[GuestSeen, ...], available: int, more: int, data: st.DataObject
    ) -> None:
        at = data.draw(st.integers(0, len(guests) - 1))
        parameters = guests[at].parameters
        richer = replace(
            guests[at], parameters=replace(parameters, shares=parameters.shares + more)
        )
        changed = (*guests[:at], richer, *guests[at + 1:])
        before = targets_of(an_observation(*guests, available_pages=available))
        after = targets_of(an_observation(*changed, available_pages=available))
        assert after[at] >= before[at]

    @given(seen_guests(), st.integers(0, 300), st.randoms(use_true_random=False))
    def test_their_order_means_nothing(
        self, guests: tuple[GuestSeen, ...], available: int, chance: Random
    ) -> None:
        mixed = list(guests)
        chance.shuffle(mixed)
        before = targets_of(an_observation(*guests, available_pages=available))
        after = targets_of(an_observation(*mixed, available_pages=available))
        assert dict(zip([g.id for g in guests], before, strict=True)) == dict(
            zip([g.id for g in mixed], after, strict=True)
        )

    @given(seen_guests(least=1), st.integers(0, 300), st.integers(1, 4))
    def test_equal_guests_have_equal_targets(
        self, guests: tuple[GuestSeen, ...], available: int, copies: int
    ) -> None:
        twins = [replace(guests[0], id=100 + number) for number in range(copies)]
        given_pages = targets_of(an_observation(*guests, *twins, available_pages=available))
        assert {given_pages[0]} == set(given_pages[len(guests):])

    @given(seen_guests(least=1), st.integers(0, 300), st.data())
    def test_who_uses_more_of_its_memory_has_no_less(
        self, guests: tuple[GuestSeen, ...], available: int, data: st.DataObject
    ) -> None:
        at = data.draw(st.integers(0, len(guests) - 1))
        busier = replace(guests[at], active=1.0)
        changed = (*guests[:at], busier, *guests[at + 1:])
        before = targets_of(an_observation(*guests, available_pages=available))
        after = targets_of(an_observation(*changed, available_pages=available))
        assert after[at] >= before[at]

    def test_without_guests_there_is_nothing_to_decide(self) -> None:
        assert targets_of(an_observation(available_pages=100)) == []

    def test_reasons(self) -> None:
        guests = (
            a_seen(id=1, held_pages=1024 * MIB, min_pages=512 * MIB, shares=1),
            a_seen(id=2, held_pages=1024 * MIB),
            a_seen(id=3, held_pages=16 * MIB),
            a_seen(id=4, max_pages=8 * MIB, held_pages=8 * MIB),
        )
        short = TaxedShares().decide(an_observation(*guests, available_pages=1024 * MIB))
        assert [verdict.why for verdict in short.verdicts] == [
            words.BY_MIN, words.BY_SHARES, words.BY_WANTS, words.ALL
        ]
        roomy = TaxedShares().decide(an_observation(*guests, available_pages=2500 * MIB))
        assert [verdict.why for verdict in roomy.verdicts] == [
            words.ALL, words.ALL, words.ENOUGH, words.ALL
        ]

    def test_weights_are_the_formula(self) -> None:
        assert weight(1000, 0.3, 4.0) / WEIGHT_SCALE == pytest.approx(1000 / (0.3 + 4 * 0.7))
