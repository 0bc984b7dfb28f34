"""The end of a piece of work: its usage becomes an amount, and its hold is resolved exactly once.

A posting that the store cannot take goes to the local spool and is replayed by its id: the payer pays once, later. A
void that cannot be written needs no spool: the sweeper expires the hold at its checkpoint, which is nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from gateway.core.errors import Unavailable
from gateway.core.holds import Posted, Refused, UsageTokens
from gateway.core.money import Unit
from gateway.core.request_record import outcome_json
from gateway.core.terms import Terms
from gateway.core.usage import NO_USAGE, Basis, Usage
from gateway.flows.callers import Caller
from gateway.ports import Ledger, Spool

log = logging.getLogger("farebox.relay")


class Work(Struct):
    """One piece of paid work, from its hold to its resolution. `usage` and what follows stand once it is resolved."""

    request_id: str
    hold_id: str
    account: str
    terms: Terms
    granted: int
    available: int
    renewed_at_s: float = 0.0  # loop time of the last acknowledged renewal, the placing to begin with
    resolved: bool = False
    state: str = "open"
    usage: Usage = NO_USAGE
    basis: Basis = Basis.ESTIMATED
    cut: str | None = None
    cost: int = 0
    shortfall: int = 0
    acknowledged: bool = False
    model: str = ""
    most: int | None = None  # another model served than was asked for: what was held is what the payer agreed to
    ceiling: int | None = None  # of an account's request: what was agreed to
    quote: bytes = b""  # `Farebox-Quote` of an account's request
    caller: Caller | None = None
    shows_balance: bool = True
    asks: tuple[str, ...] = ()  # budgets of the hold that ask at their limit
    told_above: int | None = None  # nobody was asked: a charge above it is told

    @property
    def unit(self) -> Unit:
        """The payer's unit."""
        return self.terms.unit

    def tokens_bought(self) -> int:
        """How many output tokens the hold pays for."""
        return self.terms.tokens_bought(self.granted)


class Settler:
    """Resolves holds. `tell`: is told of a charge that the policy wants told; it must not wait."""

    def __init__(
        self, ledger: Ledger, spool: Spool, *, tell: Callable[[Work, Posted], None] = lambda _work, _posted: None
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._tell = tell

    async def post(
        self, work: Work, usage: Usage, basis: Basis, *, cut: str | None = None, cost: int | None = None
    ) -> None:
        """Charge `usage`, or `cost` where the parts of it had prices of their own. Afterwards `work` says what was
        charged; `acknowledged` is False when the store was away."""
        if work.resolved:
            return
        work.resolved = True
        work.usage, work.basis, work.cut = usage, basis, cut
        work.cost = _charge(work, usage) if cost is None else cost
        if work.most is not None:
            work.cost = min(work.cost, work.most)
        outcome = _outcome(work)
        try:
            if work.caller is None:
                answer = await self._ledger.post(work.hold_id, work.cost, account=work.account, outcome=outcome)
            else:
                tokens = UsageTokens(usage.input_tokens, usage.cached_input_tokens, usage.output_tokens)
                answer = await self._ledger.post(
                    work.hold_id, work.cost, account=work.account, outcome=outcome, tokens=tokens
                )
        except Unavailable:
            self._spool.put(work.hold_id, work.account, work.cost, outcome)
            work.state = "posted"
            return
        if isinstance(answer, Refused):
            work.state = answer.reason
            return
        work.acknowledged = True
        work.state, work.cost, work.shortfall = answer.state, answer.posted, answer.shortfall
        work.available = answer.available
        if work.told_above is not None and answer.posted > work.told_above:
            self._tell(work, answer)

    async def void(self, work: Work, *, cut: str | None = None) -> None:
        """Charge nothing."""
        if work.resolved:
            return
        work.resolved = True
        work.state = "voided"
        work.cut = cut
        try:
            answer = await self._ledger.void(work.hold_id, account=work.account, outcome=_outcome(work))
        except Unavailable:
            return
        if not isinstance(answer, Refused):
            work.acknowledged = True
            work.available = answer.available
            work.state = answer.state


def _charge(work: Work, usage: Usage) -> int:
    """What the usage costs, and never more than a request like this can cost with so much output: what a report says
    beyond the request's own bounds is the upstream's error or the policy's, not the payer's debt."""
    cost, most = work.terms.amount(usage), work.terms.bound(usage.output_tokens)
    if cost <= most:
        return cost
    log.warning("hold %s: the report would cost %d, the request can cost %d", work.hold_id, cost, most)
    return most


def _outcome(work: Work) -> bytes:
    """What `GET /api/requests/{id}` tells of a resolved hold."""
    return outcome_json(work.usage, work.basis, cut=work.cut, model=work.model)
