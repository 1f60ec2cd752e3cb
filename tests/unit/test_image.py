# SPDX-License-Identifier: MIT
"""Which programs can have their heap in guest memory: real files of each kind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uvmm.errors import ProgramError
from uvmm.image import User, check_heap, uses_guest_library

ROOT = User(0, 0)
NOBODY = User(65534, 65534)


def build(tmp_path: Path, *flags: str, source: str = "int main(void) { return 0; }") -> str:
    code, program = tmp_path / "program.c", tmp_path / "program"
    code.write_text(source)
    subprocess.run(["gcc", "-o", program, code, *flags], check=True)
    return str(program)


def refusal(path: str, user: User = ROOT) -> str:
    with pytest.raises(ProgramError) as refused:
        check_heap(path, user)
    assert refused.value.exit_code == 126
    assert "--heap none" in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_ordinary_programs_and_scripts_are_fine(tmp_path: Path) -> None:
    check_heap(build(tmp_path), NOBODY)
    check_heap(sys.executable, ROOT)
    script = tmp_path / "script"
    script.write_text(f"#! {sys.executable} -u\nprint(1)\n")
    check_heap(str(script), ROOT)


def test_static_programs_are_refused(tmp_path: Path) -> None:
    assert "a static program" in refusal(build(tmp_path, "-static"))
    assert "a static program" in refusal(build(tmp_path, "-static-pie", "-fPIE"))


def test_scripts_of_static_interpreters_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{build(tmp_path, '-static')}\n")
    assert "a static program" in refusal(str(script))


def test_32_bit_programs_are_refused(tmp_path: Path) -> None:
    path = Path(build(tmp_path))
    content = bytearray(path.read_bytes())
    content[4] = 1
    path.write_bytes(content)
    assert "a 32-bit program" in refusal(str(path))


def test_programs_that_gain_privileges_are_refused(tmp_path: Path) -> None:
    path = Path(build(tmp_path))
    path.chmod(0o4755)
    assert "set-user-id" in refusal(str(path), NOBODY)
    check_heap(str(path), User(path.stat().st_uid, 0))
    path.chmod(0o2755)
    assert "set-group-id" in refusal(str(path), NOBODY)


def test_damaged_programs_are_refused_and_others_left_to_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"\x7fELF", b"\x7fELF\2\1"):
        path.write_bytes(content)
        assert "a damaged program file" in refusal(str(path))
    for content in (b"", b"echo hi", b"#!", b"#!\n", b"#!\0x", b"#!/bin/true\0x\n"):
        path.write_bytes(content)
        check_heap(str(path), ROOT)


@given(st.binary(max_size=200), st.integers(0, 4000))
@example(b"#!", 0)
def test_damaged_files_are_refused_or_fine(content: bytes, at: int) -> None:
    path = Path(f"/tmp/uvmm-test-image-{id(test_damaged_files_are_refused_or_fine)}")
    whole = bytearray(Path("/bin/true").read_bytes()[:4096])
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    with suppress(ProgramError):
        check_heap(str(path), ROOT)
    path.unlink()


def test_users_of_the_guest_library_are_known(tmp_path: Path) -> None:
    source = "int uvmm_attach(void **g); int main(void) { void *g; return uvmm_attach(&g); }"
    library = "int uvmm_attach(void **g) { return !g; }"
    code, shared = tmp_path / "library.c", tmp_path / "libguest.so"
    code.write_text(library)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shared, code], check=True)
    assert uses_guest_library(build(tmp_path, str(shared), source=source), [])
    python = shutil.which("python3") or sys.executable
    script = tmp_path / "script.py"
    script.write_text("from guestlib import attach\n")
    assert uses_guest_library(python, ["-u", str(script)])
    assert uses_guest_library(str(script), [])
    assert uses_guest_library(python, ["-c", "import guestlib"])
    script.write_text("print(1)\n")
    assert not uses_guest_library(python, [str(script), "x" * 300, "no\udcffsuch"])
