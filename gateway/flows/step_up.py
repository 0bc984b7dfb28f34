"""A person proves who they are, beyond what their app says: password, one-time code, passkey.

Attempts are counted before they are looked at, so that guessing many at once gets no further; what was wrong is not
told. A code is taken once; a passkey signs what it is for (quote, amount, expiry): its proof is good for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.approvals import ApprovalPolicy
from gateway.core.directory import AuditEntry, Principal, person_part
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, RateLimited
from gateway.core.proofs import METHODS, PASSKEYS, PASSWORD, TOTP, Passkey, Totp
from gateway.ports import System

ATTEMPTS_MOST, ATTEMPTS_WINDOW_S = 5, 900
PASSWORD_LEAST, PASSWORD_MOST = 10, 200
PASSKEYS_MOST = 10


class Secrets(Protocol):
    """Where the secrets of persons are kept."""

    async def secret(self, org_id: str, person_id: str, name: str) -> bytes | None: ...
    async def put_secret(
        self, org_id: str, person_id: str, name: str, value: bytes, audit: AuditEntry, *, expected: int
    ) -> bool: ...
    async def version(self, part: str, org_id: str) -> int: ...
    async def attempt(self, org_id: str, person_id: str, *, window_s: int) -> int: ...
    async def forget_attempts(self, org_id: str, person_id: str) -> None: ...


class Sealing(Protocol):
    """Seals what must be read again."""

    def seal(self, secret: bytes, *, of: str) -> bytes: ...
    def open(self, sealed: bytes, *, of: str) -> bytes: ...
    def challenge(self, text: str) -> bytes: ...


class PasswordHashing(Protocol):
    """Hashes passwords."""

    async def hash(self, password: str) -> bytes: ...
    async def matches(self, kept: bytes, password: str) -> bool: ...


class Codes(Protocol):
    """Makes and reads one-time codes."""

    def make(self, person_id: str) -> tuple[str, str]: ...
    def step(self, secret: str, code: str, now_s: float) -> int | None: ...


class PasskeyChecking(Protocol):
    """Checks passkeys."""

    def registration(self, person: str, challenge: bytes, known: list[Passkey]) -> dict[str, Any]: ...
    def registered(self, credential: dict[str, Any], challenge: bytes) -> Passkey | None: ...
    def authentication(self, challenge: bytes, known: list[Passkey]) -> dict[str, Any]: ...
    def signed(self, credential: dict[str, Any], challenge: bytes, known: list[Passkey]) -> Passkey | None: ...


class StepUp:
    """Checks proofs, and keeps what they are checked against."""

    def __init__(
        self,
        *,
        secrets: Secrets,
        vault: Sealing,
        passwords: PasswordHashing,
        codes: Codes,
        passkeys: PasskeyChecking,
        policy: Callable[[], ApprovalPolicy],
        system: System,
    ) -> None:
        self._secrets = secrets
        self._vault = vault
        self._passwords = passwords
        self._codes = codes
        self._passkeys = passkeys
        self._policy = policy
        self._system = system

    async def prove(self, principal: Principal, proof: Mapping[str, Any], bound_to: str) -> str:
        """The method that proved the person. Errors: InvalidRequest, Forbidden(step_up_failed), RateLimited."""
        if len(proof) != 1:
            raise InvalidRequest(f"give one of {', '.join(METHODS)}", param="password")
        ((method, value),) = proof.items()
        if method not in self._policy().step_up_methods:
            raise Forbidden(f"a {method} is no step-up here", code="step_up_failed")
        org_id, person_id = principal.org_id, principal.person_id
        if await self._secrets.attempt(org_id, person_id, window_s=ATTEMPTS_WINDOW_S) > ATTEMPTS_MOST:
            message = "too many attempts to prove who you are; wait"
            raise RateLimited(message, retry_after_s=ATTEMPTS_WINDOW_S)
        if method == "password":
            good = await self._password(org_id, person_id, value)
        elif method == "otp":
            good = await self._code(principal, value)
        else:
            good = await self._passkey(principal, value, bound_to)
        if not good:
            raise Forbidden("this proof is not good", code="step_up_failed")
        await self._secrets.forget_attempts(org_id, person_id)
        return method

    async def _password(self, org_id: str, person_id: str, value: Any) -> bool:
        kept = await self._secrets.secret(org_id, person_id, PASSWORD)
        return (
            kept is not None and isinstance(value, str) and await self._passwords.matches(kept, value[:PASSWORD_MOST])
        )

    async def _code(self, principal: Principal, value: Any, *, confirming: bool = False) -> bool:
        """Whether the code is of now, and newer than every code before it: one code works once."""
        version = await self._version(principal)
        totp = await self._totp(principal)
        if totp is None or not isinstance(value, str) or (not totp.confirmed and not confirming):
            return False
        step = self._codes.step(totp.secret, value.strip(), self._system.now_s())
        if step is None or step <= totp.last_step:
            return False
        after = replace(totp, confirmed=True, last_step=step)
        return await self._keep_totp(principal, after, "credential.use", version)

    async def _passkey(self, principal: Principal, value: Any, bound_to: str) -> bool:
        version = await self._version(principal)
        known = await self._known_passkeys(principal)
        if not isinstance(value, dict):
            return False
        signed = self._passkeys.signed(value, self._vault.challenge(bound_to), known)
        if signed is None:
            return False
        after = [signed if each.credential_id == signed.credential_id else each for each in known]
        return await self._keep_passkeys(principal, after, "credential.use", version)

    async def options(self, principal: Principal, bound_to: str) -> dict[str, Any] | None:
        """What a browser needs for a passkey's proof of this; None where the person has no passkey."""
        known = await self._known_passkeys(principal)
        return self._passkeys.authentication(self._vault.challenge(bound_to), known) if known else None

    # What proofs are checked against.

    async def enrol(self, principal: Principal, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Set a credential of the principal's person: `{password}`, `{totp: {}}`, then `{totp: {code}}`,
        `{passkey: {}}`, then `{passkey: {credential}}`. Whoever has one already proves it (`proof`)."""
        if not principal.person_id:
            raise InvalidRequest("credentials are a person's: name them", param="farebox-user")
        names = [name for name in ("password", "totp", "passkey") if name in wanted]
        if len(names) != 1:
            raise InvalidRequest("give one of password, totp, passkey", param="password")
        (name,) = names
        value = wanted[name]
        finishing = isinstance(value, dict) and ("code" in value or "credential" in value)
        if not finishing and not principal.operator and await self._has_any(principal):
            proof = wanted.get("proof")
            if not isinstance(proof, dict):
                raise Forbidden("prove one of your credentials to change them", code="step_up_required", param="proof")
            await self.prove(principal, proof, f"enrol {principal.person_id}")
        if name == "password":
            return await self._set_password(principal, value)
        if not isinstance(value, dict):
            raise InvalidRequest("must be an object", param=name)
        return await (self._set_totp(principal, value) if name == "totp" else self._set_passkey(principal, value))

    async def _set_password(self, principal: Principal, value: Any) -> dict[str, Any]:
        if not isinstance(value, str) or not PASSWORD_LEAST <= len(value) <= PASSWORD_MOST:
            message = f"must have {PASSWORD_LEAST} to {PASSWORD_MOST} characters"
            raise InvalidRequest(message, param="password")
        version = await self._version(principal)
        await self._keep(principal, PASSWORD, await self._passwords.hash(value), "credential.password", version)
        return {"password": True}

    async def _set_totp(self, principal: Principal, value: dict[str, Any]) -> dict[str, Any]:
        if "code" in value:
            if await self._secrets.attempt(
                principal.org_id, principal.person_id, window_s=ATTEMPTS_WINDOW_S
            ) > ATTEMPTS_MOST:  # fmt: skip
                raise RateLimited("too many attempts; wait", retry_after_s=ATTEMPTS_WINDOW_S)
            if not await self._code(principal, value["code"], confirming=True):
                raise Forbidden("this code is not good", code="step_up_failed", param="totp.code")
            await self._secrets.forget_attempts(principal.org_id, principal.person_id)
            return {"totp": {"confirmed": True}}
        secret, address = self._codes.make(principal.person_id)
        version = await self._version(principal)
        if not await self._keep_totp(principal, Totp(secret), "credential.totp", version):
            raise Conflict("others are changing these credentials; try again")
        return {"totp": {"secret": secret, "otpauth_url": address, "confirmed": False}}

    async def _set_passkey(self, principal: Principal, value: dict[str, Any]) -> dict[str, Any]:
        version = await self._version(principal)
        known = await self._known_passkeys(principal)
        # Bound to the version: once a passkey was added, the same proof adds none.
        challenge = self._vault.challenge(f"register {principal.org_id} {principal.person_id} {version}")
        if "credential" not in value:
            return {"passkey": {"options": self._passkeys.registration(principal.person_id, challenge, known)}}
        if len(known) >= PASSKEYS_MOST:
            raise Conflict(f"a person has at most {PASSKEYS_MOST} passkeys")
        given = value["credential"]
        made = self._passkeys.registered(given, challenge) if isinstance(given, dict) else None
        if made is None:
            raise Forbidden("this passkey's proof is not good", code="step_up_failed", param="passkey.credential")
        if not await self._keep_passkeys(principal, [*known, made], "credential.passkey", version):
            raise Conflict("others are changing these credentials; try again")
        return {"passkey": {"id": made.credential_id}}

    async def _has_any(self, principal: Principal) -> bool:
        totp = await self._totp(principal)
        if totp is not None and totp.confirmed:
            return True
        kept = await self._secrets.secret(principal.org_id, principal.person_id, PASSWORD)
        return kept is not None or bool(await self._known_passkeys(principal))

    async def _version(self, principal: Principal) -> int:
        part = f"{person_part(principal.org_id, principal.person_id)}|secrets"
        return await self._secrets.version(part, principal.org_id)

    async def _totp(self, principal: Principal) -> Totp | None:
        sealed = await self._secrets.secret(principal.org_id, principal.person_id, TOTP)
        if sealed is None:
            return None
        return msgspec.json.decode(self._vault.open(sealed, of=_whose(principal)), type=Totp)

    async def _keep_totp(self, principal: Principal, totp: Totp, action: str, version: int) -> bool:
        sealed = self._vault.seal(msgspec.json.encode(totp), of=_whose(principal))
        return await self._keep(principal, TOTP, sealed, action, version)

    async def _known_passkeys(self, principal: Principal) -> list[Passkey]:
        raw = await self._secrets.secret(principal.org_id, principal.person_id, PASSKEYS)
        return [] if raw is None else msgspec.json.decode(raw, type=list[Passkey])

    async def _keep_passkeys(self, principal: Principal, passkeys: list[Passkey], action: str, version: int) -> bool:
        return await self._keep(principal, PASSKEYS, msgspec.json.encode(passkeys), action, version)

    async def _keep(self, principal: Principal, name: str, value: bytes, action: str, version: int) -> bool:
        """Written only over what was read. The audit entry says that, not what."""
        audit = AuditEntry(
            int(self._system.now_s() * 1_000), principal.org_id, principal.actor, principal.vouched, action,
            person_part(principal.org_id, principal.person_id), b"null", msgspec.json.encode({"credential": name}),
        )  # fmt: skip
        return await self._secrets.put_secret(
            principal.org_id, principal.person_id, name, value, audit, expected=version
        )


def _whose(principal: Principal) -> str:
    return f"{person_part(principal.org_id, principal.person_id)}|totp"
