"""Intents to pay out, in Redis: written before anything is sent, one per payment hash of the invoice.

All of them share one partition, because a payment hash is unique over all accounts, and the caps are counted in the
same step that writes the intent. What the store promises is asked of both servers that matter: the one with the
intent, the one with the hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from gateway.adapters.redis.connection import RedisReplyError
from gateway.adapters.redis.keys import account_key
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.scripts import Script, load
from gateway.core.refunds import Durability, Refund, RefundCaps, RefundState, TooManyRefunds

_TAG = "{p00}"
_UNFINISHED = f"refund:{_TAG}:unfinished"


class RedisRefunds:
    """`ports.RefundBook` over one shared link."""

    def __init__(self, link: RedisLink, *, retention_ms: int) -> None:
        self._link = link
        self._retention_ms = retention_ms
        self._intend: Script = load("refund_intend")
        self._advance: Script = load("refund_advance")
        self._unlock: Script = load("compare_delete")

    async def intend(self, refund: Refund, caps: RefundCaps) -> Refund | TooManyRefunds:
        """Write the intent; a hash that is known answers with what stands."""
        args = (refund.payment_hash.hex(), _body(refund), refund.run_id, caps.in_all, caps.per_destination)
        reply: list[Any] = await self._link.script(self._intend, _keys(refund), args)
        if reply[0] == b"many":
            return TooManyRefunds(per_destination=reply[1] == b"destination")
        return _refund(reply[1:])

    async def advance(self, refund: Refund, *, expected: RefundState) -> Refund:
        """From `expected` to the state that `refund` has; where another worker was first, what it made of it.

        Errors: ValueError when there is no such refund.
        """
        args = (
            refund.payment_hash.hex(), expected.value, refund.state.value, _body(refund), refund.run_id,
            self._retention_ms,
        )  # fmt: skip
        reply: list[Any] = await self._link.script(self._advance, _keys(refund), args)
        if not reply:
            message = "there is no such refund"
            raise ValueError(message)
        return _refund(reply)

    async def find(self, payment_hash: bytes) -> Refund | None:
        """The refund of an invoice."""
        key = _key(payment_hash)
        values = await self._link.command("HMGET", key, "state", "body", "written_at_ms", "run", key=key)
        return _refund(values) if values[0] is not None else None

    async def unfinished(self) -> Sequence[bytes]:
        """The payment hashes of all that have not ended, oldest first; as many as the caps allow."""
        members = await self._link.command("ZRANGE", _UNFINISHED, 0, -1, key=_UNFINISHED)
        return [bytes.fromhex(member.decode("ascii")) for member in members]

    async def lock(self, payment_hash: bytes, holder: str, *, life_ms: int) -> bool:
        """Keep other workers from driving the same refund; a courtesy, not the fence."""
        key = _lock_key(payment_hash)
        return await self._link.command("SET", key, holder, "NX", "PX", life_ms, key=key) is not None

    async def unlock(self, payment_hash: bytes, holder: str) -> None:
        """Give the lock up, if it is still ours."""
        await self._link.script(self._unlock, [_lock_key(payment_hash)], [holder])

    async def durability(self, account: str) -> Durability:
        """What intent's and account's servers promise; their runs as one id."""
        intent, hold = await self._promise(_UNFINISHED), await self._promise(account_key(account))
        seconds, micros = await self._link.command("TIME", key=_UNFINISHED)
        return Durability(
            always=intent.always and hold.always,
            never=intent.never or hold.never,
            now_ms=int(seconds) * 1_000 + int(micros) // 1_000,
            run_id=intent.run_id if intent.run_id == hold.run_id else f"{intent.run_id}+{hold.run_id}",
        )

    async def _promise(self, key: str) -> Durability:
        """One server's. A server that does not tell its configuration is believed to have an append-only file, no
        more."""
        try:
            pairs = await self._link.command("CONFIG", "GET", "append*", "no-appendfsync-on-rewrite", key=key)
        except RedisReplyError:
            pairs = []
        settings = _settings(pairs)
        info: bytes = await self._link.command("INFO", "server", key=key)
        run_id = next(line[7:] for line in info.decode("utf-8", "replace").splitlines() if line.startswith("run_id:"))
        written = settings.get(b"appendonly", b"yes") == b"yes"
        always = (
            written
            and settings.get(b"appendfsync") == b"always"
            and settings.get(b"no-appendfsync-on-rewrite", b"no") == b"no"
        )
        return Durability(always=always, never=not written, now_ms=0, run_id=run_id)


def _settings(pairs: Any) -> dict[bytes, bytes]:
    """A map in RESP3, a flat list in RESP2."""
    return dict(pairs) if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True))


def _body(refund: Refund) -> bytes:
    return msgspec.json.encode(refund)


def _refund(values: Sequence[Any]) -> Refund:
    """State, body, time and run as the store has them."""
    state, body, written_at_ms, run_id = values
    refund = msgspec.json.decode(body, type=Refund)
    return replace(refund, state=RefundState(state.decode()), written_at_ms=int(written_at_ms), run_id=run_id.decode())


def _key(payment_hash: bytes) -> str:
    return f"refund:{_TAG}:{payment_hash.hex()}"


def _lock_key(payment_hash: bytes) -> str:
    return f"refund:{_TAG}:lock:{payment_hash.hex()}"


def _keys(refund: Refund) -> list[str]:
    return [_key(refund.payment_hash), _UNFINISHED, f"refund:{_TAG}:to:{refund.destination}"]
