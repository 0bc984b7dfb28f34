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
    """What a claim counts, or looks at, in the same step as the money.

    MONEY: what a window may spend. USES: one a hold. OPEN: holds that are open at once. SHARE: money held at once, its
    limit in millionths of the account's available + held. USAGE: never refuses; what a day's use was, by `detail`.
    QUOTE: an approved quote, used by one hold; its approved maximum lowers the hold's ceiling."""

    MONEY = "money"
    USES = "uses"
    OPEN = "open"
    SHARE = "share"
    USAGE = "usage"
    QUOTE = "quote"


@dataclass(frozen=True, slots=True)
class ScopeClaim:
    """One budget or caveat counter that a hold reserves on. `limit` None: it stands in the budget record `budget_id`,
    and a budget that does not exist refuses; with a limit and a `budget_id`, the record overrides where there is one
    (a default budget of everybody, paused or raised for one person). `window` is the id of the window;
    `window_ends_at_ms` None for `total`. `detail` of MONEY: `<refuse|pause|ask> <org> <per cent> <per cent> ...`,
    what to do at the limit, whom to tell, at which shares; "" for neither. QUOTE: `scope` is the quote's id, `detail`
    the digest of the request that it was made for. USAGE: `scope` is the account, `window` the day, `detail` the line
    (`<model>|<user>|<key>`)."""

    scope: str
    window: str
    measure: Measure = Measure.MONEY
    limit: int | None = None
    budget_id: str | None = None
    window_ends_at_ms: int | None = None
    detail: str = ""

    @property
    def on_exceed(self) -> str:
        """What a budget says: refuse, pause or ask."""
        return self.detail.partition(" ")[0] or "refuse" if self.measure is Measure.MONEY else "refuse"


class Guard(Struct, frozen=True, gc=False):
    """What the caller took as given when it chose the claims: a part of the directory (an org, or `<org>|<user>`) at
    this version. If it has changed, nothing is placed (`directory_changed`): a revoked key or a new budget counts at
    once, in the same step."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class UsageTokens:
    """Tokens of an answer, for the line of a day's usage."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


NO_TOKENS = UsageTokens()


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
    guards: tuple[Guard, ...] = ()
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
    DIRECTORY_CHANGED = "directory_changed"  # a guard's part of the directory has another version
    PERIOD_OVER = "period_over"  # the plan's period has ended: renew the allowance, then again
    QUOTE_UNKNOWN = "quote_unknown"
    QUOTE_OPEN = "quote_open"  # nobody has approved it yet
    QUOTE_REFUSED = "quote_refused"
    QUOTE_EXPIRED = "quote_expired"
    QUOTE_USED = "quote_used"  # by another hold
    QUOTE_MISMATCH = "quote_mismatch"  # made for another request


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
    measure: Measure = Measure.MONEY
    on_exceed: str = "refuse"  # what the budget says: refuse | pause | ask


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
    ceiling: int | None = None  # where an approved maximum lowered it


class Extended(Struct, frozen=True, gc=False):
    """`granted` is the total now reserved: at most what was asked, at least what it was before. `beyond`: where
    `extend_to` granted less than it was asked for, how much more there is for a yes, which raises the ceiling and lifts
    the budgets that ask."""

    granted: int
    available: int
    beyond: int = 0


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
class PocketState:
    """One pocket of an account of people."""

    name: str
    available: int
    held: int
    posted: int


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
    pocket_states: tuple[PocketState, ...] = ()
    plan: str = ""  # of the running period; "" none
    period_id: str = ""
    period_ends_at_ms: int = 0  # from then on `place` answers `period_over`
    allowance_granted: int = 0  # what the running period included at its start
    period_base: tuple[int, ...] = ()  # what each pocket had posted before the running period; () there is none
    lowering: int = 0  # what goes of the postpaid pocket as soon as holds give it back
    plan_limit: int = 0  # how much may be owed, as the running plan says
    own_limit: bool = False  # the credit limit is an operator's: no plan touches it

    @property
    def credit_limit(self) -> int:
        """How much may be owed in all: what the postpaid pocket has, holds and has paid, but what was taken back."""
        whole = sum(each.available + each.held + each.posted for each in self.pocket_states if each.name == "postpaid")
        return whole - self.lowering


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
