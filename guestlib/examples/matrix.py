# SPDX-License-Identifier: MIT
"""
Matrix products with numpy on guest memory, each checked by Freivalds' method.

    uvmm run --max 128M -- python3 guestlib/examples/matrix.py --order 2048

The entries are whole numbers, small enough that no product is ever rounded. For
c = a b and a few columns r of random numbers, c r = a (b r) holds to the last
bit then, and takes little time to compute. What a r and b r must be is taken
while the entries are made and kept in ordinary memory. A wrong entry of a, b or
c shows, unless all random numbers that it meets are 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

import numpy as np

import guestlib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

ENTRY_MAX = 8
CHECK_COLUMNS = 16
CHECK_MAX = 1000


class Work:
    """Three matrices in guest memory, and what is known of them."""

    def __init__(self, guest: guestlib.Guest, order: int, block: int, seed: int) -> None:
        self._order = order
        self._block = block
        self._random = np.random.default_rng(seed)
        self._columns = self._whole_numbers(CHECK_MAX, order, CHECK_COLUMNS)
        self._a, self._b, self._c = (self._allocate(guest) for _ in range(3))
        self._a_columns = np.zeros_like(self._columns)
        self._b_columns = np.zeros_like(self._columns)
        self.checked_bytes = 0
        self.wrong_rows = 0

    def fill(self) -> None:
        """Put small whole numbers into both factors."""
        for rows in self._blocks():
            for factor, columns in (
                (self._a, self._a_columns), (self._b, self._b_columns)
            ):
                made = self._whole_numbers(ENTRY_MAX, *factor[rows].shape)
                columns[rows] = made @ self._columns
                factor[rows] = made

    def multiply(self) -> None:
        """Compute c = a b, block by block."""
        for rows in self._blocks():
            for columns in self._blocks():
                self._c[rows, columns] = sum(
                    self._a[rows, inner] @ self._b[inner, columns]
                    for inner in self._blocks()
                )

    def check(self) -> None:
        """Compare all three with what they must be, without multiplying again."""
        for matrix, columns in (
            (self._a, self._a_columns),
            (self._b, self._b_columns),
            (self._c, self._a @ self._b_columns),
        ):
            for rows in self._blocks():
                part = matrix[rows]
                # A fraction could be so small that the product loses it.
                wrong = (part @ self._columns != columns[rows]) | (np.rint(part) != part).any(
                    axis=1, keepdims=True
                )
                self.wrong_rows += int(np.count_nonzero(wrong.any(axis=1)))
                self.checked_bytes += part.nbytes

    def renew(self) -> None:
        """Make the product the next factor, with small numbers again."""
        for rows in self._blocks():
            made = self._c[rows] % (2 * ENTRY_MAX + 1) - ENTRY_MAX
            self._b_columns[rows] = made @ self._columns
            self._b[rows] = made

    def _allocate(self, guest: guestlib.Guest) -> Matrix:
        block = guest.allocate(self._order * self._order * 8)
        return np.frombuffer(block.memory, dtype=np.float64).reshape(self._order, -1)

    def _whole_numbers(self, largest: int, rows: int, columns: int) -> Matrix:
        return self._random.integers(
            -largest, largest, (rows, columns), endpoint=True
        ).astype(np.float64)

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, self._order, self._block):
            yield slice(start, start + self._block)


def tell(**words: object) -> None:
    """Write a line for whoever started this program."""
    print(json.dumps(words), flush=True)


def main() -> int:
    """Multiply and check; the exit status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--order", type=int, default=1024, help="rows of each matrix")
    parser.add_argument("--block", type=int, default=256, help="rows of a block")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hold", action="store_true", help="stay until stdin ends")
    given = parser.parse_args()

    work = Work(guestlib.attach(), given.order, given.block, given.seed)
    tell(doing="filling")
    work.fill()
    for number in range(1, given.rounds + 1):
        tell(doing=f"product {number} of {given.rounds}")
        work.multiply()
        work.check()
        work.renew()
    tell(
        checked_bytes=work.checked_bytes, wrong=work.wrong_rows,
        summary=f"{given.rounds} products of order {given.order}",
    )
    if given.hold:
        sys.stdin.read()
    return 1 if work.wrong_rows else 0


if __name__ == "__main__":
    sys.exit(main())
