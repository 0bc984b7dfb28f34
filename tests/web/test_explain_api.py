"""What would become of a request: told over HTTP, against a real store, and nothing happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from people_parts import CHAT, USD, Parts, running_people, usd

from gateway.core.errors import PaymentRequired

EXPLAIN = "/api/policies/explain"


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


async def explained(parts: Parts, *, by: str = "", **members: Any) -> Any:
    return await parts.must("POST", EXPLAIN, {"model": "small", "max_output_tokens": 100} | members, user=by)


async def test_a_small_request_goes_without_asking(parts: Parts) -> None:
    told = await explained(parts)
    assert (told["decision"], told["rule"], told["tier"]) == ("allow", "tier", "auto")
    cost = {name: Decimal(told["cost"][name]["amount"]) for name in ("min", "expected", "max")}
    assert 0 < cost["min"] <= cost["expected"] <= cost["max"]
    assert told["limits"] == [] and told["allowance"] is None and told["approvals"]["needed"] == 0
    work = await parts.place()
    assert work.granted >= 100_000, "the same request costs at most what was told"


async def test_a_request_as_it_would_be_sent_is_explained_like_its_figures(parts: Parts) -> None:
    body = {"model": "small-latest", "max_tokens": 100, "messages": [{"role": "user", "content": ""}], "stream": False}
    told = await parts.must("POST", EXPLAIN, {"path": CHAT, "body": body})
    assert told["model"] == "small" and told["route"] == CHAT
    figures = await explained(parts, input_tokens=5)
    assert figures["cost"]["max"]["amount"] == "0.000105"


async def test_above_the_automatic_tier_it_takes_a_yes_and_far_above_a_proof(parts: Parts) -> None:
    explicit = await explained(parts, model="large", max_output_tokens=50_000)
    assert (explicit["decision"], explicit["rule"], explicit["tier"]) == ("ask", "tier", "explicit")
    assert explicit["approvals"]["needed"] == 1 and explicit["approvals"]["methods"] == []
    await parts.credit(1_000 * USD)
    parts.change_approvals(two_persons_above=30 * USD)
    step_up = await explained(parts, model="large", max_output_tokens=500_000)
    assert (step_up["decision"], step_up["tier"]) == ("ask", "step_up")
    assert step_up["approvals"]["needed"] == 2 and step_up["approvals"]["two_persons"] is True
    assert "password" in step_up["approvals"]["methods"]


async def test_many_small_ones_escalate(parts: Parts) -> None:
    parts.change_approvals(cumulative_most=150_000)
    before = await explained(parts)
    assert before["decision"] == "allow"
    await parts.spend(100_000)
    told = await explained(parts)
    assert (told["decision"], told["rule"], told["tier"]) == ("ask", "cumulative", "explicit")
    with pytest.raises(PaymentRequired) as refused:
        await parts.place()
    assert refused.value.code == "approval_required"


async def test_each_budget_that_applies_stands_there_and_the_hard_one_decides(parts: Parts) -> None:
    of_all = await parts.must("PUT", "/api/budgets", {"limit": usd("9.00")})
    of_alice = await parts.must("PUT", "/api/budgets", {"limit": usd("0.0001"), "window": "day"}, user="alice")
    await parts.spend(90_000, user="alice", tokens=20)
    told = await explained(parts, user="alice")
    assert (told["decision"], told["rule"]) == ("refuse", "budget")
    assert of_alice["id"] in told["why"]
    states = {each["id"]: each["refuses"] for each in told["limits"]}
    assert states == {of_all["id"]: False, of_alice["id"]: True}
    assert (await explained(parts))["decision"] == "allow", "others go on"
    large = await explained(parts, user="alice", model="large", max_output_tokens=50_000)
    assert large["decision"] == "refuse", "hard limits come before the tier"


async def test_a_paused_budget_and_one_that_asks(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.0001"), "on_exceed": "ask"}, user="alice")
    await parts.spend(90_000, user="alice", tokens=20)
    asks = await explained(parts, user="alice")
    assert (asks["decision"], asks["rule"], asks["tier"]) == ("ask", "budget", "explicit")
    await parts.must("PUT", "/api/budgets", {"id": made["id"], "limit": usd("0.00001")})
    told = await explained(parts, user="alice")
    assert (told["decision"], told["rule"]) == ("refuse", "budget") and "resumed" in told["why"]


async def test_an_allowance_covers_what_the_tier_would_ask_about(parts: Parts) -> None:
    wanted = {"session": "s1", "cap": usd("6.00"), "per_call_cap": usd("5.50")}
    made = await parts.must("POST", "/api/allowances", wanted, user="alice")
    ask: dict[str, Any] = {"user": "alice", "model": "large", "max_output_tokens": 50_000, "input_tokens": 10}
    told = await explained(parts, session="s1", **ask)
    assert (told["decision"], told["rule"], told["tier"]) == ("allow", "allowance", "auto")
    assert told["allowance"]["id"] == made["id"] and told["allowance"]["left"] == usd("6.00")
    assert (await explained(parts, session="s2", **ask))["decision"] == "ask"
    await parts.spend(5_000_000_000, user="alice", model="large", tokens=50_000, farebox_session="s1")
    less = await explained(parts, session="s1", **ask)
    assert less["allowance"]["left"] == usd("1.00"), "a lower limit still fits into what is left"
    await parts.spend(1_000_000_000, user="alice", model="large", tokens=50_000, farebox_session="s1")
    after = await explained(parts, session="s1", **ask)
    assert (after["decision"], after["rule"], after["allowance"]) == ("ask", "tier", None)


async def test_what_the_balance_does_not_cover_is_refused(parts: Parts) -> None:
    await parts.make_org()
    told = await explained(parts)
    assert (told["decision"], told["rule"]) == ("refuse", "balance")


async def test_a_key_that_is_not_for_the_model_refuses(parts: Parts) -> None:
    parts.key = await parts.make_key(models=("large*",), addresses=("10.0.0.0/8", "127.0.0.1/32"))
    told = await explained(parts)
    assert (told["decision"], told["rule"]) == ("refuse", "key")


async def test_nobody_is_made_and_nothing_is_reserved_by_asking(parts: Parts) -> None:
    await parts.must("PUT", "/api/budgets", {"scope": {"user": "*"}, "limit": usd("1.00")})
    told = await explained(parts, user="stranger")
    assert told["decision"] == "allow" and len(told["limits"]) == 1
    assert (await parts.ask("GET", "/api/persons/stranger")).status_code == 404
    assert (await parts.must("GET", "/api/account"))["held"] == usd("0.00")
    assert (await parts.must("GET", "/api/approvals"))["data"] == []


async def test_a_person_asks_for_themselves(parts: Parts) -> None:
    assert await parts.refused("POST", EXPLAIN, {"model": "small", "user": "bob"}, user="alice") == (
        403, "forbidden", "user",
    )  # fmt: skip
    assert (await explained(parts, by="alice"))["decision"] == "allow"


async def test_what_cannot_be_asked_is_refused_by_name(parts: Parts) -> None:
    for members, status, code, param in (
        ({}, 422, "invalid_request", "model"),
        ({"model": "smaal"}, 404, "unknown_model", "model"),
        ({"model": "small", "max_output_tokens": -1}, 422, "invalid_request", "max_output_tokens"),
        ({"model": "small", "input_tokens": "9"}, 422, "invalid_request", "input_tokens"),
        ({"model": "small", "stream": 1}, 422, "invalid_request", "stream"),
        ({"model": "small", "colour": 1}, 422, "invalid_request", "colour"),
        ({"path": "/v1/nothing", "body": {}}, 404, "unknown_route", None),
        ({"path": CHAT, "model": "small"}, 422, "invalid_request", "model"),
        ({"path": CHAT, "body": []}, 422, "invalid_request", "body"),
        ({"model": "small", "key": "ak_00ffffffffffffff"}, 404, "not_found", "key"),
    ):
        found = await parts.refused("POST", EXPLAIN, members)
        assert found[:2] == (status, code) and (param is None or found[2] == param), (members, found)


async def test_a_listing_costs_nothing(parts: Parts) -> None:
    told = await parts.must("POST", EXPLAIN, {"method": "GET", "path": "/v1/models"})
    assert (told["decision"], told["rule"]) == ("allow", "free")
