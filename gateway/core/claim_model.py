"""What the claims of a hold refuse, count and tell, purely: the model of the scopes in the ledger's scripts.

Invariants: a claim counts on the counter it reserved on, and never makes one after its placing; a counter of what is
open or held now goes with the last hold that claims it; an approved quote buys one hold, and is open again when nothing
was had for it; a threshold is told once a counter. The failure this prevents: a limit that is right alone and wrong
beside the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from gateway.core.accounts import Budget
from gateway.core.holds import LimitHit, Measure, PlaceHold, Refusal, Refused, ScopeClaim, UsageTokens
from gateway.core.money import GREATEST_AMOUNT
from gateway.core.quotes import QuoteState
from gateway.core.records import Account, Counter, CounterId, Hold, QuoteRecord, Told, UsageSums

MILLION = 1_000_000
# What counts one a hold, what counts its money, and what counts in a window, where a lost counter is a loss.
ONES = (Measure.USES, Measure.OPEN)
MONEYED = (Measure.MONEY, Measure.SHARE)
WINDOWED = (Measure.MONEY, Measure.USES)


@dataclass(frozen=True, slots=True)
class Admitted:
    """No claim refuses: the hold may reserve `room`, never more than `ceiling`; budgets in `lifts` count it, and limit
    it only while they are not active."""

    room: int
    ceiling: int
    lifts: frozenset[str]


@dataclass(slots=True)
class ClaimBook:
    """What the claims of one partition's holds are checked against and counted on."""

    counters: dict[CounterId, Counter] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    quotes: dict[str, QuoteRecord] = field(default_factory=dict)
    usage: dict[CounterId, dict[str, UsageSums]] = field(default_factory=dict)
    outbox: list[Told] = field(default_factory=list)

    def admit(self, hold: PlaceHold, account: Account, now_ms: int) -> Admitted | Refused:
        """What the claims let the hold have. Its quote first: it lowers the ceiling and lifts budgets."""
        approved = self._approved(hold, account, now_ms)
        if isinstance(approved, Refused):
            return approved
        ceiling, approved_lifts = approved
        lifts = liftable(hold.scopes, approved_lifts)
        for claim in hold.scopes:
            refused = self._refused_by(claim, lifts, hold.floor, account, now_ms)
            if refused is not None:
                return refused
        return Admitted(self._room(hold.scopes, lifts, account, now_ms), ceiling, lifts)

    def _approved(self, hold: PlaceHold, account: Account, now_ms: int) -> tuple[int, set[str]] | Refused:
        ceiling, lifts = hold.ceiling, set[str]()
        for claim in hold.scopes:
            if claim.measure is not Measure.QUOTE:
                continue
            quote = self.quotes.get(claim.scope)
            if quote is None:
                return _refused(claim, Refusal.QUOTE_UNKNOWN, account)
            reason = _why_not(quote, claim.detail, now_ms)
            if reason is not None:
                return _refused(claim, reason, account)
            ceiling = min(ceiling, quote.approved_max)
            if hold.floor > ceiling:
                return _refused(claim, Refusal.LIMIT, account, limit=ceiling)
            lifts.update(quote.lifts)
        return ceiling, lifts

    def _refused_by(
        self, claim: ScopeClaim, lifts: frozenset[str], floor: int, account: Account, now_ms: int
    ) -> Refused | None:
        """What the claim refuses."""
        if claim.window_ends_at_ms and now_ms >= claim.window_ends_at_ms:
            return _refused(claim, Refusal.STALE_WINDOW, account)
        if claim.measure in (Measure.USAGE, Measure.QUOTE):
            return None
        limit, state = self._most(claim, account, now_ms)
        if limit is None:
            return _refused(claim, Refusal.NO_BUDGET, account)
        if state != "active":
            return _refused(claim, Refusal.PAUSED, account, limit=limit)
        if claim.budget_id in lifts:
            return None
        counter = self.counters.get(CounterId.of(claim), Counter())
        if limit - counter.used - counter.held < (1 if claim.measure in ONES else floor):
            return _refused(claim, Refusal.LIMIT, account, limit=limit, counter=counter)
        return None

    def _most(self, claim: ScopeClaim, account: Account, now_ms: int) -> tuple[int | None, str]:
        """What a claim may count at most now, None where nobody says so, and the state of its budget."""
        if claim.measure is Measure.SHARE and claim.limit is not None:
            return (account.available + account.held) * claim.limit // MILLION, "active"
        return self._limit(claim, now_ms)

    def _limit(self, claim: ScopeClaim, now_ms: int) -> tuple[int | None, str]:
        """The same of a window: the record of its budget overrides what the claim says."""
        budget = self.budgets.get(claim.budget_id) if claim.budget_id is not None else None
        if budget is None:
            return claim.limit, "active"
        limit = budget.limit if budget.limit is not None else claim.limit
        if limit is not None and now_ms < budget.raised_until_ms:
            limit = budget.raised_to
        return limit, budget.state

    def _room(self, claims: Iterable[ScopeClaim], lifts: frozenset[str], account: Account, now_ms: int) -> int:
        room = account.available
        for claim in claims:
            if claim.measure in MONEYED:
                counter = self.counters.get(CounterId.of(claim), Counter())
                limit, state = self._most(claim, account, now_ms)
                if limit is None or state != "active":
                    room = min(room, 0)
                elif claim.budget_id not in lifts:
                    room = min(room, limit - counter.used - counter.held)
        return room

    def room_of(self, hold: Hold, account: Account, now_ms: int, *, agreed: bool = False) -> int:
        """The most that the hold can have besides what it holds; `agreed`: if every budget that asks had its yes. A
        window's counter that is lost limits no more."""
        claims = [each for each in hold.scopes if each.measure is Measure.SHARE or CounterId.of(each) in self.counters]
        asking = {each.budget_id for each in hold.scopes if each.budget_id} if agreed else set[str]()
        return max(0, self._room(claims, hold.lifts | liftable(hold.scopes, asking), account, now_ms))

    def reserve(self, hold_id: str, hold: Hold) -> None:
        """Count a hold that is placed."""
        for claim in hold.scopes:
            if claim.measure is Measure.QUOTE:
                self.quotes[claim.scope].state, self.quotes[claim.scope].hold_id = QuoteState.USED, hold_id
            elif claim.measure is not Measure.USAGE:
                counter = self.counters.setdefault(CounterId.of(claim), Counter())
                counter.held += 1 if claim.measure in ONES else hold.amount

    def resize(self, hold: Hold, more: int) -> None:
        """The hold reserves so much more, or less."""
        for claim in hold.scopes:
            if claim.measure in MONEYED:
                self._hold(claim, more)

    def _hold(self, claim: ScopeClaim, more: int) -> None:
        """Where a counter was lost and made anew by others, a hold of before takes out no more than is in it."""
        counter_id = CounterId.of(claim)
        counter = self.counters.get(counter_id)
        held = max((counter.held if counter is not None else 0) + more, 0)
        if claim.measure not in WINDOWED:
            # It counts what stands now; nothing stands, nothing is kept.
            if held:
                self.counters.setdefault(counter_id, Counter()).held = held
            else:
                self.counters.pop(counter_id, None)
        elif counter is not None:
            counter.held = held

    def end(self, hold_id: str, hold: Hold, *, reserved: int, counts: bool, tokens: UsageTokens, now_ms: int) -> None:
        """A hold of `reserved` has ended and posted. `counts`: something was had for it."""
        for claim in hold.scopes:
            if claim.measure is Measure.USAGE:
                if counts:
                    self._add_usage(claim, requests=1, tokens=tokens, cost=hold.posted, paid=hold.split)
            elif claim.measure is Measure.QUOTE:
                if not counts:
                    self._reopen(claim.scope, hold_id)
            else:
                self._hold(claim, -1 if claim.measure in ONES else -reserved)
                if counts:
                    self._use(claim, 1 if claim.measure is Measure.USES else hold.posted, now_ms)

    def end_late(
        self, hold_id: str, hold: Hold, *, taken: int, paid: Sequence[int], tokens: UsageTokens, now_ms: int
    ) -> None:
        """A hold that had expired took `taken` more. What earned nothing by then was not counted as a use."""
        uses = 0 if hold.earned else 1
        for claim in hold.scopes:
            if claim.measure is Measure.USAGE:
                self._add_usage(claim, requests=uses, tokens=tokens, cost=taken, paid=paid)
            elif claim.measure is Measure.QUOTE:
                quote = self.quotes.get(claim.scope)
                if quote is not None and quote.state is QuoteState.APPROVED:
                    quote.state, quote.hold_id = QuoteState.USED, hold_id
            elif claim.measure in WINDOWED:
                self._use(claim, uses if claim.measure is Measure.USES else taken, now_ms)

    def bought_another(self, hold_id: str, hold: Hold) -> bool:
        """Whether the approval of a hold that had expired at nothing has bought another one since."""
        quotes = [self.quotes.get(claim.scope) for claim in hold.scopes if claim.measure is Measure.QUOTE]
        return any(each is not None and each.state is QuoteState.USED and each.hold_id != hold_id for each in quotes)

    def lost(self, hold: Hold) -> list[int]:
        """The places, from 1, of the claims whose window has lost its counter."""
        claims = enumerate(hold.scopes, 1)
        return [i for i, each in claims if each.measure in WINDOWED and CounterId.of(each) not in self.counters]

    def _reopen(self, quote_id: str, hold_id: str) -> None:
        quote = self.quotes.get(quote_id)
        if quote is not None and quote.hold_id == hold_id:
            quote.state, quote.hold_id = QuoteState.APPROVED, ""

    def _use(self, claim: ScopeClaim, used: int, now_ms: int) -> None:
        counter = self.counters.get(CounterId.of(claim))
        if counter is None or claim.measure not in WINDOWED:
            return
        counter.used += used
        if claim.measure is Measure.MONEY and claim.detail:
            self._tell_thresholds(claim, counter, now_ms)

    def _tell_thresholds(self, claim: ScopeClaim, counter: Counter, now_ms: int) -> None:
        """Each threshold once a counter; and the limit itself, where the budget pauses there."""
        limit, state = self._limit(claim, now_ms)
        if limit is None or limit >= GREATEST_AMOUNT:
            return
        exceed, org_id, *alerts = claim.detail.split(" ")
        data: dict[str, str | int] = {
            "budget_id": claim.budget_id or "", "window": claim.window, "scope": claim.scope, "limit": str(limit),
            "used": str(counter.used),
        }  # fmt: skip
        for pct in map(int, alerts):
            if counter.used * 100 >= pct * limit and pct not in counter.alerted:
                counter.alerted += (pct,)
                self.outbox.append(Told("budget.alert", org_id, {"pct": pct, **data}))
        if exceed == "pause" and claim.budget_id and state == "active" and counter.used >= limit:
            before = self.budgets.get(claim.budget_id, Budget(claim.budget_id, None))
            self.budgets[claim.budget_id] = replace(before, state="paused")
            self.outbox.append(Told("budget.paused", org_id, {"by": "ledger", **data}))

    def _add_usage(
        self, claim: ScopeClaim, *, requests: int, tokens: UsageTokens, cost: int, paid: Sequence[int]
    ) -> None:
        line = self.usage.setdefault(CounterId.of(claim), {}).setdefault(claim.detail, UsageSums())
        line.requests += requests
        line.input_tokens += tokens.input_tokens
        line.cached_input_tokens += tokens.cached_input_tokens
        line.output_tokens += tokens.output_tokens
        line.cost += cost
        # An account of one pocket pays from what was prepaid.
        first, second, third = paid or (0, cost, 0)
        line.paid = (line.paid[0] + first, line.paid[1] + second, line.paid[2] + third)


