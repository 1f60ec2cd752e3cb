# SPDX-License-Identifier: MIT
"""Who may import whom: the boundaries that keep decisions apart from the world."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import uvmm

ROOT = Path(uvmm.__file__).parent
PURE = ["units", "errors", "model", "views", "settings", "policy"]
WORLD = {"os", "time", "threading", "random", "socket", "subprocess", "asyncio", "datetime"}
LINES_MAX = 500


def sources(name: str = "") -> list[Path]:
    if name and (ROOT / f"{name}.py").exists():
        return [ROOT / f"{name}.py"]
    return sorted((ROOT / name).rglob("*.py"))


def file_of(module: str) -> Path:
    """Where a module below uvmm would be."""
    return ROOT / f"{module.replace('.', '/')}.py"


def imported(source: Path) -> set[str]:
    """Modules that *source* names, below TYPE_CHECKING or not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", PURE)
def test_decisions_touch_nothing_of_the_world(name: str) -> None:
    for source in sources(name):
        assert not imported(source) & WORLD, source


@pytest.mark.parametrize("name", ["policy", "model", "units"])
def test_policy_knows_only_its_language(name: str) -> None:
    allowed = ("uvmm.policy", "uvmm.model", "uvmm.units", "uvmm.errors")
    for source in sources(name):
        for module in imported(source):
            if module.startswith("uvmm"):
                assert module.startswith(allowed), (source, module)


def test_one_door_to_c() -> None:
    users = [s.name for s in sources() if "uvmm._core" in imported(s)]
    assert users == ["core.py", "core_look.py"]


def test_only_the_daemon_knows_both_policy_and_core() -> None:
    def knows(source: Path, what: str) -> bool:
        return any(f"{module}.".startswith(f"uvmm.{what}.") for module in imported(source))

    both = [s.name for s in sources() if knows(s, "policy") and knows(s, "core")]
    assert both == ["daemon.py"]


def test_the_way_of_uvmm_run_is_short() -> None:
    """What every started program waits for imports nothing heavy."""
    heavy = {"fastapi", "uvicorn", "pydantic", "rich", "asyncio", "cffi", "subprocess"}
    seen: set[str] = set()
    queue = ["launch", "cli"]
    while queue:
        source = file_of(queue.pop())
        tree = ast.parse(source.read_text())
        # Top level only: what functions import is on nobody's way.
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module} | {f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                continue
            assert not {name.split(".")[0] for name in names} & heavy, source
            for name in names - seen:
                seen.add(name)
                own = name.removeprefix("uvmm.")
                if name.startswith("uvmm.") and file_of(own).exists():
                    queue.append(own)


def test_files_are_short_and_product_needs_only_what_it_declares() -> None:
    declared = {"anyio", "cffi", "click", "fastapi", "matplotlib", "mfusepy",
                "prometheus_client", "pydantic", "rich", "starlette", "textual",
                "typer", "typing_extensions", "uvicorn", "uvmm"}
    for source in sources():
        assert len(source.read_text().splitlines()) <= LINES_MAX, source
        for module in imported(source):
            top = module.split(".")[0]
            assert top in declared or top in sys.stdlib_module_names, (source, top)
