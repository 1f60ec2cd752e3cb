# SPDX-License-Identifier: MIT
"""
The rows of `bench paper`: figures of Waldspurger, Memory Resource Management in VMware ESX
Server, OSDI 2002, on real guests. Each module measures one, and draws it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import paper_figure2
from .figure6 import figure6
from .figure7 import burst, figure7, shares
from .figure8 import figure8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .figures import Row
    from .stage import Stage

ROWS: Mapping[str, Callable[[Stage], list[Row]]] = {
    "figure2": paper_figure2.figure2,
    "figure6": figure6,
    "figure7": figure7,
    "shares": shares,
    "burst": burst,
    "figure8": figure8,
}
