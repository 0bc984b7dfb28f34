"""One credit, many requests at once: what is spent is what was bought, however they interleave; with one worker and
with two processes on one store.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from e2e.crowd import Ask, Reply, ask_all, ask_one
from e2e.stack import CALL_MSAT, CHAT, Stack, body, proof

# gpt-4o costs 2.5 and 10 USD a million tokens; a msat is a millionth of a dollar here.
DEAR = "gpt-4o"
OUTPUT_MSAT = 10


@asynccontextmanager
async def watched(stack: Stack, credential: str) -> AsyncIterator[list[int]]:
    """Reads the balance all the while; what was available, in order."""
    seen: list[int] = []
    over = asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            reply = await ask_one(stack.port, Ask("/l402/balance", proof(credential), method="GET"))
            members = json.loads(reply.body)
            seen.append(members["available_msat"])
            assert members["credited_msat"] == sum(members[f"{name}_msat"] for name in ("available", "posted", "held"))
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        over.set()
        await task


async def test_a_credit_worth_37_calls_admits_exactly_37_of_1000_at_once(gateway: Stack) -> None:
    credential = gateway.buy(37)
    headers = proof(credential) | {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "3000"}
    async with watched(gateway, credential) as seen:
        replies = await ask_all(gateway.port, [Ask("/raw/search", headers, method="GET")] * 1_000)
    assert Counter(reply.status for reply in replies) == {200: 37, 402: 963}
    admitted = [gateway.sent(reply.request_id) for reply in replies if reply.status == 200]
    assert max(one["started_at"] for one in admitted) < min(one["ended_at"] for one in admitted), "not all at once"
    assert gateway.settled(credential) == {"credited": 37_000, "posted": 37_000, "held": 0, "available": 0}
    assert min(seen) == 0 and len(seen) > 3
    refused = json.loads(next(reply.body for reply in replies if reply.status == 402))
    assert refused["code"] == "payment_required"
    assert set(refused["balance"]) == {"available", "held"}


async def test_the_refused_of_a_crowd_share_one_top_up(gateway: Stack) -> None:
    credential = gateway.buy(1)
    replies = await ask_all(gateway.port, [Ask("/raw/search", proof(credential), method="GET")] * 60)
    refused = [json.loads(reply.body) for reply in replies if reply.status == 402]
    assert len(refused) == 59
    # Two processes may each make one before either has kept its own.
    assert len({one["paymentHash"] for one in refused}) <= 2


def tokens_in(reply: Reply) -> int:
    """Words that were delivered; the upstream writes one a token."""
    text = ""
    for line in reply.body.split(b"\n"):
        if line.startswith(b"data: {"):
            choices = json.loads(line.removeprefix(b"data: "))["choices"]
            text += (choices[0]["delta"].get("content") or "") if choices else ""
    return len(text.split())


def streams(credential: str, lengths: list[int], interval_ms: int = 1) -> list[Ask]:
    said = json.dumps(body("Hello there", model=DEAR, stream=True)).encode()
    wish = proof(credential) | {"x-sim-interval-ms": str(interval_ms)}
    return [Ask(CHAT, wish | {"x-sim-output-tokens": str(length)}, said) for length in lengths]


async def test_streams_of_every_length_cost_together_what_is_posted(gateway: Stack) -> None:
    credential = gateway.buy(145)  # eleven holds of a first step, and a little for the one that will be cut
    lengths = [
        step * 20 for step in reversed(range(50))
    ]  # 24,500 tokens, 245 sats: more than there is, the longest first
    async with watched(gateway, credential) as seen:
        replies = await ask_all(gateway.port, streams(credential, lengths))
    served = [reply for reply in replies if reply.status == 200]
    assert served and {reply.status for reply in replies} <= {200, 402}
    assert all(reply.complete for reply in served)
    balance = gateway.settled(credential)
    notes = [reply.note for reply in served]
    assert all(note["final"] for note in notes)
    assert {note["cut"] for note in notes} == {None, "credit"}
    costs = [note["cost"]["amount_msat"] for note in notes]
    assert sum(costs) == balance["posted"] <= balance["credited"] == 145_000
    assert [gateway.record(reply.request_id, credential)["cost"]["amount_msat"] for reply in served] == costs
    for reply, cost in zip(served, costs, strict=True):
        assert tokens_in(reply) * OUTPUT_MSAT <= cost
    assert min(seen) >= 0


async def test_a_budget_worth_1_64_streams_and_50_streams_at_once_spend_one_budget(gateway: Stack) -> None:
    credential = gateway.buy(41)  # 41,000 msat; a stream of 2,500 tokens costs 25,000
    replies = await ask_all(gateway.port, streams(credential, [2_500] * 50, interval_ms=0))
    served = [reply for reply in replies if reply.status == 200]
    balance = gateway.settled(credential)
    assert balance["posted"] <= 41_000
    assert sum(tokens_in(reply) for reply in served) * OUTPUT_MSAT <= balance["posted"]
    assert 0 < len(served) < 50, "all were admitted"
    assert all(reply.note["cut"] == "credit" for reply in served if tokens_in(reply) < 2_500)


async def test_calls_one_after_another_never_wait_for_a_hold(gateway: Stack) -> None:
    credential = gateway.buy(5)
    for left in (4, 3, 2, 1, 0):
        reply = await ask_one(gateway.port, Ask("/raw/x", proof(credential), method="GET"))
        assert (reply.status, reply.headers["farebox-balance"]) == (200, f"amount_msat={left * CALL_MSAT}")
