"""How a person shows who they are: a password (argon2), a one-time code (TOTP), a passkey (WebAuthn), by libraries.

Passwords are hashed off the event loop: a hash is meant to take long.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    UserVerificationRequirement,
)

from gateway.core.proofs import Passkey

ISSUER = "Farebox"
# A code of the step before and after is taken: clocks differ.
TOTP_STEP_S, TOTP_WINDOW = 30, 1


class Passwords:
    """Argon2id with the library's parameters."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()

    async def hash(self, password: str) -> bytes:
        """What is kept of a password."""
        return (await asyncio.to_thread(self._hasher.hash, password)).encode()

    async def matches(self, kept: bytes, password: str) -> bool:
        """Whether it is the password."""
        try:
            return await asyncio.to_thread(self._hasher.verify, kept.decode(), password)
        except (Argon2Error, InvalidHashError):
            return False


class OneTimeCodes:
    """TOTP (RFC 6238): six digits, thirty seconds."""

    def make(self, person_id: str) -> tuple[str, str]:
        """A fresh secret, and its `otpauth` address for an app."""
        secret = pyotp.random_base32()
        return secret, pyotp.TOTP(secret).provisioning_uri(name=person_id, issuer_name=ISSUER)

    def step(self, secret: str, code: str, now_s: float) -> int | None:
        """The time step that a code is of, None where it is of none around now."""
        totp = pyotp.TOTP(secret)
        now = int(now_s) // TOTP_STEP_S
        for step in range(now - TOTP_WINDOW, now + TOTP_WINDOW + 1):
            if pyotp.utils.strings_equal(code, totp.generate_otp(step)):
                return step
        return None


class Passkeys:
    """WebAuthn for the origin of `public_url`."""

    def __init__(self, public_url: str) -> None:
        parts = urlsplit(public_url or "http://localhost:8402")
        self._host = parts.hostname or "localhost"
        self._origin = f"{parts.scheme}://{parts.netloc}"

    def registration(self, person: str, challenge: bytes, known: list[Passkey]) -> dict[str, Any]:
        """Options for `navigator.credentials.create`."""
        options = generate_registration_options(
            rp_id=self._host,
            rp_name=ISSUER,
            user_name=person,
            user_id=person.encode()[:64],
            challenge=challenge,
            exclude_credentials=[PublicKeyCredentialDescriptor(id=_raw(each.credential_id)) for each in known],
            authenticator_selection=AuthenticatorSelectionCriteria(
                user_verification=UserVerificationRequirement.REQUIRED
            ),
        )
        return dict(msgspec.json.decode(options_to_json(options)))

    def registered(self, credential: dict[str, Any], challenge: bytes) -> Passkey | None:
        """The passkey that a browser made, None where its proof is not good."""
        try:
            made = verify_registration_response(
                credential=credential, expected_challenge=challenge, expected_rp_id=self._host,
                expected_origin=self._origin, require_user_verification=True,
            )  # fmt: skip
        except (WebAuthnException, ValueError, KeyError, TypeError):
            return None
        return Passkey(_text(made.credential_id), _text(made.credential_public_key), made.sign_count)

    def authentication(self, challenge: bytes, known: list[Passkey]) -> dict[str, Any]:
        """Options for `navigator.credentials.get`."""
        options = generate_authentication_options(
            rp_id=self._host,
            challenge=challenge,
            allow_credentials=[PublicKeyCredentialDescriptor(id=_raw(each.credential_id)) for each in known],
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return dict(msgspec.json.decode(options_to_json(options)))

    def signed(self, credential: dict[str, Any], challenge: bytes, known: list[Passkey]) -> Passkey | None:
        """The passkey that signed, with its new count; None where the proof is not good, or its count went back."""
        asked = credential.get("id")
        for each in known:
            if each.credential_id != asked:
                continue
            try:
                done = verify_authentication_response(
                    credential=credential, expected_challenge=challenge, expected_rp_id=self._host,
                    expected_origin=self._origin, credential_public_key=_raw(each.public_key),
                    credential_current_sign_count=each.sign_count, require_user_verification=True,
                )  # fmt: skip
            except (WebAuthnException, ValueError, KeyError, TypeError):
                return None
            return Passkey(each.credential_id, each.public_key, done.new_sign_count)
        return None


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
