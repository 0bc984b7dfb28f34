"""The benchmark's figures as a table that fits a terminal: one line a subject, one column a question."""

from __future__ import annotations

from typing import Any

from gateway.cli.bench_all import SUBJECTS
from gateway.cli.bench_workloads import Figures

_NOTHING = "-"
# Title of the column, workload, figure, digits after the point, and whether the ratio to nginx stands beside it.
_COLUMNS = (
    ("json x32, us", "json_32", "subject_cpu_us", 0, True),
    ("p50/p99 ms", "json_32", "p50_ms|p99_ms", 2, False),
    ("req/s", "json_32", "per_s", 0, False),
    ("store us", "json_32", "store_cpu_us", 0, False),
    ("json x1, us", "json_1", "subject_cpu_us", 0, True),
    ("p50/p99 ms", "json_1", "p50_ms|p99_ms", 2, False),
    ("chunk, us", "paced", "subject_cpu_us", 1, True),
    ("chunks/s", "paced", "chunks_per_s", 0, False),
    ("burst, ms", "burst", "subject_cpu_ms", 2, True),
    ("MB idle PSS/RSS", "memory", "idle_pss_mb|idle_rss_mb", 0, False),
    ("KB/stream", "memory", "stream_kb", 1, False),
)


def table(report: dict[str, Any]) -> str:
    """The whole report as text."""
    figures: dict[str, dict[str, Figures]] = report["figures"]
    names = [name for name in SUBJECTS if any(name in subjects for subjects in figures.values())]
    used = [column for column in _COLUMNS if column[1] in figures]
    rows = [["", *(column[0] for column in used)]]
    rows += [[name, *(_cell(figures[column[1]].get(name), column) for column in used)] for name in names]
    return "\n".join([*_aligned(rows), "", *_notes(report)])


def _cell(found: Figures | None, column: tuple[str, str, str, int, bool]) -> str:
    _, _, keys, digits, with_ratio = column
    if found is None or keys.partition("|")[0] not in found:
        return _NOTHING
    text = "/".join(f"{found[key]:,.{digits}f}" for key in keys.split("|"))
    if with_ratio and "times_nginx" in found:
        text += f" ({found['times_nginx']:.1f}x)"
    return text


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _notes(report: dict[str, Any]) -> list[str]:
    size, machine = report["size"], report["machine"]
    lines = [
        (
            f"{machine['cpus']} CPUs, {machine['platform']}, Python {machine['python']}; "
            f"medians of {size['rounds']} round(s)."
        ),
        (
            "us and ms of CPU are of the subject's own processes, user and system; "
            "(x) is the ratio to nginx within a round."
        ),
        "json: 300-byte request, 600-byte answer, x32 and x1 connections. store us: the store server's CPU a request.",
        (
            f"chunk: {size['streams']} streams, a chunk of 250 bytes every {size['interval_ms']} ms. "
            "burst: 203 chunks in one write."
        ),
        "relay only: a route that costs nothing, with a credential that is checked and known; no hold, no post.",
        "metered: L402 credit, hold + post + journal, appendfsync everysec; `always`: the same with that setting.",
    ]
    memory = report["figures"].get("memory", {})
    if memory:
        most = max(int(found["open_streams"]) for found in memory.values())
        lines.append(
            f"MB idle: after a few requests. KB/stream: growth of the proportional set size, {most:,} streams open."
        )
    for name, found in report["figures"].get("challenge", {}).items():
        lines.append(
            f"challenges, {name}: {found['per_s']:,.0f}/s, p50 {found['p50_ms']:.1f} ms; CPU each: gateway "
            f"{found['subject_cpu_us']:,.0f} us, simulated node {found.get('node_cpu_us', 0):,.0f} us, "
            f"store {found.get('store_cpu_us', 0):,.0f} us."
        )
    lines += [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    if report["failed"]:
        lines += [f"{report['failed']} FAILED:", *report["failures"]]
    return lines
