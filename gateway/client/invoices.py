"""Reads what a BOLT11 invoice asks for, before anything is paid.

Only the amount, the payment hash and the times are read, and the checksum is verified; the signature is the wallet's
business. Any network is read (simnet too, which common decoders refuse), because the wallet knows which one it is on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_GROUPS, _SIGNATURE_GROUPS, _TIME_GROUPS, _HASH_GROUPS = 6, 104, 7, 52
_HASH_TAG, _EXPIRY_TAG = _LETTERS.index("p"), _LETTERS.index("x")
_DEFAULT_EXPIRY_S = 3_600  # where an invoice does not say (BOLT 11)
# Longer than any real invoice (lnd stops at 7,089), short enough that hostile text costs nothing.
_GREATEST_CHARACTERS = 8_192
_PREFIX = re.compile(r"ln([a-z]+?)(?:([0-9]{1,15})([munp]?))?")
# Picobitcoin in one of each unit; one msat is ten of them.
_PICO = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}


class BadInvoice(ValueError):
    """A text that is no invoice, or one that nobody should pay unseen."""


@dataclass(frozen=True, slots=True)
class InvoiceTerms:
    """What an invoice asks for. `payment_hash` is hexadecimal; `amount_msat` 0 where the payer chooses."""

    payment_hash: str
    amount_msat: int
    created_at_s: int
    expires_at_s: int


def read_invoice(text: str) -> InvoiceTerms:
    """Errors: BadInvoice where it cannot be read."""
    lowered = text.strip().lower()
    prefix, _, data = lowered.rpartition("1")
    if len(lowered) > _GREATEST_CHARACTERS or text.strip() not in {lowered, lowered.upper()}:
        raise BadInvoice("the invoice is too long, or mixes upper and lower case")
    if not set(data) <= set(_LETTERS) or len(data) < _TIME_GROUPS + _SIGNATURE_GROUPS + _CHECKSUM_GROUPS:
        raise BadInvoice("the invoice is not bech32")
    groups = [_LETTERS.index(letter) for letter in data]
    if _checksum(prefix, groups) != 1:
        raise BadInvoice("the invoice's checksum is wrong")
    created_at_s = _number(groups[:_TIME_GROUPS])
    tagged = _tagged(groups[_TIME_GROUPS : -_SIGNATURE_GROUPS - _CHECKSUM_GROUPS])
    payment_hash = tagged.get(_HASH_TAG, [])
    if len(payment_hash) != _HASH_GROUPS:
        raise BadInvoice("the invoice has no payment hash")
    expiry_s = _number(tagged[_EXPIRY_TAG]) if _EXPIRY_TAG in tagged else _DEFAULT_EXPIRY_S
    return InvoiceTerms(
        payment_hash=f"{_number(payment_hash) >> 4:064x}",
        amount_msat=_amount_msat(prefix),
        created_at_s=created_at_s,
        expires_at_s=created_at_s + expiry_s,
    )


def _amount_msat(prefix: str) -> int:
    found = _PREFIX.fullmatch(prefix)
    if found is None:
        raise BadInvoice("the invoice's amount cannot be read")
    if found[2] is None:
        return 0
    pico = int(found[2]) * _PICO[found[3]]
    if pico % 10:
        raise BadInvoice("the invoice asks for a fraction of a millisatoshi")
    return pico // 10


def _tagged(groups: list[int]) -> dict[int, list[int]]:
    """The tagged fields; of a tag that comes twice the first counts, as BOLT 11 says of the payment hash."""
    fields: dict[int, list[int]] = {}
    place = 0
    while place + 3 <= len(groups):
        length = groups[place + 1] * 32 + groups[place + 2]
        fields.setdefault(groups[place], groups[place + 3 : place + 3 + length])
        place += 3 + length
    return fields


def _number(groups: list[int]) -> int:
    number = 0
    for group in groups:
        number = number << 5 | group
    return number


def _checksum(prefix: str, groups: list[int]) -> int:
    """The bech32 polynomial (BIP 173); 1 for a text that is whole."""
    values = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix] + groups
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATORS):
            check ^= generator if top >> place & 1 else 0
    return check
