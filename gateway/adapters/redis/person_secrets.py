"""What persons prove themselves with, in Redis: fields `s:<name>` of their record, and how often they tried.

All secrets of a person share one version: whoever sets one writes only over what was read. They are sealed or hashed
before they come here.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.directory import RedisDirectory, Writes, person_key
from gateway.core.directory import AuditEntry, person_part


class RedisPersonSecrets:
    """Secrets and attempts over one shared link."""

    def __init__(self, link: Link, directory: RedisDirectory) -> None:
        self._link = link
        self._directory = directory

    async def secret(self, org_id: str, person_id: str, name: str) -> bytes | None:
        """A sealed secret of a person."""
        key = person_key(org_id, person_id)
        found: bytes | None = await self._link.command("HGET", key, f"s:{name}", key=key)
        return found

    async def version(self, part: str, org_id: str) -> int:
        """The version of a part of the directory; 0 before its first change."""
        return await self._directory.version(part, org_id)

    async def put_secret(
        self, org_id: str, person_id: str, name: str, value: bytes, audit: AuditEntry, *, expected: int
    ) -> bool:
        """Write a secret, if nobody wrote one since version `expected` of the person's secrets."""
        writes: Writes = [(person_key(org_id, person_id), ("hset", f"s:{name}", value))]
        part = f"{person_part(org_id, person_id)}|secrets"
        return await self._directory.change(org_id, part, writes, audit, expected=expected) is not None

    async def delete_secrets(self, org_id: str, person_id: str, names: Sequence[str], audit: AuditEntry) -> None:
        """Take secrets out; what others were about to write over them is not written."""
        writes: Writes = [(person_key(org_id, person_id), ("hdel", *(f"s:{name}" for name in names)))]
        part = f"{person_part(org_id, person_id)}|secrets"
        await self._directory.change(org_id, part, writes, audit, expected=None)

    async def attempt(self, org_id: str, person_id: str, *, window_s: int) -> int:
        """Count one more attempt of a person to prove who they are; how many there were in the window."""
        name = f"{keys.tag(org_id)}tries:{person_part(org_id, person_id)}"
        made = int(await self._link.command("INCR", name, key=name))
        await self._link.command("PEXPIRE", name, window_s * 1_000, "NX", key=name)
        return made

    async def forget_attempts(self, org_id: str, person_id: str) -> None:
        """They have proved it."""
        name = f"{keys.tag(org_id)}tries:{person_part(org_id, person_id)}"
        await self._link.command("DEL", name, key=name)