def liftable(claims: Iterable[ScopeClaim], lifts: Collection[str]) -> frozenset[str]:
    """Of the budgets that an approval names, those that ask: it counts a hold on them, and limits it no more."""
    return frozenset(
        claim.budget_id for claim in claims if claim.budget_id in lifts and claim.on_exceed == "ask" and claim.budget_id
    )


def _why_not(quote: QuoteRecord, digest: str, now_ms: int) -> Refusal | None:
    """Why a quote buys nothing now."""
    if quote.digest != digest:
        return Refusal.QUOTE_MISMATCH
    if quote.state is QuoteState.USED:
        return Refusal.QUOTE_USED
    if quote.state is QuoteState.REFUSED:
        return Refusal.QUOTE_REFUSED
    if now_ms >= quote.expires_at_ms:
        return Refusal.QUOTE_EXPIRED
    return None if quote.state is QuoteState.APPROVED else Refusal.QUOTE_OPEN


def _refused(
    claim: ScopeClaim, reason: Refusal, account: Account, *, limit: int = 0, counter: Counter | None = None
) -> Refused:
    used, held = (counter.used, counter.held) if counter is not None else (0, 0)
    hit = LimitHit(
        claim.scope, claim.window, claim.budget_id, limit, used, held, claim.window_ends_at_ms, claim.measure,
        claim.on_exceed,
    )  # fmt: skip
    return Refused(reason, account.available, account.held, limit=hit)
