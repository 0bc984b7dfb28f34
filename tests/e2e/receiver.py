"""An app's own server, as webhooks find it: it takes, refuses, delays or redirects, and remembers what it took."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Receiver:
    """`status` is what it answers, after `delay_s`. `got`: headers and bodies of what it took."""

    url: str = ""
    status: int = 200
    delay_s: float = 0.0
    location: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)  # ids

    def types(self) -> list[str]:
        """Of what it took, in order."""
        return [json.loads(body)["type"] for _, body in self.got]

    def data(self, kind: str) -> list[dict[str, Any]]:
        """Of the events of a kind that it took; a repeated one counts once."""
        found = {headers["webhook-id"]: json.loads(body) for headers, body in self.got}
        return [each["data"] for each in found.values() if each["type"] == kind]

    def must_be_signed(self, *secrets: str) -> None:
        """Everything that it took verifies with each of the secrets."""
        for headers, body in self.got:
            for secret in secrets:
                Webhook(secret).verify(body, headers)


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """On a port of its own."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            kept.tried.append(headers["webhook-id"])
            status, location = kept.status, kept.location
            time.sleep(kept.delay_s)
            if status == 200:
                kept.got.append((headers, body))
            try:
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.end_headers()
            except BrokenPipeError:
                pass  # the sender has given up

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
