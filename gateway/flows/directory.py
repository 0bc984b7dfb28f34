"""The directory as a worker remembers it: keys, organizations and persons that it has seen cost no round trip.

Nothing of it needs to be fresh: the versions that were seen go with every hold, and the ledger refuses where one has
changed. A key is remembered with the version of its organization that was read before it, and counts for that version
alone. The failure this prevents: a revoked key, a new limit, a withdrawn allowance that one worker has not heard of, or
has forgotten again because it read the organization anew for another key.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from typing import TypeVar

from gateway.core.directory import Key, Org, OrgView, Person, PersonView, org_part, person_part
from gateway.core.errors import RateLimited
from gateway.core.holds import Guard
from gateway.core.key_texts import digest_of, key_id_of
from gateway.people_ports import DirectoryStore
from gateway.ports import System

Name = TypeVar("Name")
Value = TypeVar("Value")
KEYS_MOST, ORGS_MOST, PERSONS_MOST, UNKNOWN_MOST = 8_192, 2_048, 32_768, 1_024
# A text that is no key is looked up again after a moment: it may have been made meanwhile.
UNKNOWN_LIFE_S = 1.0


class Directory:
    """Keys, organizations and persons, remembered."""

    def __init__(self, store: DirectoryStore, system: System) -> None:
        self.store = store
        self._system = system
        # By the digest of the text, or by id: the key, and the version of its organization that it was read after.
        self._keys: OrderedDict[str, tuple[Key, int]] = OrderedDict()
        self._orgs: OrderedDict[str, OrgView] = OrderedDict()
        self._persons: OrderedDict[tuple[str, str], PersonView] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._guards: dict[tuple[int, int], tuple[OrgView, PersonView | None, tuple[Guard, ...]]] = {}

    def seen_key(self, text: str) -> tuple[Key, OrgView] | None:
        """What this worker remembers of a key's text. Never waits."""
        digest = digest_of(text)
        found = self._seen(digest)
        return found if found is not None and self._opens(found[0], digest) else None

    def _seen(self, name: str) -> tuple[Key, OrgView] | None:
        known = self._keys.get(name)
        if known is None:
            return None
        key, version = known
        org = self._orgs.get(key.org_id)
        return (key, org) if org is not None and org.version == version else None

    async def find_key(self, text: str) -> tuple[Key, OrgView] | None:
        """The key behind a text, None where it is none of ours. Errors: Unavailable."""
        key_id, digest, now_s = key_id_of(text), digest_of(text), self._system.now_s()
        if key_id is None or self._unknown.get(digest, 0.0) > now_s:
            return None
        found = await self._read_key(key_id, digest)
        if found is None or not self._opens(found[0], digest):
            self._keys.pop(digest, None)
            _keep(self._unknown, digest, now_s + UNKNOWN_LIFE_S, UNKNOWN_MOST)
            return None
        return found

    async def key_by_id(self, key_id: str) -> tuple[Key, OrgView] | None:
        """A key by its id, for requests that show another credential which names it. Errors: Unavailable."""
        return self._seen(key_id) or await self._read_key(key_id, key_id)

    async def _read_key(self, key_id: str, name: str) -> tuple[Key, OrgView] | None:
        """Read a key after its organization, so that a change in between makes the pair of them stale."""
        key = await self.store.key(key_id)
        if key is None:
            return None
        if key.operator:
            return key, OrgView(0, Org(key.org_id))
        org = await self.org(key.org_id)
        key = await self.store.key(key_id)
        if org is None or key is None:
            return None
        _keep(self._keys, name, (key, org.version), KEYS_MOST)
        return key, org

    async def current_key(self, *, text: str = "", key_id: str = "") -> tuple[Key, OrgView] | None:
        """The same by text or id, as the store has it now: for what no hold checks. Errors: Unavailable."""
        found = self.seen_key(text) if text else self._seen(key_id)
        if found is not None:
            if await self.is_fresh(found[1], None):
                return found
            self.forget(found[0].org_id)
        return await (self.find_key(text) if text else self.key_by_id(key_id))

    def _opens(self, key: Key, digest: str) -> bool:
        """Whether a text with this digest is the key, or was before its rotation."""
        if hmac.compare_digest(key.digest, digest):
            return True
        now_ms = int(self._system.now_s() * 1_000)
        return now_ms < key.previous_until_ms and hmac.compare_digest(key.previous_digest, digest)

    async def org(self, org_id: str) -> OrgView | None:
        """An organization. Errors: Unavailable."""
        found = self._orgs.get(org_id)
        if found is None:
            found = await self.store.org(org_id)
            if found is not None:
                _keep(self._orgs, org_id, found, ORGS_MOST)
        return found

    def seen_person(self, org_id: str, person_id: str) -> PersonView | None:
        """What this worker remembers of a person. Never waits."""
        return self._persons.get((org_id, person_id))

    async def find_person(self, org_id: str, person_id: str) -> PersonView | None:
        """A person, None where nobody has named them yet. Errors: Unavailable."""
        found = self.seen_person(org_id, person_id) or await self.store.person(org_id, person_id)
        if found is not None:
            _keep(self._persons, (org_id, person_id), found, PERSONS_MOST)
        return found

    async def see_person(self, key: Key, org: Org, person_id: str) -> PersonView:
        """A person, made on first sight. Errors: RateLimited where the key makes too many; Unavailable."""
        found = await self.find_person(org.org_id, person_id)
        if found is None:
            person = Person(
                person_id, org.org_id, made="first_sight", made_by=key.key_id,
                created_at_ms=int(self._system.now_s() * 1_000),
            )  # fmt: skip
            found = await self.store.see_person(person, key_id=key.key_id, most_per_minute=org.persons_per_minute)
            if found is None:
                message = f"this key has named {org.persons_per_minute} new persons within this minute"
                raise RateLimited(message, param="farebox-user", retry_after_s=60)
            _keep(self._persons, (org.org_id, person_id), found, PERSONS_MOST)
        return found

    def guards(self, org: OrgView, person: PersonView | None) -> tuple[Guard, ...]:
        """What a hold must find unchanged."""
        identity = (id(org), id(person))
        known = self._guards.get(identity)
        if known is not None and known[0] is org and known[1] is person:
            return known[2]
        guards: tuple[Guard, ...] = (Guard(org_part(org.org.org_id), org.version),)
        if person is not None:
            guards += (Guard(person_part(person.person.org_id, person.person.person_id), person.version),)
        if len(self._guards) >= PERSONS_MOST:
            self._guards.clear()
        self._guards[identity] = (org, person, guards)
        return guards

    def forget(self, org_id: str, person_id: str = "") -> None:
        """Drop what is remembered, the organization's keys too; the next look reads it again."""
        self._orgs.pop(org_id, None)
        self._persons.pop((org_id, person_id), None)

    async def is_fresh(self, org: OrgView, person: PersonView | None) -> bool:
        """Whether what is remembered still stands, for what no hold checks. Errors: Unavailable."""
        org_id = org.org.org_id
        if await self.store.version(org_part(org_id), org_id) != org.version:
            return False
        if person is None:
            return True
        return await self.store.version(person_part(org_id, person.person.person_id), org_id) == person.version


def _keep(kept: OrderedDict[Name, Value], name: Name, value: Value, most: int) -> None:
    """Remember, and forget the oldest beyond `most`."""
    if len(kept) >= most:
        kept.popitem(last=False)
    kept[name] = value
