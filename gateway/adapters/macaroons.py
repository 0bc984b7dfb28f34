"""Tokens: minted and verified with keys that are derived, so that there is nothing to store and nothing to lose.

The root key of a token is HMAC(master secret, identifier). The identifier is 66 bytes, big-endian: version 0, payment
hash, token id. Several master secrets may be configured, newest first: the newest mints, all of them verify, so that
a secret can be replaced while tokens of the old one are still out. The binary is version 2 as pymacaroons writes it;
the chain of HMACs is computed here, because the one right after each caveat is the name of that caveat's counter.
"""

from __future__ import annotations

import hmac
import os
import secrets
import struct
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from pymacaroons import Macaroon
from pymacaroons.macaroon import MACAROON_V2
from pymacaroons.serializers import BinarySerializer

from gateway.core.tokens import Unverified, Verified

IDENTIFIER = struct.Struct(">H32s32s")
IDENTIFIER_VERSION = 0
# What `mint` writes: services, then the expiry. Everything after it is a client's.
OWN_CAVEATS = 2
# A chain costs 1 us a caveat; clients add a handful.
GREATEST_CAVEATS = 64
GREATEST_MACAROON_BYTES = 8_192
SECRET_BYTES = 32
ENVIRONMENT_NAME = "FAREBOX_MASTER_SECRET"
_KEY_GENERATOR = b"macaroons-key-generator"
_MEMO_KEY_LABEL = b"farebox invoice memo"
_SERIALIZER = BinarySerializer()


class Mint:
    """Mints and verifies under the given master secrets, newest first."""

    def __init__(self, master_secrets: tuple[bytes, ...]) -> None:
        if not master_secrets or any(len(secret) < SECRET_BYTES for secret in master_secrets):
            message = f"a master secret has at least {SECRET_BYTES} bytes"
            raise ValueError(message)
        self._secrets = master_secrets
        self.memo_keys = tuple(_hmac(secret, _MEMO_KEY_LABEL) for secret in master_secrets)

    def mint(self, *, payment_hash: bytes, token_id: bytes, service: str, expires_at_s: int) -> str:
        """A token bound to a payment, a service and a last instant: standard base64, padded."""
        identifier = IDENTIFIER.pack(IDENTIFIER_VERSION, payment_hash, token_id)
        root_key = _hmac(self._secrets[0], identifier)
        macaroon = Macaroon(identifier=identifier, key=root_key, version=MACAROON_V2)
        macaroon.add_first_party_caveat(f"services={service}:0")
        macaroon.add_first_party_caveat(f"{service}_valid_until={expires_at_s}")
        return b64encode(_SERIALIZER.serialize_raw(macaroon)).decode("ascii")

    def verify(self, raw: bytes) -> Verified | Unverified:
        """Whether we minted it, and what was appended since. Says nothing of caveats, time or payment."""
        read = _read(raw)
        if isinstance(read, Unverified):
            return read
        identifier, caveats, signature = read
        version, payment_hash, token_id = IDENTIFIER.unpack(identifier)
        if version != IDENTIFIER_VERSION:
            return Unverified("the token is of an unknown version")
        for secret in self._secrets:
            links = _chain(_hmac(secret, identifier), identifier, caveats)
            if len(links) >= OWN_CAVEATS and hmac.compare_digest(links[-1][1], signature):
                return Verified(token_id, payment_hash, links, OWN_CAVEATS)
        return Unverified("the signature is not ours")


def load_master_secrets(
    environment: Mapping[str, str], data_dir: Path, *, file_name: str = "master-secret"
) -> tuple[bytes, ...]:
    """From the environment (hexadecimal, newest first, commas between), else from the file in `data_dir`, which is
    made on the first start, readable by its owner alone.

    Errors: ValueError when what is there cannot be used; PermissionError when others can read the file.
    """
    given = environment.get(ENVIRONMENT_NAME, "")
    if given:
        return _parse_secrets(given.replace(",", "\n"), ENVIRONMENT_NAME)
    path = data_dir / file_name
    if not path.exists():
        _create(path)
    if path.stat().st_mode & 0o077:
        message = f"{path} can be read by others; make it mode 0600"
        raise PermissionError(message)
    return _parse_secrets(path.read_text(encoding="ascii"), str(path))


def _create(path: Path) -> None:
    """Make the file in one step: of two processes that start together, the second finds the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _parse_secrets(text: str, where: str) -> tuple[bytes, ...]:
    try:
        parsed = tuple(bytes.fromhex(line) for line in text.split() if line)
    except ValueError:
        parsed = ()
    if not parsed or any(len(secret) < SECRET_BYTES for secret in parsed):
        message = f"{where} must hold secrets of at least {2 * SECRET_BYTES} hexadecimal digits"
        raise ValueError(message)
    return parsed


def _read(raw: bytes) -> tuple[bytes, tuple[bytes, ...], bytes] | Unverified:
    """Identifier, caveats and signature of a version 2 binary."""
    if not raw or raw[0] != MACAROON_V2 or len(raw) > GREATEST_MACAROON_BYTES:
        return Unverified("the token is not a version 2 macaroon")
    try:
        macaroon = _SERIALIZER.deserialize_raw(raw)
        signature = bytes.fromhex(macaroon.signature)
    except Exception:  # noqa: BLE001 - the parser raises whatever hostile bytes make it stumble over
        return Unverified("the token cannot be read")
    if len(macaroon.identifier_bytes) != IDENTIFIER.size or len(macaroon.caveats) > GREATEST_CAVEATS:
        return Unverified("the token is not one of ours")
    if any(caveat.verification_key_id for caveat in macaroon.caveats):
        return Unverified("third-party caveats cannot be verified here")
    return macaroon.identifier_bytes, tuple(caveat.caveat_id_bytes for caveat in macaroon.caveats), signature


def _chain(root_key: bytes, identifier: bytes, caveats: tuple[bytes, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Every caveat with the HMAC right after it."""
    signature = _hmac(_hmac(_KEY_GENERATOR, root_key), identifier)
    links: list[tuple[bytes, bytes]] = []
    for caveat in caveats:
        signature = _hmac(signature, caveat)
        links.append((caveat, signature))
    return tuple(links)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
