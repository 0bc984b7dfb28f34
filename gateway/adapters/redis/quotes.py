"""Quotes in Redis. `people_ports.QuoteBook`.

`{pNN}q:<quote>` is a hash: what `place` reads and writes (`state approved_max expires_at digest lifts hold`), who said
yes (`by`), and `quote`, what never changes. `{pNN}waiting:<org>` are those that nobody has answered, by their expiry,
and `{pNN}waits:<org>|<payer>` those of one payer; `{pNN}asked:<likeness>` is the one that asks this. An answer is a
change like any other: compared, written and audited in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.directory import RedisDirectory, Writes
from gateway.adapters.redis.scripts import load
from gateway.core.directory import AuditEntry, encoded
from gateway.core.quotes import Quote, QuoteState, likeness

# How long a quote is remembered after its expiry: whoever shows it then is told why it is no good. One that nobody
# answered is asked for again soon, or never.
KEPT_MS, UNANSWERED_KEPT_MS = 86_400_000, 3_600_000
_FIELDS = ("quote", "state", "approved_max", "by", "hold")


class RedisQuotes:
    """Quotes over one shared link."""

    def __init__(self, link: Link, directory: RedisDirectory) -> None:
        self._link = link
        self._directory = directory
        self._forget = load("compare_delete")

    async def put(self, quote: Quote, *, told: bytes = b"") -> None:
        """Keep a fresh quote, and tell that it waits (`told`: JSON object; empty: tell nobody)."""
        of_tag = keys.tag(quote.quote_id)
        name = keys.quote_key(of_tag, quote.quote_id)
        dies_at = str(quote.expires_at_ms + UNANSWERED_KEPT_MS)
        writes: Writes = [
            (
                name,
                (
                    "hset", "quote", msgspec.json.encode(quote), "state", quote.state.value, "digest", quote.digest,
                    "expires_at", str(quote.expires_at_ms), "approved_max", str(quote.approved_max),
                    "lifts", " ".join(quote.lifts), "hold", "", "by", "",
                ),
            ),
            (name, ("pexpireat", dies_at)),
            (keys.version_key(of_tag, quote.quote_id), ("pexpireat", dies_at)),
            (f"{of_tag}waiting:{quote.org_id}", ("zadd", str(quote.expires_at_ms), quote.quote_id)),
            (_payers_key(quote), ("zadd", str(quote.expires_at_ms), quote.quote_id)),
            (_payers_key(quote), ("pexpireat", dies_at)),
        ]  # fmt: skip
        event = ("quote.waiting", told) if told else ("", b"{}")
        await self._directory.change(quote.org_id, quote.quote_id, writes, None, expected=0, event=event)

    async def claim(self, quote: Quote, *, life_ms: int) -> str | None:
        """Be the one that asks this of the payer: None, or the id of the quote that does already."""
        name = _asked_key(quote)
        before: bytes | None = await self._link.command(
            "SET", name, quote.quote_id, "NX", "GET", "PX", life_ms, key=name
        )
        return None if before is None else before.decode()

    async def unclaim(self, quote: Quote, *, holder: str = "") -> None:
        """Give that up again (`holder` ""), or take it from a quote that no longer waits."""
        await self._link.script(self._forget, [_asked_key(quote)], [holder or quote.quote_id])

    async def count_waiting(self, quote: Quote, *, now_ms: int) -> int:
        """How many quotes of this payer wait for an answer."""
        name = _payers_key(quote)
        return int(await self._link.command("ZCOUNT", name, now_ms, "+inf", key=name))

    async def find(self, quote_id: str) -> Quote | None:
        """A quote as it stands; None for an unknown one."""
        try:
            name = keys.quote_key(keys.tag(quote_id), quote_id)
        except ValueError:
            return None
        raw, state, approved_max, by, hold = await self._link.command("HMGET", name, *_FIELDS, key=name)
        if raw is None:
            return None
        return replace(
            msgspec.json.decode(raw, type=Quote),
            state=QuoteState(state.decode()),
            approved_max=int(approved_max),
            approved_by=tuple(msgspec.json.decode(by)) if by else (),
            hold_id=hold.decode(),
        )

    async def waiting(self, org_id: str, *, now_ms: int) -> Sequence[Quote]:
        """The quotes of an organization that wait for an answer, the first to expire first."""
        name = f"{keys.tag(org_id)}waiting:{org_id}"
        await self._link.command("ZREMRANGEBYSCORE", name, "-inf", now_ms, key=name)
        ids = await self._link.command("ZRANGE", name, 0, 999, key=name)
        found = await asyncio.gather(*(self.find(quote_id.decode()) for quote_id in ids))
        return [quote for quote in found if quote is not None and quote.state is QuoteState.OPEN]

    async def answer(self, before: Quote, after: Quote, audit: AuditEntry, *, event: tuple[str, bytes]) -> bool:
        """Write an answer over `before`, as it was found; False when somebody else was first."""
        of_tag = keys.tag(before.quote_id)
        version = await self._directory.version(before.quote_id, before.org_id)
        now = await self.find(before.quote_id)
        if now is None or now.state is not before.state or now.approved_by != before.approved_by:
            return False
        writes: Writes = [
            (
                keys.quote_key(of_tag, before.quote_id),
                (
                    "hset", "state", after.state.value, "approved_max", str(after.approved_max), "by",
                    msgspec.json.encode(list(after.approved_by)),
                ),
            )
        ]  # fmt: skip
        if after.state is not QuoteState.OPEN:
            dies_at = str(before.expires_at_ms + KEPT_MS)
            writes += [
                (keys.quote_key(of_tag, before.quote_id), ("pexpireat", dies_at)),
                (keys.version_key(of_tag, before.quote_id), ("pexpireat", dies_at)),
                (f"{of_tag}waiting:{before.org_id}", ("zrem", before.quote_id)),
                (_payers_key(before), ("zrem", before.quote_id)),
            ]
        changed = await self._directory.change(
            before.org_id, before.quote_id, writes, audit, expected=version, event=event
        )
        return changed is not None


def _asked_key(quote: Quote) -> str:
    return f"{keys.tag(quote.quote_id)}asked:{likeness(quote)}"


def _payers_key(quote: Quote) -> str:
    payer = encoded(quote.person_id) if quote.person_id else quote.key_id
    return f"{keys.tag(quote.quote_id)}waits:{quote.org_id}|{payer}"
