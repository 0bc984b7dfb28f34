"""Seals secrets that must be read again (one-time code seeds, webhook secrets) before they are kept.

The key is derived from the newest master secret; what older ones sealed still opens. A store that is stolen without the
master secret tells nothing.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES, _KEY_BYTES = 12, 32


class Vault:
    """Seals and opens."""

    def __init__(self, master_secrets: tuple[bytes, ...]) -> None:
        self._ciphers = [ChaCha20Poly1305(_derived(secret, b"farebox vault")) for secret in master_secrets]
        self._mac_key = _derived(master_secrets[0], b"farebox challenge")
        self._print_keys = [_derived(secret, b"farebox fingerprint") for secret in master_secrets]

    def seal(self, secret: bytes, *, of: str) -> bytes:
        """Sealed, as text. `of`: whose secret it is; it opens for nobody else."""
        nonce = os.urandom(_NONCE_BYTES)
        return urlsafe_b64encode(nonce + self._ciphers[0].encrypt(nonce, secret, of.encode()))

    def open(self, sealed: bytes, *, of: str) -> bytes:
        """Errors: ValueError where it was not sealed here, or for somebody else."""
        try:
            raw = urlsafe_b64decode(sealed)
        except (Base64Error, ValueError):
            raw = b""
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], of.encode())
            except (InvalidTag, ValueError):
                continue
        message = "this was not sealed here"
        raise ValueError(message)

    def challenge(self, text: str) -> bytes:
        """32 bytes that nobody else can foretell, the same for the same text."""
        return _mac(self._mac_key, text.encode())

    def fingerprints(self, content: bytes) -> tuple[str, ...]:
        """What tells a content from another, and says nothing of it to whoever guesses: hex, of the newest secret
        first."""
        return tuple(_mac(key, content).hex() for key in self._print_keys)


def _mac(key: bytes, content: bytes) -> bytes:
    mac = HMAC(key, SHA256())
    mac.update(content)
    return mac.finalize()


def _derived(secret: bytes, label: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=label).derive(secret)
