"""What an account has and has used, as people read it: pockets, plan, what is included and what went beyond it.

All figures come from one read of the account, and a period that is over is renewed before it is shown: what is
included, used and left is exact at that moment, also while requests run.
"""

from __future__ import annotations

from typing import Any, Protocol

from gateway.core.accounts import POCKETS
from gateway.core.directory import Org, OrgView, PersonView, Principal, account_of_org
from gateway.core.errors import NotFound
from gateway.core.holds import Balance, PocketState
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339
from gateway.ports import Ledger, System

_ALLOWANCE, _PREPAID, _POSTPAID = POCKETS


class Store(Protocol):
    """Who there is."""

    async def org(self, org_id: str) -> OrgView | None: ...
    async def person(self, org_id: str, person_id: str) -> PersonView | None: ...


class Renewing(Protocol):
    """Begins a plan's next period."""

    async def renew_account(self, org: Org, account: str, plan_name: str) -> None: ...


class Balances:
    """Shows accounts."""

    def __init__(self, *, ledger: Ledger, store: Store, renewing: Renewing, system: System) -> None:
        self._ledger = ledger
        self._store = store
        self._renewing = renewing
        self._system = system

    async def shown(self, principal: Principal) -> dict[str, Any]:
        """The account behind a principal: the person's own, else the organization's, which a person's own token does
        not see. Errors: NotFound."""
        org = await self._store.org(principal.org_id)
        if org is None:
            raise NotFound("there is no such account", param="account")
        account, plan = account_of_org(principal.org_id), org.org.plan
        shared = bool(principal.person_id)
        if principal.person_id:
            person = await self._store.person(principal.org_id, principal.person_id)
            if person is None:
                raise NotFound("there is no such person", param="farebox-user")
            if person.person.account:
                account, plan, shared = person.person.account, person.person.plan, False
            elif principal.vouched == "jwt":
                return _HIDDEN
        balance = await self._ledger.balance(account)
        if balance is not None and 0 < balance.period_ends_at_ms <= self._system.now_s() * 1_000:
            await self._renewing.renew_account(org.org, account, plan)
            balance = await self._ledger.balance(account)
        return account_members(account, balance, shared=shared)


# A person who draws on the organization's account: what it has is not theirs to know.
_HIDDEN: dict[str, Any] = {
    "account": None, "shared": True, "pockets": {"allowance": None, "prepaid": [], "postpaid": None},
    "available": None, "held": None, "posted": None, "debt": None, "carry": None, "plan": None, "overage": None,
}  # fmt: skip


def account_members(account: str, balance: Balance | None, *, shared: bool) -> dict[str, Any]:
    """`GET /api/account`. `overage` is what was used in the plan's period beyond what it includes; without a plan there
    is nothing to be beyond."""
    states = {state.name: state for state in balance.pocket_states} if balance is not None else {}
    allowance, prepaid, postpaid = (states.get(name, PocketState(name, 0, 0, 0)) for name in POCKETS)
    base = dict(zip(POCKETS, balance.period_base, strict=False)) if balance is not None else {}
    plan = balance.plan if balance is not None else ""
    beyond = sum(each.posted - base.get(each.name, 0) for each in (prepaid, postpaid)) if plan else 0
    ends_at_ms = balance.period_ends_at_ms if balance is not None else 0
    return {
        "account": account,
        "shared": shared,
        "pockets": {
            "allowance": {
                "included": _money(balance.allowance_granted if balance is not None else 0),
                "used": _money(allowance.posted - base.get(_ALLOWANCE, 0)),
                "held": _money(allowance.held),
                "left": _money(allowance.available),
                "resets_at": rfc3339(ends_at_ms) if ends_at_ms else None,
            },
            "prepaid": _prepaid(account, prepaid),
            "postpaid": {
                "limit": _money(postpaid.available + postpaid.held + postpaid.posted),
                "used": _money(postpaid.posted),
                "held": _money(postpaid.held),
                "left": _money(postpaid.available),
            },
        },
        "available": _money(balance.available if balance is not None else 0),
        "held": _money(balance.held if balance is not None else 0),
        "posted": _money(balance.posted if balance is not None else 0),
        "debt": _money(balance.debt if balance is not None else 0),
        "carry": _money(0),
        "plan": plan or None,
        "overage": _money(beyond),
    }


def _prepaid(account: str, state: PocketState) -> list[dict[str, Any]]:
    """The credit, as one grant without an end; none where there never was any."""
    if not state.available and not state.held and not state.posted:
        return []
    return [
        {
            "id": f"{account}:prepaid",
            "source": "credit",
            "left": _money(state.available),
            "held": _money(state.held),
            "used": _money(state.posted),
            "expires_at": None,
        }
    ]


def _money(amount: int) -> dict[str, Any]:
    return money_object(amount, Unit.NANOUSD)
