"""The ground truth of tests: what the simulated upstream got and what it really sent, request by request.

A record is made when a request arrives and filled while its answer goes out, so a request that is still running can
be read too. Of credentials only names and SHA-256 digests are kept.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any

GREATEST_RECORDS = 200_000
_CREDENTIAL_HEADERS = frozenset(
    b"authorization proxy-authorization x-api-key x-goog-api-key api-key macaroon grpc-metadata-macaroon cookie".split()
)
# What a payer's credential looks like, wherever it stands: the schemes, our key prefix, `<macaroon>:<preimage>`, or a
# macaroon alone (base64 of the version byte 2 and the first field).
_OF_PAYERS = re.compile(rb"(?i:\bl402\b|\blsat\b|\bfb_[a-z]+_|:[0-9a-f]{64}\b)|\bAg[EIJ][A-Za-z0-9+/_-]{60}")
_KEYS_IN_QUERY = re.compile(rb"(?:^|&)(?:key|api_key|access_token)=([^&]*)")

HeaderLines = Iterable[tuple[bytes, bytes]]


class Record:
    """One request. Times are unix seconds; `sha` runs over the body bytes that were handed to the socket."""

    __slots__ = (
        "body_sha256",
        "bytes_sent",
        "credential_digests",
        "cut_at_s",
        "ended_at_s",
        "header_names",
        "input_tokens",
        "method",
        "model",
        "number",
        "output_tokens",
        "path",
        "payer_credential_seen",
        "request_id",
        "sha",
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
        self.sha = sha256()
        self.body_sha256 = ""
        self.started_at_s = time.time()
        self.ended_at_s: float | None = None
        self.cut_at_s: float | None = None
        self.header_names: list[bytes] = []
        self.credential_digests: list[str] = []
        self.payer_credential_seen = False

    def heard(self, lines: HeaderLines, query: bytes) -> None:
        """Note which headers came, and whether anything like a credential was among them."""
        values = [query]
        for name, value in lines:
            self.header_names.append(name)
            values.append(value)
            if name in _CREDENTIAL_HEADERS:
                self.credential_digests.append(sha256(value).hexdigest())
        self.credential_digests.extend(sha256(key).hexdigest() for key in _KEYS_IN_QUERY.findall(query))
        self.payer_credential_seen = _OF_PAYERS.search(b"\n".join(values)) is not None

    def sent(self, data: bytes, tokens: int) -> None:
        """Bytes were handed to the socket."""
        self.bytes_sent += len(data)
        self.tokens_sent += tokens
        self.sha.update(data)

    def cut(self) -> None:
        """The client went away before the answer was complete."""
        if self.cut_at_s is None:
            self.cut_at_s = time.time()

    def end(self) -> None:
        """Nothing more is sent."""
        self.ended_at_s = time.time()

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
            "sha256": self.sha.hexdigest(),
            "body_sha256": self.body_sha256,
            "started_at": _instant(self.started_at_s),
            "ended_at": _instant(self.ended_at_s),
            "cut_off": self.cut_at_s is not None,
            "cut_at": _instant(self.cut_at_s),
            "headers_seen": sorted(name.decode("latin-1") for name in self.header_names),
            "authorization_sha256": self.credential_digests,
            "payer_credential_seen": self.payer_credential_seen,
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
