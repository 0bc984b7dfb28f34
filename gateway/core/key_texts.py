"""Texts of keys: `fb_live_` and `fb_op_` with the key's id (16 hex digits, partition first) and its secret.

The text is shown once. What is kept is its SHA-256: the secret has 192 random bits, so that no slow hash is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

ID_DIGITS, SECRET_DIGITS = 16, 48
_TEXT = re.compile(rf"fb_(live|op)_([0-9a-f]{{{ID_DIGITS}}})[0-9a-f]{{{SECRET_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key as it is shown. `digest` is what is kept."""

    text: str
    key_id: str
    digest: str


def make_key_text(*, partition: str, random_hex: str, operator: bool = False, key_id: str = "") -> KeyText:
    """A fresh key; `key_id` of an old one for its rotation. `random_hex`: at least 62 random digits."""
    identity = key_id.removeprefix("ak_") or partition + random_hex[: ID_DIGITS - 2]
    secret = random_hex[ID_DIGITS - 2 : ID_DIGITS - 2 + SECRET_DIGITS]
    text = f"fb_{'op' if operator else 'live'}_{identity}{secret}"
    return KeyText(text, f"ak_{identity}", digest_of(text))


def key_id_of(text: str) -> str | None:
    """The id that a key's text carries, None where it has not the form of one."""
    found = _TEXT.fullmatch(text)
    return f"ak_{found[2]}" if found else None


def digest_of(text: str) -> str:
    """What is kept of a key, in hex."""
    return sha256(text.encode()).hexdigest()
