"""Money that comes in and goes back, purely: the model of the steps `credit` and `debit`.

Invariants: one movement per id, for ever; what nobody paid comes out of the house's account, which takes it in and
spends it in the same movement; a debit never touches what is held.
"""

from __future__ import annotations

from gateway.core.accounts import (
    POCKETS,
    CreditCause,
    CreditMode,
    DebitCause,
    check_amount,
    member,
    pocket_name,
)
from gateway.core.holds import Credited, Debited, Refusal, Refused
from gateway.core.journal import Totals
from gateway.core.ledger import LedgerModel
from gateway.core.money import GREATEST_AMOUNT, GREATEST_AVAILABLE, NO_RATE, Rate, Unit
from gateway.core.records import Account, Pocket


def credit(
    model: LedgerModel,
    credit_id: str,
    account_id: str,
    amount: int,
    *,
    unit: Unit,
    rate: Rate,
    source: str,
    cause: str = "payment",
    pocket: str | None = None,
    account_class: str | None = None,
    now_ms: int,
) -> Credited | Refused:
    """Add money, once per id; the account is made by its first credit."""
    check_amount("amount", amount, least=1)
    mode = member("cause", CreditCause, cause).mode
    one_pocket = unit is Unit.MSAT or account_class == "envelope"
    place = None if one_pocket else POCKETS.index(pocket_name(pocket))
    contents = (amount, unit, source, cause)
    account = model.accounts.get(account_id)
    if account is not None and credit_id in account.credits:
        if account.credits[credit_id] == contents:
            return Credited("replayed", account.available)
        return Refused(Refusal.FOREIGN, account.available, account.held)
    fresh = account is None
    if account is None:
        kind = account_class or ("agent" if unit is Unit.MSAT else "person")
        account = Account(unit, rate, kind, pockets=() if one_pocket else (Pocket(), Pocket(), Pocket()))
    if account.unit is not unit or bool(account.pockets) is one_pocket:
        return Refused(Refusal.FOREIGN, account.available, account.held)
    debt_paid = min(account.debt, amount) if mode is CreditMode.PAID else 0
    total = account.credited + amount
    if account.available + amount - debt_paid > GREATEST_AVAILABLE or total > GREATEST_AMOUNT:
        return Refused(Refusal.TOO_GREAT, account.available, account.held)
    if fresh:
        model.accounts[account_id] = account
    account.available += amount - debt_paid
    account.debt -= debt_paid
    account.credited, account.rate = total, rate
    account.credits[credit_id] = contents
    account.credited_from[source] = account.credited_from.get(source, 0) + amount
    if place is not None:
        account.pockets[place].available += amount - debt_paid
    if mode is CreditMode.PAID:
        account.shortfalls //= 2
    adds = Totals(available=amount - debt_paid, credited=amount, debt=-debt_paid)
    model.enter("credit", now_ms, account_id, credit_id, adds, [("source", source), ("cause", cause)])
    if mode is CreditMode.HOUSE:
        _house_pays(model, account_id, credit_id, amount, unit, cause, now_ms)
    return Credited("applied", account.available, debt_paid)


def _house_pays(
    model: LedgerModel, account_id: str, credit_id: str, amount: int, unit: Unit, cause: str, now_ms: int
) -> None:
    house_id = f"house-{unit}_{account_id.rpartition('_')[2][:2]}"
    house = model.accounts.setdefault(house_id, Account(unit, NO_RATE, "house"))
    house.credited += amount
    house.posted += amount
    adds = Totals(credited=amount, posted=amount)
    model.enter("house", now_ms, house_id, credit_id, adds, [("for", account_id), ("cause", cause)])


def debit(
    model: LedgerModel,
    debit_id: str,
    account_id: str,
    amount: int,
    *,
    cause: str,
    pocket: str | None = None,
    now_ms: int,
) -> Debited | Refused:
    """Take money back, once per id: what is available, the rest becomes debt. Of an account with pockets one gives."""
    check_amount("amount", amount, least=1)
    member("cause", DebitCause, cause)
    place = POCKETS.index(pocket_name(pocket))
    account = model.accounts.get(account_id)
    if account is None:
        return Refused(Refusal.NO_ACCOUNT)
    if debit_id in account.debits:
        before_amount, before_cause, taken, owed = account.debits[debit_id]
        if (before_amount, before_cause) != (amount, cause):
            return Refused(Refusal.FOREIGN, account.available, account.held)
        return Debited(taken, owed, account.available, replayed=True)
    giver = account.pockets[place] if account.pockets else account
    taken = min(amount, giver.available)
    owed = amount - taken
    if account.debt + owed > GREATEST_AMOUNT or account.credited - amount < -GREATEST_AMOUNT:
        return Refused(Refusal.TOO_GREAT, account.available, account.held)
    account.available -= taken
    if account.pockets:
        account.pockets[place].available -= taken
    account.credited -= amount
    account.debt += owed
    account.debits[debit_id] = (amount, cause, taken, owed)
    adds = Totals(available=-taken, credited=-amount, debt=owed)
    model.enter("debit", now_ms, account_id, debit_id, adds, [("cause", cause)])
    return Debited(taken, owed, account.available)
