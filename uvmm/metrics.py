# SPDX-License-Identifier: MIT
"""The figures for Prometheus, from the table in `uvmm.counters`. Pure: figures in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from uvmm.counters import FAMILIES, GUEST, MACHINE, PREFIX, Counter, value_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from uvmm.schema import Figures

_Family = CounterMetricFamily | GaugeMetricFamily
GUEST_LABEL = "guest"


def exposition(figures: Figures, accept: str) -> tuple[bytes, str]:
    """
    Return the metrics as text, and its type.

    Args:
        figures: What /v1/stats tells.
        accept: The header by which a scraper says which format it takes.
    """
    encode, kind = choose_encoder(accept)
    return encode(_Collected(figures)), kind


class _Collected:
    """What the encoders take for a registry."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield from families(self._figures)


def families(figures: Figures) -> list[Metric]:
    """Return all metrics with their samples."""
    made: dict[str, _Family] = {}
    for counter in MACHINE:
        _add(made, counter, [], counter_values(counter, figures["machine"]))
    for counter in GUEST:
        _add(made, counter, [GUEST_LABEL], ())
        for guest in figures["guests"]:
            _add(made, counter, [GUEST_LABEL], counter_values(counter, guest), guest["name"])
    return list(made.values())


def counter_values(
    counter: Counter, figures: object
) -> Iterable[tuple[tuple[str, ...], float]]:
    """Return the samples of one figure: values of its own label, and the value."""
    value = value_at(figures, counter.key)
    if value is None:
        return
    if counter.words:
        for word in counter.words:
            yield (word,), float(word == value)
    elif isinstance(value, int | float):
        yield (() if counter.label is None else (counter.label[1],)), value * counter.scale


def _add(
    made: dict[str, _Family],
    counter: Counter,
    labels: list[str],
    samples: Iterable[tuple[tuple[str, ...], float]],
    *names: str,
) -> None:
    if not counter.metric:
        return
    family = made.get(counter.metric)
    if family is None:
        kind = CounterMetricFamily if counter.kind == "counter" else GaugeMetricFamily
        own = [] if counter.label is None else [counter.label[0]]
        family = kind(PREFIX + counter.metric, _help(counter), labels=[*labels, *own])
        made[counter.metric] = family
    for own_values, value in samples:
        family.add_metric([*names, *own_values], value)


def _help(counter: Counter) -> str:
    meaning = FAMILIES.get(counter.metric, counter.meaning)
    return meaning[:1].upper() + meaning[1:]
