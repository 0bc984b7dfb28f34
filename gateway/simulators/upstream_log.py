"""The ground truth of tests: what the simulated upstream got and what it really sent, request by request.

A record is made when a request arrives and filled while its answer goes out, so a request that is still running can
be read too. Of credentials only names and SHA-256 digests are kept.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any

from gateway.simulators.upstream_headers import NOTHING_HEARD, Heard

GREATEST_RECORDS = 200_000
NOTHING_SHA256 = sha256(b"").hexdigest()


class Record:
    """One request. Times are unix seconds; the SHA-256 runs over the body bytes that were handed to the socket."""

    __slots__ = (
        "_sha",
        "body_sha256",
        "bytes_sent",
        "cut_at_s",
        "ended_at_s",
        "heard",
        "input_tokens",
        "method",
        "model",
        "number",
        "output_tokens",
        "path",
        "request_id",
        "sha256_hex",
        "started_at_s",
        "status",
        "tokens_sent",
    )

    def __init__(self, number: int, method: str, path: str) -> None:
        self.number = number
        self.method = method
        self.path = path
        self.request_id: str | None = None  # as it came in Farebox-Request-Id
        self.model = ""
        self.status = 0
        self.input_tokens = self.output_tokens = self.tokens_sent = self.bytes_sent = 0
        self._sha: Any = None
        self.sha256_hex = ""
        self.body_sha256 = ""
        self.started_at_s = time.time()
        self.ended_at_s: float | None = None
        self.cut_at_s: float | None = None
        self.heard: Heard = NOTHING_HEARD

    def sent(self, data: bytes, tokens: int) -> None:
        """Bytes were handed to the socket."""
        self.bytes_sent += len(data)
        self.tokens_sent += tokens
        if self._sha is None:
            self._sha = sha256()
        self._sha.update(data)

    def sent_whole(self, length: int, digest: str, tokens: int) -> None:
        """A whole body was handed to the socket."""
        self.bytes_sent, self.sha256_hex, self.tokens_sent = length, digest, tokens

    def cut(self) -> None:
        """The client went away before the answer was complete."""
        if self.cut_at_s is None:
            self.cut_at_s = time.time()

    def end(self) -> None:
        """Nothing more is sent."""
        self.ended_at_s = time.time()
        if not self.sha256_hex:
            self.sha256_hex = self._digest()
        self._sha = None  # a hash object is ten times its digest

    def _digest(self) -> str:
        return NOTHING_SHA256 if self._sha is None else str(self._sha.hexdigest())

    def shown(self) -> dict[str, Any]:
        """The record as `GET /sim/log` lists it."""
        return {
            "n": self.number,
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "model": self.model,
            "status": self.status,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "tokens_sent": self.tokens_sent,
            "bytes_sent": self.bytes_sent,
            "sha256": self.sha256_hex or self._digest(),
            "body_sha256": self.body_sha256,
            "started_at": _instant(self.started_at_s),
            "ended_at": _instant(self.ended_at_s),
            "cut_off": self.cut_at_s is not None,
            "cut_at": _instant(self.cut_at_s),
            "headers_seen": self.heard.names,
            "authorization_sha256": self.heard.credential_digests,
            "payer_credential_seen": self.heard.payer_credential_seen,
        }


class RequestLog:
    """The last 200,000 requests, numbered from 1."""

    def __init__(self, most: int = GREATEST_RECORDS) -> None:
        self._records: deque[Record] = deque(maxlen=most)
        self._count = 0

    def open(self, method: str, path: str) -> Record:
        """A new record for a request that has just arrived."""
        self._count += 1
        record = Record(self._count, method, path)
        self._records.append(record)
        return record

    def listed(self, *, after: int = 0, request_id: str | None = None) -> list[dict[str, Any]]:
        """Records numbered above `after`, oldest first, all or those of one request id."""
        if not self._records:
            return []
        skip = max(0, after - self._records[0].number + 1)
        chosen = islice(self._records, skip, None)
        return [record.shown() for record in chosen if request_id is None or record.request_id == request_id]

    def clear(self) -> None:
        """Forget all records; numbers go on."""
        self._records.clear()


def _instant(at_s: float | None) -> str | None:
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
