# SPDX-License-Identifier: MIT
"""What numpy and pandas keep memory for: joins, groups, sorting, strings, matrices."""

import hashlib

import numpy as np
import pandas as pd

ROWS = 200_000
KEYS = 20_000

random = np.random.default_rng(1)
left = pd.DataFrame({
    "key": random.integers(0, KEYS, ROWS),
    "x": random.integers(0, 10**6, ROWS),
    "word": random.integers(0, 10**9, ROWS).astype(str),
})
right = pd.DataFrame({
    "key": np.arange(KEYS), "name": [f"n{key * 7919 % 20011}" for key in range(KEYS)],
})
joined = left.merge(right, on="key").sort_values(["name", "x", "word"], kind="stable")
groups = joined.groupby("name", sort=True).agg(
    count=("x", "count"), sum=("x", "sum"), last=("word", "max")
)
table = joined.pivot_table(index="key", values="x", aggfunc="max")
matrix = random.integers(0, 1000, (400, 400))
text = groups.to_csv() + table.to_csv() + joined.head(5000).to_csv(index=False)
for array in (np.frombuffer(text.encode(), np.uint8), np.sort(joined["x"]), matrix @ matrix):
    print(array.nbytes, hashlib.sha256(array.tobytes()).hexdigest())
