# SPDX-License-Identifier: MIT
"""Records of the past and the reports that are made of them."""

from __future__ import annotations

import copy
import json
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_history import a_history, seen
from uvmm.errors import BadInputError, ConflictError
from uvmm.past import MOMENTS_MAX, past_of, rows_in, rows_of
from uvmm.report import GUESTS_DRAWN, PAGE, make_report, summary_of

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"


def rows(count: int = 5, **guest: Any) -> list[dict[str, Any]]:
    history = a_history()
    for at in range(count):
        history.add(
            seen({"name": "a", "resident_pages": 256 * at, "pages_in": 10 * at, **guest}),
            at_s=1.7e9 + at,
        )
    return list(rows_of(history.told()))


def made(found: list[Any], directory: Path, *, force: bool = False) -> dict[str, Any]:
    return make_report(
        past_of(found), directory, force=force, progress=lambda _done, _total: None
    )


class TestPast:
    def test_rows_are_what_the_history_tells(self) -> None:
        history = a_history()
        history.add(seen({"name": "a", "faults": 3}), at_s=1.0)
        history.add(seen({"name": "a", "faults": 4}, {"name": "b"}), at_s=2.0)
        history.add(seen({"name": "b", "pid": 2}), at_s=3.0)
        first, second, third = rows_of(history.told())
        assert [guest["name"] for guest in second["guests"]] == ["a", "b"]
        assert [guest["name"] for guest in third["guests"]] == ["b"]
        assert first["guests"][0]["faults"] == 3
        assert second["machine"]["total_bytes"] == 1 << 30
        assert (third["number"], third["at_seconds"]) == (3, 3.0)

    def test_columns(self) -> None:
        past = past_of(rows(3))
        (key,) = past.guests
        assert past.of_guest(key, "resident_bytes") == [0, 1 << 20, 2 << 20]
        assert past.of_guests("resident_bytes", "max_bytes")[1] == (1 << 20) + (1 << 30)
        assert past.word("pressure") == ["none"] * 3

    def test_a_guest_that_is_not_there_is_no_number(self) -> None:
        found = rows(2)
        found[0]["guests"] = []
        past = past_of(found)
        assert math.isnan(past.of_guest(past.guests[0], "faults")[0])

    def test_a_long_past_is_thinned_out_and_the_worst_is_kept(self) -> None:
        base = rows(1)[0]
        base["guests"][0]["stall_percent"] = 0

        def many() -> Any:
            for at in range(3 * MOMENTS_MAX):
                row = copy.deepcopy(base)
                row["at_seconds"] += at
                if at == 1000:
                    row["guests"][0]["stall_percent"] = 77.0
                    row["machine"]["state"] = "low"
                yield row

        past = past_of(many())
        assert MOMENTS_MAX // 2 <= len(past.moments) <= MOMENTS_MAX
        assert max(past.of_guest(past.guests[0], "stall_percent")) == 77
        assert past.word("state").count("low") == 1
        assert past.times()[-1] == base["at_seconds"] + 3 * MOMENTS_MAX - 1

    def test_a_last_line_that_was_cut_off_is_left_out(self) -> None:
        lines = [json.dumps(row) + "\n" for row in rows(3)]
        lines[-1] = lines[-1][:50]
        assert len(past_of(rows_in(lines)).moments) == 2
        lines[0] = lines[0][:50] + "\n"
        with pytest.raises(BadInputError, match="line 1 is no JSON"):
            past_of(rows_in(lines))

    @pytest.mark.parametrize(
        "change",
        [
            {"at_seconds": None}, {"at_seconds": "x"}, {"at_seconds": 1e300},
            {"at_seconds": -1}, {"at_seconds": 10**400}, {"started_at": []},
            {"machine": {"total_bytes": "x"}}, {"machine": {"total_bytes": 1e300}},
            {"machine": []}, {"guests": {"name": 1}}, {"guests": [{"name": "a"}]},
            {"guests": [{"name": "a" * 999, "number": 1}]}, {"guests": [7]},
            {"guests": [{"name": "a", "number": True}]}, {"at_seconds": math.nan},
        ],
    )
    def test_what_is_no_sample(self, change: dict[str, Any]) -> None:
        with pytest.raises(BadInputError, match="sample 2 is none"):
            past_of([rows(1)[0], {**rows(1)[0], **change}])

    @settings(max_examples=200, deadline=None)
    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["at_seconds", "started_at", "machine", "guests", "name",
                             "number"]), inner
        ), max_leaves=12,
    ))
    def test_no_json_breaks_it(self, row: Any) -> None:
        with suppress(BadInputError):
            past_of([row])


class TestReport:
    def test_it_is_one_page_and_pictures(self, tmp_path: Path) -> None:
        done = made(rows(), tmp_path / "new")
        assert done["files"] == [PAGE, "machine.png", "stalls.png", "guest-01.png"]
        assert {path.name for path in (tmp_path / "new").iterdir()} == set(done["files"])
        page = (tmp_path / "new" / PAGE).read_text()
        assert page.count("data:image/png;base64,") == 3
        assert not re.search(r"(src|href)=\"(?!data:)", page)
        for name in done["files"][1:]:
            assert (tmp_path / "new" / name).read_bytes().startswith(PNG)
        assert done["guests"][0]["peak_allocated_bytes"] == 4 << 20
        assert done["guests"][0]["pages_in"] == 40

    def test_what_is_called_like_code_is_text(self, tmp_path: Path) -> None:
        found = rows(2)
        for row in found:
            row["guests"] = [
                {**row["guests"][0], "number": at, "name": name}
                for at, name in enumerate((
                    "<script>alert(1)</script>", '"><img src=x>', "$\\frac{1}{$", "_hidden",
                    "../../etc", "\u202eodd \U0001f600", "",
                ))
            ]
        done = made(found, tmp_path)
        page = (tmp_path / PAGE).read_text()
        assert "<script" not in page
        assert "<img src=x" not in page
        assert "&lt;script&gt;" in page
        assert {path.parent for path in tmp_path.rglob("*")} == {tmp_path}
        assert len(done["guests"]) == 7

    def test_many_guests_are_told_and_some_are_drawn(self) -> None:
        found = rows(2)
        for row in found:
            row["guests"] = [
                {**row["guests"][0], "number": at, "name": f"g{at}"}
                for at in range(3 * GUESTS_DRAWN)
            ]
        assert len(summary_of(past_of(found))["guests"]) == 3 * GUESTS_DRAWN

    def test_gaps_and_one_sample_are_drawn(self, tmp_path: Path) -> None:
        found = rows(4)
        for at, state in enumerate(("high", "soft", "low", "low")):
            found[at]["at_seconds"] += 3600 * (at > 1)
            found[at]["machine"]["state"] = state
        done = made(found, tmp_path)
        assert done["state_percent"]["low"] == 50
        made(rows(1), tmp_path, force=True)

    def test_what_it_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="no sample"):
            made([], tmp_path / "none")
        assert not (tmp_path / "none").exists()
        (tmp_path / "kept").write_text("mine")
        with pytest.raises(ConflictError, match="not empty"):
            made(rows(), tmp_path)
        made(rows(1), tmp_path, force=True)
        assert (tmp_path / "kept").read_text() == "mine"
        with pytest.raises(OSError, match=r"Not a directory|File exists"):
            made(rows(), tmp_path / "kept")
