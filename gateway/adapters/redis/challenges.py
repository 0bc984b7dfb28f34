"""Open challenges in Redis: who waits for whose payment, and how far settled invoices were read.

All keys share one partition, because the limits in all and per network must be seen in one step. Nothing here is
money: what is lost with the store makes floods cheaper for ten minutes, and nothing else.
"""

from __future__ import annotations

from typing import Any

from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.scripts import Script, load
from gateway.core.crowds import ChallengeLimits, ChallengePlace, Crowd, Crowded

_TAG = "{p00}"


class RedisChallenges:
    """`ports.ChallengeBook` over one shared link."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._reserve: Script = load("challenge_reserve")
        self._release: Script = load("challenge_release")

    async def reserve(self, place: ChallengePlace, limits: ChallengeLimits) -> Crowded | None:
        """Count a challenge, or say what is full. A top-up counts for its token alone."""
        nonce = place.nonce.hex()
        prefix = place.prefix or ""
        counted = place.prefix is not None
        keys = [
            f"challenge:{_TAG}:rate:{prefix}",
            *_sets(place.address, prefix),
            f"challenge:{_TAG}:networks",
            f"challenge:{_TAG}:place:{nonce}",
        ]
        args: list[bytes | str | int] = [nonce, f"{place.address}|{prefix}", prefix, place.life_ms]
        args += [
            limits.challenges_per_minute if counted else 0,
            limits.unpaid_per_address,
            limits.open_per_prefix if counted else 0,
            limits.open_in_all if counted else 0,
        ]
        reply: list[Any] = await self._link.script(self._reserve, keys, args)
        if reply[0] == b"ok":
            return None
        return Crowded(Crowd(reply[0].decode("ascii")), int(reply[1]))

    async def release(self, nonce: bytes) -> None:
        """Free the place; twice is once."""
        key = f"challenge:{_TAG}:place:{nonce.hex()}"
        kept = await self._link.command("GET", key, key=key)
        if kept is None:
            return
        address, _, prefix = kept.decode("ascii").partition("|")
        await self._link.script(self._release, [*_sets(address, prefix), key], [nonce.hex()])

    async def kept_top_up(self, token_id: bytes) -> bytes | None:
        """The challenge that a token's top-up may use again."""
        key = _top_up_key(token_id)
        kept: bytes | None = await self._link.command("GET", key, key=key)
        return kept

    async def keep_top_up(self, token_id: bytes, text: bytes, *, life_ms: int) -> None:
        """Keep it for so long."""
        key = _top_up_key(token_id)
        await self._link.command("SET", key, text, "PX", life_ms, key=key)

    async def forget_top_up(self, token_id: bytes) -> None:
        """It is paid, or must not be used again."""
        key = _top_up_key(token_id)
        await self._link.command("DEL", key, key=key)

    async def settle_index(self, node: str) -> int:
        """How far this node's settled invoices were read; 0 where they never were."""
        key = f"settled:{_TAG}:{node}"
        return int(await self._link.command("GET", key, key=key) or 0)

    async def keep_settle_index(self, node: str, index: int) -> None:
        """Remember how far."""
        key = f"settled:{_TAG}:{node}"
        await self._link.command("SET", key, index, key=key)

    async def store_run(self) -> str:
        """Which run of the store this is: changes with a restart or a failover of any of its servers."""
        replies = await self._link.each_server("INFO", "server")
        texts = [reply.decode("utf-8", "replace") for reply in replies.values() if isinstance(reply, bytes)]
        return "+".join(sorted(line for text in texts for line in text.splitlines() if line.startswith("run_id:")))


def _sets(address: str, prefix: str) -> list[str]:
    """Open of the address, of the network, in all."""
    return [f"challenge:{_TAG}:at:{address}", f"challenge:{_TAG}:net:{prefix}", f"challenge:{_TAG}:all"]


def _top_up_key(token_id: bytes) -> str:
    return f"top_up:{_TAG}:{token_id.hex()}"
