# SPDX-License-Identifier: MIT
"""`python -m uvmm` is `uvmm`."""

from uvmm.cli import main

main()
