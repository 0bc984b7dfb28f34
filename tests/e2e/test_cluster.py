"""The whole path on a cluster of three nodes: bought, spent by many at once, streamed, taken back; also while the slot
of the credit moves from one node to another."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from cluster import Cluster, running_cluster
from e2e.crowd import Ask, Reply, ask_all, ask_one
from e2e.stack import CALL_MSAT, CHAT, Parts, Stack, body, proof, start_stack

from gateway.client.challenges import Challenge, read_challenge

# gpt-4o costs 10 USD a million tokens of output; a msat is a millionth of a dollar here.
DEAR, OUTPUT_MSAT = "gpt-4o", 10
# Small steps, so that a short stream is extended many times.
POLICIES = {"hold": {"first_step_tokens": 32, "greatest_step_tokens": 64}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(
        tmp_path_factory.mktemp("cluster"), "--appendonly", "yes", "--appendfsync", "always"
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(
        tmp_path_factory.mktemp("gateway"), parts, workers=2, policies=POLICIES, redis={"url": cluster.url}
    ) as stack:
        yield stack


def bought(gateway: Stack, sats: int) -> tuple[str, str]:
    """A credential, and the partition that its credit lies in."""
    answer = gateway.http.get("/v1/models", headers={"farebox-deposit": str(sats)})
    offer = read_challenge(answer.headers.get_list("www-authenticate"), now_s=time.time())
    assert isinstance(offer, Challenge)
    return f"{offer.macaroon}:{gateway.pay(offer.invoice)}", offer.token_id[:2]


def streams(credential: str, lengths: list[int], interval_ms: int) -> list[Ask]:
    said = json.dumps(body("Hello there", model=DEAR, stream=True)).encode()
    wish = proof(credential) | {"x-sim-interval-ms": str(interval_ms)}
    return [Ask(CHAT, wish | {"x-sim-output-tokens": str(length)}, said) for length in lengths]


def tokens_in(reply: Reply) -> int:
    lines = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n") if line.startswith(b"data: {")]
    chunks = [json.loads(line)["choices"] for line in lines]
    return sum(len((choices[0]["delta"].get("content") or "").split()) for choices in chunks if choices)


def cost_of(gateway: Stack, reply: Reply, credential: str) -> int:
    record = gateway.record(reply.request_id, credential)
    assert record["state"] == "posted"
    return int(record["cost"]["amount_msat"])


def books_are_in_order(gateway: Stack) -> None:
    status, report = gateway.farebox("reconcile")
    assert status == 0, report
    assert "the books are in order" in report


async def test_a_cluster_admits_exactly_37_of_300_at_once(gateway: Stack) -> None:
    credential, _ = bought(gateway, 37)
    headers = proof(credential) | {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "1000"}
    replies = await ask_all(gateway.port, [Ask("/raw/search", headers, method="GET")] * 300)
    assert Counter(reply.status for reply in replies) == {200: 37, 402: 263}
    assert gateway.settled(credential) == {"credited": 37_000, "posted": 37_000, "held": 0, "available": 0}


async def test_streams_on_a_cluster_are_extended_checkpointed_and_paid(gateway: Stack) -> None:
    credential, _ = bought(gateway, 40)
    replies = await ask_all(gateway.port, streams(credential, [0, 10, 100, 300, 500, 500], interval_ms=4))
    assert all(reply.status == 200 and reply.complete for reply in replies)
    costs = [reply.note["cost"]["amount_msat"] for reply in replies]
    assert [tokens_in(reply) for reply in replies] == [0, 10, 100, 300, 500, 500]
    assert costs == [cost_of(gateway, reply, credential) for reply in replies]
    assert gateway.settled(credential)["posted"] == sum(costs)


async def test_the_rest_of_a_credit_on_a_cluster_is_taken_back_once(gateway: Stack) -> None:
    credential, _ = bought(gateway, 500)
    assert (await ask_one(gateway.port, Ask("/raw/search", proof(credential), method="GET"))).status == 200
    invoice = {"payment_request": gateway.invoice(300_000)}
    for _ in range(2):
        answer = await asyncio.to_thread(
            httpx.post, f"{gateway.base_url}/l402/refund", headers=proof(credential), json=invoice, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert (answer.json()["state"], answer.json()["refunded_msat"]) == ("paid", 300_000)
    refunded = 300_000 + answer.json()["fee_msat"]
    assert gateway.settled(credential)["available"] == 500_000 - CALL_MSAT - refunded
    books_are_in_order(gateway)


async def test_no_request_is_lost_or_charged_twice_while_its_slot_moves(gateway: Stack, cluster: Cluster) -> None:
    credential, partition = bought(gateway, 3_000)
    slot = cluster.slot_of(f"{{p{partition}}}x")
    moving = asyncio.Event()
    over = asyncio.Event()

    async def call_on() -> list[Reply]:
        replies = []
        while not over.is_set():
            replies.append(await ask_one(gateway.port, Ask("/raw/search", proof(credential), method="GET")))
            if len(replies) == 5:
                moving.set()
            if replies[-1].status == 503:
                await asyncio.sleep(0.2)
        return replies

    async def move() -> None:
        await moving.wait()
        source, target = await asyncio.to_thread(cluster.migrate_slot, slot, pause_s=0.005)
        assert cluster.owner_of(slot) == target != source
        await asyncio.sleep(0.5)
        over.set()

    running = asyncio.gather(ask_all(gateway.port, streams(credential, [400] * 6, interval_ms=8)), move())
    called = [answer for answers in await asyncio.gather(*(call_on() for _ in range(8))) for answer in answers]
    streamed, _ = await running

    told = Counter(reply.status for reply in called)
    assert set(told) <= {200, 503}, told
    assert told[200] > 80
    assert all(reply.code == "store_unavailable" for reply in called if reply.status == 503)
    assert all(reply.headers["retry-after"] for reply in called if reply.status == 503)
    assert all(reply.status == 200 for reply in called[-8:])
    served = [reply for reply in streamed if reply.status == 200]
    assert served and {reply.status for reply in streamed} <= {200, 503}
    balance = gateway.settled(credential)
    costs = [cost_of(gateway, reply, credential) for reply in served]
    assert balance["posted"] == told[200] * CALL_MSAT + sum(costs)
    for reply, cost in zip(served, costs, strict=True):
        assert tokens_in(reply) * OUTPUT_MSAT <= cost
        assert tokens_in(reply) == 400 or not reply.complete
    again = await ask_all(gateway.port, [Ask("/raw/search", proof(credential), method="GET")] * 20)
    assert {reply.status for reply in again} == {200}
    books_are_in_order(gateway)
