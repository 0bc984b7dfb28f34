"""The ledger model's records: an account with its pockets, a hold, what its claims are counted on.

They are what the scripts keep in the store, as plain Python, and change only in whole movements: into a hold, out of
it, and from available to posted. Invariant: available + held + posted = credited + debt, and the pockets sum to the
account.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.holds import Measure, PlaceHold, ScopeClaim
from gateway.core.money import Rate, Unit
from gateway.core.quotes import QuoteState


@dataclass(slots=True)
class Pocket:
    """One source of a person's money."""

    available: int = 0
    held: int = 0
    posted: int = 0


@dataclass(slots=True)
class Account:
    """`pockets` is empty for an account of one pocket. `credits`, `debits`, `periods` and `credit_limits` remember
    every id with its contents. `plan` to `plan_limit` are of the plan's running period, as in `holds.Balance`."""

    unit: Unit
    rate: Rate
    account_class: str
    available: int = 0
    held: int = 0
    credited: int = 0
    posted: int = 0
    debt: int = 0
    shortfalls: int = 0
    frozen: bool = False
    pockets: tuple[Pocket, ...] = ()
    credits: dict[str, tuple[int, Unit, str, str]] = field(default_factory=dict)
    debits: dict[str, tuple[int, str, int, int]] = field(default_factory=dict)
    credited_from: dict[str, int] = field(default_factory=dict)
    plan: str = ""
    period_id: str = ""
    period_ends_at_ms: int = 0
    allowance_granted: int = 0
    period_base: tuple[int, ...] = ()
    plan_limit: int = 0
    own_limit: bool = False
    periods: set[str] = field(default_factory=set)
    credit_limits: dict[str, int | None] = field(default_factory=dict)
    lowering: int = 0  # what goes of the postpaid pocket as soon as holds give it back

    def reserve(self, split: list[int], amount: int) -> None:
        """Move `amount` from available to held; `split` takes what each pocket gave, in their order."""
        self.available -= amount
        self.held += amount
        for place, pocket in enumerate(self.pockets):
            part = min(pocket.available, amount)
            pocket.available -= part
            pocket.held += part
            split[place] += part
            amount -= part

    def release(self, split: list[int], amount: int) -> int:
        """Move `amount` back, to the pocket that was drawn last first; how much came to the last one."""
        returned = min(split[-1], amount) if split else 0
        self.available += amount
        self.held -= amount
        for place in reversed(range(len(self.pockets))):
            part = min(split[place], amount)
            self.pockets[place].available += part
            self.pockets[place].held -= part
            split[place] -= part
            amount -= part
        return returned

    def lower(self, returned: int) -> int:
        """Take what a lowered limit leaves no more, of what has come back; how much that was. What was paid in
        meanwhile stays, and nothing comes back of what is held no more."""
        if not self.pockets:
            return 0
        pocket = self.pockets[-1]
        cut = min(self.lowering, returned, pocket.available)
        self.available -= cut
        self.credited -= cut
        pocket.available -= cut
        self.lowering = min(self.lowering - cut, pocket.held)
        return cut

    def consume(self, split: list[int], amount: int) -> None:
        """Turn what is still held for a hold, `amount` as `split`, into posted."""
        self.held -= amount
        self.posted += amount
        for pocket, part in zip(self.pockets, split, strict=False):
            pocket.held -= part
            pocket.posted += part

    def take(self, split: list[int], amount: int) -> None:
        """Move `amount` straight from available to posted, adding to `split`."""
        self.available -= amount
        self.posted += amount
        for place, pocket in enumerate(self.pockets):
            part = min(pocket.available, amount)
            pocket.available -= part
            pocket.posted += part
            split[place] += part
            amount -= part


@dataclass(slots=True)
class Counter:
    """A scope in one window. `alerted`: the thresholds of its budget that were told, in per cent."""

    used: int = 0
    held: int = 0
    alerted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CounterId:
    """Which counter a claim counts on."""

    scope: str
    window: str
    measure: Measure

    @classmethod
    def of(cls, claim: ScopeClaim) -> CounterId:
        return cls(claim.scope, claim.window, claim.measure)


@dataclass(slots=True)
class QuoteRecord:
    """What the steps read of a quote, and which hold has used it."""

    digest: str
    expires_at_ms: int
    state: QuoteState = QuoteState.OPEN
    approved_max: int = 0
    lifts: tuple[str, ...] = ()
    hold_id: str = ""


@dataclass(slots=True)
class UsageSums:
    """A line of a day's usage; the last three are what of the cost each pocket paid, in their order."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    paid: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Told:
    """Something that a step put into the outbox."""

    kind: str
    org_id: str
    data: dict[str, str | int]


@dataclass(slots=True)
class Hold:
    """A hold, from its placing to the end of its retention. `lifts` are budgets that an approval lets it pass: they
    count it, and limit it only while they are not active. `cost` is what post was asked for, None before. A tombstone
    is a hold without a `request`."""

    account: str
    worker: str
    rate: Rate
    placed_at_ms: int
    renewed_until_ms: int
    must_end_at_ms: int
    request: PlaceHold | None = None
    scopes: tuple[ScopeClaim, ...] = ()
    lifts: frozenset[str] = frozenset()
    state: str = "open"
    amount: int = 0
    ceiling: int = 0
    earned: int = 0
    posted: int = 0
    shortfall: int = 0
    cost: int | None = None
    split: list[int] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.request.owner if self.request else ""

    @property
    def lifetime_ms(self) -> int:
        return self.request.lifetime_ms if self.request else 0

    def same_contents(self, asked: PlaceHold) -> bool:
        """Whether a second place with this id asks for the same. The scopes of a posted hold are forgotten."""
        mine = self.request
        forgotten = self.state == "posted"
        return mine is not None and (
            (mine.account, mine.floor, mine.first, mine.ceiling, mine.rate, mine.owner)
            == (asked.account, asked.floor, asked.first, asked.ceiling, asked.rate, asked.owner)
            and (forgotten or list(map(CounterId.of, mine.scopes)) == list(map(CounterId.of, asked.scopes)))
        )
