# SPDX-License-Identifier: MIT
"""
The commands of `uvmm`, one file a group; `uvmm.cli` puts them together.

Each command imports what it needs when it runs: `uvmm run` is on the way of every
program that is started by it.
"""
