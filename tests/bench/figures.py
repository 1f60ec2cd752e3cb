# SPDX-License-Identifier: MIT
"""
What a benchmark found and whether that is good enough: values in, values out.

A row holds one value a repetition for uvmm and one for its peer. The two of a
repetition were measured next to each other, so the ratio is taken there, and
the median and the spread are those of the ratios: what disturbed the whole
machine for a while disturbs both sides of a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound that the median has to keep."""

    limit: float
    at_most: bool  # else at least

    def met_by(self, value: float) -> bool:
        """Tell whether *value* keeps the bound."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"


def at_most(limit: float) -> Target:
    """Make the target "no more than *limit*"."""
    return Target(limit=limit, at_most=True)


def at_least(limit: float) -> Target:
    """Make the target "no less than *limit*"."""
    return Target(limit=limit, at_most=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median with the smallest and the largest value seen."""

    median: float
    low: float
    high: float


def spread_of(values: tuple[float, ...]) -> Spread:
    """
    Sum up *values*.

    Raises:
        ValueError: If there are none.
    """
    if not values:
        raise ValueError("no values to sum up")
    return Spread(median=median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One line of the table.

    `ratio` is uvmm / peer; with `speedup`, where the figures are times and the
    question is how much faster, peer / uvmm. A row without a peer has no ratio,
    and its target bounds the figure itself.
    """

    key: str
    what: str
    unit: str
    uvmm: tuple[float, ...]
    peer_name: str = ""
    peer: tuple[float, ...] = ()
    speedup: bool = False
    target: Target | None = None

    def __post_init__(self) -> None:
        """Refuse values that do not pair up."""
        if self.peer and len(self.peer) != len(self.uvmm):
            raise ValueError(
                f"{self.key}: {len(self.uvmm)} values of uvmm, {len(self.peer)} of its peer"
            )

    @property
    def ratio(self) -> Spread | None:
        """The ratios of the repetitions; None without a peer."""
        if not self.peer:
            return None
        pairs = zip(self.uvmm, self.peer, strict=True)
        if self.speedup:
            return spread_of(tuple(peer / uvmm for uvmm, peer in pairs))
        return spread_of(tuple(uvmm / peer for uvmm, peer in pairs))

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        judged = self.ratio or spread_of(self.uvmm)
        return self.target.met_by(judged.median)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """A line of the table that could not be filled, and why."""

    key: str
    reason: str


def column(samples: list[dict[str, float]], name: str, scale: float = 1.0) -> tuple[float, ...]:
    """Take one figure out of each repetition, times *scale*."""
    return tuple(sample[name] * scale for sample in samples)
