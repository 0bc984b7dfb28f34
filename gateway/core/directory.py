"""Who there is: organizations, their keys, the persons behind them, and what was agreed with them.

Everything of one organization lies in one partition, which its id and the ids of its keys, budgets and allowances
carry.
These are values; money and counters stand in the ledger. A worker remembers them, and shows the versions it remembers
to every hold (`holds.Guard`), so that a change counts at once everywhere.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256

from msgspec import Struct

# A person's id is the app's own text for its user.
PERSON_ID_CHARACTERS = 128
SESSION_ID_CHARACTERS = 128
# 160 bits: no two persons meet.
_ACCOUNT_DIGITS = 40


class Permission(StrEnum):
    """What a key may do. A key made without a list may do all of it, within its organization."""

    RELAY = "relay"
    READ = "read"
    MANAGE = "manage"  # keys, persons, budgets, allowances, webhooks
    APPROVE = "approve"  # quotes and overage, in the name of the person it names


class TimeZoneRule(Struct, frozen=True):
    """From `from_ms` on, windows are cut in this time zone (IANA name). A change applies from the next window."""

    from_ms: int
    time_zone: str


class Org(Struct, frozen=True):
    """An organization. Its account has its own id. `anchor_ms`: where anniversary periods begin."""

    org_id: str  # org_NN...
    name: str = ""
    time_zones: tuple[TimeZoneRule, ...] = ()
    anchor_ms: int = 0
    created_at_ms: int = 0
    persons_per_minute: int = 60  # that one key may make by naming them
    most_open_holds: int = 256  # of one person; of a key without a person too
    share_ppm: int = 1_000_000  # of the account, that one person or key may hold at once
    plan: str = ""
    webhook_url: str = ""
    webhook_secret: str = ""  # sealed
    suspended: bool = False

    @property
    def partition(self) -> str:
        """Two hex digits."""
        return self.org_id.rpartition("_")[2][:2]


class Key(Struct, frozen=True):
    """A key, without its secret: `digest` is SHA-256 of the whole text, in hex. After a rotation the old one serves
    until `previous_until_ms`. Globs; an empty tuple admits everything. `operator`: for /admin, and any organization."""

    key_id: str  # ak_NN...
    org_id: str
    digest: str
    name: str = ""
    permissions: tuple[Permission, ...] = tuple(Permission)
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()  # networks, e.g. 10.0.0.0/8
    expires_at_ms: int | None = None
    previous_digest: str = ""
    previous_until_ms: int = 0
    revoked: bool = False
    operator: bool = False
    hide_prices: bool = False
    created_at_ms: int = 0


class Person(Struct, frozen=True):
    """The human behind an app's requests. `account`: one of their own (a plan, credit); "" draws on the org's.
    `made`: first_sight | api."""

    person_id: str
    org_id: str
    account: str = ""
    plan: str = ""
    made: str = "api"
    made_by: str = ""  # key id
    suspended: bool = False
    created_at_ms: int = 0


class AccountOwner(Struct, frozen=True):
    """Whose account it is: an organization's, or the own one of a person of it."""

    org_id: str
    person_id: str = ""


