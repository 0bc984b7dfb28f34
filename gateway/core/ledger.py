"""The ledger's steps, purely: the model that the scripts are checked against, answer by answer.

One `LedgerModel` is one partition. A step takes `now_ms` and answers with the same values as the store's adapter. Money
moves only in whole movements of `records.Account`, and each writes one journal entry, so that the sum of the journal is
the balances. The failure this prevents: a script that is right for every case its author thought of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from gateway.core.accounts import DEFAULT_TERMS, Budget, LedgerTerms, check_amount, check_hold
from gateway.core.holds import (
    Extended,
    LimitHit,
    Measure,
    Placed,
    PlaceHold,
    Posted,
    Refusal,
    Refused,
    Renewed,
    ScopeClaim,
)
from gateway.core.journal import JournalEntry, Totals
from gateway.core.money import NO_RATE
from gateway.core.records import Account, Counter, CounterId, Hold


@dataclass(slots=True)
class LedgerModel:
    """The records of one partition and the steps on holds. Credits and debits are in `core.credits`."""

    terms: LedgerTerms = DEFAULT_TERMS
    accounts: dict[str, Account] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    counters: dict[CounterId, Counter] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    revoked: set[tuple[str, str]] = field(default_factory=set)
    journal: list[JournalEntry] = field(default_factory=list)

    def place(self, hold: PlaceHold, *, worker: str, now_ms: int) -> Placed | Refused:
        """Reserve the most there is between floor and ceiling on the account and all scopes, or say what refuses."""
        check_hold(hold)
        hold = structs.replace(hold, first=min(hold.ceiling, max(hold.floor, hold.first)))
        account = self.accounts.get(hold.account)
        before = self.holds.get(hold.hold_id)
        if before is not None:
            return self._placed_before(hold, before, account)
        if hold.token_id and (hold.account, hold.token_id) in self.revoked:
            return Refused(Refusal.REVOKED)
        if account is None:
            return Refused(Refusal.NO_ACCOUNT)
        refused = self._refused_by_account(hold, account) or self._refused_by_scopes(hold, account, now_ms)
        if refused is not None:
            return refused
        room = min([account.available, *(self._left(claim, now_ms) for claim in _money(hold.scopes))])
        if room < hold.floor:
            return _refused(Refusal.INSUFFICIENT, account)
        granted = min(hold.first, room)
        must_end = now_ms + hold.greatest_age_ms
        placed = Hold(
            account=hold.account,
            worker=worker,
            rate=hold.rate,
            placed_at_ms=now_ms,
            renewed_until_ms=must_end if hold.owner else min(now_ms + hold.lifetime_ms, must_end),
            must_end_at_ms=must_end,
            request=hold,
            amount=granted,
            ceiling=hold.ceiling,
            split=[0] * len(account.pockets),
        )
        account.reserve(placed.split, granted)
        self.holds[hold.hold_id] = placed
        for claim in hold.scopes:
            counter = self.counters.setdefault(CounterId.of(claim), Counter())
            counter.held += 1 if claim.measure is Measure.USES else granted
        more = [("owner", hold.owner)] if hold.owner else []
        self.enter("place", now_ms, hold.account, hold.hold_id, Totals(available=-granted, held=granted), more)
        return Placed(hold.hold_id, granted, account.available, shortfalls=account.shortfalls)

    def _placed_before(self, hold: PlaceHold, before: Hold, account: Account | None) -> Placed | Refused:
        if before.state == "voided":
            return _refused(Refusal.VOIDED, account)
        if not before.same_contents(hold):
            return _refused(Refusal.FOREIGN, account)
        available, shortfalls = (account.available, account.shortfalls) if account else (0, 0)
        return Placed(hold.hold_id, before.amount, available, before.state, replayed=True, shortfalls=shortfalls)

    def _refused_by_account(self, hold: PlaceHold, account: Account) -> Refused | None:
        if account.frozen:
            return _refused(Refusal.FROZEN, account)
        if hold.credit_id and hold.credit_id not in account.credits:
            return _refused(Refusal.CREDIT_UNKNOWN, account)
        if account.debt > 0:
            return _refused(Refusal.DEBT, account)
        if account.rate != hold.rate:
            return replace(_refused(Refusal.RATE_CHANGED, account), rate=account.rate)
        if 0 < self.terms.most_shortfalls <= account.shortfalls:
            return _refused(Refusal.TOO_MANY_SHORTFALLS, account)
        return None

    def _refused_by_scopes(self, hold: PlaceHold, account: Account, now_ms: int) -> Refused | None:
        for claim in hold.scopes:
            counter = self.counters.get(CounterId.of(claim), Counter())
            limit, state = self._limit(claim, now_ms)
            reason, used, held = None, 0, 0
            if claim.window_ends_at_ms and now_ms >= claim.window_ends_at_ms:
                reason, limit = Refusal.STALE_WINDOW, 0
            elif limit is None:
                reason = Refusal.NO_BUDGET
            elif state != "active":
                reason = Refusal.PAUSED
            elif limit - counter.used - counter.held < (1 if claim.measure is Measure.USES else hold.floor):
                reason, used, held = Refusal.LIMIT, counter.used, counter.held
            if reason is not None:
                hit = LimitHit(
                    claim.scope, claim.window, claim.budget_id, limit or 0, used, held, claim.window_ends_at_ms,
                    claim.measure, claim.on_exceed,
                )  # fmt: skip
                return replace(_refused(reason, account), limit=hit)
        return None

    def _limit(self, claim: ScopeClaim, now_ms: int) -> tuple[int | None, str]:
        """What a claim may count at most now, None where nobody says so, and the state of its budget."""
        budget = self.budgets.get(claim.budget_id) if claim.budget_id is not None else None
        if budget is None:
            return claim.limit, "active"
        limit = budget.limit if budget.limit is not None else claim.limit
        if limit is not None and now_ms < budget.raised_until_ms:
            limit = budget.raised_to
        return limit, budget.state

    def _left(self, claim: ScopeClaim, now_ms: int) -> int:
        """What a scope still allows; nothing where its budget is paused or gone."""
        counter = self.counters.get(CounterId.of(claim), Counter())
        limit, state = self._limit(claim, now_ms)
        return (limit if limit is not None and state == "active" else 0) - counter.used - counter.held

    def _room(self, account: Account, hold: Hold, now_ms: int) -> int:
        claims = [claim for claim in _money(hold.scopes) if CounterId.of(claim) in self.counters]
        return max(0, min([account.available, *(self._left(claim, now_ms) for claim in claims)]))

    def extend_to(self, hold_id: str, total: int, *, now_ms: int) -> Extended | Refused:
        """Reserve up to `total` in all, as far as account, scopes and ceiling allow."""
        hold = self.holds.get(hold_id)
        if hold is None or hold.state != "open":
            return self._not_open(hold)
        account = self.accounts[hold.account]
        more = min(min(total, hold.ceiling) - hold.amount, self._room(account, hold, now_ms))
        if more > 0:
            account.reserve(hold.split, more)
            self._resize(hold_id, hold, more)
            self.enter("extend", now_ms, hold.account, hold_id, Totals(available=-more, held=more))
        return Extended(hold.amount, account.available)

    def shrink_to(self, hold_id: str, total: int, *, now_ms: int) -> Extended | Refused:
        """Give back what is reserved above `total` and above what was earned."""
        hold = self.holds.get(hold_id)
        if hold is None or hold.state != "open":
            return self._not_open(hold)
        account = self.accounts[hold.account]
        less = hold.amount - max(total, hold.earned)
        if less > 0:
            account.release(hold.split, less)
            self._resize(hold_id, hold, -less)
            self.enter("shrink", now_ms, hold.account, hold_id, Totals(available=less, held=-less))
        return Extended(hold.amount, account.available)

    def _resize(self, hold_id: str, hold: Hold, more: int) -> None:
        hold.amount += more
        for counter_id in [CounterId.of(claim) for claim in _money(hold.scopes)]:
            if counter_id in self.counters:
                self.counters[counter_id].held += more

    def checkpoint(self, hold_id: str, earned: int, *, now_ms: int) -> Renewed | Refused:
        """Write down what was earned (it never falls) and renew the hold."""
        check_amount("earned", earned)
        hold = self.holds.get(hold_id)
        if hold is None or hold.state != "open" or now_ms >= hold.must_end_at_ms:
            return Refused(Refusal.NOT_OPEN)
        hold.earned = max(hold.earned, earned)
        if not hold.owner:
            hold.renewed_until_ms = min(now_ms + hold.lifetime_ms, hold.must_end_at_ms)
        return Renewed(hold.earned)

    def post(self, hold_id: str, cost: int, *, account: str, now_ms: int) -> Posted | Refused:
        """Charge `cost` and end the hold; late on an expired one, whole on an unknown one, once each."""
        check_amount("cost", cost)
        payer, hold = self.accounts.get(account), self.holds.get(hold_id)
        if payer is None:
            return Refused(Refusal.NO_ACCOUNT)
        if hold is None:
            hold = Hold(account, "", payer.rate, now_ms, now_ms, now_ms, state="posted", ceiling=cost)
            hold.split = [0] * len(payer.pockets)
            self.holds[hold_id] = hold
            return self._late(hold_id, hold, cost, "orphan_post", now_ms)
        if hold.account != account:
            return _refused(Refusal.FOREIGN, payer)
        if hold.state == "open":
            return self._settle(hold_id, hold, "posted", cost, now_ms)
        if hold.state == "expired" and hold.cost is None:
            return self._late(hold_id, hold, cost, "late_post", now_ms)
        if hold.state != "voided" and hold.cost != cost:
            return _refused(Refusal.FOREIGN, payer)
        return self._ended(hold, replayed=True)

    def void(self, hold_id: str, *, account: str, now_ms: int) -> Posted | Refused:
        """End the hold at no charge; an unknown one can then never be placed."""
        hold = self.holds.get(hold_id)
        if hold is None:
            hold = Hold(account, "", NO_RATE, now_ms, now_ms, now_ms, state="voided")
            self.holds[hold_id] = hold
            return self._ended(hold, replayed=False)
        if hold.account != account:
            return _refused(Refusal.FOREIGN, self.accounts.get(account))
        if hold.state != "open":
            return self._ended(hold, replayed=True)
        return self._settle(hold_id, hold, "voided", 0, now_ms)

    def expire(self, hold_id: str, *, now_ms: int, lease_gone: bool = False) -> Posted | Refused:
        """Post a hold that was left behind at its checkpoint."""
        hold = self.holds.get(hold_id)
        if hold is None or hold.account not in self.accounts:
            return Refused(Refusal.NOT_OPEN)
        if hold.state != "open":
            return self._ended(hold, replayed=True)
        if hold.owner or (now_ms < hold.renewed_until_ms and not lease_gone):
            return _refused(Refusal.RENEWED, self.accounts[hold.account])
        return self._settle(hold_id, hold, "expired", hold.earned, now_ms)

    def _settle(self, hold_id: str, hold: Hold, state: str, cost: int, now_ms: int) -> Posted:
        account, reserved = self.accounts[hold.account], hold.amount
        payable = min(cost, hold.ceiling)
        from_hold = min(payable, reserved)
        extra = min(payable - from_hold, self._room(account, hold, now_ms))
        account.release(hold.split, reserved - from_hold)
        account.consume(hold.split, from_hold)
        account.take(hold.split, extra)
        hold.state, hold.posted = state, from_hold + extra
        hold.shortfall = cost - hold.posted
        hold.cost = None if state == "expired" else cost
        # Beyond the ceiling it is the upstream that erred, not the payer that fell short.
        account.shortfalls += payable > hold.posted
        counted = 1 if state == "posted" or cost > 0 else 0
        self._count(hold, held=reserved, used=hold.posted, uses_held=1, uses=counted)
        adds = Totals(available=reserved - hold.posted, held=-reserved, posted=hold.posted)
        more = [("owner", hold.owner)] if hold.owner else []
        self.enter(state, now_ms, hold.account, hold_id, adds, more + self._loss(hold))
        return self._ended(hold, replayed=False)

    def _late(self, hold_id: str, hold: Hold, cost: int, kind: str, now_ms: int) -> Posted:
        account, counted_before = self.accounts[hold.account], hold.shortfall > 0
        payable = min(cost, hold.ceiling)
        extra = min(max(payable - hold.posted, 0), self._room(account, hold, now_ms))
        account.take(hold.split, extra)
        hold.posted += extra
        hold.shortfall, hold.cost = max(cost - hold.posted, 0), cost
        account.shortfalls += payable > hold.posted and not counted_before
        self._count(hold, held=0, used=extra, uses_held=0, uses=0 if hold.earned else 1)
        adds = Totals(available=-extra, posted=extra)
        self.enter(kind, now_ms, hold.account, hold_id, adds, self._loss(hold))
        return self._ended(hold, replayed=False)

    def _count(self, hold: Hold, *, held: int, used: int, uses_held: int, uses: int) -> None:
        for claim in hold.scopes:
            counter = self.counters.get(CounterId.of(claim))
            if counter is None:
                continue
            is_uses = claim.measure is Measure.USES
            counter.held = max(counter.held - (uses_held if is_uses else held), 0)
            counter.used += uses if is_uses else used

    def _loss(self, hold: Hold) -> list[tuple[str, str]]:
        lost = [i for i, claim in enumerate(hold.scopes, 1) if CounterId.of(claim) not in self.counters]
        shortfall = [("shortfall", str(hold.shortfall))] if hold.shortfall else []
        return shortfall + [("scope_lost", str(i)) for i in lost]

    def _ended(self, hold: Hold, *, replayed: bool) -> Posted:
        account = self.accounts.get(hold.account)
        names = ("allowance", "prepaid", "postpaid")
        pockets = tuple(zip(names, hold.split, strict=False))
        available = account.available if account else 0
        return Posted(hold.state, hold.posted, hold.shortfall, available, pockets, replayed)

    def _not_open(self, hold: Hold | None) -> Refused:
        return _refused(Refusal.NOT_OPEN, self.accounts.get(hold.account) if hold else None)

    def enter(
        self, kind: str, at_ms: int, account: str, entry_id: str, adds: Totals, more: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Write one journal entry."""
        self.journal.append(JournalEntry(len(self.journal) + 1, kind, at_ms, account, entry_id, adds, tuple(more)))


def _refused(reason: Refusal, account: Account | None) -> Refused:
    return Refused(reason, account.available, account.held) if account else Refused(reason)


def _money(claims: Sequence[ScopeClaim]) -> list[ScopeClaim]:
    return [claim for claim in claims if claim.measure is Measure.MONEY]
