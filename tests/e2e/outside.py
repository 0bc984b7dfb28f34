"""The outside world of a gateway, to be broken by tests: a store that can be killed and started again, a wire that can
be cut, a feed of rates that can fall silent.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from e2e.stack import until
from servers import free_port, server_binary

from gateway.simulators.lightning import SimulatedNode


class Store:
    """A Valkey whose data survive its death: every write is on the disk before it is answered, unless `durable` is false."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._log = directory / "server.log"
        self._command = [server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._command += ["--save", ""]
        if durable:
            self._command += ["--appendonly", "yes", "--appendfsync", "always"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `redis.url`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(lambda: b"PONG" in self.ask(b"PING"), what="the store")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, command: bytes) -> bytes:
        """One inline command; nothing when there is no answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(1_000_000)
        except OSError:
            return b""


@contextmanager
def running_store(directory: Path, *, durable: bool = True) -> Iterator[Store]:
    """A store, ended at the end."""
    store = Store(directory, durable=durable)
    store.start()
    try:
        yield store
    finally:
        store.kill()


class Wire:
    """Passes bytes between an address of its own and another one, until it is cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.port = free_port()
        self.mend()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def mend(self) -> None:
        """Pass on again."""
        listener = self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """End every connection and take no new one."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in self._open:
            _end(end)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        _end(source)
        _end(sink)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class Feed:
    """A feed of rates over HTTP. `usd_per_btc` None: it answers 503."""

    def __init__(self) -> None:
        self.usd_per_btc: str | None = "100000"
        feed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rate = feed.usd_per_btc
                self.send_response(503 if rate is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps({"price": rate}).encode())

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class NodeThread:
    """A simulated node in a thread of its own, to be told what happens to an invoice."""

    def __init__(self, directory: Path) -> None:
        self.node = SimulatedNode()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wait(self.node.start())
        certificate = directory / "tls.cert"
        certificate.write_bytes(self.node.tls_cert_pem)
        self.lnd = {"address": self.node.address, "tls_cert": str(certificate), "macaroon": self.node.macaroon_hex}

    def settle(self, payment_hash: str) -> str:
        """Pay an invoice, as if by a stranger; its preimage."""
        self._do(lambda: self.node.settle(bytes.fromhex(payment_hash)))
        return self.preimage(payment_hash)

    def accept(self, payment_hash: str) -> str:
        """Hold a payment unsettled; the preimage that nobody may know yet."""
        self._do(lambda: self.node.accept(bytes.fromhex(payment_hash)))
        return self.preimage(payment_hash)

    def preimage(self, payment_hash: str) -> str:
        """Of an invoice, paid or not."""
        return self.node.preimage(bytes.fromhex(payment_hash)).hex()

    def close(self) -> None:
        """End node and thread."""
        self._wait(self.node.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        self._wait(run())

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
