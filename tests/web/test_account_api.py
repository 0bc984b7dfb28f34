"""What an account has, over HTTP, against a real store: included against overage, exact while requests run and after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Permission, Principal
from gateway.core.holds import Posted
from gateway.core.plans import Plan


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        running.change_approvals(auto_most=100 * USD, cumulative_most=1_000 * USD)
        yield running


async def account(parts: Parts, user: str = "") -> Any:
    return await parts.must("GET", "/api/account", user=user)


def amounts(told: Any) -> dict[str, Decimal]:
    """The figures of the allowance, and what went beyond."""
    allowance = told["pockets"]["allowance"]
    shown = {name: Decimal(allowance[name]["amount"]) for name in ("included", "used", "held", "left")}
    return shown | {"overage": Decimal(told["overage"]["amount"])}


async def test_prepaid_credit_shows_what_is_left_and_what_is_held(parts: Parts) -> None:
    before = await account(parts)
    assert before["account"] == parts.account and before["plan"] is None and before["shared"] is False
    assert before["available"] == usd("10.00") and before["overage"] == usd("0.00")
    assert before["pockets"]["postpaid"]["limit"] == usd("0.00")
    work = await parts.place()
    during = await account(parts)
    assert Decimal(during["held"]["amount"]) * USD == work.granted
    (grant,) = during["pockets"]["prepaid"]
    assert Decimal(grant["left"]["amount"]) * USD + work.granted == 10 * USD
    await parts.ledger.post(work.hold_id, 40_000, account=work.account)
    (grant,) = (await account(parts))["pockets"]["prepaid"]
    assert (grant["left"]["amount"], grant["used"]["amount"], grant["expires_at"]) == ("9.99996", "0.00004", None)


async def test_included_against_overage_is_exact_while_requests_run_and_after(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "carol", "plan": "pro"})
    fresh = await account(parts, "carol")
    assert fresh["plan"] == "pro" and fresh["pockets"]["allowance"]["resets_at"]
    assert amounts(fresh) == {"included": 5, "used": 0, "held": 0, "left": 5, "overage": 0}
    assert fresh["pockets"]["postpaid"]["limit"] == usd("2.00")
    await parts.spend(4_500_000_000, user="carol", model="large", tokens=50_000)
    work = await parts.place(user="carol", model="large", tokens=9_000)
    during = amounts(await account(parts, "carol"))
    assert during["used"] == Decimal("4.5") and during["held"] + during["left"] == Decimal("0.5")
    assert during["included"] == during["used"] + during["held"] + during["left"] and during["overage"] == 0
    posted = await parts.ledger.post(work.hold_id, 800_000_000, account=work.account)
    assert isinstance(posted, Posted) and posted.shortfall == 0
    after = await account(parts, "carol")
    assert amounts(after) == {"included": 5, "used": 5, "held": 0, "left": 0, "overage": Decimal("0.3")}
    assert after["pockets"]["postpaid"]["used"] == usd("0.30")
    assert (await account(parts))["available"] == usd("10.00"), "the organization's money was not touched"


async def test_a_new_period_is_shown_from_the_moment_it_begins(parts: Parts) -> None:
    parts.set_plan(Plan(name="daily", included=1 * USD, window="day", app_may_give=True))
    await parts.must("POST", "/api/persons", {"id": "dave", "plan": "daily"})
    await parts.credit(1 * USD, (await account(parts, "dave"))["account"])
    await parts.spend(900_000_000, user="dave", model="large", tokens=9_000)
    running = await parts.place(user="dave", model="large", tokens=2_000)
    first = await account(parts, "dave")
    assert amounts(first)["used"] == Decimal("0.9") and amounts(first)["overage"] == 0
    parts.clock.ahead_s = 86_400
    second = await account(parts, "dave")
    assert second["pockets"]["allowance"]["resets_at"] > first["pockets"]["allowance"]["resets_at"]
    assert amounts(second)["used"] == 0 and amounts(second)["left"] == 1
    await parts.ledger.post(running.hold_id, 150_000_000, account=running.account)
    told = amounts(await account(parts, "dave"))
    assert told["used"] + told["overage"] == Decimal("0.15"), "what ends in the new period is counted there, once"


async def test_a_person_without_an_account_draws_on_the_organizations(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "alice"})
    told = await account(parts, "alice")
    assert told["account"] == parts.account and told["shared"] is True
    assert (await parts.ask("GET", "/api/account", user="nobody")).status_code == 404


async def test_a_persons_own_token_does_not_see_what_the_organization_has(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "alice"})
    principal = Principal(parts.org_id, "ak_00", "alice", tuple(Permission), vouched="jwt")
    told = await parts.people.balances.shown(principal)
    assert told["shared"] is True and told["available"] is None and told["pockets"]["prepaid"] == []


async def test_a_key_without_the_permission_reads_nothing(parts: Parts) -> None:
    key = await parts.make_key(permissions=(Permission.RELAY,))
    assert (await parts.refused("GET", "/api/account", key=key))[:2] == (403, "forbidden")
    assert (await parts.refused("GET", "/api/account", key="fb_live_00"))[:2] == (401, "invalid_key")


async def test_a_request_is_read_by_its_organization_and_its_person_and_nobody_else(parts: Parts) -> None:
    request_id = await parts.spend(40_000, user="alice")
    for user in ("", "alice"):
        told = await parts.must("GET", f"/api/requests/{request_id}", user=user)
        assert told["state"] == "posted" and told["cost"] == usd("0.00004") and told["model"] == "small"
    running = await parts.place(user="alice")
    assert (await parts.must("GET", f"/api/requests/{running.request_id}"))["state"] == "open"
    bobs = await parts.refused("GET", f"/api/requests/{request_id}", user="bob")
    assert bobs == (404, "not_found", "id")
    await parts.make_org()
    assert (await parts.refused("GET", f"/api/requests/{request_id}"))[0] == 404
    assert (await parts.refused("GET", "/api/requests/nonsense"))[0] == 404
