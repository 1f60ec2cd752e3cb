# SPDX-License-Identifier: MIT
"""
The words of the look channel: how bulk, such as guests' memory, is asked of the daemon.

A request is a JSON object in one line, {"op": ..., ...}; an answer is a head (an errno or
0, and how many bytes follow) and so many bytes: what was asked for, or, with an errno, the
reason in words. Requests of one connection are answered in their order.

    guests                        JSON: [{id, name, uid, pages, attached}]
    window                        a descriptor comes with the answer: memory of `WINDOW_BYTES`
                                  that this connection has in common with the daemon
    memory   guest, ppn, pages    contents, at most `PEEK_PAGES`, go into the window
    pages    guest, ppn, pages    a word a page, at most `WORDS`
    runs     guest, ppn           where to go on, and runs: first page, pages, state
    groups                        JSON: [name]
    frames   group, first         number, hash, references of frames, ascending
    frame    group, frame, hash   its 4096 bytes
    refs     group, first, end    frame, guest, page of each reference, ascending
"""

from __future__ import annotations

import struct

REQUEST_BYTES = 4096
PEEK_PAGES = 512
WINDOW_BYTES = PEEK_PAGES * 4096
WORDS = 1 << 17
HEAD = struct.Struct("<qQ")
WORD = struct.Struct("<Q")
RUN = struct.Struct("<QQQ")  # a page, how many from there, enum uvmm_map_state
FRAME = struct.Struct("<QQQ")  # its number, hash, references
REF = struct.Struct("<QQQ")  # the frame, a guest's id, its page
STATES = (
    "resident", "split", "shared", "ballooned", "compressed", "swapped", "far", "damaged",
    "untouched", "low",
)
