"""A forecast above the limit is told once a window, of a default budget once for each person, whoever looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from people_parts import Parts, running_people, usd

from gateway.flows.budget_telling import BudgetTelling
from gateway.flows.forecasting import Forecaster


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        for user in ("alice", "bob", "carl"):
            await running.must("POST", "/api/persons", {"id": user})
        # Wherever today stands: at the day's middle half of it has passed.
        now = datetime.fromtimestamp(running.clock.now_s(), UTC)
        running.clock.ahead_s += 12 * 3_600 - (now.hour * 3_600 + now.minute * 60 + now.second)
        yield running


def forecaster(parts: Parts, **settings: Any) -> Forecaster:
    return Forecaster(store=parts.people.store, alerts=parts.people.alerts, system=parts.clock, **settings)


async def told(parts: Parts) -> list[dict[str, Any]]:
    """What waits to be told, in the words of the API."""
    events, _ = await parts.people.outbox.look(int(parts.org_id[4:6], 16), 0)
    telling = BudgetTelling(parts.people.store)
    return [msgspec.json.decode((await telling.readable(each)).data) for each in events
            if each.kind == "budget.forecast"]  # fmt: skip


async def use(parts: Parts, *users: str, cost: int = 60_000) -> None:
    """What a day's half has used."""
    for user in users:
        work = await parts.place(user=user)
        await parts.ledger.post(work.hold_id, cost, account=work.account)


async def test_a_forecast_above_the_limit_is_told_once_a_window(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.0001"), "window": "day", "forecast_alert": True})
    await use(parts, "alice")
    assert await forecaster(parts).once() == 1
    assert await forecaster(parts).once() == 0, "another worker knows that it was told"
    (event,) = await told(parts)
    assert event["budget_id"] == made["id"] and event["user"] is None and event["window"] == "day"
    assert event["limit"] == usd("0.0001") and event["used"] == usd("0.00006")
    assert 0.00011 < float(event["forecast"]["amount"]) < 0.00013
    assert event["resets_at"] == made["resets_at"]


async def test_a_forecast_within_the_limit_and_one_that_nobody_wants_are_not_told(parts: Parts) -> None:
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.0005"), "window": "day", "forecast_alert": True})
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.0001"), "window": "week"})
    await use(parts, "alice")
    assert await forecaster(parts).once() == 0


async def test_the_next_window_is_told_of_again(parts: Parts) -> None:
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.0001"), "window": "day", "forecast_alert": True})
    await use(parts, "alice")
    assert await forecaster(parts).once() == 1
    parts.clock.ahead_s += 86_400
    assert await forecaster(parts).once() == 0, "nothing is used yet"
    await use(parts, "alice")
    assert await forecaster(parts).once() == 1


async def test_a_default_budget_is_told_of_for_each_person_whose_own_forecast_passes_it(parts: Parts) -> None:
    limit = {"limit": usd("0.0001"), "window": "day", "scope": {"user": "*"}, "forecast_alert": True}
    made = await parts.must("PUT", "/api/budgets", limit)
    await use(parts, "alice", "bob")
    await use(parts, "carl", cost=10_000)
    assert await forecaster(parts).once() == 2
    assert await forecaster(parts).once() == 0
    events = await told(parts)
    assert sorted(each["user"] for each in events) == ["alice", "bob"]
    assert {each["budget_id"] for each in events} == {made["id"]}
    assert events[0]["scope"] == {"org": parts.org_id, "user": "*"}


async def test_a_budget_of_a_persons_own_stands_in_the_place_of_the_default_one(parts: Parts) -> None:
    limit = {"limit": usd("0.0001"), "window": "day", "scope": {"user": "*"}, "forecast_alert": True}
    await parts.must("PUT", "/api/budgets", limit)
    await parts.must("PUT", "/api/budgets", {"limit": usd("9.00"), "window": "day", "forecast_alert": True}, user="bob")
    await use(parts, "alice", "bob")
    assert await forecaster(parts).once() == 1
    assert [each["user"] for each in await told(parts)] == ["alice"]


async def test_two_workers_that_look_at_once_tell_once(parts: Parts) -> None:
    limit = {"limit": usd("0.0001"), "window": "day", "scope": {"user": "*"}, "forecast_alert": True}
    await parts.must("PUT", "/api/budgets", limit)
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.0002"), "window": "day", "forecast_alert": True})
    await use(parts, "alice", "bob")
    looked = await asyncio.gather(*(forecaster(parts).once() for _ in range(4)))
    assert sum(looked) == len(await told(parts)) == 3


async def test_persons_are_looked_at_in_turn(parts: Parts) -> None:
    limit = {"limit": usd("0.0001"), "window": "day", "scope": {"user": "*"}, "forecast_alert": True}
    await parts.must("PUT", "/api/budgets", limit)
    await use(parts, "alice", "bob", "carl")
    looking = forecaster(parts, persons_a_look=2)
    assert [await looking.once() for _ in range(3)] == [2, 1, 0]


async def test_a_budget_that_has_ended_is_not_forecast(parts: Parts) -> None:
    until = datetime.fromtimestamp(parts.clock.now_s() + 60, UTC).isoformat()
    limit = {"limit": usd("0.0001"), "window": "day", "forecast_alert": True, "until": until}
    await parts.must("PUT", "/api/budgets", limit)
    await use(parts, "alice")
    parts.clock.ahead_s += 61
    assert await forecaster(parts).once() == 0
