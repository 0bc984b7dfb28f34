"""Questions of running streams, and the events of a request. `people_ports.Questions`.

`{pNN}ask:<hold>` is the newest question, `{pNN}ev:<hold>` the stream of the request's events, `{pNN}asking:<org>` the
holds whose questions wait, by their expiry. A question
is put, and answered, in one step with what is told and audited; whoever watches reads the events above the last one
that it saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.directory import NOTHING_TOLD, RedisDirectory, Writes
from gateway.core.directory import AuditEntry
from gateway.core.questions import Question, answer_members, as_json, question_members

# An hour after the last event nobody watches any more.
LIFE_MS = 3_600_000
_WAITING_MOST = 1_000


class RedisQuestions:
    """Questions and events over one shared link."""

    def __init__(self, link: Link, directory: RedisDirectory) -> None:
        self._link = link
        self._directory = directory

    async def ask(self, question: Question) -> None:
        """Put a question: kept, published to whoever watches the request, told by webhook."""
        told = as_json(question_members(question))
        await self._write(question, None, event=("overage.needed", told))
        await self.publish(question.hold_id, "overage_approval_needed", told)

    async def find(self, hold_id: str) -> Question | None:
        """The newest question of a hold."""
        name = _name(hold_id)
        raw = await self._link.command("GET", name, key=name)
        return None if raw is None else msgspec.json.decode(raw, type=Question)

    async def answer(self, before: Question, after: Question, audit: AuditEntry | None) -> bool:
        """Write an answer over an open question; False when somebody else was first."""
        version = await self._directory.version(_part(before.hold_id), before.org_id)
        now = await self.find(before.hold_id)
        if now is None or now.overage_id != before.overage_id or now.state != "open":
            return False
        event = ("overage.answered", as_json(answer_members(after)))
        if not await self._write(after, audit, event=event, expected=version):
            return False
        await self.publish(before.hold_id, "overage_answered", as_json(answer_members(after)))
        return True

    async def _write(
        self,
        question: Question,
        audit: AuditEntry | None,
        *,
        event: tuple[str, bytes] = NOTHING_TOLD,
        expected: int | None = None,
    ) -> bool:
        dies_at = str(question.asked_at_ms + LIFE_MS)
        part = _part(question.hold_id)
        version = keys.version_key(keys.tag(question.hold_id), part)
        writes: Writes = [
            (_name(question.hold_id), ("set", msgspec.json.encode(question))),
            (_name(question.hold_id), ("pexpireat", dies_at)),
            (version, ("pexpireat", dies_at)),
        ]
        waiting = f"{keys.tag(question.hold_id)}asking:{question.org_id}"
        verb = ("zadd", str(question.expires_at_ms)) if question.state == "open" else ("zrem",)
        writes.append((waiting, (*verb, question.hold_id)))
        done = await self._directory.change(question.org_id, part, writes, audit, expected=expected, event=event)
        return done is not None

    async def waiting(self, org_id: str, *, now_ms: int) -> Sequence[Question]:
        """The questions of an organization that wait for an answer, the first to expire first."""
        name = f"{keys.tag(org_id)}asking:{org_id}"
        await self._link.command("ZREMRANGEBYSCORE", name, "-inf", now_ms, key=name)
        ids = await self._link.command("ZRANGE", name, 0, _WAITING_MOST - 1, key=name)
        found = await asyncio.gather(*(self.find(hold_id.decode()) for hold_id in ids))
        return [question for question in found if question is not None and question.state == "open"]

    async def publish(self, hold_id: str, event: str, data: bytes) -> None:
        """Add an event of a request."""
        name = f"{keys.tag(hold_id)}ev:{hold_id}"
        await self._link.command("XADD", name, "MAXLEN", "~", 1_000, "*", "event", event, "data", data, key=name)
        await self._link.command("PEXPIRE", name, LIFE_MS, key=name)

    async def events(self, hold_id: str, *, after: str, most: int) -> Sequence[tuple[str, str, bytes]]:
        """(id, event, data) above the id `after` ("" from the first)."""
        name = f"{keys.tag(hold_id)}ev:{hold_id}"
        start = f"({after}" if after else "-"
        rows = await self._link.command("XRANGE", name, start, "+", "COUNT", most, key=name)
        return [(entry_id.decode(), fields[1].decode(), fields[3]) for entry_id, fields in rows]


def _name(hold_id: str) -> str:
    return f"{keys.tag(hold_id)}ask:{hold_id}"


def _part(hold_id: str) -> str:
    return f"ask|{hold_id}"
