# SPDX-License-Identifier: MIT
"""What an engine is started with, and what a guest is registered with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine is started with; `group` None leaves the guest socket as it is."""

    run_dir: Path
    swap_path: Path | None
    memory_pages: int
    swap_pages: int
    via: str
    group: int | None
    share_cpu_permille: int
    idle_cost_permille: int
    low_pages: int = 0
    remap_after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """What a guest is registered with; `share_group` "" shares with nobody."""

    name: str
    token: bytes
    pid: int
    uid: int
    gid: int
    min_pages: int
    max_pages: int
    target_pages: int
    share_group: str
    kin: bool = False
