# SPDX-License-Identifier: MIT
"""
A numpy workload with its arrays on guest memory or on ordinary memory:
`numpy_load.py guest|ordinary BYTES`, driven as touch.c is (see probe.py).

The work is the same either way and allocates nothing while it is timed: sums,
a gather, a sort and a product of matrices. A third of the memory each is for
the two operands and the result.
"""

from __future__ import annotations

import json
import os
import sys
import time

# One thread: with more, what is measured is how the others on the machine fare.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

import guestlib

Vector = NDArray[np.float64]

ARRAYS = 3
MATRIX_SIDE = 768
ROUNDS = 3
SEED = 11


def guest_arrays(length: int) -> list[Vector]:
    """Arrays on guest physical memory."""
    memory = np.frombuffer(guestlib.attach().memory, dtype=np.float64)
    return [memory[at * length : (at + 1) * length] for at in range(ARRAYS)]


def ordinary_arrays(length: int) -> list[Vector]:
    """Arrays where numpy puts them."""
    return [np.empty(length, dtype=np.float64) for _ in range(ARRAYS)]


def fill(arrays: list[Vector]) -> None:
    """Write every page of the arrays."""
    random = np.random.default_rng(SEED)
    for array in arrays:
        random.random(out=array)


def work(arrays: list[Vector], order: NDArray[np.intp]) -> float:
    """Do the timed work; returns a figure of the result."""
    a, b, c = arrays
    np.add(a, b, out=c)
    np.multiply(c, a, out=b)
    np.cumsum(b, out=c)
    np.take(a, order, out=c[: len(order)], mode="clip")
    c[: len(order)].sort()
    cells = MATRIX_SIDE * MATRIX_SIDE
    square = (MATRIX_SIDE, MATRIX_SIDE)
    np.matmul(
        a[:cells].reshape(square), b[:cells].reshape(square), out=c[:cells].reshape(square)
    )
    return float(a.sum() + b.sum() + c.sum())


def main() -> None:
    """Open the memory, then run the work once for each line of input."""
    where, size_bytes = sys.argv[1], int(sys.argv[2])
    length = size_bytes // ARRAYS // np.dtype(np.float64).itemsize
    arrays = guest_arrays(length) if where == "guest" else ordinary_arrays(length)
    fill(arrays)
    order = np.random.default_rng(SEED).permutation(length)[: length // 8]
    print(json.dumps({"op": "open"}), flush=True)
    for line in sys.stdin:
        start_ns = time.monotonic_ns()
        for _ in range(ROUNDS):
            result = work(arrays, order)
        figures = {"op": line.strip(), "ns": time.monotonic_ns() - start_ns, "sum": result}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
