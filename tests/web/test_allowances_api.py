"""Session allowances over HTTP, against a real store: made, counted, withdrawn at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Permission
from gateway.core.errors import PaymentRequired

PATH = "/api/allowances"


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        await running.must("POST", "/api/persons", {"id": "bob"})
        running.change_approvals(auto_most=1_000)  # nearly everything is asked about
        yield running


async def made(parts: Parts, **members: Any) -> Any:
    return await parts.must("POST", PATH, {"session": "s1", "cap": usd("2.00")} | members, user="alice")


async def calls(parts: Parts, *, session: str = "s1", cost: int = 1_000, **asked: Any) -> None:
    await parts.spend(cost, user="alice", farebox_session=session, **asked)


async def test_a_session_may_spend_on_these_models_so_much_a_call_until_then(parts: Parts) -> None:
    until = datetime.now(UTC) + timedelta(hours=2)
    told = await made(parts, models=["small*"], per_call_cap=usd("0.20"), expires_at=until.isoformat(), count=3)
    assert told["user"] == "alice" and told["state"] == "active" and told["left"] == usd("2.00")
    assert told["per_call_cap"] == usd("0.20") and told["count"] == 3 and told["expires_at"]
    await calls(parts, cost=50_000)
    (listed,) = (await parts.must("GET", PATH, user="alice"))["data"]
    assert (listed["used"]["amount"], listed["calls"], listed["held"]["amount"]) == ("0.00005", 1, "0.00")
    for asked in ({"session": "s2"}, {"model": "large"}, {"tokens": 300_000}):
        with pytest.raises(PaymentRequired) as refused:
            await calls(parts, **asked)
        assert refused.value.code == "approval_required", asked


async def test_its_calls_are_counted_and_its_end_is_its_end(parts: Parts) -> None:
    until = datetime.now(UTC) + timedelta(hours=2)
    await made(parts, count=2, expires_at=until.isoformat())
    await calls(parts)
    await calls(parts)
    with pytest.raises(PaymentRequired):
        await calls(parts)
    await made(parts, expires_at=until.isoformat())
    await calls(parts)
    parts.clock.ahead_s = 7_300
    with pytest.raises(PaymentRequired):
        await calls(parts)
    assert {each["state"] for each in (await parts.must("GET", PATH))["data"]} == {"expired"}


async def test_it_is_withdrawn_at_once(parts: Parts) -> None:
    told = await made(parts)
    await calls(parts)
    gone = await parts.must("DELETE", f"{PATH}/{told['id']}", user="alice")
    assert gone["state"] == "revoked"
    with pytest.raises(PaymentRequired):
        await calls(parts)
    assert (await parts.must("DELETE", f"{PATH}/{told['id']}"))["state"] == "revoked", "twice is once"


async def test_a_budget_holds_also_within_an_allowance(parts: Parts) -> None:
    await made(parts)
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.0001")}, user="alice")
    await calls(parts, cost=90_000, tokens=50)
    with pytest.raises(PaymentRequired) as refused:
        await calls(parts)
    assert refused.value.code == "budget_exceeded"


async def test_what_would_take_a_proof_takes_one_here_too(parts: Parts) -> None:
    body = {"cap": usd("50.00"), "per_call_cap": usd("0.10")}
    assert (await parts.refused("POST", PATH, body, user="alice"))[:2] == (403, "step_up_required")
    assert (await parts.refused("POST", PATH, body | {"user": "alice"}))[:2] == (403, "person_needed")
    parts.change_approvals(two_persons_above=30 * USD)
    assert await parts.refused("POST", PATH, body, user="alice") == (403, "forbidden", "cap")
    parts.change_approvals(app_may_approve=False)
    assert (await parts.refused("POST", PATH, {"cap": usd("1.00")}, user="alice"))[:2] == (403, "forbidden")


async def test_who_may_make_one_and_who_may_withdraw_it(parts: Parts) -> None:
    told = await made(parts)
    manager = await parts.make_key(permissions=(Permission.MANAGE, Permission.READ))
    reader = await parts.make_key(permissions=(Permission.READ,))
    body = {"cap": usd("1.00"), "user": "alice"}
    assert (await parts.refused("POST", PATH, body, key=manager))[:2] == (403, "forbidden")
    assert (await parts.refused("DELETE", f"{PATH}/{told['id']}", key=reader))[:2] == (403, "forbidden")
    assert (await parts.refused("DELETE", f"{PATH}/{told['id']}", user="bob"))[:2] == (404, "not_found")
    assert (await parts.refused("POST", PATH, body, user="bob"))[:2] == (403, "forbidden")
    assert (await parts.ask("DELETE", f"{PATH}/{told['id']}", key=manager)).status_code == 200


async def test_they_are_read_by_person_and_page_by_page(parts: Parts) -> None:
    ids = sorted([(await made(parts, session=f"s{number}"))["id"] for number in range(3)])
    first = await parts.must("GET", f"{PATH}?limit=2")
    rest = await parts.must("GET", f"{PATH}?limit=2&after={first['next']}&user=alice")
    assert [each["id"] for each in first["data"] + rest["data"]] == ids and rest["next"] is None
    assert (await parts.must("GET", PATH, user="bob"))["data"] == []
    assert (await parts.refused("GET", f"{PATH}?user=alice", user="bob"))[:2] == (403, "forbidden")


async def test_bad_figures_are_refused_by_name(parts: Parts) -> None:
    for body, param in (
        ({}, "cap"),
        ({"cap": usd("0")}, "cap"),
        ({"cap": "x"}, "cap"),
        ({"cap": usd("1"), "per_call_cap": usd("2")}, "per_call_cap"),
        ({"cap": usd("1"), "count": 0}, "count"),
        ({"cap": usd("1"), "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"cap": usd("1"), "models": "small"}, "models"),
        ({"cap": usd("1"), "colour": 1}, "colour"),
    ):
        assert await parts.refused("POST", PATH, body, user="alice") == (422, "invalid_request", param)
    assert (await parts.refused("POST", PATH, {"cap": usd("1")}))[:2] == (422, "invalid_request")
    assert (await parts.refused("POST", PATH, {"cap": usd("1"), "user": "nobody"}))[:2] == (404, "not_found")
