"""BOLT11 invoices, written and read fast: what the simulated node hands out must be readable by any decoder.

Written with base32 translation and a table for the checksum, because the node has to make hundreds of invoices a
second and a general decoder takes milliseconds for each. Reading checks the checksum and recovers the destination
from the signature.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from coincurve import PrivateKey, PublicKey

_LETTERS = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_GROUPS = bytes(range(32))
_TO_LETTERS = bytes.maketrans(_GROUPS, _LETTERS)
_FROM_LETTERS = bytes.maketrans(_LETTERS, _GROUPS)
_TO_BASE32 = bytes.maketrans(_GROUPS, _BASE32)
_FROM_BASE32 = bytes.maketrans(_BASE32, _GROUPS)
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_SIGNATURE_GROUPS, _CHECKSUM_GROUPS, _TIMESTAMP_GROUPS = 104, 6, 7
# Millisatoshi in one of each unit of the readable part; below a nano-bitcoin only tenths of msat (pico) are left.
_UNITS_MSAT = (("", 100_000_000_000), ("m", 100_000_000), ("u", 100_000), ("n", 100))
# var_onion_optin and payment_secret required, basic_mpp optional: what a node of today asks for.
_FEATURES = (1 << 8) | (1 << 14) | (1 << 17)
# Where an invoice does not say (BOLT 11).
_DEFAULT_EXPIRY_S, _DEFAULT_CLTV = 3600, 18


def _checksum_table() -> tuple[int, ...]:
    return tuple(
        (top & 1) * _GENERATORS[0]
        ^ (top >> 1 & 1) * _GENERATORS[1]
        ^ (top >> 2 & 1) * _GENERATORS[2]
        ^ (top >> 3 & 1) * _GENERATORS[3]
        ^ (top >> 4 & 1) * _GENERATORS[4]
        for top in range(32)
    )


_TABLE = _checksum_table()


@dataclass(frozen=True, slots=True)
class Request:
    """One invoice. `amount_msat` None: the payer chooses. `destination` is the public key as hex."""

    currency: str
    amount_msat: int | None
    timestamp_s: int
    payment_hash: bytes
    secret: bytes
    description: str
    expiry_s: int
    cltv_expiry: int
    destination: str = ""

    @property
    def expires_at_s(self) -> int:
        """When it can no longer be paid."""
        return self.timestamp_s + self.expiry_s


def encode(request: Request, key: PrivateKey) -> str:
    """The signed text of the invoice."""
    readable = b"ln" + request.currency.encode() + _amount_text(request.amount_msat)
    groups = b"".join(
        (
            _number(request.timestamp_s, _TIMESTAMP_GROUPS),
            _field(1, _groups(request.payment_hash)),
            _field(16, _groups(request.secret)),
            _field(13, _groups(request.description.encode())),
            _field(6, _number(request.expiry_s)),
            _field(24, _number(request.cltv_expiry)),
            _field(5, _number(_FEATURES)),
        )
    )
    signature = key.sign_recoverable(hashlib.sha256(readable + _bytes(groups)).digest(), hasher=None)
    groups += _groups(signature)
    return (readable + b"1" + (groups + _checksum(readable, groups)).translate(_TO_LETTERS)).decode()


def decode(text: str) -> Request:
    """Read an invoice. Errors: ValueError with a sentence for people."""
    readable, groups = _split(text)
    signed, signature = groups[:-_SIGNATURE_GROUPS], _bytes(groups[-_SIGNATURE_GROUPS:])
    digest = hashlib.sha256(readable + _bytes(signed)).digest()
    destination = _signer(signature, digest)
    currency, amount_msat = _readable_part(readable.decode())
    fields = _fields(signed[_TIMESTAMP_GROUPS:])
    if 1 not in fields:
        message = "invoice is malformed: no payment hash"
        raise ValueError(message)
    return Request(
        currency=currency,
        amount_msat=amount_msat,
        timestamp_s=_value(signed[:_TIMESTAMP_GROUPS]),
        payment_hash=_bytes(fields[1])[:32],
        secret=_bytes(fields.get(16, b""))[:32],
        description=_whole_bytes(fields.get(13, b"")).decode("utf-8", "replace"),
        expiry_s=_value(fields[6]) if 6 in fields else _DEFAULT_EXPIRY_S,
        cltv_expiry=_value(fields[24]) if 24 in fields else _DEFAULT_CLTV,
        destination=destination,
    )


def _signer(signature: bytes, digest: bytes) -> str:
    try:
        return PublicKey.from_signature_and_message(signature, digest, hasher=None).format().hex()
    except Exception as error:
        # coincurve raises bare exceptions where a signature is no point on the curve.
        message = "invoice is malformed: invalid signature"
        raise ValueError(message) from error


def _split(text: str) -> tuple[bytes, bytes]:
    """The readable part and the groups behind it, checksum checked and taken off."""
    if not text.isascii() or (text != text.lower() and text != text.upper()):
        message = "invalid bech32 string: mixed case or characters that do not belong there"
        raise ValueError(message)
    readable, _, data = text.lower().encode().rpartition(b"1")
    if len(data) < _TIMESTAMP_GROUPS + _SIGNATURE_GROUPS + _CHECKSUM_GROUPS or not readable.startswith(b"ln"):
        message = f"invalid bech32 string length {len(text)}"
        raise ValueError(message)
    if set(data) - set(_LETTERS):
        message = "invalid bech32 string: invalid character in data part"
        raise ValueError(message)
    groups = data.translate(_FROM_LETTERS)
    if _checksum(readable, groups[:-_CHECKSUM_GROUPS]) != groups[-_CHECKSUM_GROUPS:]:
        message = "checksum failed"
        raise ValueError(message)
    return readable, groups[:-_CHECKSUM_GROUPS]


def _readable_part(readable: str) -> tuple[str, int | None]:
    rest = readable[2:]
    letters = len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyz"))
    currency, amount = rest[:letters], rest[letters:]
    if not amount:
        return currency, None
    digits, unit = (amount, "") if amount[-1].isdigit() else (amount[:-1], amount[-1])
    units = dict(_UNITS_MSAT) | {"p": 0}
    if not digits.isdigit() or len(digits) > 20 or unit not in units:
        message = f"invalid amount {amount}"
        raise ValueError(message)
    if unit == "p":
        return currency, int(digits) // 10
    return currency, int(digits) * units[unit]


def _fields(groups: bytes) -> dict[int, bytes]:
    """The tagged fields; the first of a kind counts."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 3 <= len(groups):
        length = groups[position + 1] * 32 + groups[position + 2]
        found.setdefault(groups[position], groups[position + 3 : position + 3 + length])
        position += 3 + length
    return found


