"""What a caller is told whose hold could not be placed: which limit, how large, how much of it is used, when it resets;
or what became of the quote that was shown.

A person who comes by a token of their own is told what is theirs: of the organization's money nothing, of its budgets
which one it was and how it stands.
"""

from __future__ import annotations

from typing import Any, Protocol

from gateway.core.accounts import Budget, CounterState
from gateway.core.budgets import budget_object, definition_window
from gateway.core.call import Call
from gateway.core.directory import BudgetDefinition
from gateway.core.errors import Conflict, Forbidden, NotFound, PaymentRequired, Problem, RateLimited, Unavailable
from gateway.core.estimates import estimate_members
from gateway.core.headers import header_value
from gateway.core.holds import LimitHit, Measure, Refusal, Refused
from gateway.core.money import NANOUSD_PER_USD, Unit, money_object
from gateway.core.quotes import Estimate, Quote
from gateway.core.request_record import rfc3339
from gateway.core.terms import Amounts
from gateway.flows.callers import Caller

# A request of at most this part of a budget is an ordinary one, and less than a cent is nothing to keep open.
_ORDINARY_PART, _CENT = 4, NANOUSD_PER_USD // 100


class Quoting(Protocol):
    """What of quotes matters here."""

    async def offer(self, quote: Quote) -> Quote: ...
    def problem(self, quote: Quote, base_url: str) -> PaymentRequired: ...
    async def find(self, quote_id: str) -> Quote | None: ...


class Pausing(Protocol):
    """Pauses a budget whose limit was met; tells and audits it."""

    async def pause(self, budget: BudgetDefinition, hit: LimitHit) -> bool: ...


class AccountRefusals:
    """Makes refusals."""

    def __init__(
        self, *, quoting: Quoting, pausing: Pausing, public_url: str, payment_methods: tuple[str, ...] = ("card",)
    ) -> None:
        self._quoting = quoting
        self._pausing = pausing
        self._public_url = public_url.rstrip("/")
        self._payment_methods = payment_methods

    async def ask(self, quote: Quote, call: Call) -> Problem:
        """The 402 of a quote that now waits."""
        return self._quoting.problem(await self._quoting.offer(quote), self._base(call))

    def _base(self, call: Call) -> str:
        """Where we are reached, as far as is known: as the operator says, else as this client reached us."""
        host = (header_value(call.headers, b"host") or b"").decode("latin-1")
        return self._public_url or (f"http://{host}" if host else "")

    async def lifted_by(self, caller: Caller) -> tuple[str, ...]:
        """The budgets that the shown quote lifts already: the next one must lift them too."""
        quote = await self._quoting.find(caller.said.quote) if caller.said.quote else None
        return quote.lifts if quote is not None else ()

    async def of(
        self, call: Call, caller: Caller, refused: Refused, amounts: Amounts, of: Estimate, now_ms: int
    ) -> Problem:
        """The refusal to raise. `of`: what the request may cost."""
        hit = refused.limit
        match refused.reason:
            case Refusal.LIMIT | Refusal.PAUSED if hit is not None:
                paused = refused.reason is Refusal.PAUSED
                budget = find_budget(caller, (hit.budget_id or "").partition("~")[0])
                if not paused and hit.on_exceed == "pause" and budget is not None and is_spent(hit, amounts.floor):
                    paused = await self._pausing.pause(budget, hit)
                return self._limited(caller, refused, hit, now_ms, paused=paused)
            case Refusal.INSUFFICIENT | Refusal.NO_ACCOUNT | Refusal.DEBT | Refusal.LIMIT:
                return self._short(call, caller, refused, amounts, of)
            case Refusal.TOO_MANY_SHORTFALLS:
                return Forbidden("this account is suspended: earlier requests cost more than it could pay")
            case Refusal.FROZEN:
                return Unavailable("this account is being reconciled", code="frozen", retry_after_s=30)
            case Refusal.MEMORY:
                return Unavailable("the store is short of memory", retry_after_s=10)
            case _ if refused.reason.startswith("quote_"):
                return await self._quote(call, caller, refused.reason)
            case _:
                return Unavailable(f"the hold was refused: {refused.reason.value}", retry_after_s=2)

    def _short(self, call: Call, caller: Caller, refused: Refused, amounts: Amounts, of: Estimate) -> Problem:
        why = {
            Refusal.DEBT: "this account owes money: a payment settles it",
            Refusal.NO_ACCOUNT: "there is no money on this account yet",
        }.get(refused.reason, "the balance does not cover this request")
        members: dict[str, Any] = {"cost": money_object(amounts.floor, Unit.NANOUSD), "quote": estimate_members(of)}
        if caller.sees_balance:
            members["topup_url"] = f"{self._base(call)}/dashboard"
        methods = list(self._payment_methods) if caller.sees_balance else []
        return PaymentRequired(why, members=members | _balance(caller, refused) | {"payment_methods": methods})

    def _limited(self, caller: Caller, refused: Refused, hit: LimitHit, now_ms: int, *, paused: bool) -> Problem:
        if hit.measure is Measure.OPEN:
            message = f"{hit.held} requests of this payer are open, which is the most at once"
            return RateLimited(message, retry_after_s=1)
        if hit.measure is Measure.SHARE:
            return PaymentRequired(why_share(hit.held), members=_balance(caller, refused) | {"payment_methods": []})
        if hit.measure is Measure.QUOTE:
            top = money_object(hit.limit, Unit.NANOUSD)
            message = "what was approved is less than this request costs at least"
            return Conflict(message, code="approved_too_little", members={"approved_max": top})
        shown = limit_object(caller, hit, now_ms, paused=paused)
        if paused:
            message = "a budget is paused until somebody resumes it"
            return PaymentRequired(message, code="budget_paused", members={"limit": shown})
        return PaymentRequired("a budget is used up", code="budget_exceeded", members={"limit": shown})

    async def _quote(self, call: Call, caller: Caller, reason: Refusal) -> Problem:
        quote = await self._quoting.find(caller.said.quote)
        if quote is None or quote.org_id != caller.key.org_id:
            return NotFound("there is no such quote", code="unknown_quote", param="farebox-quote")
        if quote.person_id != caller.person_id:
            return Forbidden("this quote belongs to another person", code="foreign_quote", param="farebox-quote")
        state = {"state": quote.state.value}
        if reason is Refusal.QUOTE_OPEN:
            return self._quoting.problem(quote, self._base(call))
        if reason is Refusal.QUOTE_MISMATCH:
            return Conflict(
                "this quote was made for another request, or under other prices", code="quote_mismatch",
                param="farebox-quote", members=state,
            )  # fmt: skip
        words = {
            Refusal.QUOTE_EXPIRED: "this quote has expired; ask again without it",
            Refusal.QUOTE_USED: "this quote was used by another request",
            Refusal.QUOTE_REFUSED: "this quote was refused",
        }
        message = words.get(reason, "there is no such quote")
        return Conflict(message, code=reason.value, param="farebox-quote", members=state)


