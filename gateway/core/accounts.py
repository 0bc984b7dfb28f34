"""What an account is made of: its pockets, the causes that move money into and out of it, and what a store says of it.

Why: the words stand here once, for the model, the scripts' caller and reconcile. Invariant of every account, checked by
reconcile and by the state machine: available + held + posted = credited + debt, and available >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from gateway.core.errors import InvalidRequest
from gateway.core.holds import Measure, PlaceHold

Word = TypeVar("Word", bound=StrEnum)
# The scripts take integers of at most 15 digits: sums of a few of them stay exact in Lua.
GREATEST_ARGUMENT = 10**15 - 1
# The order in which the pockets of a person's account are drawn. An agent's account has one pocket.
POCKETS = ("allowance", "prepaid", "postpaid")
DEFAULT_POCKET = "prepaid"


class CreditMode(StrEnum):
    """Where a credit's money comes from: a payer (pays debt first), the house's own account, or a movement of ours that
    is neither (an envelope, a plan's allowance, the limit of the postpaid pocket)."""

    PAID = "paid"
    HOUSE = "house"
    MOVED = "moved"


class CreditCause(StrEnum):
    """Why money comes in."""

    PAYMENT = "payment"
    PROMOTION = "promotion"
    GOODWILL = "goodwill"
    REWORK = "rework"
    ENVELOPE = "envelope"
    ALLOWANCE = "allowance"
    CREDIT_LIMIT = "credit_limit"

    @property
    def mode(self) -> CreditMode:
        """Who gives it."""
        if self is CreditCause.PAYMENT:
            return CreditMode.PAID
        if self in (CreditCause.PROMOTION, CreditCause.GOODWILL, CreditCause.REWORK):
            return CreditMode.HOUSE
        return CreditMode.MOVED


class DebitCause(StrEnum):
    """Why money goes back out."""

    REFUND = "refund"
    CHARGEBACK = "chargeback"
    BANK_RETURN = "bank_return"
    GRANT_EXPIRY = "grant_expiry"
    CORRECTION = "correction"


@dataclass(frozen=True, slots=True)
class LedgerTerms:
    """Figures of the policy that the steps use. A hold is remembered for `retention_ms` after its end, a counter for
    its window, the longest hold and retention. `most_shortfalls`: from so many on `place` refuses; 0 never."""

    retention_ms: int = 86_400_000
    longest_hold_ms: int = 86_400_000
    most_shortfalls: int = 20


DEFAULT_TERMS = LedgerTerms()


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget record as the steps read it, live: its limit, and whether it is paused. Until `raised_until_ms` the
    limit is `raised_to`. `limit` None: the record only overrides the state of a default budget, whose limit comes with
    the claim."""

    budget_id: str
    limit: int | None
    state: str = "active"  # active | paused
    raised_to: int = 0
    raised_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class CounterState:
    """What a scope's counter says of one window. `lives_ms` None: it has no time to live."""

    used: int
    held: int
    lives_ms: int | None = None


def check_amount(param: str, amount: int, *, least: int = 0) -> None:
    """Errors: InvalidRequest naming `param` where the amount is no integer between `least` and `GREATEST_ARGUMENT`."""
    if type(amount) is not int or not least <= amount <= GREATEST_ARGUMENT:
        message = f"{param} is an integer between {least} and {GREATEST_ARGUMENT}"
        raise InvalidRequest(message, param=param)


def check_hold(hold: PlaceHold) -> None:
    """Errors: InvalidRequest naming the figure of a hold that no ledger can place."""
    if not hold.scopes and _is_plain(hold):
        return
    check_amount("ceiling", hold.ceiling)
    if not 0 <= hold.floor <= hold.ceiling:
        raise InvalidRequest("floor is between 0 and ceiling", param="floor")
    check_amount("first", hold.first)
    check_amount("lifetime_ms", hold.lifetime_ms, least=1)
    check_amount("greatest_age_ms", hold.greatest_age_ms, least=1)
    for claim in hold.scopes:
        if claim.limit is not None:
            check_amount("limit", claim.limit)
        elif not claim.budget_id and claim.measure not in (Measure.USAGE, Measure.QUOTE):
            raise InvalidRequest(f"scope {claim.scope}: a limit, or a budget that has it", param="scopes")


def _is_plain(hold: PlaceHold) -> bool:
    """The same, for the hold that is right and claims no scope: one look instead of five calls."""
    return (
        type(hold.floor) is type(hold.first) is type(hold.ceiling) is int
        and type(hold.lifetime_ms) is type(hold.greatest_age_ms) is int
        and 0 <= hold.floor <= hold.ceiling <= GREATEST_ARGUMENT
        and 0 <= hold.first <= GREATEST_ARGUMENT
        and 1 <= hold.lifetime_ms <= GREATEST_ARGUMENT
        and 1 <= hold.greatest_age_ms <= GREATEST_ARGUMENT
    )


def member(param: str, words: type[Word], word: str) -> Word:
    """The word as one of `words`. Errors: InvalidRequest naming `param` and what would be right."""
    try:
        return words(word)
    except ValueError:
        raise InvalidRequest(f"{param} is one of {', '.join(words)}", param=param) from None


def pocket_name(pocket: str | None) -> str:
    """The pocket's name, the usual one where none is given. Errors: InvalidRequest."""
    if pocket is None:
        return DEFAULT_POCKET
    if pocket not in POCKETS:
        raise InvalidRequest(f"pocket is one of {', '.join(POCKETS)}", param="pocket")
    return pocket
