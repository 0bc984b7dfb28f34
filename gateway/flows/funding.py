"""Money that operators move: credits, debits, how much may be owed; on the account of an organization or on a person's
own, suspended or not: what is owed is settled, and mistakes are corrected, also there.

Each is one step of the ledger, once per id; its entry in the audit log follows under the same id. Balances in an entry
are those of the step itself: a repeat cannot know them any more, and tells none.
"""

from __future__ import annotations

from typing import Any

from gateway.core.directory import Principal
from gateway.core.errors import Conflict
from gateway.core.holds import Refused
from gateway.core.money import NO_RATE, Unit, money_object
from gateway.flows.auditing import Auditing
from gateway.flows.owners import owner_of
from gateway.people_ports import AccountIndex
from gateway.ports import Ledger, System

_ID_BYTES = 11


class Funding:
    """Moves money. An id of "" is any fresh one."""

    def __init__(self, *, accounts: AccountIndex, auditing: Auditing, ledger: Ledger, system: System) -> None:
        self._accounts = accounts
        self._auditing = auditing
        self._ledger = ledger
        self._system = system

    async def credit(
        self, principal: Principal, account: str, amount: int, *, cause: str, source: str, credit_id: str
    ) -> dict[str, Any]:
        """Add money, once per id. Errors: NotFound, Conflict."""
        owner = await owner_of(self._accounts, account)
        credit_id = credit_id or self._fresh_id()
        answer = await self._ledger.credit(
            credit_id, account, amount, unit=Unit.NANOUSD, rate=NO_RATE, source=source, cause=cause
        )
        if isinstance(answer, Refused):
            raise _refused("credit", answer)
        before: dict[str, Any] | None = None
        after: dict[str, Any] = {"account": account, "amount": _usd(amount), "cause": cause, "source": source}
        if answer.outcome == "applied":
            before = {"available": _usd(answer.available - amount + answer.debt_paid)}
            after |= {"available": _usd(answer.available), "debt_paid": _usd(answer.debt_paid)}
        once = f"{account}|{credit_id}"
        await self._auditing.moved(
            principal, owner.org_id, "credit.add", credit_id, once=once, before=before, after=after
        )
        return {
            "id": credit_id,
            "account": account,
            "outcome": answer.outcome,
            "amount": _usd(amount),
            "available": _usd(answer.available),
            "debt_paid": _usd(answer.debt_paid),
        }

    async def debit(
        self, principal: Principal, account: str, amount: int, *, cause: str, debit_id: str
    ) -> dict[str, Any]:
        """Take money back, once per id: what is available, the rest becomes debt. Errors: NotFound, Conflict."""
        owner = await owner_of(self._accounts, account)
        debit_id = debit_id or self._fresh_id()
        answer = await self._ledger.debit(debit_id, account, amount, cause=cause)
        if isinstance(answer, Refused):
            raise _refused("debit", answer)
        taken, owed = _usd(answer.taken), _usd(answer.owed)
        before: dict[str, Any] | None = None
        after: dict[str, Any] = {
            "account": account, "amount": _usd(amount), "cause": cause, "taken": taken, "owed": owed,
        }  # fmt: skip
        if not answer.replayed:
            before = {"available": _usd(answer.available + answer.taken)}
            after["available"] = _usd(answer.available)
        once = f"{account}|{debit_id}"
        await self._auditing.moved(
            principal, owner.org_id, "credit.take", debit_id, once=once, before=before, after=after
        )
        return {
            "id": debit_id, "account": account, "taken": taken, "owed": owed, "available": _usd(answer.available),
        }  # fmt: skip

    async def credit_limit(
        self, principal: Principal, account: str, limit: int | None, *, change_id: str
    ) -> dict[str, Any]:
        """How much may be owed, absolute: from then on no plan touches it; None: the plan's limit again. Errors:
        NotFound, Conflict."""
        owner = await owner_of(self._accounts, account)
        change_id = change_id or self._fresh_id()
        balance = await self._ledger.balance(account)
        answer = await self._ledger.set_credit_limit(account, limit, change_id=change_id)
        if isinstance(answer, Refused):
            raise _refused("limit", answer)
        first = answer.outcome == "applied"
        before = {"limit": _usd(balance.credit_limit if balance is not None else 0)} if first else None
        shown = None if limit is None else _usd(limit)
        after = {"account": account, "limit": shown, "available": _usd(answer.available)}
        once = f"{account}|{change_id}"
        await self._auditing.moved(
            principal, owner.org_id, "credit.limit", account, once=once, before=before, after=after
        )
        return after

    def _fresh_id(self) -> str:
        return f"op:{self._system.token_hex(_ID_BYTES)}"


def _refused(what: str, answer: Refused) -> Conflict:
    reason = answer.reason.value
    return Conflict(f"the {what} was refused: {reason}", members={"state": reason})


def _usd(amount: int) -> dict[str, Any]:
    return money_object(amount, Unit.NANOUSD)
