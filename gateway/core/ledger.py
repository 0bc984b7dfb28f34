"""The ledger's steps, purely: the model that the scripts are checked against, answer by answer.

One `LedgerModel` is one partition. A step takes `now_ms` and answers with the same values as the store's adapter. Money
moves only in whole movements of `records.Account`, and each writes one journal entry, so that the sum of the journal is
the balances. The failure this prevents: a script that is right for every case its author thought of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from gateway.core.accounts import DEFAULT_TERMS, LedgerTerms, check_amount, check_hold
from gateway.core.claim_model import Admitted, ClaimBook, liftable
from gateway.core.holds import (
    NO_TOKENS,
    Extended,
    Placed,
    PlaceHold,
    Posted,
    Refusal,
    Refused,
    Renewed,
    UsageTokens,
)
from gateway.core.journal import JournalEntry, Totals
from gateway.core.money import NO_RATE
from gateway.core.records import Account, Hold


@dataclass(slots=True)
class LedgerModel:
    """The records of one partition and the steps on holds. Credits and debits are in `core.credits`, plans and credit
    limits in `core.allowance_model`; what scopes refuse and count is `claims`."""

    terms: LedgerTerms = DEFAULT_TERMS
    accounts: dict[str, Account] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    claims: ClaimBook = field(default_factory=ClaimBook)
    versions: dict[str, int] = field(default_factory=dict)  # of the parts of the directory
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
        if any(self.versions.get(guard.name, 0) != guard.version for guard in hold.guards):
            return Refused(Refusal.DIRECTORY_CHANGED)
        if hold.token_id and (hold.account, hold.token_id) in self.revoked:
            return Refused(Refusal.REVOKED)
        if account is None:
            return Refused(Refusal.NO_ACCOUNT)
        admitted = self._refused_by_account(hold, account, now_ms) or self.claims.admit(hold, account, now_ms)
        if isinstance(admitted, Refused):
            return admitted
        if admitted.room < hold.floor:
            return _refused(Refusal.INSUFFICIENT, account)
        return self._reserve(hold, account, admitted, worker=worker, now_ms=now_ms)

    def _reserve(
        self, hold: PlaceHold, account: Account, admitted: Admitted, *, worker: str, now_ms: int
    ) -> Placed | Refused:
        granted = min(hold.first, admitted.ceiling, admitted.room)
        must_end = now_ms + hold.greatest_age_ms
        placed = Hold(
            account=hold.account,
            worker=worker,
            rate=hold.rate,
            placed_at_ms=now_ms,
            renewed_until_ms=must_end if hold.owner else min(now_ms + hold.lifetime_ms, must_end),
            must_end_at_ms=must_end,
            request=hold,
            scopes=hold.scopes,
            lifts=admitted.lifts,
            amount=granted,
            ceiling=admitted.ceiling,
            split=[0] * len(account.pockets),
        )
        account.reserve(placed.split, granted)
        self.holds[hold.hold_id] = placed
        self.claims.reserve(hold.hold_id, placed)
        more = [("owner", hold.owner)] if hold.owner else []
        self.enter("place", now_ms, hold.account, hold.hold_id, Totals(available=-granted, held=granted), more)
        return _placed(hold, placed, account, replayed=False)

    def _placed_before(self, hold: PlaceHold, before: Hold, account: Account | None) -> Placed | Refused:
        if before.state == "voided":
            return _refused(Refusal.VOIDED, account)
        if not before.same_contents(hold):
            return _refused(Refusal.FOREIGN, account)
        return _placed(hold, before, account, replayed=True)

    def _refused_by_account(self, hold: PlaceHold, account: Account, now_ms: int) -> Refused | None:
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
        if 0 < account.period_ends_at_ms <= now_ms:
            return _refused(Refusal.PERIOD_OVER, account)
        return None

    def extend_to(self, hold_id: str, total: int, *, now_ms: int) -> Extended | Refused:
        """Reserve up to `total` in all, as far as account, scopes and ceiling allow, and tell what a yes would add."""
        hold = self.holds.get(hold_id)
        if hold is None or hold.state != "open":
            return self._not_open(hold)
        account = self.accounts[hold.account]
        wanted = total - hold.amount
        more = max(min(wanted, hold.ceiling - hold.amount, self.claims.room_of(hold, account, now_ms)), 0)
        beyond = self.claims.room_of(hold, account, now_ms, agreed=True) - more if more < wanted else 0
        if more > 0:
            account.reserve(hold.split, more)
            self._resize(hold, more)
            self.enter("extend", now_ms, hold.account, hold_id, Totals(available=-more, held=more))
        return Extended(hold.amount, account.available, beyond)

    def shrink_to(self, hold_id: str, total: int, *, now_ms: int) -> Extended | Refused:
        """Give back what is reserved above `total` and above what was earned."""
        hold = self.holds.get(hold_id)
        if hold is None or hold.state != "open":
            return self._not_open(hold)
        account = self.accounts[hold.account]
        less = hold.amount - max(total, hold.earned)
        if less > 0:
            returned = account.release(hold.split, less)
            self._resize(hold, -less)
            self.enter("shrink", now_ms, hold.account, hold_id, Totals(available=less, held=-less))
            self._lower(hold_id, hold, returned, now_ms)
        return Extended(hold.amount, account.available)

    def _resize(self, hold: Hold, more: int) -> None:
        hold.amount += more
        self.claims.resize(hold, more)

    def raise_hold(self, hold_id: str, ceiling: int, *, lifts: Sequence[str] = ()) -> Extended | Refused:
        """An open hold's ceiling becomes `ceiling` (never below what it holds); the budgets `lifts` that ask no longer
        limit it."""
        check_amount("ceiling", ceiling)
        hold = self.holds.get(hold_id)
        if hold is None or hold.state != "open":
            return self._not_open(hold)
        hold.ceiling = max(hold.amount, ceiling)
        hold.lifts |= liftable(hold.scopes, lifts)
        return Extended(hold.amount, self.accounts[hold.account].available)

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

    def post(
        self, hold_id: str, cost: int, *, account: str, tokens: UsageTokens = NO_TOKENS, now_ms: int
    ) -> Posted | Refused:
        """Charge `cost` and end the hold; late on an expired one, whole on an unknown one, once each."""
        check_amount("cost", cost)
        payer, hold = self.accounts.get(account), self.holds.get(hold_id)
        if payer is None:
            return Refused(Refusal.NO_ACCOUNT)
        if hold is None:
            hold = Hold(account, "", payer.rate, now_ms, now_ms, now_ms, state="posted", ceiling=cost)
            hold.split = [0] * len(payer.pockets)
            self.holds[hold_id] = hold
            return self._late(hold_id, hold, cost, tokens, "orphan_post", now_ms)
        if hold.account != account:
            return _refused(Refusal.FOREIGN, payer)
        if hold.state == "open":
            return self._settle(hold_id, hold, "posted", cost, now_ms, tokens)
        if hold.state == "expired" and hold.cost is None:
            return self._late(hold_id, hold, cost, tokens, "late_post", now_ms)
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

    def _settle(
        self, hold_id: str, hold: Hold, state: str, cost: int, now_ms: int, tokens: UsageTokens = NO_TOKENS
    ) -> Posted:
        account, reserved = self.accounts[hold.account], hold.amount
        payable = min(cost, hold.ceiling)
        from_hold = min(payable, reserved)
        extra = min(payable - from_hold, self.claims.room_of(hold, account, now_ms))
        returned = account.release(hold.split, reserved - from_hold)
        account.consume(hold.split, from_hold)
        account.take(hold.split, extra)
        hold.state, hold.posted = state, from_hold + extra
        hold.shortfall = cost - hold.posted
        hold.cost = None if state == "expired" else cost
        # Beyond the ceiling it is the upstream that erred, not the payer that fell short.
        account.shortfalls += payable > hold.posted
        counts = state == "posted" or cost > 0
        self.claims.end(hold_id, hold, reserved=reserved, counts=counts, tokens=tokens, now_ms=now_ms)
        adds = Totals(available=reserved - hold.posted, held=-reserved, posted=hold.posted)
        more = [("owner", hold.owner)] if hold.owner else []
        self.enter(state, now_ms, hold.account, hold_id, adds, more + self._loss(hold))
        self._lower(hold_id, hold, returned, now_ms)
        return self._ended(hold, replayed=False)

    def _lower(self, hold_id: str, hold: Hold, returned: int, now_ms: int) -> None:
        """What came back of a postpaid pocket whose limit was lowered while it was held is not given out again."""
        cut = self.accounts[hold.account].lower(returned)
        if cut:
            adds = Totals(available=-cut, credited=-cut)
            self.enter("debit", now_ms, hold.account, f"lower:{hold_id}", adds, [("cause", "credit_limit")])

    def _late(self, hold_id: str, hold: Hold, cost: int, tokens: UsageTokens, kind: str, now_ms: int) -> Posted:
        account, counted_before = self.accounts[hold.account], hold.shortfall > 0
        # An approval buys one hold: where it has bought another since, nobody has agreed to this one.
        payable = hold.posted if self.claims.bought_another(hold_id, hold) else min(cost, hold.ceiling)
        extra = min(max(payable - hold.posted, 0), self.claims.room_of(hold, account, now_ms))
        before = list(hold.split)
        account.take(hold.split, extra)
        paid = [after - part for part, after in zip(before, hold.split, strict=True)]
        hold.posted += extra
        hold.shortfall, hold.cost = max(cost - hold.posted, 0), cost
        account.shortfalls += payable > hold.posted and not counted_before
        self.claims.end_late(hold_id, hold, taken=extra, paid=paid, tokens=tokens, now_ms=now_ms)
        adds = Totals(available=-extra, posted=extra)
        self.enter(kind, now_ms, hold.account, hold_id, adds, self._loss(hold))
        return self._ended(hold, replayed=False)

    def _loss(self, hold: Hold) -> list[tuple[str, str]]:
        shortfall = [("shortfall", str(hold.shortfall))] if hold.shortfall else []
        return shortfall + [("scope_lost", str(place)) for place in self.claims.lost(hold)]

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


def _placed(asked: PlaceHold, hold: Hold, account: Account | None, *, replayed: bool) -> Placed:
    available, shortfalls = (account.available, account.shortfalls) if account else (0, 0)
    return Placed(
        asked.hold_id, hold.amount, available, hold.state, replayed=replayed, shortfalls=shortfalls,
        ceiling=hold.ceiling if hold.ceiling < asked.ceiling else None,
    )  # fmt: skip
