"""The values that the ledger takes and gives: accounts, claims, holds and the answers of every step.

Ids carry their partition as two hex digits after the prefix (`ho_7f...`), so that nothing needs a look-up to be routed.
All amounts are integers in the account's unit.

What the hot path makes for every request is a structure of msgspec: it costs a fifth of a dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from gateway.core.money import Rate, Unit

PARTITIONS = 256


class Measure(StrEnum):
    """What a scope's counter counts: money, or uses (one a hold)."""

    MONEY = "money"
    USES = "uses"


@dataclass(frozen=True, slots=True)
class ScopeClaim:
    """One budget or caveat counter that a hold reserves on. `limit` None: it stands in the budget record `budget_id`,
    and a budget that does not exist refuses. `window` is the id of the window; `window_ends_at_ms` None for `total`."""

    scope: str
    window: str
    measure: Measure = Measure.MONEY
    limit: int | None = None
    budget_id: str | None = None
    window_ends_at_ms: int | None = None


class PlaceHold(Struct, frozen=True, gc=False):
    """Reserve the most there is between `floor` and `ceiling`. `first` is how much to reserve when more than the floor
    is there but the work can be extended later (streams); equal to `ceiling` otherwise. Never above `ceiling`, which
    also is the greatest amount that `extend_to` and `post` will ever take. `credit_id`: the payment hash (hex) that
    must be credited already, for agents. `rate`: what the worker priced with; another rate on the account is answered
    `rate_changed`."""

    hold_id: str
    account: str
    floor: int
    first: int
    ceiling: int
    rate: Rate
    scopes: tuple[ScopeClaim, ...] = ()
    credit_id: str | None = None
    token_id: str | None = None  # checked against the revocation list
    owner: str = ""  # the execution that owns the hold; "" for a worker's own
    lifetime_ms: int = 30_000
    greatest_age_ms: int = 3_600_000
    labels: bytes = (
        b""  # JSON for GET /api/requests/{id}: model, dialect, route, ...; kept with the hold, never read by scripts
    )


class Refusal(StrEnum):
    """Why a step was refused."""

    INSUFFICIENT = "insufficient"
    NO_ACCOUNT = "no_account"
    CREDIT_UNKNOWN = "credit_unknown"
    REVOKED = "revoked"
    LIMIT = "limit"  # a scope: `limit` of the answer says which
    PAUSED = "paused"  # a budget that is paused
    NO_BUDGET = "no_budget"  # a budget that does not exist
    DEBT = "debt"
    RATE_CHANGED = "rate_changed"
    STALE_WINDOW = "stale_window"
    VOIDED = "voided"  # the tombstone of an earlier void
    NOT_OPEN = "not_open"
    FROZEN = "frozen"
    MEMORY = "memory"
    TOO_MANY_SHORTFALLS = "too_many_shortfalls"
    FOREIGN = "foreign"  # the same id with other contents
    TOO_GREAT = "too_great"
    RENEWED = "renewed"  # expire: the hold is renewed, or owned by an execution or a refund


@dataclass(frozen=True, slots=True)
class LimitHit:
    """The scope that refused."""

    scope: str
    window: str
    budget_id: str | None
    limit: int
    used: int
    held: int
    resets_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A step that changed nothing. `available` and `held` are the account's at that moment where they are known."""

    reason: Refusal
    available: int = 0
    held: int = 0
    rate: Rate | None = None
    limit: LimitHit | None = None


class Placed(Struct, frozen=True, gc=False):
    """An open hold. `granted` is what it reserves; `available` is what the account has left besides. `replayed`: this
    id was placed before, and this is its state."""

    hold_id: str
    granted: int
    available: int
    state: str = "open"
    replayed: bool = False
    shortfalls: int = 0  # what the account's shortfalls count: raises this payer's safety margin


class Extended(Struct, frozen=True, gc=False):
    """`granted` is the total now reserved: at most what was asked, at least what it was before."""

    granted: int
    available: int


class Renewed(Struct, frozen=True, gc=False):
    """A checkpoint was written and the hold renewed."""

    earned: int


class Posted(Struct, frozen=True, gc=False):
    """A resolved hold. `state`: posted, voided or expired. `shortfall` is what the house pays. `pockets` says what came
    from where; it is empty for an account of one pocket (agents, envelopes)."""

    state: str
    posted: int
    shortfall: int
    available: int
    pockets: tuple[tuple[str, int], ...] = ()
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Credited:
    """`outcome`: applied or replayed. `debt_paid` went to a debt first."""

    outcome: str
    available: int
    debt_paid: int = 0


@dataclass(frozen=True, slots=True)
class Debited:
    """`taken` left `available`; `owed` was added to `debt`."""

    taken: int
    owed: int
    available: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's balances, as the store has them."""

    account: str
    unit: Unit
    available: int
    held: int
    credited: int
    posted: int
    debt: int
    rate: Rate
    pockets: tuple[tuple[str, int], ...] = ()
    shortfalls: int = 0
    account_class: str = ""
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A hold as the store has it, for GET /api/requests/{id} and reconcile. `labels` and `outcome` are JSON bytes."""

    hold_id: str
    account: str
    state: str
    floor: int
    ceiling: int
    amount: int
    earned: int
    posted: int
    shortfall: int
    rate: Rate
    worker: str
    placed_at_ms: int
    renewed_until_ms: int
    ended_at_ms: int | None
    labels: bytes = b""
    outcome: bytes = b""
    scopes: tuple[ScopeClaim, ...] = field(default=())
    owner: str = ""
    pockets: tuple[tuple[str, int], ...] = ()  # what each reserved; after the end what each paid
    must_end_at_ms: int = 0  # when it reaches its greatest age


def partition_of(identifier: str) -> int:
    """The partition that an id of ours carries: the two hex digits after the prefix's last underscore.

    Errors: ValueError when it is no such id.
    """
    _, _, rest = identifier.rpartition("_")
    return int(rest[:2], 16)
