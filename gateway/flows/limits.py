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
from gateway.core.holds import Balance, Measure, ScopeClaim

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

    def refuses(self, floor: int) -> bool:
        """Whether a hold of at least `floor` is refused."""
        least = 1 if self.claim.measure in _ONES else floor
        return self.limit is None or self.is_paused or self.left() < least


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
