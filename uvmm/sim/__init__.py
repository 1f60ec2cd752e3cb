# SPDX-License-Identifier: MIT
"""A model machine with model guests and a model clock, which runs uvmm's own policy."""
