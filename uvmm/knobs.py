# SPDX-License-Identifier: MIT
"""
Everything that can be set, once: its default, what it means, and why it is what it is.

docs/knobs.md is made from this table (`python -m uvmm.documents`), and so is the file that
`uvmm config --init` writes. Tests hold that it has what the commands and the file take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from uvmm.history import MEMORY_PART
from uvmm.policy.activity import PERIOD_S, SAMPLE_PAGES
from uvmm.policy.parameters import (
    BALLOON_MAX_PERCENT,
    DEFAULT_SHARES,
    DEFAULT_TAX,
    SHARES_PER_MIB,
)
from uvmm.rundir import DEFAULT_RUN_DIR, RUN_DIR_VARIABLE
from uvmm.settings import (
    DEFAULT_IDLE_COST_PERMILLE,
    DEFAULT_LOW_PART,
    DEFAULT_MEMORY_BYTES,
    DEFAULT_RAM_PERCENT,
    DEFAULT_REMAP_AFTER,
    DEFAULT_SHARE_CPU_PERMILLE,
    DEFAULT_SWAP_TIMES,
    LARGEST_PORT,
    SMALLEST_MEMORY_BYTES,
    VIA,
)
from uvmm.units import format_size

_TIMES = {2: "twice"}
_LINK = re.compile(r"\[[^]]*\]\(([^)]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """
    Something that can be set.

    `key` is its name in the file, empty if it cannot be there; `example` is what the file
    could say, in TOML.
    """

    option: str
    default: str
    meaning: str
    reason: str
    key: str = ""
    example: str = ""


# Of `uvmm up`.
DAEMON = (
    Knob(
        option="--memory", key="memory", example='"2G"',
        default=f"{DEFAULT_RAM_PERCENT}% of RAM, at least {format_size(DEFAULT_MEMORY_BYTES)}",
        meaning="machine memory: what all guests, and the daemon itself, may hold. "
        f"Percentages are of RAM; at least {format_size(SMALLEST_MEMORY_BYTES)}",
        reason="what other programs of the machine need is left to them",
    ),
    Knob(
        option="--swap", key="swap", example='"/var/tmp/uvmm.swap"',
        default="`/var/tmp/uvmm-<hash>.swap`",
        meaning="the swap file; made at its full size at start, removed at the end. A file "
        "that exists is not replaced without `--force`. A relative path is one from the "
        "working directory; in the file, from the file's directory",
        reason="on a disk, and one a run directory",
    ),
    Knob(
        option="--swap-size", key="swap_size", example='"4G"',
        default=f"{_TIMES[DEFAULT_SWAP_TIMES]} the memory, at most half of the free disk",
        meaning="percentages are of `--memory`; 0 for none",
        reason="all guests together are promised memory and swap, so they may be three times "
        "as large as memory",
    ),
    Knob(
        option="--memory-via", key="memory_via", example=f'"{VIA[0]}"',
        default=f"`{VIA[0]}`, else `{VIA[1]}`",
        meaning="how guests get their memory; given, it is not fallen back from",
        reason="as a file it can be seen and is bound to its guest; a descriptor needs no "
        "passthrough",
    ),
    Knob(
        option="--share-cpu", key="share_cpu", example='"5%"',
        default=f"{DEFAULT_SHARE_CPU_PERMILLE / 10:g}%",
        meaning="of one CPU, at most, to look for pages that are alike; less where few are, "
        "and a tenth of it while all CPUs are busy and memory is not short. 0: only on request",
        reason="nobody should notice it; what is found in an hour is worth more than CPU",
    ),
    Knob(
        option="--idle-cost", key="idle_cost", example='"0.4%"',
        default=f"{DEFAULT_IDLE_COST_PERMILLE / 10:g}%",
        meaning="of a guest's CPU time, or of one CPU if it uses less, to find out which of "
        "its pages are idle; half of it while memory is plentiful. 0: never looked for, and "
        "pages are reclaimed at random",
        reason="well below what a wrong choice costs, which is a load from the swap file",
    ),
    Knob(
        option="--low-memory", key="low_memory", example='"6%"',
        default=f"1/{DEFAULT_LOW_PART} of memory",
        meaning="of machine memory, at most, for pages that devices reach without a copy; "
        "guests with disks have parts of it by their shares. It is pinned while it is "
        "used. See [disks.md](disks.md)",
        reason="few buffers are in use again and again; what is pinned nobody else gets",
    ),
    Knob(
        option="--remap-after", key="remap_after", example=f"{DEFAULT_REMAP_AFTER}",
        default=f"{DEFAULT_REMAP_AFTER}",
        meaning="copies of a page for a disk, within ten seconds or so, until it moves into "
        "low memory. 0: never",
        reason="a move costs as much as a few copies",
    ),
    Knob(
        option="--policy", key="policy", example='"policy.py"', default="uvmm's own",
        meaning="a Python file with another policy; see [policy.md](policy.md). A relative "
        "path is meant as that of `--swap`",
        reason="it is a program, and does what root may do: only root can name it",
    ),
    Knob(
        option="--sample-pages", key="sample_pages", example=f"{SAMPLE_PAGES}",
        default=f"{SAMPLE_PAGES}",
        meaning="of each guest, drawn at random and watched, to estimate what it uses",
        reason="an error of 10 points at most, 19 times of 20",
    ),
    Knob(
        option="--sample-seconds", key="sample_seconds", example=f"{PERIOD_S:g}",
        default=f"{PERIOD_S:g}",
        meaning="for so long of its execution, and at most twice that by the clock",
        reason="longer is steadier, and later",
    ),
    Knob(
        option="--tax", key="tax", example=f'"{100 * DEFAULT_TAX:g}%"',
        default=f"{100 * DEFAULT_TAX:g}%",
        meaning="on idle memory, of guests that ask for nothing else; 0% to 99%",
        reason="a quarter of what is idle is left, which hides how long reclaim takes",
    ),
    Knob(
        option="--balloon-max", key="balloon_max", example=f'"{BALLOON_MAX_PERCENT}%"',
        default=f"{BALLOON_MAX_PERCENT}%",
        meaning="of a guest's max, that its balloon may take, of guests that ask for nothing "
        "else",
        reason="more than this an allocator cannot give without pain",
    ),
    Knob(
        option="--http", key="http", example="8080", default="none",
        meaning=f"a port (1 to {LARGEST_PORT}, 0 for any that is free) of 127.0.0.1 on which "
        "the web page, /metrics and the control API are served to whoever has the token; "
        "`uvmm web` prints the address",
        reason="what is not served cannot be attacked",
    ),
    Knob(
        option="--group", key="group", example='"adm"', default="none",
        meaning="a group that may control the daemon, and read the token, too",
        reason="whoever controls it can take memory from any guest",
    ),
    Knob(
        option="--run-dir", default=f"`{DEFAULT_RUN_DIR}`, or `{RUN_DIR_VARIABLE}`",
        meaning="one daemon serves each", reason="in RAM, and gone with the machine",
    ),
    Knob(
        option="--config", default="none", meaning="a TOML file with what is named here; an "
        "option goes before it", reason="nothing is read that was not asked for",
    ),
    Knob(
        option="--foreground", default="off", meaning="do not return; for systemd and the like",
        reason="by hand one wants the prompt back",
    ),
    Knob(
        option="--force", default="off",
        meaning="end the guests that a killed daemon left; replace an existing swap file",
        reason="both may be somebody's",
    ),
)

# Of `uvmm run`, and those that `uvmm set` can change.
GUEST = (
    Knob(
        option="--name", default="the program's; `-2`, `-3` if taken",
        meaning="letters, digits and `_.+-`, at most 63", reason="it is a file's name, too",
    ),
    Knob(
        option="--min", key="min", default="0",
        meaning="never reclaimed below it; all mins together must fit into machine memory",
        reason="what is guaranteed is kept from others, used or not",
    ),
    Knob(
        option="--max", key="max", default="memory + swap",
        meaning="size of its memory, in steps of 2M; percentages are of machine memory. "
        "`uvmm set` can lower what it may hold of that",
        reason="most programs do not know what they will need",
    ),
    Knob(
        option="--shares", key="shares", default=f"{DEFAULT_SHARES}",
        meaning="weight when memory is short: a number, or "
        + ", ".join(f"`{word}`" for word in SHARES_PER_MIB)
        + f" ({', '.join(str(one) for one in SHARES_PER_MIB.values())} for each MiB of max)",
        reason="all alike until somebody says otherwise",
    ),
    Knob(
        option="--tax", key="tax", default="the daemon's",
        meaning="on its idle memory: at 75% an idle page costs as many shares as 4 in use",
        reason="see the daemon's",
    ),
    Knob(
        option="--balloon-max", key="balloon_max", default="the daemon's",
        meaning="the most that its balloon takes; beyond it is paged",
        reason="see the daemon's",
    ),
    Knob(
        option="--heap", default="`auto`",
        meaning="whose memory malloc and mmap give the program: see "
        "[programs.md](programs.md)",
        reason="programs that use the guest library get their memory from that",
    ),
    Knob(
        option="--follow", default="off",
        meaning="what the program executes are guests of their own",
        reason="a shell's helpers are many, and small",
    ),
    Knob(
        option="--share-group", default="its user's",
        meaning="with whom it shares pages: all guests of that group; `off`: with none, not "
        "even its own. See [security.md](security.md)",
        reason="users' secrets are to be told from others' by nobody",
    ),
    Knob(
        option="--user", default="the caller", meaning="whom the program runs as (root only)",
        reason="guests need no root",
    ),
    Knob(
        option="--disk", default="none",
        meaning="NAME=FILE: an image, raw or sparse, or a block device, that is a disk of the "
        "guest by that name; with `,ro` it is only read, and may be so by many guests; "
        "repeatable. See [disks.md](disks.md)",
        reason="a guest reaches no file by itself",
    ),
)

# Not to be set: name, value, why.
FIXED = (
    ("history of figures", "a sample a second for 10 minutes, one every 10 s for 4 hours",
     f"what the page and a report show; 1/{MEMORY_PART} of machine memory, 1M to 32M, bounds "
     "it: with many guests it reaches back less far"),
)


def config_text() -> str:
    """Return a configuration file in which every setting is explained, and none is set."""
    lines = [
        "# Settings of a uvmm daemon: uvmm up --config THIS-FILE",
        "#",
        "# A line that begins with '#' and a word is a setting: without the '#' it is set.",
        "# Sizes are bytes, or have a unit: 64M, 1.5G (powers of 1024), or a percentage.",
        "# Options of the command line go before this file.",
    ]
    for knob in DAEMON:
        if not knob.key:
            continue
        words = f"{knob.meaning}. Default: {knob.default}.".replace("`", "")
        words = _LINK.sub(r"docs/\1", words)
        lines += ["", *_folded(words), f"#{knob.key} = {knob.example}"]
    return "\n".join(lines) + "\n"


def _folded(words: str, width: int = 88) -> list[str]:
    lines, line = [], "#"
    for word in words.split():
        if len(line) + 1 + len(word) > width:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line]