def why_share(held: int) -> str:
    """Why a payer's share of the account refuses."""
    if held:
        return "this payer's open requests hold its share of the account: wait until some end, or pay in more"
    return "this request may cost more than the share of the account that one payer may hold at once"


def is_spent(hit: LimitHit, floor: int) -> bool:
    """Whether a budget is used up: an ordinary request finds no room in it any more. A large one proves nothing:
    whoever sends one would pause the budget of everybody. Nor does what is only held: it may come back."""
    left = hit.limit - hit.used
    return left <= 0 or (left < floor and (left < _CENT or floor * _ORDINARY_PART <= hit.limit))


def limit_object(caller: Caller, hit: LimitHit, now_ms: int, *, paused: bool) -> dict[str, Any]:
    """The budget that refused, as the API shows budgets."""
    budget_id = (hit.budget_id or "").partition("~")[0]
    definition = find_budget(caller, budget_id)
    if not sees_figures(caller, budget_id, definition):
        return {"id": budget_id, "state": "paused" if paused else "active"}
    if definition is None:
        return {
            "id": hit.budget_id,
            "limit": money_object(hit.limit, Unit.NANOUSD),
            "used": money_object(hit.used, Unit.NANOUSD),
            "held": money_object(hit.held, Unit.NANOUSD),
            "resets_at": None if hit.resets_at_ms is None else rfc3339(hit.resets_at_ms),
            "state": "paused" if paused else "active",
        }
    live = Budget(definition.budget_id, hit.limit, "paused" if paused else "active")
    counter = CounterState(hit.used, hit.held)
    window = definition_window(definition, caller.org.org, now_ms)
    return budget_object(definition, window=window, live=live, counter=counter, now_ms=now_ms)


def find_budget(caller: Caller, budget_id: str) -> BudgetDefinition | None:
    """A definition that counts for this caller."""
    budgets = (*caller.org.budgets, *(caller.person.budgets if caller.person is not None else ()))
    return next((each for each in budgets if each.budget_id == budget_id), None)


def sees_figures(caller: Caller, budget_id: str, definition: BudgetDefinition | None) -> bool:
    """Whether a budget's limit and use are for this caller: of a person by token, those that count them alone."""
    return not caller.by_token or not budget_id or (definition is not None and bool(definition.scope.user))


def lifts_of_organization(caller: Caller, budget_ids: tuple[str, ...]) -> bool:
    """Whether one of these budgets counts others beside the caller's person."""
    found = (find_budget(caller, each.partition("~")[0]) for each in budget_ids)
    return any(each is None or not each.scope.user for each in found)


def _balance(caller: Caller, refused: Refused) -> dict[str, Any]:
    """What is left, where that is the caller's to see."""
    if not caller.sees_balance:
        return {}
    amounts = {"available": refused.available, "held": refused.held}
    return {"balance": {name: money_object(amount, Unit.NANOUSD) for name, amount in amounts.items()}}
