"""Serves the simulated upstream: in this loop, in this process, or in one of its own.

A process that was spawned ends when its parent does, however that ends: it watches its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.simulators.upstream import upstream_app

BACKLOG = 4_096
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


def serve_upstream(
    host: str = "127.0.0.1", port: int = 0, *, port_file: Path | None = None, until_stdin_closes: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT. The port (0: a free one) is written to `port_file` once connections are taken."""
    listener = _listener(host, port)
    server = uvicorn.Server(_configuration())
    if until_stdin_closes:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    if port_file is not None:
        written = port_file.with_suffix(".new")
        written.write_text(str(listener.getsockname()[1]))
        written.replace(port_file)
    server.run(sockets=[listener])


@contextlib.asynccontextmanager
async def upstream_server(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve in the running loop; gives the base URL."""
    listener = _listener(host, port)
    server = _QuietServer(_configuration())
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@contextlib.contextmanager
def spawned_upstream(host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a process of its own, which ends with this one; gives the base URL."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, "-m", "gateway.simulators.upstream", "--host", host, "--port", str(port)]
        command += ["--port-file", str(port_file), "--until-stdin-closes"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                yield f"http://{host}:{_awaited_port(process, port_file)}"
            finally:
                process.terminate()
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def main() -> None:
    """`python -m gateway.simulators.upstream --port 0 --port-file F`."""
    parser = argparse.ArgumentParser(description="Serve the simulated upstream.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, default=None)
    parser.add_argument("--until-stdin-closes", action="store_true")
    args = parser.parse_args()
    serve_upstream(args.host, args.port, port_file=args.port_file, until_stdin_closes=args.until_stdin_closes)


class _JoiningTransport:
    """Sends the head of an answer together with what follows it in the same turn: one system call less a request,
    which is a quarter of what a short answer costs. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 2"):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_JoiningTransport(transport))  # type: ignore[arg-type]


class _QuietServer(uvicorn.Server):
    """A server inside somebody else's loop: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configuration() -> uvicorn.Config:
    # A broken-off answer is a fault somebody asked for, not an error worth a log line.
    return uvicorn.Config(
        upstream_app(),
        http=_Protocol,
        ws="websockets-sansio",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    return listener


def _stop_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 4_096):
        continue
    server.should_exit = True


def _awaited_port(process: subprocess.Popen[bytes], port_file: Path) -> int:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        if port_file.exists():
            return int(port_file.read_text())
        time.sleep(0.01)
    message = "the simulated upstream did not start"
    raise RuntimeError(message)
