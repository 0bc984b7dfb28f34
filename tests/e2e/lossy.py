"""A way to the gateway on which answers get lost: requests arrive, and what they are answered goes nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx


@dataclass(slots=True)
class LossyWay:
    """`lose`: how many answers are still to be lost; `bodies`: what was sent."""

    gateway_url: str
    url: str = ""
    lose: int = 0
    bodies: list[bytes] = field(default_factory=list)


@contextmanager
def lossy_way(gateway_url: str) -> Iterator[LossyWay]:
    """A running one."""
    way = LossyWay(gateway_url)

    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            way.bodies.append(body)
            headers = {name: self.headers[name] for name in ("authorization", "idempotency-key") if self.headers[name]}
            answer = httpx.request(self.command, way.gateway_url + self.path, content=body, headers=headers, timeout=30)
            if way.lose:
                way.lose -= 1
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_PUT = do_PATCH = _pass  # noqa: N815 - the names of http.server

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        way.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield way
        finally:
            server.shutdown()
            thread.join()
