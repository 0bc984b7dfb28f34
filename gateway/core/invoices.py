"""The payment hash inside a BOLT11 invoice, read without checking its signature: it is our own node's.

A token is bound to a payment hash; if the invoice that goes out with it held another one, the agent would pay and its
token would never open. Reading this one field costs 10 us, a full decoder a thousand times as much.
"""

from __future__ import annotations

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_TIMESTAMP_GROUPS = 7
# 520 bits of signature and the checksum stand at the end.
_SIGNATURE_GROUPS = 104
_CHECKSUM_GROUPS = 6
_PAYMENT_HASH_TAG = "p"
_PAYMENT_HASH_GROUPS = 52


def payment_hash_of(payment_request: str) -> bytes | None:
    """The 32 bytes, None where there are none."""
    text = payment_request.lower()
    data = text[text.rfind("1") + 1 :]
    end = len(data) - _SIGNATURE_GROUPS - _CHECKSUM_GROUPS
    at = _TIMESTAMP_GROUPS
    try:
        while at + 3 <= end:
            length = _VALUES[data[at + 1]] * 32 + _VALUES[data[at + 2]]
            if data[at] == _PAYMENT_HASH_TAG and length == _PAYMENT_HASH_GROUPS:
                return _bytes(data[at + 3 : at + 3 + length])
            at += 3 + length
    except KeyError:
        return None
    return None


def _bytes(groups: str) -> bytes:
    """52 groups of five bits are 260 bits; the last four are padding."""
    number = 0
    for letter in groups:
        number = number << 5 | _VALUES[letter]
    return (number >> 4).to_bytes(32, "big")
