# SPDX-License-Identifier: MIT
"""How the benchmarks tell their figures."""

from __future__ import annotations

import json

import pytest

from tests.bench.figures import NotMeasured, Row, at_most
from tests.bench.table import as_json, as_text, number

FIRST_TOUCH = Row(key="first-touch", what="first touch", unit="ns", uvmm=(110.0, 120.0, 130.0),
                  peer_name="tmpfs", peer=(100.0, 100.0, 100.0), target=at_most(1.25))
OVERHEAD = Row(key="overhead", what="overhead", unit="bytes / page", uvmm=(17.0,),
               target=at_most(16))
STATED = Row(key="idle", what="RSS", unit="MiB", uvmm=(1234.5,))


@pytest.mark.parametrize(
    ("value", "text"),
    [(123456.7, "123,457"), (99.94, "99.9"), (9.994, "9.99"), (0.1234, "0.123"),
     (0.0, "0.000")],
)
def test_number_keeps_the_digits_that_matter(value: float, text: str) -> None:
    assert text == number(value)


class TestText:
    def test_ratio_spread_and_verdict_are_on_the_line(self) -> None:
        line = as_text([FIRST_TOUCH]).splitlines()[2]
        assert line.split() == [
            "first", "touch", "ns", "120", "tmpfs", "100", "1.20", "1.10", "-", "1.30",
            "<=", "1.25", "yes",
        ]

    def test_a_missed_target_stands_out(self) -> None:
        assert as_text([OVERHEAD]).splitlines()[2].endswith("NO")

    def test_a_stated_figure_has_no_verdict(self) -> None:
        assert as_text([STATED]).splitlines()[2].endswith("1,234")

    def test_columns_are_aligned(self) -> None:
        head, rule, *rows = as_text([FIRST_TOUCH, OVERHEAD]).splitlines()
        ends = [line.index(value) + len(value)
                for line, value in zip([head, *rows], ["uvmm", "120", "17.0"], strict=True)]
        assert len(set(ends)) == 1
        assert set(rule) == {"-", " "}

    def test_what_was_not_measured_is_told_with_its_reason(self) -> None:
        text = as_text([STATED, NotMeasured(key="reclaim", reason="no zram in this kernel")])
        assert text.splitlines()[-1] == "reclaim: not measured: no zram in this kernel"

    def test_nothing_measured_has_no_empty_table(self) -> None:
        assert as_text([NotMeasured(key="a", reason="b")]) == "a: not measured: b"


class TestJson:
    def test_a_row_has_its_values_and_its_ratio(self) -> None:
        (row,) = json.loads(json.dumps(as_json([FIRST_TOUCH])))
        assert row["uvmm"] == [110.0, 120.0, 130.0]
        assert (row["ratio_low"], row["ratio"], row["ratio_high"]) == (1.1, 1.2, 1.3)
        assert row["met"] is True

    def test_what_does_not_apply_is_null(self) -> None:
        (row,) = as_json([STATED])
        assert (
            row["peer"], row["ratio"], row["target"], row["met"],
        ) == (None, None, None, None)

    def test_what_was_not_measured_has_an_error(self) -> None:
        missing = NotMeasured(key="reclaim", reason="no zram")
        assert as_json([missing]) == [{"key": "reclaim", "error": "no zram"}]
