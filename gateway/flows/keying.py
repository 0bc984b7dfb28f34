"""Keys: made, rotated, revoked. A text is shown once; a key makes no key that may do more than itself; whoever holds an
old version of a key finds out with the next hold.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.directory import AuditEntry, Key, Permission, Principal, org_part
from gateway.core.errors import Conflict, Forbidden, NotFound
from gateway.core.key_texts import make_key_text
from gateway.core.request_record import rfc3339
from gateway.flows.directory import Directory
from gateway.people_ports import DirectoryStore
from gateway.ports import System

_RANDOM_BYTES = 31


class Keying:
    """Makes and changes the keys of an organization."""

    def __init__(self, *, store: DirectoryStore, directory: Directory, system: System) -> None:
        self._store = store
        self._directory = directory
        self._system = system

    async def listed(self, org_id: str) -> list[dict[str, Any]]:
        """Every key, without its secret."""
        return [key_members(key) for key in await self._store.keys(org_id)]

    async def exists(self, org_id: str, key_id: str) -> bool:
        """Whether the organization has such a key that is good."""
        try:
            key = await self._store.key(key_id)
        except ValueError:
            return False
        return key is not None and key.org_id == org_id and not key.revoked

    async def make(self, principal: Principal, wanted: Key) -> dict[str, Any]:
        """Make a key. The answer shows its text, once. Errors: Forbidden."""
        await self._may_give(principal, wanted)
        now_ms = self._now_ms()
        made = make_key_text(
            partition=principal.org_id.rpartition("_")[2][:2], random_hex=self._system.token_hex(_RANDOM_BYTES)
        )
        key = replace(wanted, key_id=made.key_id, org_id=principal.org_id, digest=made.digest, created_at_ms=now_ms)
        await self._store.put_key(key, self._audit(principal, "key.create", None, key), expected=None)
        self._directory.forget(principal.org_id)
        return {**key_members(key), "key": made.text}

    async def _may_give(self, principal: Principal, wanted: Key) -> None:
        """A key gives no more than it has."""
        if principal.operator:
            return
        own = await self._store.key(principal.key_id)
        if own is None:
            raise Forbidden("this key is no longer known")
        more = set(wanted.permissions) - set(own.permissions)
        if more:
            raise Forbidden(f"this key has not the permission {min(more).value!r} itself", param="permissions")
        for name in ("routes", "models", "addresses"):
            mine, theirs = getattr(own, name), getattr(wanted, name)
            if mine and (not theirs or set(theirs) - set(mine)):
                raise Forbidden(f"this key is limited to {', '.join(mine)}, so those it makes are too", param=name)
        if own.expires_at_ms is not None and (wanted.expires_at_ms or 2**62) > own.expires_at_ms:
            raise Forbidden("a key makes none that outlives it", param="expires_at")

    async def rotate(self, principal: Principal, key_id: str, grace_s: int) -> dict[str, Any]:
        """A new secret under the same id; the old one serves for `grace_s` more. Errors: NotFound, Conflict, and
        Forbidden for a key that may do more than the one that asks: whoever sees its text has it."""
        made = make_key_text(partition="", random_hex=self._system.token_hex(_RANDOM_BYTES), key_id=key_id)
        until_ms = self._now_ms() + grace_s * 1_000

        async def rotated(key: Key) -> Key:
            await self._may_give(principal, key)
            if key.revoked:
                raise Conflict("this key was revoked", members={"state": "revoked"})
            return replace(key, digest=made.digest, previous_digest=key.digest, previous_until_ms=until_ms)

        after = await self._change(principal, key_id, "key.rotate", rotated)
        return {**key_members(after), "key": made.text}

    async def revoke(self, principal: Principal, key_id: str) -> dict[str, Any]:
        """From the next hold on the key is good for nothing. Errors: NotFound."""

        async def revoked(key: Key) -> Key:
            return key if key.revoked else replace(key, revoked=True, previous_until_ms=0)

        return key_members(await self._change(principal, key_id, "key.revoke", revoked))

    async def _change(
        self, principal: Principal, key_id: str, action: str, change: Callable[[Key], Awaitable[Key]]
    ) -> Key:
        """Write what `change` makes of the key, unless the organization changed since the key was read: then it is read
        again. A rotation that crosses a revocation must not bring the key back. Errors: those of `change`, NotFound."""
        while True:
            version = await self._store.version(org_part(principal.org_id), principal.org_id)
            before = await self._own(principal, key_id)
            after = await change(before)
            if after is before:
                return after
            entry = self._audit(principal, action, before, after)
            if await self._store.put_key(after, entry, expected=version) is not None:
                self._directory.forget(principal.org_id)
                return after

    async def _own(self, principal: Principal, key_id: str) -> Key:
        try:
            key = await self._store.key(key_id)
        except ValueError:
            key = None
        if key is None or key.org_id != principal.org_id:
            raise NotFound("there is no such key", param="id")
        return key

    def _audit(self, principal: Principal, action: str, before: Key | None, after: Key) -> AuditEntry:
        shown = b"null" if before is None else msgspec.json.encode(key_members(before))
        return AuditEntry(
            self._now_ms(), principal.org_id, principal.actor, principal.authenticated, action,
            after.key_id, shown, msgspec.json.encode(key_members(after)),
        )  # fmt: skip

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def key_members(key: Key) -> dict[str, Any]:
    """A key as the API shows it: nothing of its secret."""
    return {
        "id": key.key_id,
        "name": key.name,
        "permissions": list(key.permissions),
        "routes": list(key.routes),
        "models": list(key.models),
        "addresses": list(key.addresses),
        "expires_at": None if key.expires_at_ms is None else rfc3339(key.expires_at_ms),
        "hide_prices": key.hide_prices,
        "state": "revoked" if key.revoked else "active",
        "rotating_until": rfc3339(key.previous_until_ms) if key.previous_until_ms else None,
        "created_at": rfc3339(key.created_at_ms),
    }


def all_permissions(names: Sequence[str]) -> tuple[Permission, ...]:
    """Permissions by name; none named is all."""
    return tuple(Permission(name) for name in names) or tuple(Permission)
