# SPDX-License-Identifier: MIT
"""Finding the program of `uvmm run`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from uvmm.errors import ProgramError
from uvmm.program import find, guest_name

if TYPE_CHECKING:
    from pathlib import Path


def test_the_path_is_searched_in_order(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").write_text("")
    (tmp_path / "b" / "tool").chmod(0o755)
    search = f"{tmp_path}/a:{tmp_path}/b"
    assert find("tool", search) == f"{tmp_path}/b/tool"
    assert find(f"{tmp_path}/b/tool", "") == f"{tmp_path}/b/tool"


@pytest.mark.parametrize("name", ["", "no-such", "/no/such", "a/b"])
def test_what_is_not_there_is_127(name: str) -> None:
    with pytest.raises(ProgramError) as refused:
        find(name, "/usr/bin:/bin")
    assert refused.value.exit_code == 127


@pytest.mark.parametrize("name", ["x" * 300, "/" + "x" * 300, "a/" * 3000, "a" * 5000])
def test_what_is_too_long_to_be_there_is_127_in_a_short_line(name: str) -> None:
    with pytest.raises(ProgramError, match="no such program") as refused:
        find(name, "/usr/bin:/bin")
    assert refused.value.exit_code == 127
    assert len(str(refused.value)) < 80


def test_directories_that_are_not_ours_to_search_are_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o711)
    for folder, mode in (("theirs", 0o700), ("ours", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").write_text("")
        (tmp_path / folder / "tool").chmod(0o755)
        (tmp_path / folder).chmod(mode)
    os.seteuid(65534)
    try:
        assert find("tool", "theirs:ours") == "ours/tool"
        with pytest.raises(ProgramError, match="no such program"):
            find("theirs/tool", "")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["/etc/passwd", "/etc"])
def test_what_cannot_be_executed_is_126(name: str) -> None:
    with pytest.raises(ProgramError) as refused:
        find(name, "/bin")
    assert refused.value.exit_code == 126


@pytest.mark.parametrize(
    ("path", "name"),
    [("/bin/true", "true"), ("./a b", "a_b"), ("/x/.hidden", "_.hidden"), ("/é", "_")],
)
def test_guests_are_named_after_programs(path: str, name: str) -> None:
    assert guest_name(path) == name
