"""What the simulated upstream reads from request headers, read once for every distinct set of them.

Of credentials only names and SHA-256 digests are kept. Sets of headers repeat (but for the request id), so the last
ones are remembered: a benchmark pays one look-up a request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

GREATEST_REMEMBERED = 2_048
REQUEST_ID = b"farebox-request-id"
_CREDENTIAL_NAMES = b"authorization proxy-authorization x-api-key x-goog-api-key api-key macaroon cookie"
_CREDENTIAL_HEADERS = frozenset([*_CREDENTIAL_NAMES.split(), b"grpc-metadata-macaroon"])
# What a payer's credential looks like, wherever it stands: the schemes, our key prefix, `<macaroon>:<preimage>`, or a
# macaroon alone (base64 of the version byte 2 and the first field).
_OF_PAYERS = re.compile(rb"(?i:\bl402\b|\blsat\b|\bfb_[a-z]+_|:[0-9a-f]{64}\b)|\bAg[EIJ][A-Za-z0-9+/_-]{60}")
_KEYS_IN_QUERY = re.compile(rb"(?:^|&)(?:key|api_key|access_token)=([^&]*)")

HeaderLines = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Heard:
    """One set of headers. `wishes` are the `x-sim-*` ones without the prefix; `speaks` is the dialect hinted at."""

    names: tuple[str, ...]
    credential_digests: tuple[str, ...]
    payer_credential_seen: bool
    wishes: tuple[tuple[str, str], ...]
    content_type: str
    speaks: str


NOTHING_HEARD = Heard((), (), False, (), "", "openai")


class HeaderReader:
    """Reads sets of headers, and remembers the last ones."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[bytes, tuple[tuple[bytes, bytes], ...]], Heard] = {}

    def read(self, lines: HeaderLines, query: bytes) -> tuple[Heard, str | None]:
        """What was heard, and the request id as it came in Farebox-Request-Id."""
        request_id = None
        for name, value in lines:
            if name == REQUEST_ID:
                request_id = value.decode("latin-1")
                break
        rest = tuple(lines) if request_id is None else tuple(line for line in lines if line[0] != REQUEST_ID)
        key = (query, rest)
        heard = self._remembered.get(key)
        if heard is None:
            if len(self._remembered) >= GREATEST_REMEMBERED:
                self._remembered.clear()
            heard = self._remembered[key] = _read(lines, query)
        return heard, request_id


def _read(lines: HeaderLines, query: bytes) -> Heard:
    digests = [sha256(value).hexdigest() for name, value in lines if name in _CREDENTIAL_HEADERS]
    digests += [sha256(key).hexdigest() for key in _KEYS_IN_QUERY.findall(query)]
    names = {name for name, _ in lines}
    speaks = "anthropic" if b"anthropic-version" in names else "openai"
    return Heard(
        names=tuple(sorted(name.decode("latin-1") for name, _ in lines)),
        credential_digests=tuple(digests),
        payer_credential_seen=_OF_PAYERS.search(b"\n".join([query, *(value for _, value in lines)])) is not None,
        wishes=tuple(
            (name[6:].decode("latin-1"), value.decode("latin-1")) for name, value in lines if name.startswith(b"x-sim-")
        ),
        content_type=next((value.decode("latin-1") for name, value in lines if name == b"content-type"), ""),
        speaks="gemini" if b"x-goog-api-key" in names else speaks,
    )
