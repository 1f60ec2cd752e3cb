# SPDX-License-Identifier: MIT
"""What a guest's owner may set, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy_samples import MIB
from uvmm.errors import BadInputError
from uvmm.policy.parameters import (
    SHARES_MAX,
    Parameters,
    Wanted,
    parse,
    parse_shares,
    parse_tax,
)

MEMORY_PAGES = 1024 * MIB
WORDS = st.one_of(st.none(), st.text(max_size=20), st.from_regex(r"\d{1,12}[KMG%]?"))


def parsed(base: Parameters | None = None, **words: str) -> Parameters:
    return parse(Wanted(**words), memory_pages=MEMORY_PAGES, base=base)


class TestParse:
    def test_defaults(self) -> None:
        assert parsed() == Parameters(
            min_pages=0, max_pages=MEMORY_PAGES, shares=1000, tax=0.75,
            balloon_max_pages=MEMORY_PAGES * 65 // 100,
        )

    def test_words(self) -> None:
        got = parsed(min="64M", max="50%", shares="low", tax="80%", balloon_max="50%")
        assert got == Parameters(
            min_pages=64 * MIB, max_pages=512 * MIB, shares=5 * 512, tax=0.8,
            balloon_max_pages=256 * MIB,
        )

    def test_a_change_keeps_the_rest(self) -> None:
        base = parsed(min="64M", max="512M", shares="77", tax="0", balloon_max="100M")
        got = parsed(base, shares="2000")
        assert got == Parameters(
            min_pages=64 * MIB, max_pages=512 * MIB, shares=2000, tax=0.0,
            balloon_max_pages=100 * MIB,
        )

    def test_another_max_has_another_balloon(self) -> None:
        assert parsed(parsed(), max="100M").balloon_max_pages == 65 * MIB

    def test_a_byte_is_a_page(self) -> None:
        assert parsed(min="1").min_pages == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ({"min": "2G"}, "min 2G is not between 0 and max 1G"),
            ({"max": "0"}, "max must be at least a page"),
            ({"min": "lots"}, "min: 'lots' is no size"),
            ({"shares": "0"}, "shares must be 1 to 1000000000, not 0"),
            ({"shares": "-5"}, "neither a number nor one of low, normal, high"),
            ({"shares": "highest"}, "neither a number nor one of low, normal, high"),
            ({"shares": "9" * 19}, "shares must be 1 to"),
            ({"tax": "100%"}, "the idle tax must be 0% to 99%, not 100%"),
            ({"tax": "75"}, "0% to 99%, not 75 (write 75% for a percentage)"),
            ({"tax": "100"}, "the idle tax must be 0% to 99%, not 100"),
            ({"tax": "0.995"}, "must be 0% to 99%, not 99.5%"),
            ({"tax": "much"}, "'much' is no tax; write 75% or 0.75"),
            ({"tax": "-1%"}, "is no tax"),
            ({"balloon_max": "2G"}, "the largest balloon 2G is not between 0 and max 1G"),
        ],
    )
    def test_what_cannot_be_is_refused(self, words: dict[str, str], said: str) -> None:
        with pytest.raises(BadInputError) as refused:
            parsed(None, **words)
        assert said in str(refused.value)

    @given(WORDS, WORDS, WORDS, WORDS, WORDS)
    def test_any_words_are_parameters_or_refused(
        self, low: str | None, high: str | None, shares: str | None, tax: str | None,
        balloon: str | None,
    ) -> None:
        wanted = Wanted(min=low, max=high, shares=shares, tax=tax, balloon_max=balloon)
        try:
            got = parse(wanted, memory_pages=MEMORY_PAGES)
        except BadInputError:
            return
        assert 0 <= got.min_pages <= got.max_pages
        assert got.idle_price >= 1


class TestShares:
    @pytest.mark.parametrize(("word", "a_mib"), [("low", 5), ("normal", 10), ("high", 20)])
    def test_presets_go_by_max(self, word: str, a_mib: int) -> None:
        assert parse_shares(word, max_pages=256 * MIB) == 256 * a_mib

    def test_presets_stay_within_bounds(self) -> None:
        assert parse_shares("low", max_pages=1) == 1
        assert parse_shares("high", max_pages=1 << 50) == SHARES_MAX


def test_taxes() -> None:
    assert [parse_tax(text) for text in ("0", "75%", "0.75", " 99 % ")] == [0, 0.75, 0.75, 0.99]
