"""What the limits of a request stand at, read without reserving anything: which of them would refuse it.

The ledger alone decides, in the step that reserves; this says beforehand what it would say now. The failure this
prevents: a person is asked to approve what a budget refuses in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.accounts import Budget, CounterState
from gateway.core.holds import Balance, LimitHit, Measure, PlaceHold, Refusal, Refused, ScopeClaim

# Where the counters of each measure stand.
_PREFIXES = {Measure.MONEY: "c", Measure.USES: "u", Measure.OPEN: "o", Measure.SHARE: "s"}
_ONES = frozenset({Measure.USES, Measure.OPEN})
_NOTHING = CounterState(0, 0)
_PPM = 1_000_000


class Counters(Protocol):
    """Where live records and counters stand."""

    async def live_budgets(self, org_id: str, record_ids: Sequence[str]) -> list[Budget | None]: ...
    async def counters(
        self, org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]: ...


@dataclass(frozen=True, slots=True)
class LimitState:
    """A claim as it stands now. `limit` None: its budget does not exist."""

    claim: ScopeClaim
    limit: int | None
    used: int
    held: int
    live: Budget | None = None
    alerted_pct: tuple[int, ...] = ()

    @property
    def is_paused(self) -> bool:
        """Whether somebody has to resume it first."""
        return self.live is not None and self.live.state == "paused"

    def left(self) -> int:
        """What it still allows; below nothing where it was lowered."""
        return (self.limit or 0) - self.used - self.held

    @property
    def refused(self) -> Refused:
        """The refusal, as the ledger would say it."""
        claim = self.claim
        reason = Refusal.PAUSED if self.is_paused else Refusal.LIMIT if self.limit is not None else Refusal.NO_BUDGET
        hit = LimitHit(
            claim.scope, claim.window, claim.budget_id, self.limit or 0, self.used, self.held,
            claim.window_ends_at_ms, claim.measure, claim.on_exceed,
        )  # fmt: skip
        return Refused(reason, limit=hit)

    def refuses(self, floor: int) -> bool:
        """Whether a hold of at least `floor` is refused."""
        least = 1 if self.claim.measure in _ONES else floor
        return self.limit is None or self.is_paused or self.left() < least


class Balances(Protocol):
    """Where balances stand."""

    async def balance(self, account: str) -> Balance | None: ...


async def refusal_of(
    counters: Counters, balances: Balances, org_id: str, hold: PlaceHold, now_ms: int
) -> Refused | None:
    """What the ledger would refuse a hold for now, whatever anybody approves; None: nothing. A limit that would ask
    does not stand before one that refuses."""
    balance = await balances.balance(hold.account)
    states = await states_of(counters, org_id, hold.scopes, balance, now_ms)
    hits = sorted((each for each in states if each.refuses(hold.floor)), key=_asks)
    if hits and not _asks(hits[0]):
        return hits[0].refused
    if balance is None or balance.debt or balance.available < hold.floor:
        reason = Refusal.NO_ACCOUNT if balance is None else Refusal.DEBT if balance.debt else Refusal.INSUFFICIENT
        return Refused(reason, *((balance.available, balance.held) if balance is not None else ()))
    return hits[0].refused if hits else None


def _asks(state: LimitState) -> bool:
    return state.claim.on_exceed == "ask" and not state.is_paused


async def states_of(
    counters: Counters, org_id: str, claims: Sequence[ScopeClaim], balance: Balance | None, now_ms: int
) -> list[LimitState]:
    """Every claim that may refuse, in the order of the claims: one pipelined round trip."""
    counted = [claim for claim in claims if claim.measure in _PREFIXES]
    records = [claim.budget_id for claim in counted if claim.budget_id]
    of_measure = [[claim for claim in counted if claim.measure is measure] for measure in _PREFIXES]
    reads = asyncio.gather(
        *(
            counters.counters(org_id, [(each.window, each.scope) for each in same], prefix=_PREFIXES[measure])
            for measure, same in zip(_PREFIXES, of_measure, strict=True)
        )
    )
    found, lists = await asyncio.gather(counters.live_budgets(org_id, records), reads)
    lives = dict(zip(records, found, strict=True))
    stands = {id(claim): state for same, of in zip(of_measure, lists, strict=True)
              for claim, state in zip(same, of, strict=True)}  # fmt: skip
    states = []
    for claim in counted:
        counter, alerted = stands[id(claim)]
        live = lives.get(claim.budget_id) if claim.budget_id else None
        limit = _limit(claim, live, balance, now_ms)
        counter = counter or _NOTHING
        states.append(LimitState(claim, limit, counter.used, counter.held, live, alerted))
    return states


def _limit(claim: ScopeClaim, live: Budget | None, balance: Balance | None, now_ms: int) -> int | None:
    if claim.measure is Measure.SHARE:
        whole = balance.available + balance.held if balance is not None else 0
        return whole * (claim.limit or 0) // _PPM
    if live is not None and now_ms < live.raised_until_ms:
        return live.raised_to
    return live.limit if live is not None and live.limit is not None else claim.limit
