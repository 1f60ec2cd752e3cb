# SPDX-License-Identifier: MIT
"""Looking inside guests: the channel to the daemon, and the inspection filesystem."""
