"""The directory in Redis: organizations, keys, persons, budgets, allowances. `people_ports.DirectoryStore`.

All records of an organization lie in its partition:
`{pNN}orgs` ids   `{pNN}org:<org>` fields `record`, `b:<budget>`   `{pNN}key:<16 hex>` record   `{pNN}keys:<org>` ids
`{pNN}person:<org>|<user>` fields `record`, `b:<budget>`, `a:<allowance>`, `s:<secret>`   `{pNN}persons:<org>` index
`{pNN}owners` fields `<a person's own account>`   `{pNN}v:<part>` version   `{pNN}audit` log

A change is one script (`change.lua`): it compares the version that the caller saw, writes, raises the version and
appends the audit entry, or does nothing. Readers take version and records in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.adapters.redis import keys, replies
from gateway.adapters.redis.audit import audit_body
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.scripts import load
from gateway.core.accounts import Budget, CounterState
from gateway.core.directory import (
    AccountOwner,
    Allowance,
    AuditEntry,
    BudgetDefinition,
    Key,
    Org,
    OrgView,
    Person,
    PersonView,
    encoded,
    person_part,
)
from gateway.core.holds import PARTITIONS

_MINUTE_MS = 60_000
_SEPARATOR = "\x1f"
NOTHING_TOLD = ("", b"{}")
_encode = msgspec.json.Encoder().encode
Writes = list[tuple[str, tuple[str | bytes, ...]]]


class RedisDirectory:
    """Everything of the directory, over one shared link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._change, self._see = load("change"), load("see_person")

    # Reading.

    async def org(self, org_id: str) -> OrgView | None:
        """The organization with its own budgets, at one version."""
        of_tag = keys.tag(org_id)
        while True:
            # A version that is the same before and after is the version of what was read in between.
            version = await self.version(org_id, org_id)
            fields = await self._fields(f"{of_tag}org:{org_id}")
            if await self.version(org_id, org_id) == version:
                break
        if b"record" not in fields:
            return None
        org = msgspec.json.decode(fields[b"record"], type=Org)
        return OrgView(version, org, _budgets(fields))

    async def orgs(self) -> Sequence[Org]:
        """All organizations of the store."""
        names = await asyncio.gather(*(self._members(partition) for partition in range(PARTITIONS)))
        found = await asyncio.gather(*(self.org(org_id) for ids in names for org_id in ids))
        return [view.org for view in found if view is not None]

    async def _members(self, partition: int) -> list[str]:
        key = f"{keys.partition_tag(partition)}orgs"
        return sorted(member.decode() for member in await self._link.command("SMEMBERS", key, key=key))

    async def key(self, key_id: str) -> Key | None:
        """A key by its id."""
        name = _key_name(key_id)
        raw = await self._link.command("GET", name, key=name)
        return None if raw is None else msgspec.json.decode(raw, type=Key)

    async def keys(self, org_id: str) -> Sequence[Key]:
        """All keys of an organization, revoked ones among them."""
        name = f"{keys.tag(org_id)}keys:{org_id}"
        ids = sorted(member.decode() for member in await self._link.command("SMEMBERS", name, key=name))
        found = await asyncio.gather(*map(self.key, ids))
        return [key for key in found if key is not None]

    async def person(self, org_id: str, person_id: str) -> PersonView | None:
        """A person with budgets and allowances, at one version."""
        name, part = person_key(org_id, person_id), person_part(org_id, person_id)
        while True:
            version = await self.version(part, org_id)
            fields = await self._fields(name)
            if await self.version(part, org_id) == version:
                return _person_view(version, fields)

    async def persons(self, org_id: str, *, after: str, most: int) -> Sequence[Person]:
        """Persons in the order of their encoded ids."""
        return [view.person for view in await self.person_views(org_id, after=after, most=most)]

    async def person_views(self, org_id: str, *, after: str, most: int) -> Sequence[PersonView]:
        """The same, with their budgets and allowances; their version is not looked at."""
        name = f"{keys.tag(org_id)}persons:{org_id}"
        low = f"({encoded(after)}" if after else "-"
        found = await self._link.command("ZRANGEBYLEX", name, low, "+", "LIMIT", 0, most, key=name)
        views = await asyncio.gather(*(self._person_by_name(org_id, member.decode()) for member in found))
        return [view for view in views if view is not None]

    async def _person_by_name(self, org_id: str, name: str) -> PersonView | None:
        return _person_view(0, await self._fields(f"{keys.tag(org_id)}person:{org_id}|{name}"))

    async def budgets(self, org_id: str) -> Sequence[BudgetDefinition]:
        """Every budget of the organization, those of single persons among them."""
        view = await self.org(org_id)
        found = list(view.budgets) if view is not None else []
        for each in await self._all_persons(org_id):
            found += each.budgets
        return found

    async def allowances(self, org_id: str) -> Sequence[Allowance]:
        """Every allowance of the organization's persons."""
        return [allowance for each in await self._all_persons(org_id) for allowance in each.allowances]

    async def _all_persons(self, org_id: str) -> list[PersonView]:
        name = f"{keys.tag(org_id)}persons:{org_id}"
        members = await self._link.command("ZRANGE", name, 0, -1, key=name)
        views = []
        for start in range(0, len(members), 256):
            batch = members[start : start + 256]
            views += await asyncio.gather(*(self._person_by_name(org_id, member.decode()) for member in batch))
        return [view for view in views if view is not None]

    async def version(self, part: str, org_id: str) -> int:
        """The version of a part of the directory; 0 before its first change."""
        name = keys.version_key(keys.tag(org_id), part)
        return int(await self._link.command("GET", name, key=name) or 0)

    async def live_budgets(self, org_id: str, record_ids: Sequence[str]) -> list[Budget | None]:
        """The live records, as the ledger reads them."""
        of_tag = keys.tag(org_id)

        async def read(record_id: str) -> Budget | None:
            name = keys.budget_key(of_tag, record_id)
            return replies.budget(record_id, await self._link.command("HMGET", name, *replies.BUDGET_FIELDS, key=name))

        return list(await asyncio.gather(*map(read, record_ids)))

    async def counters(
        self, org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]:
        """(window id, scope) -> the counter, and the thresholds that were told in this window."""
        of_tag = keys.tag(org_id)

        async def read(window: str, scope: str) -> tuple[CounterState | None, tuple[int, ...]]:
            name = f"{of_tag}{prefix}:{window}|{scope}"
            used, held, alerted = await self._link.command("HMGET", name, "used", "held", "alerted", key=name)
            fired = tuple(int(pct) for pct in (alerted or b"").split())
            return (None if held is None else CounterState(int(used or 0), int(held), None)), fired

        return list(await asyncio.gather(*(read(window, scope) for window, scope in names)))

    # Changing.

    async def see_person(self, person: Person, *, key_id: str, most_per_minute: int) -> PersonView | None:
        """Make a person on first sight, once; None when this key has made too many in this minute."""
        of_tag = keys.tag(person.org_id)
        minute = person.created_at_ms // _MINUTE_MS
        names = [
            person_key(person.org_id, person.person_id), f"{of_tag}persons:{person.org_id}",
            f"{of_tag}seen:{key_id}|{minute}",
        ]  # fmt: skip
        args = (_encode(person), encoded(person.person_id), most_per_minute, 2 * _MINUTE_MS)
        reply = await self._link.script(self._see, names, args)
        if reply[0] == b"too_many":
            return None
        if reply[0] == b"made":
            return PersonView(0, person)
        return await self.person(person.org_id, person.person_id)

    async def put_org(self, org: Org, audit: AuditEntry, *, expected: int) -> int | None:
        """Write an organization."""
        of_tag = keys.tag(org.org_id)
        writes: Writes = [
            (f"{of_tag}orgs", ("sadd", org.org_id)),
            (f"{of_tag}org:{org.org_id}", ("hset", "record", _encode(org))),
        ]
        return await self.change(org.org_id, org.org_id, writes, audit, expected=expected)

    async def put_key(self, key: Key, audit: AuditEntry, *, expected: int | None) -> int | None:
        """Write a key; the version of its organization rises, so that no worker goes on with the old one."""
        of_tag = keys.tag(key.key_id)
        writes: Writes = [
            (_key_name(key.key_id), ("set", _encode(key))),
            (f"{of_tag}keys:{key.org_id}", ("sadd", key.key_id)),
        ]
        return await self.change(key.org_id, key.org_id, writes, audit, expected=expected)

    async def put_person(self, person: Person, audit: AuditEntry, *, expected: int) -> int | None:
        """Write a person."""
        of_tag = keys.tag(person.org_id)
        writes: Writes = [
            (person_key(person.org_id, person.person_id), ("hset", "record", _encode(person))),
            (f"{of_tag}persons:{person.org_id}", ("zadd", "0", encoded(person.person_id))),
        ]
        if person.account:
            owner = _encode(AccountOwner(person.org_id, person.person_id))
            writes.append((keys.owners_key(of_tag), ("hset", person.account, owner)))
        part = person_part(person.org_id, person.person_id)
        return await self.change(person.org_id, part, writes, audit, expected=expected)

    async def put_budgets(
        self,
        org_id: str,
        person_id: str,
        budgets: Sequence[BudgetDefinition],
        audit: AuditEntry,
        *,
        expected: int,
        live: Sequence[Budget] = (),
        seeds: Sequence[tuple[str, int, int]] = (),
        adds: Sequence[tuple[str, int]] = (),
    ) -> int | None:
        """Write definitions and live records of budgets of one part (`person_id` "": the organization's own). A live
        record without a state keeps its own."""
        of_tag = keys.tag(org_id)
        name = person_key(org_id, person_id) if person_id else f"{of_tag}org:{org_id}"
        writes: Writes = [(name, ("hset", f"b:{each.budget_id}", _encode(each))) for each in budgets]
        for each in live:
            fields = ["raised", str(each.raised_to), "raised_until", str(each.raised_until_ms)]
            if each.state:
                fields += ["state", each.state]
            if each.limit is not None:
                fields += ["limit", str(each.limit)]
            writes.append((keys.budget_key(of_tag, each.budget_id), ("hset", *fields)))
        for counter, used, ends_at_ms in seeds:
            # `held` last: whoever reads the counter takes it for new while it has no `used`.
            writes.append((f"{of_tag}{counter}", ("hsetnx", "used", str(used))))
            writes.append((f"{of_tag}{counter}", ("hsetnx", "held", "0")))
            if ends_at_ms:
                writes.append((f"{of_tag}{counter}", ("pexpireat", str(ends_at_ms))))
        writes += [(f"{of_tag}{counter}", ("hincrby", "used", str(amount))) for counter, amount in adds]
        part = person_part(org_id, person_id) if person_id else org_id
        return await self.change(org_id, part, writes, audit, expected=expected)

    async def delete_budget(self, budget: BudgetDefinition, audit: AuditEntry, *, expected: int) -> int | None:
        """Take a budget out; its counters stay until their windows end."""
        of_tag, person_id = keys.tag(budget.org_id), _person_of(budget)
        name = person_key(budget.org_id, person_id) if person_id else f"{of_tag}org:{budget.org_id}"
        writes: Writes = [
            (name, ("hdel", f"b:{budget.budget_id}")),
            (keys.budget_key(of_tag, budget.budget_id), ("del",)),
        ]
        part = person_part(budget.org_id, person_id) if person_id else budget.org_id
        return await self.change(budget.org_id, part, writes, audit, expected=expected)

    async def put_state(
        self, org_id: str, record_id: str, state: str, audit: AuditEntry, *, event: tuple[str, bytes] = NOTHING_TOLD
    ) -> bool:
        """Pause or resume the live record of a budget; counts with the next step. False where it is so already: then
        nothing is told either."""
        name, part = keys.budget_key(keys.tag(org_id), record_id), f"{org_id}|state"
        write = (name, ("hset", "state", state))
        while True:
            version = await self.version(part, org_id)
            (live,) = await self.live_budgets(org_id, [record_id])
            if (live.state if live is not None else "active") == state:
                return False
            if await self.change(org_id, part, [write], audit, expected=version, event=event) is not None:
                return True

    async def pause(
        self, org_id: str, record_id: str, audit: AuditEntry, *, part: str, expected: int, event: tuple[str, bytes]
    ) -> bool:
        """Pause the live record of a budget, unless the part of the directory that it belongs to has changed."""
        write = (keys.budget_key(keys.tag(org_id), record_id), ("hset", "state", "paused"))
        return await self.change(org_id, part, [write], audit, expected=expected, event=event) is not None

    async def put_allowance(self, allowance: Allowance, audit: AuditEntry, *, expected: int) -> int | None:
        """Write an allowance of a person."""
        name = person_key(allowance.org_id, allowance.person_id)
        writes: Writes = [(name, ("hset", f"a:{allowance.allowance_id}", _encode(allowance)))]
        part = person_part(allowance.org_id, allowance.person_id)
        return await self.change(allowance.org_id, part, writes, audit, expected=expected)

    async def change(
        self,
        org_id: str,
        part: str,
        writes: Writes,
        audit: AuditEntry | None,
        *,
        expected: int | None,
        event: tuple[str, bytes] = NOTHING_TOLD,
    ) -> int | None:
        """One atomic step: compare, write, raise the version, append the audit entry, tell. The new version, None when
        it was another one than expected."""
        of_tag = keys.tag(org_id)
        names = [keys.version_key(of_tag, part), f"{of_tag}audit", f"{of_tag}journal", keys.outbox_key(of_tag)]
        args: list[Any] = [
            "" if expected is None else expected, org_id, b"" if audit is None else audit_body(audit), *event,
        ]  # fmt: skip
        for name, words in writes:
            names.append(name)
            args.append(_SEPARATOR.encode().join(word if isinstance(word, bytes) else word.encode() for word in words))
        raised = int(await self._link.script(self._change, names, args))
        return None if raised < 0 else raised

    async def _fields(self, name: str) -> dict[bytes, bytes]:
        found = await self._link.command("HGETALL", name, key=name)
        return dict(found) if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


