# SPDX-License-Identifier: MIT
"""Policies of users: what a file must define, and what is not obeyed."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.policy_samples import MIB, a_seen, an_observation
from uvmm import policy_file
from uvmm.errors import BadInputError
from uvmm.policy.contract import TRIALS, Guarded, UnsoundError, accept, check
from uvmm.policy.course import Course, advance
from uvmm.policy.decision import decision_of
from uvmm.policy.shares import TaxedShares
from uvmm.policy_file import load_policy

if TYPE_CHECKING:
    from uvmm.policy.decision import Decision
    from uvmm.policy.observation import Observation

ROOT = Path(__file__).parents[2]
SEEN = an_observation(
    a_seen(id=1, min_pages=64 * MIB), a_seen(id=2), available_pages=1024 * MIB
)
SOUND = """
from uvmm.policy.decision import decision_of

class Mins:
    name = "mins only"
    def decide(self, seen):
        mins = [guest.parameters.min_pages for guest in seen.guests]
        return decision_of(seen, mins, ["its min"] * len(mins))

policy = Mins()
"""


def decided(*targets: Any, why: Any = "because") -> Decision:
    return decision_of(SEEN, targets, [why, why])


class TestCheck:
    def test_what_is_sound_passes(self) -> None:
        decision = decided(64 * MIB, 900 * MIB)
        assert check(SEEN, decision) is decision

    @pytest.mark.parametrize(
        ("decision", "said"),
        [
            (None, "expected a Decision, got NoneType"),
            ({1: 5}, "expected a Decision, got dict"),
            (replace(decided(64 * MIB, 0), verdicts=()), "a verdict for each of 2 guests"),
            (decision_of(replace(SEEN, guests=SEEN.guests[::-1]), (64 * MIB, 64 * MIB), "ab"),
             "for others or in another order"),
            (decided(63 * MIB, 0), "the target of g1, 63M, is not between its min 64M"),
            (decided(64 * MIB, 1025 * MIB), "and its max 1G"),
            (decided(64 * MIB, -1), "the target of g2, -1 pages, is not between"),
            (decided(512 * MIB, 513 * MIB), "targets add up to 1G"),
            (decided(64 * MIB, 1.5), "must be a whole number of pages, not '1.5'"),
            (decided(64 * MIB, True), "must be a whole number of pages, not 'True'"),
            (decided(64 * MIB, 0, why=None), "must be words, not 'None'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, decision: object, said: str) -> None:
        with pytest.raises(UnsoundError, match=re.escape(said)):
            check(SEEN, decision)

    def test_all_trials_are_passed_by_our_own(self) -> None:
        for seen in TRIALS:
            check(seen, TaxedShares().decide(seen))


class _Sometimes:
    """Sound while it is tried, and not later."""

    name = "sometimes"

    def __init__(self) -> None:
        self.sound = True

    def decide(self, seen: Observation) -> Decision:
        if self.sound:
            return TaxedShares().decide(seen)
        raise KeyError("oh\nno")


def test_a_policy_that_fails_is_replaced_and_that_is_said() -> None:
    user = _Sometimes()
    policy = accept(user)
    assert isinstance(policy, Guarded)
    first = advance(Course(), SEEN, policy).decision
    user.sound = False
    second = advance(Course(), SEEN, policy).decision
    assert first is not None
    assert second is not None
    assert first.policy == "sometimes"
    assert second.policy == r"sometimes failed (KeyError: 'oh\nno'), so it was " + (
        TaxedShares.name
    )
    assert first.verdicts == second.verdicts


class TestFile:
    def loaded(self, tmp_path: Path, text: str) -> Guarded:
        path = tmp_path / "mine.py"
        path.write_text(text)
        policy = load_policy(path)
        assert isinstance(policy, Guarded)
        return policy

    def test_a_policy(self, tmp_path: Path) -> None:
        policy = self.loaded(tmp_path, SOUND)
        assert policy.name == "mins only"
        verdicts = policy.decide(SEEN).verdicts
        assert [verdict.target_pages for verdict in verdicts] == [64 * MIB, 0]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "defines no 'policy': expected an object with a name and a method"),
            ("x = 1\ny = = 2\n", "line 2: no Python: invalid syntax"),
            ("x = '\0'", ": no Python: "),
            ("x = 1\nimport nothing_of_that_name\n", "(line 2)"),
            ("exit(3)", "failed: SystemExit: 3 (line 1)"),
            ("1/0", "failed: ZeroDivisionError: division by zero (line 1)"),
            ("policy = 5", "its name must be a line of text, not 'None'"),
            ("class policy:\n  name = 'a'\n", "it has no method decide(seen)"),
            (SOUND.replace("mins only", "a\\nb"), "its name must be a line of text"),
            (SOUND.replace("mins only", "a" * 41), "longer than 40 characters"),
            (SOUND.replace("def decide(self, seen)", "def decide(self)"),
             "failed in a trial with 0 guests: TypeError"),
            (SOUND.replace(".min_pages", ".max_pages"),
             "failed in a trial with 3 guests: targets add up to 3G, but 944M is available"),
            (SOUND.replace("return ", ""), "expected a Decision, got NoneType"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(BadInputError) as refused:
            self.loaded(tmp_path, text)
        assert said in str(refused.value)
        assert str(refused.value).startswith(f"--policy {tmp_path}/mine.py")

    def test_what_takes_too_long_has_failed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(policy_file, "LOAD_S", 0.2)
        monkeypatch.setattr(policy_file, "DECIDE_S", 0.2)
        wait = "import time\n"
        with pytest.raises(BadInputError, match=r"took longer than 0\.2 s"):
            self.loaded(tmp_path, wait + "time.sleep(1)\n" + SOUND)
        slow = SOUND.replace("return ", "time.sleep(1); return ", 1)
        with pytest.raises(BadInputError, match="in a trial with 0 guests: TooLateError"):
            self.loaded(tmp_path, wait + slow)
        once = SOUND.replace(
            "return ", "time.sleep(1) if seen.now_ns == 7 else None; return ", 1
        )
        policy = self.loaded(tmp_path, wait + once)
        late = replace(SEEN, now_ns=7)
        assert "took longer" in policy.decide(late).policy
        # It is still at it: nobody waits for the next one.
        assert "has not decided for more than" in policy.decide(SEEN).policy
        time.sleep(1.2)
        assert policy.decide(SEEN).policy == "mins only"

    def test_it_cannot_interrupt_the_daemon(self, tmp_path: Path) -> None:
        stop = "if seen.now_ns == 7: raise KeyboardInterrupt\n        return "
        policy = self.loaded(tmp_path, SOUND.replace("return ", stop, 1))
        assert "KeyboardInterrupt" in policy.decide(replace(SEEN, now_ns=7)).policy
        with pytest.raises(BadInputError, match="KeyboardInterrupt"):
            self.loaded(tmp_path, "raise KeyboardInterrupt")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="No such file"):
            load_policy(tmp_path / "none.py")
        with pytest.raises(BadInputError, match="Is a directory"):
            load_policy(tmp_path)

    def test_too_large(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="larger than 1M"):
            self.loaded(tmp_path, "#" * ((1 << 20) + 1))

    def test_the_example_of_the_manual_works(self, tmp_path: Path) -> None:
        manual = (ROOT / "docs" / "policy.md").read_text()
        (example,) = re.findall(r"```python\n(.*?)```", manual, re.DOTALL)
        policy = self.loaded(tmp_path, example)
        first, second = policy.decide(SEEN).verdicts
        assert first.target_pages + second.target_pages <= SEEN.available_pages
