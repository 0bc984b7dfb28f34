"""A request as the edge has read it: typed once, never read again from the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct

from gateway.core.headers import Headers
from gateway.core.multipart import MultipartFields


class Call(Struct):
    """One request to the relay. `tail` is the random part of its ids; `request_id` gets its partition with the payer.
    `upload` continues `body` for multipart requests. `address` is the client's, as the trusted hop saw it."""

    method: str
    path: str
    query: bytes
    headers: Headers
    address: str
    tail: str
    request_id: str
    started_s: float
    body: bytes = b""
    upload: AsyncIterator[bytes] | None = None
    upload_bytes: int = 0
    upload_digest: str = ""  # SHA-256 of the upload in hex, as its sender says; what streams is held to it
    model: str | None = None  # the model that the query names, of a realtime session
    upgrades: bool = False  # comes over a WebSocket
    form: MultipartFields | None = None  # the small fields of an upload, as far as they were read

    def belong_to(self, partition: str) -> None:
        """Give the request's id the partition (two hex digits) of its payer."""
        self.request_id = f"req_{partition}{self.tail}"
