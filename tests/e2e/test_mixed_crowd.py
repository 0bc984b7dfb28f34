"""Everything at once on one credit: streams, whole answers and flat calls, upstreams that fail in every way, clients that hang
up at any moment, and money that runs out in the middle of it. Afterwards the books fit to the msat.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest
from e2e.crowd import Ask
from e2e.dialects import SPEECHES
from e2e.stack import Parts, Stack, kill_process, proof, start_stack, until, wait_ready, workers_of

REQUESTS = 160
FAULTS = ["", "", "", "", "stall@20", "close@20", "close@0", "no-usage", "usage-x2", "status-500", "slow-headers"]
CREDIT_SATS = 150


def made(chance: random.Random, credential: str) -> Ask:
    """One request."""
    wish = {
        "x-sim-output-tokens": str(chance.choice([0, 1, 5, 40, 300, 1_500])),
        "x-sim-interval-ms": str(chance.choice([0, 0, 1, 5])),
        "x-sim-delay-ms": "300",
    }
    fault = chance.choice(FAULTS)
    if fault:
        wish["x-sim-fault"] = fault
    else:
        del wish["x-sim-delay-ms"]
    if chance.random() < 0.15:
        return Ask("/raw/x", proof(credential) | wish, method="GET")
    speech = chance.choice(SPEECHES)
    stream = chance.random() < 0.7
    limit = chance.choice([None, 1, 30, 2_000, 200_000])
    if speech.name == "anthropic" and limit is None:
        limit = 4_000
    headers = proof(credential) | dict(speech.headers) | wish
    return Ask(speech.stream_path if stream else speech.path, headers, speech.body(limit=limit, stream=stream))


async def play(port: int, ask: Ask, *, patience_s: float | None, most_bytes: int | None) -> int:
    """Send it and read; hang up after so long or so many bytes. The status, 0 where none came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ask.as_bytes())
    data = b""
    try:
        async with asyncio.timeout(patience_s or 60.0):
            while piece := await reader.read(65_536):
                data += piece
                if most_bytes is not None and len(data) > most_bytes:
                    break
    except TimeoutError:
        assert patience_s is not None, "an answer never ended"
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return int(data.split(b" ", 2)[1]) if data else 0


async def play_all(port: int, credential: str, seed: int) -> Counter[int]:
    chance = random.Random(seed)

    async def one(number: int) -> int:
        ask = made(chance, credential)
        patience_s = chance.choice([None, None, None, 0.0, 0.02, 0.2, 0.6])
        most_bytes = chance.choice([None, None, None, 1, 3_000])
        await asyncio.sleep(number % 40 * 0.02)
        return await play(port, ask, patience_s=patience_s, most_bytes=most_bytes)

    return Counter(await asyncio.gather(*(one(number) for number in range(REQUESTS))))


def ours(stack: Stack, credential: str, after: int) -> list[dict[str, Any]]:
    """The records of all requests of this payer that reached an upstream."""
    records = []
    for sent in stack.sim_log(after=after):
        answer = stack.http.get(f"/api/requests/{sent['request_id']}", headers=proof(credential))
        if answer.status_code == 200:
            records.append(answer.json())
    return records


@pytest.mark.parametrize("workers", [1, 2])
def test_whatever_happens_at_once_the_books_fit(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory, workers: int
) -> None:
    upstream = {"read_idle_timeout_s": 1.0, "first_byte_timeout_s": 5.0}
    with start_stack(tmp_path_factory.mktemp("mixed"), parts, workers=workers, upstream=upstream) as stack:
        credential = stack.buy(CREDIT_SATS)
        last = max((sent["n"] for sent in stack.sim_log()), default=0)
        statuses = asyncio.run(play_all(stack.port, credential, seed=20 + workers))
        assert set(statuses) <= {0, 200, 402, 500, 502, 504}, statuses
        balance = stack.settled(credential, 30)
        assert balance["credited"] == CREDIT_SATS * 1_000
        records = ours(stack, credential, last)
        assert len(records) > REQUESTS // 4
        assert {record["state"] for record in records} <= {"posted", "voided"}, json.dumps(records)
        assert sum(record["cost"]["amount_msat"] for record in records) == balance["posted"]
        assert all(record["held"] == {"amount_msat": 0} for record in records)
        assert [record for record in records if record["shortfall"]["amount_msat"]] == []
        # What the other worker knows is told a moment later.
        until(
            lambda: "farebox_open_streams 0" in stack.http.get("/metrics").text.replace("0.0", "0"),
            30,
            what="the end of the last stream",
        )
        stack.check_books()


def test_a_worker_killed_in_the_middle_of_it_all_leaves_books_that_fit(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    upstream = {"read_idle_timeout_s": 1.0, "first_byte_timeout_s": 5.0}
    with start_stack(tmp_path_factory.mktemp("stormy"), parts, workers=2, upstream=upstream) as stack:
        credential = stack.buy(2_000)
        last = max((sent["n"] for sent in stack.sim_log()), default=0)

        async def killed_meanwhile() -> Counter[int]:
            playing = asyncio.create_task(play_all(stack.port, credential, seed=5))
            await asyncio.sleep(0.7)
            kill_process(workers_of(stack.process)[0])
            return await playing

        asyncio.run(killed_meanwhile())
        until(lambda: len(workers_of(stack.process)) == 2, what="a new worker")
        wait_ready(stack)
        stack.check_books()
        posted = stack.settled(credential, 30)["posted"]
        records = ours(stack, credential, last)
        assert {record["state"] for record in records} <= {"posted", "voided", "expired"}
        assert sum(record["cost"]["amount_msat"] for record in records) == posted
