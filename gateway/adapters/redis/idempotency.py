"""`Idempotency-Key` records in Redis: per payer and path, kept for a day.

A record is begun before the work and holds the body's digest, so that the same key with another body is refused even
while the first is under way. The work itself is idempotent by ids of its own; this only makes the answers agree.
"""

from __future__ import annotations

from hashlib import sha256

from gateway.adapters.redis.link import RedisLink
from gateway.core.idempotency import Kept

# Clients repeat within minutes; a day covers a night's outage.
LIFE_MS = 86_400_000
_DIGEST_BYTES = 32


class RedisIdempotency:
    """`ports.IdempotencyRecords` over one shared link."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def begin(self, payer: str, path: str, key: str, digest: bytes) -> Kept | None:
        """None: the key is new and now ours."""
        name = _name(payer, path, key)
        before: bytes | None = await self._link.command("SET", name, digest, "NX", "GET", "PX", LIFE_MS, key=name)
        if before is None:
            return None
        return Kept(before[:_DIGEST_BYTES], before[_DIGEST_BYTES:] or None)

    async def finish(self, payer: str, path: str, key: str, digest: bytes, answer: bytes) -> None:
        """Keep the answer."""
        name = _name(payer, path, key)
        await self._link.command("SET", name, digest + answer, "PX", LIFE_MS, key=name)

    async def forget(self, payer: str, path: str, key: str) -> None:
        """The request was refused and changed nothing: the key may be used again."""
        name = _name(payer, path, key)
        await self._link.command("DEL", name, key=name)


def _name(payer: str, path: str, key: str) -> str:
    """In the payer's partition; the key is a client's text of any kind, so it is hashed."""
    tail = payer.rpartition("_")[2][:2]
    return f"idem:{{p{tail}}}:{payer}:{sha256(f'{path} {key}'.encode()).hexdigest()}"
