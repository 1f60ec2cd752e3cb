# SPDX-License-Identifier: MIT
"""How a daemon divides memory: its policy, its sampling, what guests have by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvmm.policy.activity import Sampling
from uvmm.policy.parameters import Defaults
from uvmm.policy.shares import TaxedShares
from uvmm.policy_file import load_policy
from uvmm.policy_settings import defaults, sampling
from uvmm.settings import (
    http_port,
    idle_cost_permille,
    low_memory_bytes,
    remap_after,
    share_cpu_permille,
)

if TYPE_CHECKING:
    from uvmm.policy.contract import Policy
    from uvmm.settings import Settings, Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a daemon goes by for as long as it runs."""

    policy: Policy
    sampling: Sampling
    defaults: Defaults


USUAL_RULES = Rules(policy=TaxedShares(), sampling=Sampling(), defaults=Defaults())


def rules_of(settings: Settings) -> Rules:
    """
    Return the rules that *settings* mean.

    Raises:
        BadInputError: If a value cannot be meant, or the file of a policy fails.
    """
    given = settings.policy
    return Rules(
        policy=USUAL_RULES.policy if given is None else load_policy(Path(given)),
        sampling=sampling(settings), defaults=defaults(settings),
    )


def in_force(settings: Settings, sizes: Sizes, rules: Rules) -> dict[str, Any]:
    """Return a daemon's settings as they came out, by name and unit."""
    return {
        "run_dir": settings.run_dir,
        "memory_bytes": sizes.memory_bytes,
        "swap": str(sizes.swap_path or "none"),
        "swap_bytes": sizes.swap_bytes,
        "memory_via": settings.memory_via or "any",
        "group": settings.group or "none",
        "share_cpu_percent": share_cpu_permille(settings) / 10,
        "idle_cost_percent": idle_cost_permille(settings) / 10,
        "low_memory_bytes": low_memory_bytes(settings, sizes.memory_bytes),
        "remap_after": remap_after(settings),
        "http_port": "none" if settings.http is None else http_port(settings),
        "policy": settings.policy or "built in",
        "sample_pages": rules.sampling.pages,
        "sample_seconds": rules.sampling.period_s,
        "tax_percent": round(100 * rules.defaults.tax, 1),
        "balloon_max": rules.defaults.balloon_max,
    }
