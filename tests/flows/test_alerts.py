"""Alerts of a budget that is changed: what is used already is told at once, each share once a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from people_parts import Parts, running_people, usd


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


async def told(parts: Parts) -> list[tuple[str, int | None]]:
    """Kind and share of what waits to be told."""
    events, _ = await parts.people.outbox.look(int(parts.org_id[4:6], 16), 0)
    return [(each.kind, msgspec.json.decode(each.data).get("pct")) for each in events]


async def put(parts: Parts, limit: str, *shares: int, **more: Any) -> dict[str, Any]:
    done: dict[str, Any] = await parts.must("PUT", "/api/budgets", {"limit": usd(limit), "alerts_pct": shares, **more})
    return done


async def test_a_lowered_limit_whose_shares_are_passed_already_is_told_at_once_and_once(parts: Parts) -> None:
    await put(parts, "0.01", 50, 80)
    await parts.spend(700_000, user="alice", tokens=1_000)
    assert await told(parts) == []
    shown = await put(parts, "0.001", 50, 80)
    assert await told(parts) == [("budget.alert", 50)] and shown["alerted_pct"] == [50]
    await put(parts, "0.001", 50, 80)
    await put(parts, "0.01", 50, 80)
    await put(parts, "0.001", 50, 80)
    assert await told(parts) == [("budget.alert", 50)], "once a window"
    await parts.spend(150_000, user="alice", tokens=150)
    assert await told(parts) == [("budget.alert", 50), ("budget.alert", 80)]


async def test_a_share_that_is_new_and_a_budget_that_is_new_count_what_is_used(parts: Parts) -> None:
    await parts.spend(70_000, user="alice")
    await put(parts, "0.0001", 90)
    assert await told(parts) == []
    await put(parts, "0.0001", 60, 90)
    await put(parts, "0.0001", 10, window="day")
    assert await told(parts) == [("budget.alert", 60), ("budget.alert", 10)]


async def test_one_that_is_lowered_below_what_is_used_is_paused_once_and_alerts(parts: Parts) -> None:
    await put(parts, "0.001", 100, on_exceed="pause")
    await parts.spend(70_000, user="alice")
    await put(parts, "0.00005", 100, on_exceed="pause")
    assert await told(parts) == [("budget.paused", None), ("budget.alert", 100)]


async def test_postings_and_changes_at_once_tell_each_share_once(parts: Parts) -> None:
    await put(parts, "0.001", 10, 50)
    await parts.spend(20_000, user="alice")
    await asyncio.gather(
        *(put(parts, f"0.0001{number}", 10, 50) for number in range(4)),
        *(parts.spend(10_000, user="alice") for _ in range(5)),
    )
    assert sorted(await told(parts)) == [("budget.alert", 10), ("budget.alert", 50)]
