# SPDX-License-Identifier: MIT
"""Unmodified programs that are timed as they are and as guests, each a whole command."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = "/usr/bin/python3"
_LINES = 4_000_000
_SEED = 1

_NUMPY = """
import numpy as np
random = np.random.default_rng(1)
for turn in range(6):
    a = random.random(4_000_000)
    b = np.sqrt(a) * 2 + a[::-1]
    order = np.argsort(b)
    c = np.concatenate([a[order], b[order]])
    m = a[:360_000].reshape(600, 600)
    print((m @ m.T).shape, c.size, round(float(c.sum()), 3))
"""

_CPLUSPLUS = """
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <regex>
#include <unordered_map>
template <int N> struct table : table<N - 1> { std::map<int, std::array<int, N>> of; };
template <> struct table<0> {};
int main() {
  std::map<std::string, int> m; std::regex r("a+b|c*d");
  table<160> t; t.of[1] = {};
  m["x"] = std::regex_match("aab", r);
  for (auto &[k, v] : m) std::cout << k << v << std::endl;
}
"""

# Answers as a probe does (see probe.py).
GREEDY = """
import json, sys
held = [bytes(100 + at % 1500) for at in range(400_000)]
print(json.dumps({"op": "open"}), flush=True)
for line in sys.stdin:
    del held[: len(held) * 9 // 10]
    print(json.dumps({"op": "free"}), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command; what it executes is a guest, too, with `follow`."""

    key: str
    argv: tuple[str, ...]
    follow: bool = False
    repeats_itself: bool = True  # says the same every time


def jobs(folder: Path) -> list[Job]:
    """Write what the programs read to *folder*, and tell how they are run."""
    words = random.Random(_SEED)
    lines = folder / "lines"
    lines.write_text(
        "".join(f"{words.getrandbits(64):x} {at}\n" for at in range(_LINES))
    )
    source = folder / "program.cc"
    source.write_text(_CPLUSPLUS)
    numpy = folder / "arrays.py"
    numpy.write_text(_NUMPY)
    return [
        Job(
            key="python tests", repeats_itself=False,
            argv=(PYTHON, "-m", "test", "-q", "test_dict", "test_list", "test_bytes",
                  "test_json", "test_zlib"),
        ),
        Job(
            key="g++", follow=True,
            argv=("g++", "-std=c++20", "-O2", "-c", "-o", "/dev/null", str(source)),
        ),
        Job(key="sort", argv=("sort", "-S", "600M", "-o", "/dev/null", str(lines))),
        Job(key="numpy", argv=(sys.executable, str(numpy))),
    ]
