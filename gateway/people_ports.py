"""What the flows for people need of the outside, as protocols: the directory, quotes, questions, what is told, usage.

Failures of the outside are raised as `errors.Unavailable`; refusals are values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.accounts import Budget
from gateway.core.directory import (
    AccountOwner,
    Allowance,
    AuditEntry,
    BudgetDefinition,
    Event,
    Key,
    Org,
    OrgView,
    Person,
    PersonView,
)
from gateway.core.questions import Question


class DirectoryStore(Protocol):
    """Who there is. `change` is one atomic step: it compares the version of a part (0: it was never changed), writes,
    raises the version, and appends the audit entry; None when the version was another one (read again)."""

    async def org(self, org_id: str) -> OrgView | None: ...
    async def orgs(self) -> Sequence[Org]: ...
    async def key(self, key_id: str) -> Key | None: ...
    async def keys(self, org_id: str) -> Sequence[Key]: ...
    async def person(self, org_id: str, person_id: str) -> PersonView | None: ...
    async def persons(self, org_id: str, *, after: str, most: int) -> Sequence[Person]: ...
    async def see_person(self, person: Person, *, key_id: str, most_per_minute: int) -> PersonView | None:
        """Make a person on first sight, once; None when this key has made too many in this minute."""
        ...

    async def version(self, part: str, org_id: str) -> int: ...
    async def put_org(self, org: Org, audit: AuditEntry, *, expected: int) -> int | None: ...
    async def put_key(self, key: Key, audit: AuditEntry, *, expected: int | None) -> int | None: ...
    async def put_person(self, person: Person, audit: AuditEntry, *, expected: int) -> int | None: ...
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
    ) -> int | None:
        """Write definitions and live records of budgets of one part (`person_id` "": the org's). `seeds`: counter key
        (without tag), used so far, instant in ms at which it ends (0 never); an existing counter is left alone."""
        ...

    async def delete_budget(self, budget: BudgetDefinition, audit: AuditEntry, *, expected: int) -> int | None: ...
    async def put_allowance(self, allowance: Allowance, audit: AuditEntry, *, expected: int) -> int | None: ...
    async def allowances(self, org_id: str) -> Sequence[Allowance]: ...
    async def budgets(self, org_id: str) -> Sequence[BudgetDefinition]: ...


class AccountIndex(Protocol):
    """Whose account is whose: organizations' and persons' own."""

    async def owner(self, account: str) -> AccountOwner | None: ...
    async def all(self) -> Sequence[str]:
        """Every account, in order."""
        ...


class AuditLog(Protocol):
    """Append-only, hash-chained, one chain per partition."""

    async def append(self, entry: AuditEntry, *, once: str = "", forget_at_ms: int = 0) -> None:
        """Write an entry; under the same `once` a single one. That is forgotten at `forget_at_ms`, 0 never."""
        ...

    async def noted(self, org_id: str, name: str) -> tuple[bytes, int]:
        """What was noted last under a name, and its version; empty and 0 before the first time."""
        ...

    async def note(self, name: str, value: bytes, entry: AuditEntry, *, expected: int) -> bool:
        """Note a value, and write the entry that says so, in one step; False when the version was another one."""
        ...

    async def read(self, org_id: str, *, after: int, most: int) -> Sequence[AuditEntry]: ...


class Questions(Protocol):
    """Questions of running streams, and the events of a request that whoever watches it reads."""

    async def ask(self, question: Question) -> None: ...
    async def find(self, hold_id: str) -> Question | None: ...
    async def answer(self, before: Question, after: Question, audit: AuditEntry | None) -> bool:
        """Write an answer over an open question; False when somebody else was first."""
        ...

    async def publish(self, hold_id: str, event: str, data: bytes) -> None: ...
    async def events(self, hold_id: str, *, after: str, most: int) -> Sequence[tuple[str, str, bytes]]:
        """(id, event, data) above the id `after` ("" from the first)."""
        ...


class Outbox(Protocol):
    """What is told by webhook: an event is in it from the moment that its cause is written."""

    async def add(self, event: Event) -> None: ...


@dataclass(frozen=True, slots=True)
class UsageLine:
    """What one day's requests of one model, person and key used and cost, by pocket."""

    day: str
    model: str
    user: str
    key: str
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: int
    included: int
    prepaid: int
    postpaid: int


class UsageBook(Protocol):
    """The usage that posting counted."""

    async def lines(self, account: str, *, first_day: str, last_day: str) -> Sequence[UsageLine]: ...
