# SPDX-License-Identifier: MIT
"""Benchmarks: uvmm against its peers, measured in the same run by the same code."""
