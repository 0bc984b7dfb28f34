"""Changes of plan and of the file that says what plans give, over HTTP, on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Org
from gateway.core.errors import Conflict
from gateway.core.holds import Credited, Refusal, Refused
from gateway.core.plans import Plan

DAY_S, MONTH_S = 86_400, 32 * 86_400
FREE = Plan(name="free", included=USD // 2, period="anniversary")
PRO = Plan(name="pro", included=20 * USD, credit_limit=10 * USD)


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        running.change_approvals(auto_most=100 * USD, cumulative_most=1_000 * USD)
        for plan in (FREE, PRO):
            running.set_plan(plan)
        await running.must("POST", "/api/persons", {"id": "zed"})
        yield running


async def give(parts: Parts, plan: str | None) -> str:
    """Give the person a plan, or take it off; the account."""
    given = await parts.operated("PATCH", f"/accounts/{parts.org_id}/persons/zed", {"plan": plan})
    return str(given["account"])


async def shown(parts: Parts) -> tuple[str | None, str, str]:
    """The plan that runs, what is left of its allowance, and what may be owed."""
    told = await parts.must("GET", "/api/account", user="zed")
    pockets = told["pockets"]
    return told["plan"], pockets["allowance"]["left"]["amount"], pockets["postpaid"]["limit"]["amount"]


async def set_limit(parts: Parts, account: str, limit: Any) -> Any:
    return await parts.operated("PUT", f"/accounts/{account}/credit-limit", {"limit": limit})


async def test_a_plan_whose_period_ends_sooner_begins_at_once(parts: Parts) -> None:
    seen = []
    for plan in ("free", "pro", "free", "pro"):
        await give(parts, plan)
        seen.append(await shown(parts))
    assert seen == [("free", "0.50", "0.00"), ("pro", "20.00", "10.00"), ("free", "0.00", "0.00"),
                    ("pro", "0.00", "10.00")]  # fmt: skip
    parts.clock.ahead_s = MONTH_S
    assert await shown(parts) == ("pro", "20.00", "10.00")


async def test_a_smaller_plan_takes_what_is_left_of_the_greater_one(parts: Parts) -> None:
    parts.set_plan(Plan(name="daily", included=1 * USD, window="day"))
    account = await give(parts, "pro")
    await parts.spend(2 * USD, user="zed", model="large", tokens=30_000)
    await give(parts, "daily")
    assert await shown(parts) == ("daily", "1.00", "0.00")
    balance = await parts.ledger.balance(account)
    assert balance is not None and balance.available + balance.posted == balance.credited == 3 * USD
    parts.clock.ahead_s = DAY_S
    assert await shown(parts) == ("daily", "1.00", "0.00")


async def test_an_organizations_plan_changes_at_once_too(parts: Parts) -> None:
    for plan in ("free", "pro"):
        await parts.operated("PATCH", f"/accounts/{parts.org_id}", {"plan": plan})
    told = await parts.must("GET", "/api/account")
    assert (told["plan"], told["available"]) == ("pro", usd("40.00"))


@pytest.mark.parametrize("edited", [4 * USD, 0, 30 * USD])
async def test_a_plans_limit_ends_with_the_plan_whatever_the_file_says_now(parts: Parts, edited: int) -> None:
    await give(parts, "pro")
    parts.set_plan(replace(PRO, credit_limit=edited))
    assert await shown(parts) == ("pro", "20.00", "10.00"), "what runs stays as it was given"
    await give(parts, None)
    assert await shown(parts) == (None, "0.00", "0.00")


async def test_an_edited_limit_reaches_the_holders_with_their_next_period(parts: Parts) -> None:
    await give(parts, "pro")
    for limit, ahead_s in ((4, MONTH_S), (0, 2 * MONTH_S), (30, 3 * MONTH_S)):
        parts.set_plan(replace(PRO, credit_limit=limit * USD))
        parts.clock.ahead_s = ahead_s
        assert await shown(parts) == ("pro", "20.00", f"{limit}.00")
    await give(parts, "free")
    assert await shown(parts) == ("free", "0.50", "0.00")


async def test_a_plan_that_left_the_file_gives_nothing_more_when_its_period_is_over(parts: Parts) -> None:
    await give(parts, "pro")
    parts.policies = replace(parts.policies, plans={"free": FREE})
    assert await shown(parts) == ("pro", "20.00", "10.00")
    parts.clock.ahead_s = MONTH_S
    assert await shown(parts) == (None, "0.00", "0.00")


async def test_no_plan_touches_an_operators_limit_until_it_is_the_plans_again(parts: Parts) -> None:
    account = await give(parts, "pro")
    assert (await set_limit(parts, account, usd("10.00")))["limit"] == usd("10.00")
    seen = []
    for plan in ("free", "pro", None, "pro"):
        await give(parts, plan)
        seen.append((await shown(parts))[2])
    parts.set_plan(replace(PRO, credit_limit=4 * USD))
    parts.clock.ahead_s = MONTH_S
    seen.append((await shown(parts))[2])
    assert seen == ["10.00"] * 5, "also one that is as great as the plan's was"
    path = f"/accounts/{account}/credit-limit"
    assert (await parts.operate("PUT", path, {})).status_code == 422, "left out is not null"
    told = await set_limit(parts, account, None)
    assert told["limit"] is None
    assert (await shown(parts))[2] == "4.00"
    await give(parts, None)
    assert (await shown(parts))[2] == "0.00"
    last = [entry for entry in await parts.audited() if entry.action == "credit.limit"][-1]
    assert b'"limit":null' in last.after.replace(b" ", b"")


async def test_changes_within_one_millisecond_are_all_made(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = parts.clock.now_s()
    monkeypatch.setattr(type(parts.clock), "now_s", lambda _clock: now_s)
    for plan in ("pro", None, "pro", None):
        await give(parts, plan)
    assert await shown(parts) == (None, "0.00", "0.00")
    await give(parts, "pro")
    assert await shown(parts) == ("pro", "0.00", "10.00")


async def test_plans_that_change_at_once_leave_one_with_its_limit_and_each_allowance_once(parts: Parts) -> None:
    parts.set_plan(Plan(name="basic", included=1 * USD, credit_limit=3 * USD))
    account = await give(parts, "free")
    org, plans = await _org(parts), parts.policies.plans
    peopling = parts.people.peopling
    await asyncio.gather(*(peopling.begin(org, account, plans[name]) for name in ("pro", "basic") * 20))
    running, _, limit = await shown(parts)
    assert limit == {"pro": "10.00", "basic": "3.00"}[str(running)]
    entries = [
        entry for entry in await parts.ledger.journal(int(account[3:5], 16), 0, 1_000) if entry.account == account
    ]
    allowances = [entry.adds.credited for entry in entries if ("cause", "allowance") in entry.more]
    assert sorted(allowances) == [USD // 2, 1 * USD, 20 * USD]


async def test_a_late_renewal_does_not_bring_back_the_plan_of_before(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.set_plan(Plan(name="daily", included=1 * USD, window="day"))
    account, org = await give(parts, "daily"), await _org(parts)
    parts.clock.ahead_s = DAY_S
    seen = await parts.ledger.balance(account)
    await give(parts, "pro")
    await parts.people.peopling.renew_account(org, account, "daily")
    assert await shown(parts) == ("pro", "20.00", "10.00"), "its period is not over"

    async def seen_before(_account: str) -> Any:
        return seen

    with monkeypatch.context() as late:
        late.setattr(parts.ledger, "balance", seen_before)
        await parts.people.peopling.renew_account(org, account, "daily")
        await parts.people.peopling.renew_account(org, account, "gone")
    assert await shown(parts) == ("pro", "20.00", "10.00"), "nor where it was read before the change"


async def test_what_the_ledger_refuses_is_told(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    account, org = await give(parts, "pro"), await _org(parts)

    async def full(*_args: Any, **_more: Any) -> Credited | Refused:
        return Refused(Refusal.TOO_GREAT)

    monkeypatch.setattr(parts.ledger, "renew_allowance", full)
    for plan in ("free", None):
        answer = await parts.operate("PATCH", f"/accounts/{parts.org_id}/persons/zed", {"plan": plan})
        assert (answer.status_code, answer.json()["state"]) == (409, "too_great")
    with pytest.raises(Conflict):
        await parts.people.peopling.end(account)
    parts.clock.ahead_s = MONTH_S
    await parts.people.peopling.renew_account(org, account, "pro")
    assert "is not renewed: too_great" in caplog.text


async def _org(parts: Parts) -> Org:
    view = await parts.people.store.org(parts.org_id)
    assert view is not None
    return view.org
