"""The audit log in Redis: who changed what, how they showed who they are, before and after.

One stream a partition, never trimmed. Each entry's digest covers the one before; the digests also stand in the journal,
whose files are chained outside of the store. `verify` recomputes the chain and compares it with the journal's copies:
those that the store still has, the last one that it trimmed, and those of the files. The failure this prevents: a log
that is whole in itself, but is not the one that was written, or ends too early.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link, RedisBooks
from gateway.adapters.redis.scripts import load
from gateway.adapters.redis.segments import read_chain, read_marks
from gateway.core.directory import AuditEntry
from gateway.core.journal import JournalEntry, parse_entry

_BATCH = 1_000
NOTHING_DRAINED: Mapping[int, str] = MappingProxyType({})


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

    async def append(self, entry: AuditEntry, *, once: str = "", forget_at_ms: int = 0) -> None:
        """Write an entry that changes no record of the directory; under the same `once` a single one, until that is
        forgotten (0: never)."""
        part = f"{entry.org_id}|{f'once|{once}' if once else 'audit'}"
        name = keys.version_key(keys.tag(entry.org_id), part)
        writes = [(name, f"pexpireat\x1f{forget_at_ms}".encode())] if once and forget_at_ms else []
        await self._write(entry, name, writes, expected="0" if once else "")

    async def noted(self, org_id: str, name: str) -> tuple[bytes, int]:
        """What was noted last under a name, and its version."""
        of_tag = keys.tag(org_id)
        # The version first: a value that is newer than its version is noted once more, never lost.
        version = await self._link.command("GET", keys.version_key(of_tag, f"{org_id}|{name}"), key=of_tag)
        value = await self._link.command("GET", f"{of_tag}noted:{name}", key=of_tag)
        return value or b"", int(version or 0)

    async def note(self, name: str, value: bytes, entry: AuditEntry, *, expected: int) -> bool:
        """Note a value and write its entry in one step; False when the version was another one."""
        of_tag = keys.tag(entry.org_id)
        writes = [(f"{of_tag}noted:{name}", b"set\x1f" + value)]
        version = keys.version_key(of_tag, f"{entry.org_id}|{name}")
        return await self._write(entry, version, writes, expected=str(expected)) >= 0

    async def _write(self, entry: AuditEntry, version: str, writes: list[tuple[str, bytes]], *, expected: str) -> int:
        of_tag = keys.tag(entry.org_id)
        names = [version, f"{of_tag}audit", f"{of_tag}journal", keys.outbox_key(of_tag), *(name for name, _ in writes)]
        args: list[bytes | str | int] = [
            expected,
            entry.org_id,
            audit_body(entry),
            "",
            b"{}",
            *(words for _, words in writes),
        ]
        return int(await self._link.script(self._change, names, args))

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

    async def verify(self, partition: int, drained: Mapping[int, str] = NOTHING_DRAINED) -> str | None:
        """None where the log is whole, and is what the journal says; else what is not. `drained`: what the journal's
        files say of this partition."""
        # The log is read last: what is written meanwhile is in it, and missed by nobody.
        known = [await self._in_journal(partition), dict([await self._books.audited(partition)]), drained]
        found = await self._digests(partition)
        if isinstance(found, str):
            return found
        for digests in known:
            for number, digest in digests.items():
                if number and found.get(number) != digest:
                    what = "is missing" if number not in found else "is another one"
                    return f"audit log of partition {partition:02x}: entry {number} {what}, says the journal"
        return None

    async def _digests(self, partition: int) -> dict[int, str] | str:
        """The digests of the log's entries, recomputed; or where it is not whole in itself."""
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
        return digests

    async def _in_journal(self, partition: int) -> dict[int, str]:
        """What the journal that the store still has says."""
        found: dict[int, str] = {}
        after = (await self._books.opening(partition))[0]
        while entries := await self._books.journal(partition, after, _BATCH):
            after = entries[-1].number
            found |= dict(filter(None, map(_audited, entries)))
        return found


def drained_digests(data_dir: str | Path) -> dict[int, dict[int, str]]:
    """What the journal's files say of the audit log: partition -> entry -> digest. Errors: BrokenChain."""
    marks = read_marks(Path(data_dir) / "journal")
    found: dict[int, list[tuple[int, int, str]]] = {}
    for batch in read_chain(data_dir):
        entries = found.setdefault(batch.partition, [])
        # Where the store went back and people accepted it, numbers come twice: the later ones count.
        while entries and entries[-1][0] >= batch.first:
            entries.pop()
        for number, text in enumerate(batch.texts, batch.first):
            if text.startswith(("audit ", "opening ")) and (audited := _audited(parse_entry(number, text))):
                entries.append((number, *audited))
    for partition, entries in found.items():
        accepted = marks[partition].number if partition in marks else 0
        while marks and entries and entries[-1][0] > accepted:
            entries.pop()
    return {partition: {entry: digest for _, entry, digest in entries} for partition, entries in found.items()}


def _audited(entry: JournalEntry) -> tuple[int, str] | None:
    """Number and digest of the entry of the audit log that a journal's entry tells of."""
    more = dict(entry.more)
    number = entry.id.removeprefix("audit:") if entry.kind == "audit" else more.get("audit", "")
    return (int(number), more["digest"]) if number else None


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
