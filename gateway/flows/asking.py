"""A running stream asks for more, instead of being cut.

The stream stands still: the upstream is paused, the hold shrinks to what was earned and a margin, and whoever may agree
is asked over the request's events and by webhook. The question stands in the store, so that any worker can take the
answer; the stream's own worker looks for it. Yes raises the hold's ceiling by what was agreed; no, or silence until the
question's end, ends the stream cleanly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from gateway.core.approvals import ApprovalPolicy, tier_of
from gateway.core.errors import Unavailable
from gateway.core.questions import Question
from gateway.core.terms import Terms
from gateway.people_ports import Questions
from gateway.ports import Ledger, System

# How often the answer is looked for: a person does not notice, and a look costs the store 2 us.
POLL_S = 0.15
KEEP_ALIVE_S = 3.0
_ID_BYTES = 13


class AskDesk:
    """Puts questions, and waits for their answers."""

    def __init__(
        self, *, questions: Questions, ledger: Ledger, policy: Callable[[], ApprovalPolicy], system: System
    ) -> None:
        self._questions = questions
        self._ledger = ledger
        self.policy = policy
        self._system = system

    async def ask(self, question: Question) -> Question:
        """Put a question and wait for its end. `state` of what comes back is approved, stopped or expired. A store that
        is away meanwhile is asked again. Errors: Unavailable, where the question cannot be put."""
        await self._questions.ask(question)
        deadline = asyncio.get_running_loop().time() + (question.expires_at_ms - question.asked_at_ms) / 1_000
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(Unavailable):
                found = await self._questions.find(question.hold_id)
                if found is not None and found.overage_id == question.overage_id and found.state != "open":
                    return found
            if asyncio.get_running_loop().time() >= deadline:
                return await self._expired(question)

    async def _expired(self, question: Question) -> Question:
        """Nobody answered; or somebody did in the last moment, which counts."""
        after = replace(question, state="expired")
        with suppress(Unavailable):
            if not await self._questions.answer(question, after, None):
                found = await self._questions.find(question.hold_id)
                return found if found is not None and found.overage_id == question.overage_id else after
        return after

    async def raise_hold(self, hold_id: str, ceiling: int, lifts: tuple[str, ...]) -> None:
        """Let the hold grow up to what was agreed."""
        await self._ledger.raise_hold(hold_id, ceiling, lifts=lifts)

    def overage_id(self) -> str:
        """A fresh id."""
        return f"ov_{self._system.token_hex(_ID_BYTES)}"

    def now_ms(self) -> int:
        """Now."""
        return int(self._system.now_s() * 1_000)


class Asker:
    """Asks for one stream. `lifts`: the budgets of its hold that say `ask`, `of_organization` where one of them is not
    the person's alone; `bears_comments`: of its dialect."""

    def __init__(
        self,
        desk: AskDesk,
        *,
        hold_id: str,
        org_id: str,
        person_id: str,
        ceiling: int | None,
        lifts: tuple[str, ...],
        of_organization: bool,
        bears_comments: bool,
    ) -> None:
        self._desk = desk
        self._hold_id = hold_id
        self._org_id = org_id
        self._person_id = person_id
        self._ceiling = ceiling
        self._lifts = lifts
        self._of_organization = of_organization
        self._bears_comments = bears_comments
        self._kept_alive_at = 0.0

    def asks_about(self, why: str) -> bool:
        """Whether this end is one that somebody can put off: an agreed maximum, or a budget that asks."""
        if self._desk.policy().mid_stream != "ask":
            return False
        return why == "cap" or (why == "budget" and bool(self._lifts))

    def margin(self, terms: Terms) -> int:
        """What a stream that waits keeps held beside what it earned."""
        return terms.bound(self._desk.policy().ask_margin_tokens) - terms.bound(0)

    def keep_alive(self, now: float) -> bytes:
        """A comment line, every few seconds; nothing in dialects that have no comments. One line: who takes our lines
        out has the upstream's bytes."""
        if not self._bears_comments or now - self._kept_alive_at < KEEP_ALIVE_S:
            return b""
        self._kept_alive_at = now
        return b": farebox waiting for an approval\n"

    async def ask(self, *, current_cost: int, granted: int, needed: int, reason: str) -> int | None:
        """What may be spent in all from now on; None: no more. `needed`: what the next part of the stream may cost in
        all."""
        policy, now_ms = self._desk.policy(), self._desk.now_ms()
        original = self._ceiling if self._ceiling is not None and reason == "cap" else granted
        question = Question(
            overage_id=self._desk.overage_id(),
            hold_id=self._hold_id,
            org_id=self._org_id,
            person_id=self._person_id,
            original_max=original,
            current_cost=current_cost,
            additional_needed=max(needed - original, 1),
            reason=reason,
            tier=tier_of(policy, max(needed, original)).value,
            asked_at_ms=now_ms,
            expires_at_ms=now_ms + policy.answer_within_s * 1_000,
            budget_ids=self._lifts if reason == "budget" else (),
            of_organization=self._of_organization and reason == "budget",
        )
        answer = await self._desk.ask(question)
        if answer.state != "approved":
            return None
        agreed = original + answer.additional_max
        await self._desk.raise_hold(self._hold_id, agreed, question.budget_ids)
        self._ceiling = agreed
        return agreed
