"""What a plan gives, purely: the model of the steps `renew_allowance` and `set_credit_limit`.

Invariants: a period is begun once, whatever was begun since, so that going from one plan to another and back gives
nothing twice; what is left of an allowance goes with its period; a credit limit is absolute, and takes away no more
than what nobody uses; an id that was applied never acts again. Both make the account where there is none.
"""

from __future__ import annotations

from gateway.core.accounts import POCKETS, CreditCause, DebitCause, check_amount
from gateway.core.holds import Credited, Refusal, Refused
from gateway.core.journal import Totals
from gateway.core.ledger import LedgerModel
from gateway.core.money import GREATEST_AMOUNT, GREATEST_AVAILABLE, NO_RATE, Unit
from gateway.core.records import Account, Pocket

_ALLOWANCE, _POSTPAID = POCKETS.index("allowance"), POCKETS.index("postpaid")


def renew_allowance(
    model: LedgerModel, account_id: str, period_id: str, amount: int, *, plan: str, ends_at_ms: int, now_ms: int
) -> Credited | Refused:
    """Begin a plan's period: the old allowance's rest goes, the new one comes. `ends_at_ms` 0: it has no end."""
    check_amount("amount", amount)
    account = _person_account(model, account_id)
    if account is None:
        return Refused(Refusal.FOREIGN)
    # One that ends before the running one is late: the later one was begun after it.
    is_late = bool(plan) and 0 < ends_at_ms < account.period_ends_at_ms
    if period_id in account.periods or is_late:
        return Credited("replayed", account.available)
    rest = account.pockets[_ALLOWANCE].available
    if _too_great(account, amount - rest):
        return Refused(Refusal.TOO_GREAT, account.available, account.held)
    model.accounts[account_id] = account
    _adjust(model, account_id, _ALLOWANCE, -rest, f"expire:{period_id}", DebitCause.GRANT_EXPIRY, now_ms)
    _adjust(model, account_id, _ALLOWANCE, amount, f"allow:{period_id}", CreditCause.ALLOWANCE, now_ms)
    account.periods.add(period_id)
    account.period_id, account.period_ends_at_ms, account.plan = period_id, ends_at_ms, plan
    account.allowance_granted = amount
    account.period_base = tuple(pocket.posted for pocket in account.pockets)
    return Credited("applied", account.available)


def set_credit_limit(
    model: LedgerModel, account_id: str, limit: int, *, change_id: str, now_ms: int
) -> Credited | Refused:
    """How much may be owed in the postpaid pocket. Lowered below what is used, nothing is left there, and what holds
    give back of it goes too."""
    check_amount("limit", limit)
    account = _person_account(model, account_id)
    if account is None:
        return Refused(Refusal.FOREIGN)
    before = account.credit_limits.get(change_id)
    if before is not None:
        if before == limit:
            return Credited("replayed", account.available)
        return Refused(Refusal.FOREIGN, account.available, account.held)
    pocket = account.pockets[_POSTPAID]
    over = pocket.available + pocket.held + pocket.posted - limit
    more = max(-over, -pocket.available)
    if _too_great(account, more):
        return Refused(Refusal.TOO_GREAT, account.available, account.held)
    model.accounts[account_id] = account
    _adjust(model, account_id, _POSTPAID, more, change_id, CreditCause.CREDIT_LIMIT, now_ms)
    account.credit_limits[change_id] = limit
    account.lowering = min(max(over + more, 0), pocket.held)
    return Credited("applied", account.available)


def _person_account(model: LedgerModel, account_id: str) -> Account | None:
    """The account, or one to begin with; None where it is of another kind."""
    account = model.accounts.get(account_id)
    if account is None:
        return Account(Unit.NANOUSD, NO_RATE, "person", pockets=(Pocket(), Pocket(), Pocket()))
    return account if account.pockets and account.unit is Unit.NANOUSD else None


def _too_great(account: Account, more: int) -> bool:
    return account.available + more > GREATEST_AVAILABLE or account.credited + more > GREATEST_AMOUNT


def _adjust(model: LedgerModel, account_id: str, place: int, more: int, entry_id: str, cause: str, now_ms: int) -> None:
    """Add `more`, also below zero, to what a pocket has available, as one journal entry."""
    if more == 0:
        return
    account = model.accounts[account_id]
    account.available += more
    account.credited += more
    account.pockets[place].available += more
    kind, source = ("credit", [("source", "plan")]) if more > 0 else ("debit", [])
    adds = Totals(available=more, credited=more)
    model.enter(kind, now_ms, account_id, entry_id, adds, [*source, ("cause", cause)])
