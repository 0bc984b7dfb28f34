"""Which headers cross the relay, in both directions.

Up: everything but hop-by-hop, addresses of the way here, our own, and every form of credential. Down: everything but
hop-by-hop and what would let an upstream act on the origin that the dashboard shares.
"""

from __future__ import annotations

import re

from gateway.core.credentials import CREDENTIAL_HEADERS
from gateway.core.errors import InvalidRequest
from gateway.core.operations import Dialect

Headers = list[tuple[bytes, bytes]]

_CHARSET = re.compile(rb';[ \t]*charset="?([^";, \t]+)"?[ \t]*(?:;|$)')

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
NOT_UP = (
    HOP_BY_HOP
    | CREDENTIAL_HEADERS
    | {
        b"host",
        b"accept-encoding",
        b"cookie",
        b"forwarded",
        b"content-length",
        b"expect",
        b"x-bolthub-credit",
        b"x-real-ip",
    }
    | {
        # Ask the upstream to read another request than ours, or to answer without its usage or in another form.
        b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url",
        b"x-goog-fieldmask", b"x-goog-encode-response-if-executable",
        # An address with a key in its query.
        b"referer",
    }
)  # fmt: skip
NOT_DOWN = HOP_BY_HOP | {
    b"set-cookie", b"set-cookie2", b"clear-site-data", b"service-worker-allowed", b"content-security-policy",
    b"x-content-type-options", b"www-authenticate", b"alt-svc", b"strict-transport-security",
}  # fmt: skip
# Dashboard and relay share an origin: what an upstream sends must never run there.
ALWAYS_DOWN: Headers = [(b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff")]


def headers_up(headers: Headers) -> Headers:
    """The request's headers that go up; framing, Host and our own are added by the caller."""
    named = _named_by_connection(headers)
    return [
        pair
        for pair in headers
        if (name := pair[0]) not in NOT_UP
        and not name.startswith((b"farebox-", b"x-forwarded-"))
        and (not named or name not in named)
    ]


def headers_down(headers: Headers, request_id: bytes) -> Headers:
    """The answer's headers that come back, with ours."""
    kept = [pair for pair in headers if pair[0] not in NOT_DOWN and not pair[0].startswith(b"farebox-")]
    kept += ALWAYS_DOWN
    kept.append((b"farebox-request-id", request_id))
    return kept


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that `Connection` names are hop-by-hop too (RFC 9110, 7.6.1)."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in {b"keep-alive", b"close"}:
            return frozenset(part.strip().lower() for part in value.split(b","))
    return frozenset()


def key_header(dialect: Dialect, api_key: str) -> Headers:
    """Our own credential, as the upstream's dialect wants it."""
    if not api_key:
        return []
    if dialect is Dialect.ANTHROPIC:
        return [(b"x-api-key", api_key.encode())]
    if dialect is Dialect.GEMINI:
        return [(b"x-goog-api-key", api_key.encode())]
    return [(b"authorization", b"Bearer " + api_key.encode())]


def header_value(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header; names are lower case."""
    for candidate, value in headers:
        if candidate == name:
            return value
    return None


def content_type_of(headers: Headers) -> bytes:
    """The type of a body that is read here, in lower case. Refused is what could make the upstream read other words in
    the same bytes: two types, JSON in another encoding than UTF-8, a compressed body."""
    found = b""
    for name, value in headers:
        if name == b"content-type":
            if found:
                raise InvalidRequest("content-type: given twice", param="content-type")
            found = value.lower()
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise InvalidRequest("content-encoding: send the body uncompressed", param="content-encoding")
    if b"charset" in found:
        charset = _CHARSET.search(found)
        if charset is None or charset[1] not in (b"utf-8", b"utf8"):
            raise InvalidRequest("content-type: bodies are read as UTF-8", param="content-type")
    return found


def is_grpc(headers: Headers) -> bool:
    """Whether the caller speaks gRPC, told by its Content-Type."""
    return (header_value(headers, b"content-type") or b"")[:16].lower() == b"application/grpc"


def speaks(headers: Headers) -> Dialect:
    """What the caller speaks, told by its headers: `x-goog-api-key`, else `anthropic-version`, else OpenAI."""
    anthropic = False
    for name, _ in headers:
        if name == b"x-goog-api-key":
            return Dialect.GEMINI
        anthropic = anthropic or name == b"anthropic-version"
    return Dialect.ANTHROPIC if anthropic else Dialect.OPENAI