class Scope(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a budget counts: requests that have all of these. `user` "*": every person by themselves (a default budget).
    `model` is the canonical name. All empty is no scope; `org` is always the organization's id."""

    org: str = ""
    key: str = ""
    user: str = ""
    session: str = ""
    task: str = ""
    model: str = ""


class WindowRule(Struct, frozen=True):
    """From `from_ms` on: this window and period. A change applies from the next window."""

    from_ms: int
    window: str  # day | week | month | total
    period: str = "calendar"  # calendar | anniversary


class BudgetDefinition(Struct, frozen=True):
    """A limit on a scope over a window. Limits are nanousd. The live part (limit, state, raise) is also in the ledger's
    budget record of the same id, which alone decides."""

    budget_id: str  # bu_NN...
    org_id: str
    scope: Scope
    rules: tuple[WindowRule, ...]
    limit: int
    alerts_pct: tuple[int, ...] = ()
    forecast: bool = False  # tell when the forecast passes the limit
    on_exceed: str = "refuse"  # refuse | pause | ask
    until_ms: int = 0  # the budget ends by itself; 0 never
    raised_to: int = 0
    raised_until_ms: int = 0
    created_at_ms: int = 0


class Allowance(Struct, frozen=True):
    """What a session may spend without being asked: within it no approval is needed. Limits are nanousd; globs."""

    allowance_id: str  # al_NN...
    org_id: str
    person_id: str
    session: str = ""  # "" any session of the person
    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    cap: int = 0
    per_call_cap: int = 0  # 0: the cap
    count: int = 0  # calls; 0 any number
    expires_at_ms: int = 0
    revoked: bool = False
    created_at_ms: int = 0
    created_by: str = ""


class OrgView(Struct, frozen=True):
    """An organization as a worker remembers it: everything that is not of one person, at one version."""

    version: int
    org: Org
    budgets: tuple[BudgetDefinition, ...] = ()  # those whose scope names no single user


class PersonView(Struct, frozen=True):
    """A person as a worker remembers them, at one version."""

    version: int
    person: Person
    budgets: tuple[BudgetDefinition, ...] = ()
    allowances: tuple[Allowance, ...] = ()


def org_part(org_id: str) -> str:
    """The name of an organization's version, for guards."""
    return org_id


def person_part(org_id: str, person_id: str) -> str:
    """The name of a person's version, for guards. Also the name of a person everywhere in the store: the id is the
    app's free text, so all but letters, digits and `.-@` is percent-encoded."""
    return f"{org_id}|{encoded(person_id)}"


def encoded(text: str) -> str:
    """Free text as a part of a scope or key: nothing that separates parts is left in it."""
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-@"
    return "".join(chr(byte) if chr(byte) in plain else f"%{byte:02x}" for byte in text.encode())


class Principal(Struct, frozen=True):
    """Who asks one of our own paths, and how they showed it. `person_id` "" where the key speaks for itself.
    `vouched`: who says that it is this person: app (the header) | jwt."""

    org_id: str
    key_id: str
    person_id: str = ""
    permissions: tuple[Permission, ...] = ()
    operator: bool = False
    vouched: str = "app"
    session: str = ""

    @property
    def actor(self) -> str:
        """For the audit log: `key ak_...`, or `key ak_... for <person>`."""
        return f"key {self.key_id}" + (f" for {self.person_id}" if self.person_id else "")

    @property
    def authenticated(self) -> str:
        """For the audit log: how they showed it, where no proof was asked for: key | jwt | operator."""
        return "operator" if self.operator else "key" if self.vouched == "app" else self.vouched


class AuditEntry(Struct, frozen=True):
    """One change: who, how authenticated, what, before and after. `before`/`after` are JSON without secrets."""

    at_ms: int
    org_id: str
    actor: str
    authenticated: str  # key | jwt | key+password | key+otp | key+passkey | operator | command | ledger
    action: str  # key.create, budget.put, quote.approve, credit.add, ...
    subject: str  # the id of what was changed
    before: bytes = b"null"
    after: bytes = b"null"
    number: int = 0
    digest: str = ""


class Event(Struct, frozen=True):
    """Something to tell the organization by webhook. `event_id` is the store's; the receiver tells repeats by it."""

    event_id: str
    org_id: str
    kind: str  # budget.alert | budget.forecast | budget.paused | budget.exceeded | quote.waiting | quote.answered | ...
    at_ms: int
    data: bytes  # JSON


def account_of_org(org_id: str) -> str:
    """The account of an organization: `org_7f...` -> `ac_7f...`."""
    return "ac_" + org_id.removeprefix("org_")


def account_of_person(org_id: str, person_id: str) -> str:
    """The own account of a person, in their organization's partition: always the same, so that whoever makes it twice
    makes one."""
    tail = sha256(person_part(org_id, person_id).encode()).hexdigest()[:_ACCOUNT_DIGITS]
    return f"ac_{org_id.rpartition('_')[2][:2]}{tail}"
