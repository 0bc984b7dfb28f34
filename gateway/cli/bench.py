"""`farebox bench`: what Farebox costs beside a direct connection, nginx and a peer, all in one run on one upstream.

The subjects take turns (ABAB) and the median of the rounds counts, because the machine is never quiet; ratios to nginx
hold from day to day, absolute figures do not. Exit code 1 when any request failed: figures of failed requests mean
nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from gateway.cli.bench_all import SUBJECTS
from gateway.cli.bench_parts import BenchError, Load, fixed_upstream, lift_open_files, load, simulated_parts, store
from gateway.cli.bench_subjects import Stage, Subject
from gateway.cli.bench_table import table
from gateway.cli.bench_workloads import QUICK, WORKLOADS, Figures, Size, Workload

_FLOOR = "nginx"
# Sockets of both sides of a stream, and what a process needs beside them.
_FILES_A_STREAM, _FILES_BESIDE = 2, 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox bench`."""
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that it works, measures little")
    parser.add_argument("--json", action="store_true", help="every figure as JSON instead of a table")
    parser.add_argument("--rounds", type=int, help="turns of every subject (default 3)")
    parser.add_argument("--seconds", type=float, help="time of one load (default 2)")
    parser.add_argument("--open", type=int, help="streams held open for the memory (default 2000)")
    parser.add_argument("--streams", type=int, help="paced streams at once (default 100)")
    parser.add_argument("--chunks", type=int, help="chunks of a paced stream (default 150)")
    parser.add_argument("--only", default=",".join(WORKLOADS), help=f"workloads, with commas: {','.join(WORKLOADS)}")
    parser.add_argument(
        "--subjects", default=";".join(SUBJECTS), help=f"subjects, with semicolons: {';'.join(SUBJECTS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        report = measure(_size(args), _known(args.only, ",", WORKLOADS), _known(args.subjects, ";", SUBJECTS))
    except BenchError as error:
        print(f"farebox bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    else:
        print(table(report))
    return 1 if report["failed"] else 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _size(args: argparse.Namespace) -> Size:
    size = QUICK if args.quick else Size()
    given = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "open_streams": args.open,
        "streams": args.streams,
        "chunks": args.chunks,
    }
    for name, value in given.items():
        if value is not None and value <= 0:
            raise BenchError(f"--{name.removesuffix('_streams')}: must be above zero")
    return replace(size, **{name: value for name, value in given.items() if value is not None})


def _known(text: str, separator: str, known: dict[str, Any]) -> list[str]:
    names = [name.strip() for name in text.split(separator) if name.strip()]
    for name in names:
        if name not in known:
            raise BenchError(f"{name!r} is unknown; there are {', '.join(known)}")
    return names


@dataclass(slots=True)
class _Run:
    load: Load
    size: Size
    rounds: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def warm(self, subject: Subject) -> None:
        """A few requests of both kinds: what is loaded at first use is loaded, and the memory measured includes it."""
        size = replace(self.size, seconds=0.2, requests_most=20)
        for name in ("json_1", "burst"):
            result = self.load.run(WORKLOADS[name].order(subject, size))
            if result.failed:
                raise BenchError(f"{subject.name} does not serve: {result.failure}")

    def turn(self, workload: Workload, subject: Subject) -> None:
        """One load on one subject."""
        result = self.load.run(workload.order(subject, self.size))
        if result.failed or not result.requests:
            self.failed += max(result.failed, 1)
            self.failures.append(f"{workload.name}, {subject.name}: {result.failure or 'no request ended in time'}")
        figures = workload.figures(result)
        if figures:
            self.rounds.setdefault(workload.name, {}).setdefault(subject.name, []).append(figures)


def measure(size: Size, workloads: list[str], subjects: list[str]) -> dict[str, Any]:
    """Start everything, measure, end everything. Errors: BenchError when a part that must be there does not start."""
    files = lift_open_files()
    if size.open_streams * _FILES_A_STREAM + _FILES_BESIDE > files:
        size = replace(size, open_streams=(files - _FILES_BESIDE) // _FILES_A_STREAM)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-")))
        # nginx starts as root and works as nobody, who has to reach its directory.
        directory.chmod(0o711)
        upstream_port, upstream_pid = stack.enter_context(fixed_upstream(directory))
        parts, parts_pid = stack.enter_context(simulated_parts(directory))
        everysec, always = (stack.enter_context(store(directory, fsync)) for fsync in ("everysec", "always"))
        stage = Stage(directory, upstream_port, everysec, always, parts, parts_pid)
        there, left_out = _start(stack, stage, subjects)
        measured = _Run(stack.enter_context(load(directory)), size)
        for subject in there:
            subject.watch["upstream"] = upstream_pid
            measured.warm(subject)
        for name in workloads:
            _take_turns(measured, WORKLOADS[name], [each for each in there if WORKLOADS[name].takes(each)])
    return _report(measured, left_out)


def _start(stack: ExitStack, stage: Stage, names: list[str]) -> tuple[list[Subject], dict[str, str]]:
    """All subjects at once, for each takes seconds; and why others are not there. Errors: BenchError of a Farebox."""
    managers = {name: SUBJECTS[name](stage) for name in names}
    started: dict[str, Future[Subject]] = {}
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            started = {name: pool.submit(manager.__enter__) for name, manager in managers.items()}
    finally:
        for name, future in started.items():
            if future.done() and future.exception() is None:
                stack.push(managers[name])
    left_out = {}
    for name, future in started.items():
        error = future.exception()
        if error is not None and (name.startswith("farebox") or not isinstance(error, BenchError)):
            raise error
        if error is not None:
            left_out[name] = str(error)
    return [future.result() for name, future in started.items() if name not in left_out], left_out


def _take_turns(measured: _Run, workload: Workload, subjects: list[Subject]) -> None:
    for number in range(min(measured.size.rounds, workload.rounds_most)):
        for subject in subjects:
            if sys.stderr.isatty():
                print(f"\r{workload.name} {number + 1}: {subject.name:30}", end="", file=sys.stderr, flush=True)
            measured.turn(workload, subject)
    if sys.stderr.isatty():
        print("\r" + " " * 50 + "\r", end="", file=sys.stderr, flush=True)


def _report(measured: _Run, left_out: dict[str, str]) -> dict[str, Any]:
    """Medians of the rounds, and the rounds themselves."""
    figures: dict[str, dict[str, Figures]] = {}
    for name, subjects in measured.rounds.items():
        floor = subjects.get(_FLOOR)
        figures[name] = {}
        for subject, rounds in subjects.items():
            found = {key: median(each[key] for each in rounds) for key in rounds[0]}
            ratio = WORKLOADS[name].ratio
            if floor and ratio in rounds[0] and all(each[ratio] for each in floor):
                found["times_nginx"] = median(own[ratio] / base[ratio] for own, base in zip(rounds, floor, strict=True))
            figures[name][subject] = found
    return {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "size": msgspec.to_builtins(measured.size),
        "figures": figures,
        "rounds": measured.rounds,
        "left_out": left_out,
        "failed": measured.failed,
        "failures": measured.failures,
    }
