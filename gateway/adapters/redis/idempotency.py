"""`Idempotency-Key` records in Redis: per payer and path, kept for a day.

A record is begun before the work, in one step, so that of many requests at once one acts and the others wait; it is
held by a lease, so that the death of whoever acts ends nobody's retries. What a take-over might do twice is idempotent
by ids of its own. The answer is sealed and what was asked is kept as a keyed fingerprint: answers show keys and secrets
once, bodies carry passwords, and a stolen store tells neither.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Protocol

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.scripts import load
from gateway.core.errors import Conflict
from gateway.core.idempotency import Answered, Begun, OtherBody, Ours, UnderWay

# Clients repeat within minutes; a day covers a night's outage.
LIFE_MS = 86_400_000
# Longer than any step of ours takes (each call to the store ends within seconds), short for whoever retries.
LEASE_MS = 30_000
_OWNER_BYTES = 8


class Sealing(Protocol):
    """Keeps secrets from whoever has the store."""

    def seal(self, secret: bytes, *, of: str) -> bytes: ...
    def open(self, sealed: bytes, *, of: str) -> bytes: ...
    def fingerprints(self, content: bytes) -> tuple[str, ...]: ...


class RedisIdempotency:
    """`ports.IdempotencyRecords` over one shared link."""

    def __init__(self, link: Link, vault: Sealing, *, lease_ms: int = LEASE_MS) -> None:
        self._link = link
        self._vault = vault
        self._lease_ms = lease_ms
        self._begin, self._end = load("idempotency_begin"), load("idempotency_end")

    async def begin(self, payer: str, path: str, key: str, asked: bytes) -> Begun:
        """Take the key, or say what became of it. Errors: Conflict (an answer that no secret of ours opens)."""
        name, owner = _name(payer, path, key), secrets.token_hex(_OWNER_BYTES)
        fingerprints = self._vault.fingerprints(asked)
        reply = await self._link.script(self._begin, [name], [owner, self._lease_ms, LIFE_MS, *fingerprints])
        match reply[0]:
            case b"ours":
                return Ours(owner)
            case b"under_way":
                return UnderWay()
            case b"other_body":
                return OtherBody()
        try:
            return Answered(self._vault.open(reply[1], of=name))
        except ValueError:
            message = "The answer under this Idempotency-Key was sealed with a secret that is no longer configured."
            raise Conflict(message) from None

    async def finish(self, payer: str, path: str, key: str, owner: str, answer: bytes) -> None:
        """Keep the answer; nothing where somebody else has taken over."""
        name = _name(payer, path, key)
        await self._link.script(self._end, [name], [owner, "keep", self._vault.seal(answer, of=name)])

    async def release(self, payer: str, path: str, key: str, owner: str) -> None:
        """There is no last answer yet: the same body may go on at once."""
        await self._link.script(self._end, [_name(payer, path, key)], [owner, "release", ""])

    async def forget(self, payer: str, path: str, key: str, owner: str) -> None:
        """The request was refused and changed nothing: the key may be used again."""
        await self._link.script(self._end, [_name(payer, path, key)], [owner, "forget", ""])


def _name(payer: str, path: str, key: str) -> str:
    """In the payer's partition; key and path are a client's text of any kind, so they are hashed."""
    return f"{keys.tag(payer)}idem:{sha256(f'{payer} {path} {key}'.encode()).hexdigest()}"
