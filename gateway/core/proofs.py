"""What is kept of the ways a person shows who they are."""

from __future__ import annotations

from msgspec import Struct

PASSWORD, TOTP, PASSKEYS = "password", "totp", "passkeys"
METHODS = ("password", "otp", "passkey")


class Totp(Struct, frozen=True):
    """A one-time code's seed ("" there is none yet). `last_step`: of the newest code that was taken; it and those
    before are used up. `pending`: a seed that waits for its first code, beside the one that is good; `pending_proved`:
    whoever asked for it proved a credential, or needed none."""

    secret: str = ""
    last_step: int = 0
    pending: str = ""
    pending_proved: bool = False


class Passkey(Struct, frozen=True):
    """A passkey's public half, base64url. `sign_count` never falls."""

    credential_id: str
    public_key: str
    sign_count: int
