"""A question in the store: who asks waits for the answer, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from people_parts import CHAT, USD, Parts, running_people, usd
from stream_parts import Client, Upstream, split, tokens
from stream_samples import chat

from gateway.core.answers.registry import reader_for
from gateway.core.approvals import ApprovalPolicy
from gateway.core.call import Call
from gateway.core.credentials import AppKey
from gateway.core.directory import Permission, Principal
from gateway.core.errors import Unavailable
from gateway.core.operations import Operation
from gateway.core.questions import Question
from gateway.flows.asking import AskDesk
from gateway.flows.streaming import MeteredStream

ASKED = Question(
    overage_id="ov_1", hold_id="ho_001", org_id="org_001", person_id="", original_max=10, current_cost=5,
    additional_needed=5, reason="cap", tier="auto", asked_at_ms=0, expires_at_ms=400,
)  # fmt: skip


class Store:
    """The questions' store, of which each look meets what comes next: a question, or an outage."""

    def __init__(self, *found: str) -> None:
        self.found = list(found)
        self.away = False

    async def ask(self, question: Question) -> None:
        """It is put."""

    async def find(self, _hold_id: str) -> Question | None:
        state = self.found.pop(0) if self.found else "open"
        if state == "away":
            raise Unavailable("away")
        return replace(ASKED, state=state)

    async def answer(self, _before: Question, _after: Question, _audit: object) -> bool:
        if self.away:
            raise Unavailable("away")
        return True


def desk(store: Store) -> AskDesk:
    return AskDesk(questions=cast(Any, store), ledger=cast(Any, None), policy=ApprovalPolicy, system=cast(Any, None))


async def test_a_store_that_is_away_for_a_moment_ends_no_question() -> None:
    answer = await desk(Store("away", "approved")).ask(ASKED)
    assert answer.state == "approved"


async def test_where_the_store_stays_away_the_question_ends_in_its_time() -> None:
    store = Store(*["away"] * 10)
    store.away = True
    assert (await desk(store).ask(ASKED)).state == "expired"


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


class Asked:
    """A stream of alice's on a real hold, and everybody says yes."""

    def __init__(self) -> None:
        self.upstream, self.client = Upstream(), Client()
        self.yes: list[str] = []
        self.hold_id = ""

    async def run(self, parts: Parts, *, words: int) -> MeteredStream:
        """To its end."""
        stream = await self._begin(parts)
        answering = asyncio.create_task(self._say_yes(parts))
        async with asyncio.timeout(30):
            for piece in split(chat(tokens(words)).data, [3_000]):
                await self.upstream.send(piece)
                await asyncio.sleep(0)
            await self.upstream.end()
            await stream.finished
        answering.cancel()
        await stream.settle_tasks()
        return stream

    async def _begin(self, parts: Parts) -> MeteredStream:
        asked = {"model": "small", "stream": True, "max_tokens": 9_000, "messages": [{"role": "user", "content": "hi"}]}
        tail = parts.clock.token_hex(12)
        call = Call(
            "POST", CHAT, b"", [(b"farebox-user", b"alice")], "127.0.0.1", tail, f"req_00{tail}", parts.clock.now_s(),
            msgspec.json.encode(asked),
        )  # fmt: skip
        caller = await parts.people.desk.callers.known(call, AppKey(parts.key, ""))
        work = await parts.people.desk.place(call, caller, parts.read(call), parts.policies.hold)
        self.hold_id = work.hold_id
        reader = reader_for(
            Operation.CHAT, counter=lambda text: len(text) // 4, strip_usage=False, client_asked_usage=True
        )
        stream = MeteredStream(
            source=self.upstream, sink=self.client, reader=reader, ledger=parts.ledger, hold_id=work.hold_id,
            terms=work.terms, granted=work.granted, policy=parts.policies.hold, count_input=lambda: 10,
            bound_input=lambda: 10, renewed_at_s=asyncio.get_running_loop().time(), ceiling=work.ceiling,
            asker=parts.people.desk.asker(work, bears_comments=True),
        )  # fmt: skip
        stream.start()
        return stream

    async def _say_yes(self, parts: Parts) -> None:
        principal = Principal(parts.org_id, "ak_x", "alice", tuple(Permission))
        while True:
            await asyncio.sleep(0.02)
            question = await parts.people.questions.find(self.hold_id)
            if question is not None and question.state == "open" and question.overage_id not in self.yes:
                self.yes.append(question.overage_id)
                await parts.people.answering.answer(
                    principal, self.hold_id, action="approve_overage", overage_id=question.overage_id,
                    additional_max=None, proof={},
                )  # fmt: skip


async def budgets(parts: Parts, *, hard: str, asking: str) -> None:
    await parts.credit(100 * USD)
    await parts.must("PUT", "/api/budgets", {"limit": usd(hard), "window": "total"}, user="alice")
    asks = {"limit": usd(asking), "window": "month", "on_exceed": "ask"}
    await parts.must("PUT", "/api/budgets", asks, user="alice")


async def test_a_hard_budget_ends_a_stream_unasked_although_another_one_asks(parts: Parts) -> None:
    await budgets(parts, hard="0.002", asking="50.00")
    asked = Asked()
    stream = await asked.run(parts, words=4_000)
    assert (asked.yes, stream.cut) == ([], "budget")


async def test_a_budget_that_asks_goes_on_up_to_the_hard_one(parts: Parts) -> None:
    await budgets(parts, hard="0.003", asking="0.002")
    asked = Asked()
    stream = await asked.run(parts, words=4_000)
    assert (len(asked.yes), stream.cut) == (1, "budget")
    assert asked.client.received.count(b'"content":" abc"') > 2_500


async def test_the_sum_of_what_nobody_is_asked_about_is_no_budget_that_a_yes_lifts(parts: Parts) -> None:
    await budgets(parts, hard="40.00", asking="50.00")
    parts.change_approvals(cumulative_most=2_000_000)
    asked = Asked()
    stream = await asked.run(parts, words=4_000)
    assert (asked.yes, stream.cut) == ([], "budget")
