# SPDX-License-Identifier: MIT
"""Finding the program of `uvmm run`."""

from __future__ import annotations

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