def _key_name(key_id: str) -> str:
    return f"{keys.tag(key_id)}key:{key_id.removeprefix('ak_')}"


def person_key(org_id: str, person_id: str) -> str:
    """Where a person's record stands."""
    return f"{keys.tag(org_id)}person:{person_part(org_id, person_id)}"


def _person_of(budget: BudgetDefinition) -> str:
    """The person in whose record a budget stands; "" for the organization's."""
    return "" if budget.scope.user == "*" else budget.scope.user


def _budgets(fields: dict[bytes, bytes]) -> tuple[BudgetDefinition, ...]:
    found = [raw for name, raw in fields.items() if name.startswith(b"b:")]
    return tuple(sorted((msgspec.json.decode(raw, type=BudgetDefinition) for raw in found), key=_by_id))


def _by_id(budget: BudgetDefinition) -> str:
    return budget.budget_id


def _person_view(version: int, fields: dict[bytes, bytes]) -> PersonView | None:
    if b"record" not in fields:
        return None
    allowances = [msgspec.json.decode(raw, type=Allowance) for name, raw in fields.items() if name.startswith(b"a:")]
    allowances.sort(key=lambda allowance: (allowance.expires_at_ms or 2**62, allowance.allowance_id))
    person = msgspec.json.decode(fields[b"record"], type=Person)
    return PersonView(version, person, _budgets(fields), tuple(allowances))
