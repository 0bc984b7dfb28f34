"""The audit log in Redis: who changed what, how they showed who they are, before and after.

One stream a partition, never trimmed. Each entry's digest covers the one before; the digests also stand in the journal,
whose files are chained outside of the store. `verify` recomputes the chain and compares it with the journal's copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link, RedisBooks
from gateway.adapters.redis.scripts import load
from gateway.core.directory import AuditEntry

_BATCH = 1_000


def audit_body(entry: AuditEntry) -> bytes:
    """The JSON of an entry, without what the store adds (number, time, digest)."""
    return msgspec.json.encode(
        {
            "org": entry.org_id,
            "actor": entry.actor,
            "authenticated": entry.authenticated,
            "action": entry.action,
            "subject": entry.subject,
            "before": msgspec.Raw(entry.before),
            "after": msgspec.Raw(entry.after),
        }
    )


class RedisAudit:
    """`people_ports.AuditLog`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._books = RedisBooks(link)
        self._change = load("change")

    async def append(self, entry: AuditEntry) -> None:
        """Write an entry that changes no record of the directory."""
        of_tag = keys.tag(entry.org_id)
        part = keys.version_key(of_tag, f"{entry.org_id}|audit")
        names = [part, f"{of_tag}audit", f"{of_tag}journal", keys.outbox_key(of_tag)]
        await self._link.script(self._change, names, ["", entry.org_id, audit_body(entry), "", b"{}"])

    async def read(self, org_id: str, *, after: int, most: int) -> Sequence[AuditEntry]:
        """At most `most` entries of an organization, numbered above `after`."""
        name, found = f"{keys.tag(org_id)}audit", list[AuditEntry]()
        while len(found) < most:
            rows = await self._link.command("XRANGE", name, f"0-{after + 1}", "+", "COUNT", _BATCH, key=name)
            for entry_id, fields in rows:
                after = int(entry_id.split(b"-")[1])
                entry = _entry(after, fields[1], fields[3])
                if entry.org_id == org_id and len(found) < most:
                    found.append(entry)
            if len(rows) < _BATCH:
                break
        return found

    async def verify(self, partition: int) -> str | None:
        """None where the chain holds; else what does not."""
        name = f"{keys.partition_tag(partition)}audit"
        digests: dict[int, str] = {}
        before, last = "", 0
        while rows := await self._link.command("XRANGE", name, f"0-{last + 1}", "+", "COUNT", _BATCH, key=name):
            for entry_id, fields in rows:
                number = int(entry_id.split(b"-")[1])
                if number != last + 1:
                    return f"audit log of partition {partition:02x}: entry {last + 1} is missing"
                at, _, body = fields[1].partition(b" ")
                text = b" ".join((before.encode(), str(number).encode(), at, body))
                before = hashlib.sha1(text, usedforsecurity=False).hexdigest()
                if before != fields[3].decode():
                    return f"audit log of partition {partition:02x}: entry {number} was changed"
                digests[number] = before
                last = number
        return await self._against_journal(partition, digests)

    async def _against_journal(self, partition: int, digests: dict[int, str]) -> str | None:
        """The journal says which entries there must be."""
        after = (await self._books.opening(partition))[0]
        while entries := await self._books.journal(partition, after, _BATCH):
            for entry in entries:
                after = entry.number
                if entry.kind != "audit":
                    continue
                number = int(entry.id.removeprefix("audit:"))
                if digests.get(number) != dict(entry.more).get("digest"):
                    return f"audit log of partition {partition:02x}: entry {number} is not what the journal says"
        return None


def _entry(number: int, text: bytes, digest: bytes) -> AuditEntry:
    at, _, body = text.partition(b" ")
    members = msgspec.json.decode(body)
    return AuditEntry(
        at_ms=int(at),
        org_id=members["org"],
        actor=members["actor"],
        authenticated=members["authenticated"],
        action=members["action"],
        subject=members["subject"],
        before=msgspec.json.encode(members["before"]),
        after=msgspec.json.encode(members["after"]),
        number=number,
        digest=digest.decode(),
    )
