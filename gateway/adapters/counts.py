"""Plain numbers that the hot path adds to: counters and histograms without locks, labels objects or text.

A worker is one thread, so adding to an integer is all it takes. The numbers become Prometheus' text only when somebody
asks (`metrics.py`), and survive the worker as one small JSON object.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

Labels = tuple[str, ...]
# From a local upstream's first byte to an agent's longest answer.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# A round trip on one machine takes 0.2 ms.
STORE_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
# Labels come from requests in part (models): beyond this many series of one family, the rest is counted as "other".
GREATEST_SERIES = 2_000
OTHER = "other"


class Counter:
    """A family of sums that only grow."""

    __slots__ = ("labels", "name", "text", "values")

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1) -> None:
        """Add to one series."""
        values = self.values
        if labels in values:
            values[labels] += amount
        elif len(values) < GREATEST_SERIES:
            values[labels] = amount
        else:
            rest = (OTHER,) * len(self.labels)
            values[rest] = values.get(rest, 0) + amount

    def state(self) -> list[list[Any]]:
        """What `restore` takes."""
        return [[list(labels), value] for labels, value in self.values.items()]

    def restore(self, state: list[list[Any]]) -> None:
        """Add what another object of the same family counted."""
        for labels, value in state:
            if len(labels) == len(self.labels):
                self.add(tuple(labels), value)


class Histogram:
    """A family of distributions of seconds."""

    __slots__ = ("bounds", "labels", "name", "text", "values")

    def __init__(self, name: str, text: str, labels: Labels = (), bounds: tuple[float, ...] = SECONDS) -> None:
        self.name, self.text, self.labels, self.bounds = name, text, labels, bounds
        self.values: dict[Labels, list[float]] = {}  # one number a bucket, then the one above all, then the sum

    def observe(self, labels: Labels, seconds: float) -> None:
        """Count one duration."""
        row = self.values.get(labels)
        if row is None:
            if len(self.values) >= GREATEST_SERIES:
                labels = (OTHER,) * len(self.labels)
            row = self.values.setdefault(labels, [0] * (len(self.bounds) + 1) + [0.0])
        row[bisect_left(self.bounds, seconds)] += 1
        row[-1] += seconds

    def state(self) -> list[list[Any]]:
        """What `restore` takes."""
        return [[list(labels), list(row)] for labels, row in self.values.items()]

    def restore(self, state: list[list[Any]]) -> None:
        """Add what another object of the same family counted; a family whose buckets were others is left out."""
        for labels, row in state:
            if len(labels) != len(self.labels) or len(row) != len(self.bounds) + 2:
                continue
            mine = self.values.setdefault(tuple(labels), [0] * (len(self.bounds) + 1) + [0.0])
            for index, value in enumerate(row):
                mine[index] += value


Family = Counter | Histogram


def states(families: Mapping[str, Family]) -> dict[str, list[list[Any]]]:
    """All families as one JSON object."""
    return {name: family.state() for name, family in families.items()}


def restore_all(families: Mapping[str, Family], state: Mapping[str, Any]) -> None:
    """Add a state of `states`; families that are not known any more are passed over."""
    for name, family in families.items():
        listed = state.get(name)
        if isinstance(listed, list):
            family.restore(listed)
