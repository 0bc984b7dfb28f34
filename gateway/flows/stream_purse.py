"""What one running stream may spend: what its hold buys, how that grows, and what ended the growth.

Invariant: `paid_tokens` output tokens are paid by what the ledger has granted, and they are never more than the request
allows.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.holds import Extended, Refusal, Refused
from gateway.core.terms import HoldPolicy, Terms, ceiling_tokens
from gateway.ports import Ledger


class StreamPurse:
    """The money of one stream. `ceiling`: what was agreed to, where somebody agreed; the hold has the same, and the
    ledger keeps to it. `bound_input` counts the input exactly."""

    __slots__ = (
        "_asked",
        "_beyond",
        "_bound_input",
        "_ceiling",
        "_hold_id",
        "_ledger",
        "_limited",
        "_policy",
        "exhausted",
        "granted",
        "most_tokens",
        "paid_tokens",
        "step_tokens",
        "terms",
    )

    def __init__(
        self, ledger: Ledger, hold_id: str, policy: HoldPolicy, *, terms: Terms, granted: int, ceiling: int | None,
        bound_input: Callable[[], int],
    ) -> None:  # fmt: skip
        self._ledger, self._hold_id, self._policy = ledger, hold_id, policy
        self._bound_input = bound_input
        self._ceiling = ceiling
        self.terms, self.granted = terms, granted
        self.most_tokens = ceiling_tokens(terms.facts, policy)
        self.paid_tokens = self._bought()
        self.step_tokens = policy.first_step_tokens
        self.exhausted = self._limited = False  # the last answer brought too little; it was no lack of money
        self._beyond = 0  # how much more a yes could bring
        self._asked: dict[str, int] = {}  # why somebody was asked, and what was paid then

    def step(self, count: int) -> int:
        """What the hold should be for the next part of the stream, of which `count` tokens are here; each part is twice
        the one before."""
        self.step_tokens = min(self.step_tokens * 2, self._policy.greatest_step_tokens)
        return self.terms.bound(min(max(count, self.paid_tokens) + self.step_tokens, self.most_tokens))

    def greatest_step(self, count: int) -> int:
        """The same, after a yes: nobody is asked for little by little."""
        return self.terms.bound(min(count + self._policy.greatest_step_tokens, self.most_tokens))

    async def reserve(self, total: int) -> bool:
        """Have the hold grow to `total`, as far as it can. False: it is open no more. Errors: Unavailable."""
        match await self._ledger.extend_to(self._hold_id, total):
            case Extended(granted=granted, available=available, beyond=beyond):
                self.exhausted = granted < total
                # Money was left, and more was asked for: it was a scope that allowed no more.
                self._limited = self.exhausted and available > 0
                self._beyond = beyond
                self.granted = max(granted, self.granted)
                self.paid_tokens = max(self._bought(), self.paid_tokens)
            case Refused(reason=Refusal.NOT_OPEN):
                return False
            case Refused(reason=reason):
                self.exhausted, self._beyond = True, 0
                self._limited = reason in {Refusal.LIMIT, Refusal.PAUSED}
        return True

    async def shrink(self, total: int) -> bool:
        """Give back what the hold has above `total`. False: it is open no more. Errors: Unavailable."""
        shrunk = await self._ledger.shrink_to(self._hold_id, total)
        if isinstance(shrunk, Refused):
            return False
        self.granted = shrunk.granted
        self.paid_tokens = self._bought()
        return True

    def count_input_exactly(self) -> None:
        """The bytes of a request bound its tokens loosely; where the money ends, the difference buys output."""
        self.terms = self.terms.with_input(self._bound_input())
        self.paid_tokens = max(self._bought(), self.paid_tokens)

    def why_spent(self) -> str:
        """What ends a stream whose next token is not paid."""
        if self.paid_tokens >= self.most_tokens:
            return "limit"  # the request's own
        if self._ceiling is not None and self.granted >= self._ceiling:
            return "cap"
        return "budget" if self._limited else "credit"

    def a_yes_helps(self, why: str, count: int) -> bool:
        """Whether the money and the limits that nobody can lift would pay for the `count` tokens that are here. Where a
        yes for the same reason has brought nothing, it will not do so now."""
        could_buy = self.terms.tokens_bought(self.granted + self._beyond)
        return could_buy >= min(count, self.most_tokens) and self.paid_tokens > self._asked.get(why, -1)

    def note_question(self, why: str) -> None:
        """Somebody is asked now."""
        self._asked[why] = self.paid_tokens

    def agree(self, ceiling: int) -> None:
        """Somebody agreed to so much in all."""
        self._ceiling = ceiling

    def _bought(self) -> int:
        """What the hold pays for, never more than the request allows: an upstream may ignore a limit."""
        return min(self.terms.tokens_bought(self.granted), self.most_tokens)
