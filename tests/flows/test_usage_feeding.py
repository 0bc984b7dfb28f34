"""Each charge becomes one CloudEvent: none is lost before the journal is trimmed, none told twice, whoever follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from people_parts import Parts, running_people, usd

from gateway.adapters.redis.journal import JournalDrain
from gateway.adapters.redis.segments import Segments
from gateway.core.holds import partition_of
from gateway.core.webhooks import USAGE
from gateway.flows.delivering import webhook_body
from gateway.flows.usage_feeding import UsageFeeder

HOOK = {"url": "https://app.example/hook", "usage": True}


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


def feeder(parts: Parts) -> UsageFeeder:
    return UsageFeeder(feed=parts.people.usage_feed, books=parts.ledger)


async def told(parts: Parts) -> list[dict[str, Any]]:
    """Every event of every batch that is to be told."""
    events, _ = await parts.people.outbox.look(partition_of(parts.org_id), 0)
    bodies = [webhook_body(each) for each in events if each.kind == USAGE]
    assert {media_type for _, media_type in bodies} <= {"application/cloudevents-batch+json"}
    return [event for body, _ in bodies for event in msgspec.json.decode(body)]


async def test_a_charge_is_a_cloud_event_with_what_it_was_for(parts: Parts) -> None:
    await parts.spend(10_000, user="alice")
    assert (await parts.must("PUT", "/api/webhooks", HOOK))["usage"] is True
    work = await parts.place(user="alice")
    outcome = b'{"usage":{"input_tokens":10,"output_tokens":5},"basis":"reported"}'
    await parts.ledger.post(work.hold_id, 70_000, account=work.account, outcome=outcome)
    assert await feeder(parts).once() == 1
    (event,) = await told(parts)
    assert event.pop("id").startswith("ch_") and event.pop("time").endswith("Z")
    data = event.pop("data")
    assert event == {
        "specversion": "1.0",
        "type": "farebox.usage.posted",
        "source": f"/accounts/{parts.org_id}",
        "subject": work.request_id,
        "datacontenttype": "application/json",
    }
    assert data == {
        "request_id": work.request_id,
        "kind": "posted",
        "user": "alice",
        "key": f"ak_{parts.key.removeprefix('fb_live_')[:16]}",
        "model": "small",
        "route": "/v1/chat/completions",
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "basis": "reported",
        "cost": usd("0.00007"),
    }


async def test_what_expired_and_was_posted_late_adds_up_to_what_the_request_cost(parts: Parts) -> None:
    await parts.must("PUT", "/api/webhooks", HOOK)
    work, nothing, void = [await parts.place(user="alice", tokens=1_000) for _ in range(3)]
    await parts.ledger.checkpoint(work.hold_id, 20_000)
    for each in (work, nothing):
        await parts.ledger.expire(each.hold_id, lease_gone=True)
    await parts.ledger.post(work.hold_id, 50_000, account=work.account)
    await parts.ledger.void(void.hold_id, account=void.account)
    assert await feeder(parts).once() == 2
    events = [each["data"] for each in await told(parts)]
    assert [each["kind"] for each in events] == ["expired", "late_post"]
    assert [each["cost"] for each in events] == [usd("0.00002"), usd("0.00003")]


async def test_workers_that_follow_at_once_tell_each_charge_once(parts: Parts) -> None:
    await parts.must("PUT", "/api/webhooks", HOOK)
    requests = [await parts.spend(1_000 + number, user="alice") for number in range(230)]
    await asyncio.gather(*(feeder(parts).once() for _ in range(4)))
    await feeder(parts).once()
    events = await told(parts)
    assert [each["subject"] for each in events] == requests
    assert len({each["id"] for each in events}) == len(requests)


async def test_the_journal_is_trimmed_after_what_it_says_was_told(parts: Parts, tmp_path: Path) -> None:
    await parts.must("PUT", "/api/webhooks", HOOK)
    segments = Segments.open(tmp_path)
    drain = JournalDrain(parts.link, parts.ledger, segments, feeder(parts).once)
    requests = [await parts.spend(1_000, user="alice") for _ in range(300)]
    done = await drain.once()
    assert done.entries > 600 and done.trimmed == 1
    requests.append(await parts.spend(1_000, user="alice"))
    await drain.once()
    segments.close()
    assert [each["subject"] for each in await told(parts)] == requests


async def test_another_organization_of_the_partition_is_told_its_own_only(parts: Parts) -> None:
    org, key = parts.org_id, parts.key
    await parts.must("PUT", "/api/webhooks", HOOK)
    while True:
        await parts.make_org()
        if partition_of(parts.org_id) == partition_of(org):
            break
    await parts.credit(10**9)
    await parts.must("POST", "/api/persons", {"id": "alice"})
    await parts.spend(1_000, user="alice")
    assert await feeder(parts).once() == 0
    await parts.must("PUT", "/api/webhooks", HOOK)
    theirs = await parts.spend(1_000, user="alice")
    parts.org_id, parts.key = org, key
    ours = await parts.spend(1_000, user="alice")
    assert await feeder(parts).once() == 2
    found = {each["source"]: each["subject"] for each in await told(parts)}
    assert found.pop(f"/accounts/{org}") == ours
    assert list(found.values()) == [theirs]


async def test_while_nobody_wants_it_it_costs_one_look(parts: Parts) -> None:
    await parts.must("PUT", "/api/webhooks", {"url": "https://app.example/hook"})
    await parts.spend(1_000, user="alice")
    before = parts.link.call_count
    assert await feeder(parts).once() == 0
    assert parts.link.call_count - before == 1


@pytest.mark.parametrize("change", [("PUT", {"url": "https://app.example/hook"}), ("DELETE", None)])
async def test_who_wants_it_no_more_is_not_told(parts: Parts, change: tuple[str, Any]) -> None:
    await parts.must("PUT", "/api/webhooks", HOOK)
    method, body = change
    await parts.must(method, "/api/webhooks", body)
    await parts.spend(1_000, user="alice")
    assert await feeder(parts).once() == 0
    # And who wants it again, from then on.
    await parts.must("PUT", "/api/webhooks", HOOK)
    await parts.spend(2_000, user="alice")
    assert await feeder(parts).once() == 1


async def test_it_is_true_or_false(parts: Parts) -> None:
    wrongs: list[Any] = ["yes", 1, 0, []]
    for wrong in wrongs:
        refused = await parts.refused("PUT", "/api/webhooks", {**HOOK, "usage": wrong})
        assert refused == (422, "invalid_request", "usage")