def _amount_text(amount_msat: int | None) -> bytes:
    if amount_msat is None:
        return b""
    for unit, unit_msat in _UNITS_MSAT:
        if amount_msat % unit_msat == 0:
            return f"{amount_msat // unit_msat}{unit}".encode()
    return f"{amount_msat * 10}p".encode()


def _field(tag: int, groups: bytes) -> bytes:
    return bytes((tag, len(groups) >> 5, len(groups) & 31)) + groups


def _groups(data: bytes) -> bytes:
    """Bytes as groups of 5 bits, padded with zero bits."""
    return base64.b32encode(data).rstrip(b"=").translate(_FROM_BASE32)


def _bytes(groups: bytes) -> bytes:
    """Groups as bytes, padded with zero bits, as the signature wants it."""
    padded = groups + bytes(-len(groups) % 8)
    return base64.b32decode(padded.translate(_TO_BASE32))[: (len(groups) * 5 + 7) // 8]


def _whole_bytes(groups: bytes) -> bytes:
    return _bytes(groups)[: len(groups) * 5 // 8]


def _number(value: int, width: int = 1) -> bytes:
    groups = bytearray()
    while value or len(groups) < width:
        groups.append(value & 31)
        value >>= 5
    return bytes(reversed(groups))


def _value(groups: bytes) -> int:
    value = 0
    for group in groups:
        value = value << 5 | group
    return value


def _checksum(readable: bytes, groups: bytes) -> bytes:
    state = 1
    table = _TABLE
    expanded = bytes(letter >> 5 for letter in readable) + b"\0" + bytes(letter & 31 for letter in readable)
    for group in expanded + groups + bytes(_CHECKSUM_GROUPS):
        state = ((state & 0x1FFFFFF) << 5) ^ group ^ table[state >> 25]
    return _number(state ^ 1, _CHECKSUM_GROUPS)
