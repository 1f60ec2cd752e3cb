# SPDX-License-Identifier: MIT
"""How a daemon divides memory: its policy, its sampling, what guests have by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.policy.activity import Sampling
from uvmm.policy.parameters import Defaults
from uvmm.policy.shares import TaxedShares
from uvmm.policy_file import load_policy
from uvmm.policy_settings import defaults, sampling

if TYPE_CHECKING:
    from uvmm.policy.contract import Policy
    from uvmm.settings import Settings


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
