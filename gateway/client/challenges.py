"""Reads L402 challenges as servers write them, and checks that a challenge is what it says before it is paid.

An invoice whose payment hash is not the one in the macaroon would buy nothing: the proof would never fit the token.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pymacaroons import Macaroon

from gateway.client.invoices import BadInvoice, read_invoice

SCHEMES = frozenset({"l402", "lsat"})
_IDENTIFIER_BYTES = 66  # uint16 version, payment hash, token id
_GREATEST_HEADER_CHARACTERS = 32_768
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(_NAME)
_BETWEEN = re.compile(r"[\s,]*")
_QUOTED_PAIR = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that may be paid. `payment_hash` and `token_id` are hexadecimal."""

    macaroon: str
    invoice: str
    payment_hash: str
    token_id: str
    service: str
    amount_msat: int
    expires_at_s: int


@dataclass(frozen=True, slots=True)
class NoChallenge:
    """The answer carries no L402 challenge: not our 402."""


@dataclass(frozen=True, slots=True)
class BadChallenge:
    """A challenge that must not be paid, and why."""

    reason: str


def read_challenge(headers: Iterable[str], *, now_s: float) -> Challenge | NoChallenge | BadChallenge:
    """The first L402 challenge among the `WWW-Authenticate` headers that can be paid; else why the first cannot."""
    first: BadChallenge | None = None
    for parameters in l402_parameters(headers):
        found = _checked(parameters, now_s)
        if isinstance(found, Challenge):
            return found
        first = first or found
    return first or NoChallenge()


def l402_parameters(headers: Iterable[str]) -> Iterator[Mapping[str, str]]:
    """The parameters of every L402 or LSAT challenge: any order, quoted or not, with or without commas, several
    challenges in one header."""
    for header in headers:
        for scheme, parameters in _challenges(header[:_GREATEST_HEADER_CHARACTERS]):
            if scheme.lower() in SCHEMES and parameters:
                yield parameters


def _challenges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    scheme, parameters = "", dict[str, str]()
    place = _skipped(header, 0)
    while place < len(header):
        found = _PARAMETER.match(header, place)
        if found is not None:
            quoted, bare = found[2], found[3]
            parameters.setdefault(found[1].lower(), bare if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted))
        else:
            found = _SCHEME.match(header, place)
            yield scheme, parameters
            scheme, parameters = found[0] if found else "", {}
        place = _skipped(header, found.end() if found else place + 1)
    yield scheme, parameters


def _skipped(header: str, place: int) -> int:
    found = _BETWEEN.match(header, place)
    return found.end() if found else place


def _checked(parameters: Mapping[str, str], now_s: float) -> Challenge | BadChallenge:
    macaroon = parameters.get("macaroon") or parameters.get("token")
    invoice = parameters.get("invoice")
    if not macaroon or not invoice:
        return BadChallenge("the challenge lacks its macaroon or its invoice")
    try:
        terms = read_invoice(invoice)
        identifier, service = _read_macaroon(macaroon)
    except (BadInvoice, ValueError) as error:
        return BadChallenge(str(error))
    payment_hash, token_id = identifier[2:34].hex(), identifier[34:].hex()
    if terms.payment_hash != payment_hash:
        return BadChallenge("the invoice is not the one that the macaroon is bound to")
    if terms.amount_msat <= 0:
        return BadChallenge("the invoice names no amount")
    if terms.expires_at_s <= now_s:
        return BadChallenge("the invoice has expired")
    return Challenge(macaroon, invoice, payment_hash, token_id, service, terms.amount_msat, terms.expires_at_s)


def _read_macaroon(text: str) -> tuple[bytes, str]:
    """Identifier, and the first service that the macaroon names (empty: none). Errors: ValueError."""
    try:
        raw = base64.b64decode(
            text.replace("-", "+").replace("_", "/").rstrip("=") + "==="[: -len(text.rstrip("=")) % 4]
        )
        macaroon = Macaroon.deserialize(base64.urlsafe_b64encode(raw).decode())
        identifier = macaroon.identifier_bytes
        caveats = [caveat.caveat_id_bytes.decode("utf-8", "replace") for caveat in macaroon.caveats]
    except (binascii.Error, Exception) as error:
        message = "the macaroon cannot be read"
        raise ValueError(message) from error
    if len(identifier) != _IDENTIFIER_BYTES or identifier[:2] != b"\x00\x00":
        message = "the macaroon's identifier is not one of L402, version 0"
        raise ValueError(message)
    services = [caveat.partition("=")[2] for caveat in caveats if caveat.partition("=")[0] == "services"]
    service = services[-1].split(",")[0].partition(":")[0] if services else ""
    return identifier, service
