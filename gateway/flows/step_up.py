"""A person proves who they are, beyond what their app says: password, one-time code, passkey.

Attempts are counted before they are looked at, so that guessing many at once gets no further; what was wrong is not
told. A code is taken once; a passkey signs what it is for (quote, amount, expiry): its proof is good for nothing else.
Whoever has a credential proves it before another is set, and loses none before the new one has shown that it works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
_AT_ONCE = "others are changing these credentials; try again"


class Secrets(Protocol):
    """Where the secrets of persons are kept."""

    async def secret(self, org_id: str, person_id: str, name: str) -> bytes | None: ...
    async def put_secret(
        self, org_id: str, person_id: str, name: str, value: bytes, audit: AuditEntry, *, expected: int
    ) -> bool: ...
    async def version(self, part: str, org_id: str) -> int: ...
    async def attempt(self, org_id: str, person_id: str, *, window_s: int) -> int: ...
    async def forget_attempts(self, org_id: str, person_id: str) -> None: ...
    async def delete_secrets(self, org_id: str, person_id: str, names: Sequence[str], audit: AuditEntry) -> None: ...


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
        """The method that proved the person. Without a proof the refusal says what a passkey of theirs would sign.
        Errors: InvalidRequest, Forbidden(person_needed | step_up_required | step_up_failed), RateLimited."""
        if not principal.person_id:
            raise Forbidden("a step-up is proved by a person; name them", code="person_needed")
        if not proof:
            raise await self._required(principal, bound_to)
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

    async def _required(self, principal: Principal, bound_to: str) -> Forbidden:
        methods = ", ".join(self._policy().step_up_methods)
        options = await self.options(principal, bound_to)
        members = {} if options is None else {"passkey_options": options}
        return Forbidden(f"this takes a proof of who you are: {methods}", code="step_up_required", members=members)

    async def _password(self, org_id: str, person_id: str, value: Any) -> bool:
        kept = await self._secrets.secret(org_id, person_id, PASSWORD)
        return (
            kept is not None and isinstance(value, str) and await self._passwords.matches(kept, value[:PASSWORD_MOST])
        )

    async def _code(self, principal: Principal, value: Any) -> bool:
        """Whether the code is of now, and newer than every code before it: one code works once."""
        version = await self._version(principal)
        totp = await self._totp(principal)
        step = self._step_of(totp.secret, value)
        if step is None or step <= totp.last_step:
            return False
        return await self._keep_totp(principal, replace(totp, last_step=step), "credential.use", version)

    def _step_of(self, secret: str, value: Any) -> int | None:
        if not secret or not isinstance(value, str):
            return None
        return self._codes.step(secret, value.strip(), self._system.now_s())

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
        if principal.vouched == "app" and not principal.operator and not self._policy().app_may_approve:
            raise Forbidden("persons set their credentials themselves, with a token of the identity provider")
        names = [name for name in ("password", "totp", "passkey") if name in wanted]
        if len(names) != 1:
            raise InvalidRequest("give one of password, totp, passkey", param="password")
        (name,) = names
        value = wanted[name]
        if name != "password" and not isinstance(value, dict):
            raise InvalidRequest("must be an object", param=name)
        if name == "totp" and "code" in value:
            return await self._confirm_totp(principal, value["code"], wanted)
        if name == "passkey" and "credential" in value:
            # It signs a challenge that was only shown to whoever proved what there was.
            return await self._add_passkey(principal, value["credential"])
        version = await self._proved_version(principal, wanted)
        if name == "password":
            return await self._set_password(principal, value, version)
        offer = self._offer_totp if name == "totp" else self._offer_passkey
        return await offer(principal, version)

    async def _proved_version(self, principal: Principal, wanted: Mapping[str, Any]) -> int:
        """The version to write over, once a credential that there is was proved. Errors: as `prove`."""
        version = await self._version(principal)
        if principal.operator or not await self._has_any(principal):
            return version
        proof = wanted.get("proof") or {}
        if not isinstance(proof, dict):
            raise InvalidRequest("must be an object", param="proof")
        # Bound to the version: a use raises it, so the same proof is good once.
        await self.prove(principal, proof, f"enrol {principal.org_id} {principal.person_id} {version}")
        return await self._version(principal)

    async def _set_password(self, principal: Principal, value: Any, version: int) -> dict[str, Any]:
        if not isinstance(value, str) or not PASSWORD_LEAST <= len(value) <= PASSWORD_MOST:
            message = f"must have {PASSWORD_LEAST} to {PASSWORD_MOST} characters"
            raise InvalidRequest(message, param="password")
        kept = await self._passwords.hash(value)
        if not await self._keep(principal, PASSWORD, kept, "credential.password", version):
            raise Conflict(_AT_ONCE)
        return {"password": True}

    async def _offer_totp(self, principal: Principal, version: int) -> dict[str, Any]:
        """A fresh seed, shown once; the one that is good stays until a code of the fresh one comes."""
        totp = await self._totp(principal)
        secret, address = self._codes.make(principal.person_id)
        proved = principal.operator or await self._has_any(principal)
        after = replace(totp, pending=secret, pending_proved=proved)
        if not await self._keep_totp(principal, after, "credential.totp", version):
            raise Conflict(_AT_ONCE)
        return {"totp": {"secret": secret, "otpauth_url": address, "confirmed": False}}

    async def _confirm_totp(self, principal: Principal, code: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The first code of a seed that waits makes it the one that is good."""
        if await self._secrets.attempt(
            principal.org_id, principal.person_id, window_s=ATTEMPTS_WINDOW_S
        ) > ATTEMPTS_MOST:  # fmt: skip
            raise RateLimited("too many attempts; wait", retry_after_s=ATTEMPTS_WINDOW_S)
        version, totp = await self._version(principal), await self._totp(principal)
        if totp.pending and not totp.pending_proved:
            # Another credential may have been set since the seed was shown.
            version = await self._proved_version(principal, wanted)
        step = self._step_of(totp.pending, code)
        after = Totp(totp.pending, step or 0)
        if step is None or not await self._keep_totp(principal, after, "credential.totp", version):
            raise Forbidden("this code is not good", code="step_up_failed", param="totp.code")
        await self._secrets.forget_attempts(principal.org_id, principal.person_id)
        return {"totp": {"confirmed": True}}

    async def _offer_passkey(self, principal: Principal, version: int) -> dict[str, Any]:
        """What the browser registers, at the version that was proved: what is set meanwhile ends the offer."""
        known = await self._known_passkeys(principal)
        challenge = self._registration_challenge(principal, version)
        return {"passkey": {"options": self._passkeys.registration(principal.person_id, challenge, known)}}

    async def _add_passkey(self, principal: Principal, given: Any) -> dict[str, Any]:
        version = await self._version(principal)
        known = await self._known_passkeys(principal)
        if len(known) >= PASSKEYS_MOST:
            raise Conflict(f"a person has at most {PASSKEYS_MOST} passkeys")
        challenge = self._registration_challenge(principal, version)
        made = self._passkeys.registered(given, challenge) if isinstance(given, dict) else None
        if made is None:
            raise Forbidden("this passkey's proof is not good", code="step_up_failed", param="passkey.credential")
        if not await self._keep_passkeys(principal, [*known, made], "credential.passkey", version):
            raise Conflict(_AT_ONCE)
        return {"passkey": {"id": made.credential_id}}

    def _registration_challenge(self, principal: Principal, version: int) -> bytes:
        """Bound to the version: once a credential was set, the same proof adds none."""
        return self._vault.challenge(f"register {principal.org_id} {principal.person_id} {version}")

    async def _has_any(self, principal: Principal) -> bool:
        if (await self._totp(principal)).secret:
            return True
        kept = await self._secrets.secret(principal.org_id, principal.person_id, PASSWORD)
        return kept is not None or bool(await self._known_passkeys(principal))

    async def _version(self, principal: Principal) -> int:
        part = f"{person_part(principal.org_id, principal.person_id)}|secrets"
        return await self._secrets.version(part, principal.org_id)

    async def _totp(self, principal: Principal) -> Totp:
        sealed = await self._secrets.secret(principal.org_id, principal.person_id, TOTP)
        if sealed is None:
            return Totp()
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
        """Written only over what was read."""
        audit = self._audit(principal, action, {"credential": name})
        return await self._secrets.put_secret(
            principal.org_id, principal.person_id, name, value, audit, expected=version
        )

    async def reset(self, principal: Principal, person_id: str) -> None:
        """Take every credential of a person away, for one who has lost theirs: the next one is set without a proof. The
        operator answers for knowing them."""
        theirs = replace(principal, person_id=person_id)
        audit = self._audit(theirs, "credential.reset", None)
        await self._secrets.delete_secrets(theirs.org_id, person_id, (PASSWORD, TOTP, PASSKEYS), audit)
        await self._secrets.forget_attempts(theirs.org_id, person_id)

    def _audit(self, principal: Principal, action: str, after: Any) -> AuditEntry:
        """The entry says that, not what."""
        return AuditEntry(
            int(self._system.now_s() * 1_000), principal.org_id, principal.actor, principal.authenticated, action,
            person_part(principal.org_id, principal.person_id), b"null", msgspec.json.encode(after),
        )  # fmt: skip


def _whose(principal: Principal) -> str:
    return f"{person_part(principal.org_id, principal.person_id)}|totp"
