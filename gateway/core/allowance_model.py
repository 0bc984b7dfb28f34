"""What a plan gives, purely: the model of the steps `renew_allowance` and `set_credit_limit`.

Invariants: a period's allowance comes once, whatever was begun since, so that going from one plan to another and back
gives nothing twice; what is left of an allowance goes with its period, or with its plan; a credit limit is absolute,
and takes away no more than what nobody uses; no plan touches the limit that an operator set; a change that was applied
never acts again. Both make the account where there is none.
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
    model: LedgerModel,
    account_id: str,
    period_id: str,
    amount: int,
    *,
    plan: str,
    ends_at_ms: int,
    follows: str = "",
    limit: int = 0,
    now_ms: int,
) -> Credited | Refused:
    """Begin a plan's period, or end the plan (`plan` ""): the old allowance's rest goes, the new one comes, and what
    may be owed becomes `limit`, unless it is an operator's. `ends_at_ms` 0: it has no end. `follows`: where another
    period runs, nothing changes; "" whatever runs."""
    check_amount("amount", amount)
    check_amount("limit", limit)
    account = _person_account(model, account_id)
    if account is None:
        return Refused(Refusal.FOREIGN)
    if period_id == account.period_id or _is_late(account, plan, ends_at_ms) or follows not in ("", account.period_id):
        return Credited("replayed", account.available)
    if 0 < ends_at_ms <= now_ms:
        return Refused(Refusal.PERIOD_OVER, account.available, account.held)
    amount = 0 if period_id in account.periods else amount
    rest, (more, lowering) = account.pockets[_ALLOWANCE].available, (0, account.lowering)
    if not account.own_limit and limit != account.plan_limit:
        more, lowering = _limit_change(account, limit)
    if _too_great(account, amount - rest + max(more, 0)):
        return Refused(Refusal.TOO_GREAT, account.available, account.held)
    model.accounts[account_id] = account
    _adjust(model, account_id, _ALLOWANCE, -rest, f"expire:{period_id}", DebitCause.GRANT_EXPIRY, now_ms)
    _adjust(model, account_id, _ALLOWANCE, amount, f"allow:{period_id}", CreditCause.ALLOWANCE, now_ms)
    _adjust(model, account_id, _POSTPAID, more, f"limit:{period_id}", CreditCause.CREDIT_LIMIT, now_ms)
    if plan:
        account.periods.add(period_id)
    account.period_id, account.period_ends_at_ms, account.plan = period_id, ends_at_ms, plan
    account.allowance_granted, account.plan_limit, account.lowering = amount, limit, lowering
    account.period_base = tuple(pocket.posted for pocket in account.pockets)
    return Credited("applied", account.available)


def _is_late(account: Account, plan: str, ends_at_ms: int) -> bool:
    """Whether nothing runs that could end, or a later period of the same plan does. Another plan's begins at once,
    whenever it ends."""
    return plan == account.plan and (not plan or 0 < ends_at_ms < account.period_ends_at_ms)


def set_credit_limit(
    model: LedgerModel, account_id: str, limit: int | None, *, change_id: str, now_ms: int
) -> Credited | Refused:
    """How much may be owed in the postpaid pocket: an operator's own limit, or the plan's again (None). Lowered below
    what is used, nothing is left there, and what holds give back of it goes too."""
    if limit is not None:
        check_amount("limit", limit)
    account = _person_account(model, account_id)
    if account is None:
        return Refused(Refusal.FOREIGN)
    if change_id in account.credit_limits:
        if account.credit_limits[change_id] == limit:
            return Credited("replayed", account.available)
        return Refused(Refusal.FOREIGN, account.available, account.held)
    more, lowering = _limit_change(account, account.plan_limit if limit is None else limit)
    if _too_great(account, more):
        return Refused(Refusal.TOO_GREAT, account.available, account.held)
    model.accounts[account_id] = account
    _adjust(model, account_id, _POSTPAID, more, change_id, CreditCause.CREDIT_LIMIT, now_ms)
    account.credit_limits[change_id] = limit
    account.own_limit, account.lowering = limit is not None, lowering
    return Credited("applied", account.available)


def _limit_change(account: Account, limit: int) -> tuple[int, int]:
    """How much the postpaid pocket gets (below zero: loses) for its new limit, and how much more goes as soon as holds
    give it back."""
    pocket = account.pockets[_POSTPAID]
    over = pocket.available + pocket.held + pocket.posted - limit
    more = max(-over, -pocket.available)
    return more, min(max(over + more, 0), pocket.held)


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
