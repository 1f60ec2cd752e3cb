# SPDX-License-Identifier: MIT
"""Decisions: values in, values out. No I/O, no clock, no thread, no global."""
