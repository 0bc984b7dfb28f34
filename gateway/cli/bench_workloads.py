"""The loads that every subject gets, and the figures that are taken from them.

A figure is taken from each round; what is reported is the median of the rounds. Ratios to nginx are taken within a
round, where both stood on the same machine in the same minute: absolute figures move by half from day to day.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.cli.bench_load import Order, Result
from gateway.cli.bench_subjects import CHAT, MODEL, Subject
from gateway.simulators.fixed_upstream import CHUNK_BYTES

BODY_BYTES = 300
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything. The time bounds a load; the requests bound it too, so that a fast machine ends sooner."""

    rounds: int = 3
    seconds: float = 2.0
    requests_most: int = 20_000
    streams: int = 100
    interval_ms: int = 20
    chunks: int = 150
    open_streams: int = 2_000


QUICK = Size(rounds=1, seconds=0.3, requests_most=200, streams=10, chunks=20, open_streams=20)


@dataclass(frozen=True, slots=True)
class Workload:
    """`order` is given to the load generator; `figures` reads its result. `ratio`: the figure that is set against
    nginx."""

    name: str
    takes: Callable[[Subject], bool]
    order: Callable[[Subject, Size], Order]
    figures: Callable[[Result], Figures]
    ratio: str = ""
    rounds_most: int = 1_000


def request(subject: Subject, word: str, *, stream: bool, paid: bool = True) -> bytes:
    """The bytes of one request, the body as long as a short question is."""
    body = '{"model":"%s","user":"%s","max_tokens":4000,%s"messages":[{"role":"user","content":"%s"}]}'
    streamed = '"stream":true,' if stream else ""
    filling = BODY_BYTES - len(body % (MODEL, word, streamed, ""))
    content = (body % (MODEL, word, streamed, ("Tell me what a toll booth is for. " * 10)[:filling])).encode()
    lines = [f"POST {CHAT} HTTP/1.1", f"host: 127.0.0.1:{subject.port}", "content-type: application/json"]
    lines += ["accept: */*", "user-agent: farebox-bench", f"content-length: {len(content)}"]
    if subject.authorization and paid:
        lines += [f"authorization: {subject.authorization}", *subject.more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _closed(word: str, needle: bytes, connections: int, *, stream: bool = False) -> Callable[[Subject, Size], Order]:
    def order(subject: Subject, size: Size) -> Order:
        return Order(
            kind="closed",
            host="127.0.0.1",
            port=subject.port,
            request=request(subject, word, stream=stream),
            needle=needle,
            connections=connections,
            seconds=size.seconds,
            warm_s=min(0.3, size.seconds / 3),
            requests_most=size.requests_most,
            watch=subject.watch,
        )

    return order


def _paced(subject: Subject, size: Size) -> Order:
    return Order(
        kind="paced",
        host="127.0.0.1",
        port=subject.port,
        request=request(subject, f"bench-paced-{size.interval_ms}x{size.chunks}", stream=True),
        needle=b"[DONE]",
        connections=size.streams,
        seconds=size.chunks * size.interval_ms / 1000,
        watch=subject.watch,
    )


def _open(subject: Subject, size: Size) -> Order:
    return Order(
        kind="open",
        host="127.0.0.1",
        port=subject.port,
        request=request(subject, "bench-paced-1000x600", stream=True),
        connections=size.open_streams,
        seconds=1.0,
        stagger_s=0.0005,
        watch=subject.watch,
    )


def _challenges(subject: Subject, size: Size) -> Order:
    return Order(
        kind="closed",
        host="127.0.0.1",
        port=subject.port,
        request=request(subject, "bench-json", stream=False, paid=False),
        expect_status=402,
        needle=b'"invoice"',
        connections=32,
        seconds=size.seconds,
        requests_most=size.requests_most,
        watch=subject.watch,
    )


def _request_figures(result: Result) -> Figures:
    """CPU in microseconds a request, latency in milliseconds."""
    count = max(result.requests, 1)
    found = {f"{name}_cpu_us": spent / count * 1e6 for name, spent in result.cpu_s.items()}
    found["per_s"] = result.requests / result.seconds if result.seconds else 0.0
    for percent in (50, 90, 99):
        found[f"p{percent}_ms"] = _percentile(result.latencies, percent) * 1000
    return found


def _chunk_figures(result: Result) -> Figures:
    chunks = max(result.body_bytes / (CHUNK_BYTES + 6), 1.0)
    found = {f"{name}_cpu_us": spent / chunks * 1e6 for name, spent in result.cpu_s.items()}
    found["chunks_per_s"] = chunks / result.seconds if result.seconds else 0.0
    return found


def _burst_figures(result: Result) -> Figures:
    found = _request_figures(result)
    for name in ("subject", "store"):
        if f"{name}_cpu_us" in found:
            found[f"{name}_cpu_ms"] = found[f"{name}_cpu_us"] / 1000
    return found


def _memory_figures(result: Result) -> Figures:
    before, after = result.memory_before.get("subject"), result.memory_open.get("subject")
    if before is None or after is None:
        return {}
    found = {"idle_rss_mb": before[0] / 1e6, "idle_pss_mb": before[1] / 1e6, "open_pss_mb": after[1] / 1e6}
    found["open_streams"] = result.requests
    found["stream_kb"] = (after[1] - before[1]) / max(result.requests, 1) / 1e3
    return found


def _percentile(values: list[float], percent: int) -> float:
    """Of sorted values: the least that at least so many per cent do not exceed."""
    return values[max(-(-len(values) * percent // 100) - 1, 0)] if values else 0.0


def _everyone(_subject: Subject) -> bool:
    return True


WORKLOADS = {
    each.name: each
    for each in (
        # First: memory that a load has left behind would hide what a stream takes.
        Workload("memory", lambda subject: "subject" in subject.watch, _open, _memory_figures, rounds_most=1),
        Workload("json_32", _everyone, _closed("bench-json", b'"usage"', 32), _request_figures, "subject_cpu_us"),
        Workload("json_1", _everyone, _closed("bench-json", b'"usage"', 1), _request_figures, "subject_cpu_us"),
        Workload("paced", _everyone, _paced, _chunk_figures, "subject_cpu_us"),
        Workload(
            "burst", _everyone, _closed("bench-burst", b"[DONE]", 4, stream=True), _burst_figures, "subject_cpu_us"
        ),
        Workload("challenge", lambda subject: subject.challenges, _challenges, _request_figures),
    )
}
