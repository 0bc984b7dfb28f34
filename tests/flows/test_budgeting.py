"""Budgets that many change, count and refuse at once, on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from people_parts import Parts, running_people, usd

from gateway.core.budget_input import parse_budgets
from gateway.core.directory import Permission, Principal
from gateway.core.errors import Conflict, Forbidden, PaymentRequired, Problem


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        for user in ("alice", "bob"):
            await running.must("POST", "/api/persons", {"id": user})
        yield running


def principal(parts: Parts, user: str = "", vouched: str = "app") -> Principal:
    return Principal(parts.org_id, "ak_00test", user, tuple(Permission), vouched=vouched)


async def put(parts: Parts, *budgets: dict[str, Any], user: str = "") -> list[dict[str, Any]]:
    given = parse_budgets(list(budgets), int(parts.clock.now_s() * 1_000))
    return await parts.people.budgeting.put(principal(parts, user), given)


async def listed(parts: Parts, user: str = "") -> list[dict[str, Any]]:
    return await parts.people.budgeting.listed(parts.org_id, person_id=user)


async def test_two_puts_of_one_scope_at_once_make_one_budget(parts: Parts) -> None:
    wanted = [{"limit": usd(f"{number}.00"), "window": "month"} for number in range(1, 7)]
    done = await asyncio.gather(*(put(parts, each) for each in wanted))
    assert len({each["id"] for (each,) in done}) == 1
    (stands,) = await listed(parts)
    assert stands["limit"] in [each["limit"] for each in wanted]


async def test_puts_of_different_scopes_at_once_lose_none(parts: Parts) -> None:
    scopes = [{"session": f"s{number}"} for number in range(6)]
    await asyncio.gather(*(put(parts, {"limit": usd("1.00"), "scope": scope}) for scope in scopes))
    assert sorted(each["scope"]["session"] for each in await listed(parts)) == [f"s{number}" for number in range(6)]


async def test_whoever_always_comes_too_late_is_told_so(parts: Parts) -> None:
    store = parts.people.budgeting._store
    put_budgets = store.put_budgets

    async def too_late(*args: Any, **kwargs: Any) -> None:
        return None

    store.put_budgets = too_late  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await put(parts, {"limit": usd("1.00")})
    store.put_budgets = put_budgets  # type: ignore[method-assign]
    assert await listed(parts) == []


async def test_a_list_of_one_part_is_written_in_one_step_with_one_entry_of_the_audit_log(parts: Parts) -> None:
    before = len(await parts.people.audit.read(parts.org_id, after=0, most=99))
    await put(parts, *({"limit": usd("1.00"), "window": window} for window in ("day", "week", "month")))
    entries = await parts.people.audit.read(parts.org_id, after=before, most=99)
    assert [entry.action for entry in entries] == ["budget.put"]
    assert len(entries[0].subject.split()) == 3 and entries[0].before == b"[null,null,null]"


async def test_one_budget_may_be_named_twice_in_a_list(parts: Parts) -> None:
    first, second = await put(parts, {"limit": usd("1.00")}, {"limit": usd("2.00"), "alerts_pct": [50]})
    assert first == second and second["limit"] == usd("2.00") and second["alerts_pct"] == [50]


async def test_nothing_passes_a_limit_that_is_set_while_requests_run(parts: Parts) -> None:
    """However the requests and the PUT interleave: what is posted after it stays within it."""
    limit = 1_000_000

    async def spend() -> int:
        try:
            await parts.spend(50_000, user="alice", tokens=30)
        except PaymentRequired as refused:
            assert refused.code in ("budget_exceeded", "budget_paused")
            return 0
        return 50_000

    first = [asyncio.ensure_future(spend()) for _ in range(10)]
    await put(parts, {"limit": usd("0.001"), "window": "month"}, user="alice")
    await asyncio.gather(*first)
    spent = sum(await asyncio.gather(*first))
    spent += sum(await asyncio.gather(*(spend() for _ in range(20))))
    while cost := await spend():
        spent += cost
    (shown,) = await listed(parts, "alice")
    used = int(float(shown["used"]["amount"]) * 1e9)
    assert limit - 50_000 <= used <= limit and shown["held"] == usd("0.00")
    assert used <= spent <= used + 10 * 50_000, "but for what ran when the limit was set"


async def test_a_put_does_not_end_a_pause_that_comes_in_between(parts: Parts) -> None:
    (made,) = await put(parts, {"limit": usd("0.01"), "on_exceed": "pause"}, user="alice")
    for cost in (5_000_000, 4_995_000):
        await parts.spend(cost, user="alice", tokens=5_000)
    results = await asyncio.gather(
        *(parts.place(user="alice") for _ in range(5)),
        *(put(parts, {"id": made["id"], "alerts_pct": [pct]}, user="alice") for pct in (10, 20)),
        return_exceptions=True,
    )
    assert all(isinstance(each, list | Problem) for each in results)
    (shown,) = await listed(parts, "alice")
    assert shown["state"] == "paused"


async def test_a_temporary_lowering_pauses_nothing(parts: Parts) -> None:
    (made,) = await put(parts, {"limit": usd("1.00")})
    await parts.spend(90_000)
    until = "2199-01-01T00:00:00Z"
    (lowered,) = await put(parts, {"id": made["id"], "limit": usd("0.00005"), "until": until})
    assert lowered["state"] == "active" and lowered["limit"] == usd("0.00005")
    with pytest.raises(PaymentRequired) as refused:
        await parts.place()
    assert refused.value.code == "budget_exceeded"
    (back,) = await put(parts, {"id": made["id"], "limit": usd("1.00")})
    assert "until" not in back
    await parts.spend(1_000)


async def test_a_temporary_raise_of_a_default_is_everybodys_until_it_ends(parts: Parts) -> None:
    await put(parts, {"scope": {"user": "*"}, "limit": usd("0.0001"), "window": "day"})
    await parts.spend(95_000, user="bob", tokens=20)
    raised = {"scope": {"user": "*"}, "limit": usd("1.00"), "window": "day", "until": "2199-01-01T00:00:00Z"}
    await put(parts, raised)
    await parts.spend(10_000, user="bob")
    (shown,) = await listed(parts, "bob")
    assert shown["limit"] == usd("1.00") and shown["limit_after"] == usd("0.0001") and shown["until"]
    assert shown["used"]["amount"] == "0.000105"


async def test_a_persons_own_token_changes_no_budget(parts: Parts) -> None:
    given = parse_budgets({"limit": usd("9.00")}, 0)
    (made,) = await put(parts, {"limit": usd("1.00")}, user="alice")
    asked = principal(parts, "alice", "jwt")
    for attempt in (
        parts.people.budgeting.put(asked, given),
        parts.people.budgeting.delete(asked, made["id"]),
        parts.people.budgeting.resume(asked, made["id"]),
    ):
        with pytest.raises(Forbidden):
            await attempt


async def test_a_budget_of_a_key_starts_from_what_the_key_has_used(parts: Parts) -> None:
    await parts.spend(60_000, user="alice")
    first = parts.key
    parts.key = await parts.make_key()
    await parts.spend(10_000, user="alice")
    key_id = "ak_" + first.removeprefix("fb_live_")[:16]
    of_key, of_both = await put(
        parts,
        {"limit": usd("1.00"), "scope": {"key": key_id}},
        {"limit": usd("1.00"), "scope": {"key": key_id, "model": "small-latest"}, "window": "week"},
    )
    assert of_key["used"]["amount"] == "0.00006"
    assert of_both["scope"] == {"org": parts.org_id, "key": key_id, "model": "small"}
