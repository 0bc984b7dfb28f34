"""Prometheus metrics of all workers of one gateway, whichever worker is asked.

Each worker counts for itself in plain numbers and writes them to its own small file about once a second; `/metrics`
adds the files of the others to its own numbers. A worker's slot is a locked file: one that was killed gives its slot,
with the numbers in it, to the next, so that counters never fall. At most the last second of a killed worker is missing
here; money is not counted from here.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.adapters.counts import GREATEST_SERIES, STORE_SECONDS, Counter, Family, Histogram, restore_all, states
from gateway.core.finished import Finished

WRITE_INTERVAL_S = 1.0
GREATEST_SLOTS = 1_024
GREATEST_NOTED_CALLS = 4_096
REFUSALS_FROM = 400  # a status below belongs to an answer that began, or to a client that went before it
_GAUGES = "gauges"
_TOKEN_KINDS = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip


_Kind = tuple[str, str, int, str, str, str, str, str, str, str | None]


class Metrics:
    """The numbers of this worker. Attributes are families; `finished` counts a request."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory`: where the workers of this gateway leave their numbers; None for a worker that is alone."""
        self.requests = Counter(
            "farebox_requests", "Requests, by what became of them", ("route", "operation", "status")
        )
        self.refused = Counter("farebox_refused", "Requests refused, by code", ("reason",))
        self.broken = Counter("farebox_broken_answers", "Answers that did not come to their end, by why", ("reason",))
        self.tokens = Counter("farebox_tokens", "Tokens of settled requests", ("upstream", "model", "kind"))
        self.holds = Counter("farebox_holds", "Holds that ended, by how", ("state",))
        self.posted = Counter("farebox_posted_amount", "Amounts charged, in the unit", ("unit", "upstream", "model"))
        self.bases = Counter("farebox_usage_basis", "Settled requests, by where their usage came from", ("basis",))
        self.shortfalls = Counter("farebox_shortfalls", "Postings that their payer could not cover", ("unit",))
        self.shortfall = Counter("farebox_shortfall_amount", "Amounts the house paid, in the unit", ("unit",))
        self.cuts = Counter("farebox_cuts", "Streams ended before their end, by why", ("cut",))
        self.challenges = Counter("farebox_challenges", "L402 challenges given", ("kind",))
        self.payments = Counter("farebox_payments", "Invoices credited", ("source",))
        self.webhooks = Counter("farebox_webhooks", "Webhooks by what became of an attempt", ("outcome",))
        self.paid = Counter("farebox_paid_msat", "Amounts credited from payments", ("source",))
        self.duration = Histogram("farebox_request_seconds", "Requests from head to last byte", ("operation",))
        self.upstream = Histogram("farebox_upstream_seconds", "Upstreams from request to head", ("upstream",))
        self.first_byte = Histogram("farebox_first_byte_seconds", "Requests from head to first byte", ("operation",))
        self.store = Histogram("farebox_store_seconds", "Round trips to Redis", ("step",), STORE_SECONDS)
        self.families: dict[str, Family] = {
            family.name: family for family in vars(self).values() if isinstance(family, Counter | Histogram)
        }
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.catch_up: Callable[[], None] = lambda: None  # called before the numbers are read
        self._directory = directory
        self._rows: dict[_Kind, list[int]] = {}
        self._store_calls: list[tuple[str, float]] = []
        self.write_failures = 0
        self._slot: IO[bytes] | None = None
        self._path: Path | None = None

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that is read when somebody asks: open streams, open challenges."""
        self._gauges[name] = (text, read)

    def store_call(self, name: str, seconds: float, *, ok: bool) -> None:
        """Note one call of the store; counted with the others of its second."""
        self._store_calls.append((name if ok else f"{name}_failed", seconds))
        if len(self._store_calls) >= GREATEST_NOTED_CALLS:
            self._fold_store_calls()

    def _fold_store_calls(self) -> None:
        calls, self._store_calls = self._store_calls, []
        for name, seconds in calls:
            self.store.observe((name,), seconds)

    def finished(self, request: Finished) -> None:
        """Count one finished request: one sum a kind of request, spread over the families when somebody asks."""
        kind = (
            request.route, request.operation, request.status, request.upstream, request.model, request.reason,
            request.state, request.unit, request.basis, request.cut,
        )  # fmt: skip
        row = self._rows.get(kind)
        if row is None:
            if len(self._rows) >= GREATEST_SERIES:
                self.fold()
            row = self._rows[kind] = [0] * (4 + len(_TOKEN_KINDS))
        usage = request.usage
        row[0] += 1
        row[1] += request.amount
        if request.shortfall:
            row[2] += 1
            row[3] += request.shortfall
        row[4] += usage.input_tokens
        row[5] += usage.cached_input_tokens
        row[6] += usage.cache_write_tokens
        row[7] += usage.output_tokens
        row[8] += usage.reasoning_tokens
        self.duration.observe((request.operation,), request.duration_s)
        if request.upstream_s:
            self.upstream.observe((request.upstream,), request.upstream_s)
        if request.first_byte_s:
            self.first_byte.observe((request.operation,), request.first_byte_s)

    def fold(self) -> None:
        """Spread the sums over the families."""
        self._fold_store_calls()
        rows, self._rows = self._rows, {}
        for kind, row in rows.items():
            self._fold_row(kind, row)

    def _fold_row(self, kind: _Kind, row: list[int]) -> None:
        route, operation, status, upstream, model, reason, state, unit, basis, cut = kind
        count, amount, shortfalls, shortfall, *tokens = row
        self.requests.add((route, operation, str(status)), count)
        if reason:
            (self.refused if status >= REFUSALS_FROM else self.broken).add((reason,), count)
        if not state:
            return
        self.holds.add((state,), count)
        if cut:
            self.cuts.add((cut,), count)
        if amount:
            self.posted.add((unit, upstream, model), amount)
        if shortfalls:
            self.shortfalls.add((unit,), shortfalls)
            self.shortfall.add((unit,), shortfall)
        if state != "voided":
            self.bases.add((basis,), count)
            for name, number in zip(_TOKEN_KINDS, tokens, strict=True):
                if number:
                    self.tokens.add((upstream, model, name), number)

    def open(self) -> None:
        """Take a slot among the workers of this directory, and go on from the numbers in it."""
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for number in range(GREATEST_SLOTS):
            path = self._directory / f"{number}.json"
            lock = (self._directory / f"{number}.lock").open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self._slot, self._path = lock, path
            restore_all(self.families, _read(path))
            self.write()
            return

    def close(self) -> None:
        """Leave the numbers for the next worker, without the gauges, and give the slot back."""
        if self._slot is None:
            return
        self._gauges.clear()
        self.write()
        self._slot.close()
        self._slot = self._path = None

    async def run(self) -> None:
        """Write the numbers about once a second until cancelled."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            self.write()

    def write(self) -> None:
        """Leave the numbers for the other workers, in one move."""
        if self._path is None:
            return
        self.catch_up()
        self.fold()
        state: dict[str, Any] = states(self.families)
        state[_GAUGES] = {name: read() for name, (_, read) in self._gauges.items()}
        partial = self._path.with_suffix(".part")
        try:
            partial.write_bytes(msgspec.json.encode(state))
            partial.replace(self._path)
        except OSError:  # a full disk costs the others our latest numbers, not the worker its service
            self.write_failures += 1

    def exposition(self) -> bytes:
        """Everything that all workers counted, as Prometheus' text."""
        self.catch_up()
        self.fold()
        together = Metrics()
        restore_all(together.families, states(self.families))
        gauges = {name: (text, read()) for name, (text, read) in self._gauges.items()}
        for path, alive in self._others():
            state = _read(path)
            restore_all(together.families, state)
            for name, value in state.get(_GAUGES, {}).items() if alive else ():
                if name in gauges:
                    gauges[name] = (gauges[name][0], gauges[name][1] + value)
        registry = CollectorRegistry()
        registry.register(_Collected([*_families(together.families), *_gauge_families(gauges)]))
        return generate_latest(registry)

    def _others(self) -> Iterator[tuple[Path, bool]]:
        """The files of the other workers, and whether each still runs."""
        if self._path is None or self._directory is None:
            return
        for path in sorted(self._directory.glob("*.json")):
            if path != self._path:
                yield path, _is_locked(path.with_suffix(".lock"))


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> dict[str, Any]:
    """A worker's file; empty where there is none, or one that a full disk cut short."""
    try:
        state = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return state if isinstance(state, dict) else {}


class _Collected:
    """What prometheus_client asks for its text: a collector of families that are already there."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _families(families: dict[str, Family]) -> Iterator[Metric]:
    for family in families.values():
        if isinstance(family, Counter):
            counter = CounterMetricFamily(family.name, family.text, labels=family.labels)
            for labels, value in family.values.items():
                counter.add_metric(labels, value)
            yield counter
            continue
        histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        for labels, row in family.values.items():
            seen, buckets = 0.0, []
            for bound, count in zip((*map(str, family.bounds), "+Inf"), row[:-1], strict=True):
                seen += count
                buckets.append((bound, seen))
            histogram.add_metric(labels, buckets, row[-1])
        yield histogram


def _gauge_families(gauges: dict[str, tuple[str, float]]) -> Iterator[Metric]:
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, value=value)
