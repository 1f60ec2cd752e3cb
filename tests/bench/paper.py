# SPDX-License-Identifier: MIT
"""The rows of `bench paper`: Waldspurger, OSDI 2002, on real guests."""

from __future__ import annotations

from .figure6 import figure6
from .figure7 import burst, figure7, shares
from .figure8 import figure8

ROWS = {
    "figure6": figure6, "figure7": figure7, "shares": shares, "burst": burst,
    "figure8": figure8,
}
