"""`farebox serve`: one worker in this process, or a supervisor over several.

The supervisor owns the listening socket and nothing else: it starts workers, starts a dead one again, and hands signals
on. A worker that dies takes its own streams with it and no one else's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from gateway.config import Config, load_config
from gateway.config_reader import ConfigError

# A worker that dies sooner than this after its start is broken, not unlucky: it is started again ever more slowly.
STEADY_AFTER_S = 10.0
GREATEST_RESTART_DELAY_S = 10.0
LISTEN_BACKLOG = 4_096
# How often the supervisor looks whether its own parent lives.
_LOOK_EVERY_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox serve`."""
    parser.add_argument("--config", type=Path, required=True, help="the YAML file; every key is in config.example.yaml")
    parser.add_argument("--host", help="listen here instead of at the host of `listen`")
    parser.add_argument("--port", type=int, help="listen here instead of at the port of `listen`; 0 for any free one")
    parser.add_argument("--workers", type=int, help="processes, instead of `workers`")
    parser.add_argument("--ends-with", type=int, metavar="PID", help="end like on SIGTERM once this parent has gone")
    parser.add_argument("--worker-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker-number", type=int, default=0, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Exit code 2 when the configuration is wrong."""
    # Until somebody heeds it, a SIGHUP would be the end of the process; so it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        config = load_config(args.config, environ=os.environ)
        if args.worker_fd is not None:
            listener = socket.socket(fileno=args.worker_fd)
            return _work(config, listener, args.worker_number, args.ends_with, supervised=True)
        listener = _listen(config, args.host, args.port)
    except ConfigError as error:
        print(f"farebox: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"farebox: cannot listen: {error}", file=sys.stderr)
        return 2
    host, port = listener.getsockname()[:2]
    print(f"farebox: listening on http://{host}:{port}", file=sys.stderr, flush=True)
    workers = args.workers or config.workers
    if workers == 1:
        return _work(config, listener, 0, args.ends_with)
    return Supervisor(listener, args.config, workers, args.ends_with).run()


def _listen(config: Config, host: str | None, port: int | None) -> socket.socket:
    address = (host or config.host, config.port if port is None else port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=LISTEN_BACKLOG)
    listener.set_inheritable(True)
    return listener


def _work(
    config: Config, listener: socket.socket, number: int, parent_pid: int | None, *, supervised: bool = False
) -> int:
    from gateway.worker import serve_worker  # noqa: PLC0415 - a supervisor never needs what a worker imports

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve_worker(config, listener, number, parent_pid=parent_pid, supervised=supervised))


class Supervisor:
    """Keeps `count` workers running on one listening socket.

    Signals only wake the loop, which then looks at everything: a handler that acted by itself would meet a worker that
    is being started or has just ended.
    """

    def __init__(self, listener: socket.socket, config_path: Path, count: int, parent_pid: int | None) -> None:
        self._listener = listener
        self._config_path = config_path
        self._parent_pid = parent_pid
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._due_s: dict[int, float] = dict.fromkeys(range(count), 0.0)  # when a worker that does not run is started
        self._started_s: dict[int, float] = {}
        self._delay_s: dict[int, float] = {}
        self._stopping = False

    def run(self) -> int:
        """Supervise until told to stop and the last worker has ended."""
        awake, wake = socket.socketpair()
        with awake, wake:
            wake.setblocking(False)
            signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            for heeded in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(heeded, _leave_to_the_loop)
            self._start_due()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            while self._workers or self._due_s:
                for number in self._signals(awake):
                    self._heed(number)
                if self._parent_pid is not None and os.getppid() != self._parent_pid and not self._stopping:
                    self._heed(signal.SIGTERM)
                self._reap()
                self._start_due()
            signal.set_wakeup_fd(-1)
        return 0

    def _signals(self, awake: socket.socket) -> bytes:
        """Wait for signals, or for the next start that is due."""
        now = time.monotonic()
        wait_s = max(min([*self._due_s.values(), now + _LOOK_EVERY_S]) - now, 0.0)
        ready, _, _ = select.select([awake], [], [], wait_s)
        return awake.recv(4_096) if ready else b""

    def _heed(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        ends = number in {signal.SIGTERM, signal.SIGINT}
        if ends:
            self._stopping = True
            self._due_s.clear()
        for worker in self._workers.values():
            worker.send_signal(signal.SIGTERM if ends else number)

    def _reap(self) -> None:
        for number in [number for number, worker in self._workers.items() if worker.poll() is not None]:
            del self._workers[number]
            if not self._stopping:
                self._start_later(number)

    def _start_later(self, number: int) -> None:
        now = time.monotonic()
        steady = now - self._started_s[number] > STEADY_AFTER_S
        delay_s = 0.0 if steady else min(self._delay_s.get(number, 0.1) * 2, GREATEST_RESTART_DELAY_S)
        self._delay_s[number] = delay_s
        self._due_s[number] = now + delay_s
        print(f"farebox: worker {number} died; starting it again in {delay_s:g} s", file=sys.stderr, flush=True)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due_s in self._due_s.items() if due_s <= now]:
            del self._due_s[number]
            self._start(number)

    def _start(self, number: int) -> None:
        fd = self._listener.fileno()
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self._config_path)]
        command += ["--worker-fd", str(fd), "--worker-number", str(number)]
        command += ["--ends-with", str(os.getpid())]
        self._started_s[number] = time.monotonic()
        # What is blocked stays so in the worker, from its first instruction on, until it can heed it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self._workers[number] = subprocess.Popen(command, pass_fds=(fd,))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_to_the_loop(_number: int, _frame: object) -> None:
    """A handler, so that the signal ends nothing by itself; its number arrives through the wakeup socket."""
