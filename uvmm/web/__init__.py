# SPDX-License-Identifier: MIT
"""The web page, and the API on loopback TCP for it (`uvmm up --http PORT`)."""
