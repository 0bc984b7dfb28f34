"""What operators look at, over HTTP, on a real store: revenue, prices and plans in force, disputes, the gateway's log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.core.money import Rate, Unit
from gateway.core.price_book import PriceBook, ToolPrices
from gateway.core.price_cards import flat_card
from gateway.core.price_entries import Always, ModelEntry, PriceEntry, PriceUnit, ProviderEntry, Step, TierEntry


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        running.change_approvals(auto_most=100 * USD, cumulative_most=1_000 * USD)
        yield running


async def refused(parts: Parts, path: str) -> tuple[int, str | None]:
    answer = await parts.operate("GET", path)
    assert not answer.is_success, answer.text
    return answer.status_code, answer.json().get("param")


# Revenue.


async def test_revenue_is_what_was_posted_to_the_nanousd_by_day_account_and_model(parts: Parts) -> None:
    first = parts.account
    own = (await parts.must("POST", "/api/persons", {"id": "carol", "plan": "pro"}))["account"]
    await parts.spend(40_001, user="alice")
    await parts.spend(1_000_000_003, user="carol", model="large", tokens=20_000)
    await parts.make_org(name="second")
    await parts.credit(5 * USD)
    await parts.spend(7)
    told = await parts.operated("GET", "/revenue?group_by=account,model")
    posted = {(row["account"], row["model"]): row["posted"]["amount"] for row in told["data"]}
    assert posted == {
        (first, "small"): "0.000040001", (own, "large"): "1.000000003", (parts.account, "small"): "0.000000007",
    }  # fmt: skip
    (day,) = (await parts.operated("GET", "/revenue"))["data"]
    assert Decimal(day["posted"]["amount"]) == Decimal("1.000040011")
    assert (day["requests"], day["included"], day["prepaid"]) == (3, usd("1.000000003"), usd("0.000040008"))
    balances = [await parts.ledger.balance(account) for account in (first, own, parts.account)]
    assert sum(balance.posted for balance in balances if balance is not None) == 1_000_040_011
    past = await parts.operated("GET", "/revenue?from=2024-01-01&to=2024-01-31")
    assert (past["data"], past["from"], past["to"]) == ([], "2024-01-01", "2024-01-31")


async def test_revenue_comes_in_pages_with_the_agents_sums_on_the_first(parts: Parts) -> None:
    rate = Rate(60_000_000_000)
    for token in ("tk_7f01", "tk_8001"):
        await parts.ledger.credit(f"pay-{token}", token, 21_000, unit=Unit.MSAT, rate=rate, source="lightning")
    for model in ("small", "large"):
        await parts.spend(1_000, model=model, tokens=10_000)
    first = await parts.operated("GET", "/revenue?group_by=model&limit=1")
    assert first["agents"]["accounts"] == 2 and first["agents"]["credited"] == {"amount_msat": 42_000}
    rest = await parts.operated("GET", f"/revenue?group_by=model&limit=1&after={first['next']}")
    assert [row["model"] for row in first["data"] + rest["data"]] == ["large", "small"]
    assert rest["next"] is None and rest["agents"] is None


@pytest.mark.parametrize(
    ("query", "param"),
    [("group_by=hour", "group_by"), ("group_by=day,day", "group_by"), ("from=yesterday", "from"),
     ("from=2024-02-01&to=2024-01-01", "from"), ("from=2020-01-01&to=2024-01-01", "from"), ("limit=-1", "limit")],
)  # fmt: skip
async def test_a_question_about_revenue_that_is_none_is_422(parts: Parts, query: str, param: str) -> None:
    assert await refused(parts, f"/revenue?{query}") == (422, param)


# Prices and plans.


def dear_book() -> PriceBook:
    """One model with a cache price, a step and a tier; tools, and a rule."""
    figures = {
        PriceUnit.INPUT: (Step(-1, 2_500_000), Step(200_000, 5_000_000)), PriceUnit.CACHED_INPUT: (Step(-1, 250_000),),
        PriceUnit.OUTPUT: (Step(-1, 10_000_000),), PriceUnit.IMAGE: (Step(-1, 40_000_000_000),),
    }  # fmt: skip
    tier = TierEntry("priority", Always(), MappingProxyType({PriceUnit.INPUT: (Step(-1, 4_000_000),)}))
    entry = PriceEntry(Always(), MappingProxyType(figures), tiers=(tier,), source="https://example.com/prices")
    plain = PriceEntry(Always(), MappingProxyType({PriceUnit.INPUT: (Step(-1, 1),)}))
    models = (
        ModelEntry(model="big", matches=lambda asked: asked in ("big", "big-latest"), entries=(entry,)),
        ModelEntry(model="tiny", matches=lambda asked: asked == "tiny", entries=(plain,)),
        ModelEntry(model="unpriced", matches=lambda asked: asked == "unpriced", entries=()),
    )
    other = ProviderEntry("elsewhere", models=models)
    tools = ToolPrices({"openai": {"web_search": 10_000_000_000}})
    rules = {"lookup": flat_card(1_000_000_000, name="lookup")}
    return PriceBook([ProviderEntry("openai", models=models), other], rules=rules, tools=tools, margin_ppm=1_100_000)


async def test_prices_in_force_are_shown_exactly_for_the_configured_providers(parts: Parts) -> None:
    parts.policies = replace(parts.policies, price_book=dear_book())
    told = await parts.operated("GET", "/prices")
    assert [row["model"] for row in told["data"]] == ["big", "tiny"], "no model without a price, no other provider"
    big, tiny = told["data"]
    short, long = big["tokens"]
    assert (short["above_input_tokens"], long["above_input_tokens"]) == (0, 200_000)
    assert (short["input_usd_per_mtok"], long["input_usd_per_mtok"]) == ("2.5", "5")
    assert (short["cached_input_usd_per_mtok"], short["output_usd_per_mtok"]) == ("0.25", "10")
    assert big["tiers"]["priority"][0]["input_usd_per_mtok"] == "4"
    assert (big["usd_per_image"], big["usd_per_second"], big["usd_per_call"]) == ("0.04", None, "0")
    assert (big["margin"], big["source"], big["holds_until"]) == ("1.1", "https://example.com/prices", None)
    assert big["tools"] == {"web_search": {"usd_per_call": "0.01"}}
    assert tiny["tokens"][0]["input_usd_per_mtok"] == "0.000001"
    assert told["rules"] == {"lookup": {"usd_per_call": "0.001"}}
    assert told["tools"] == {"openai": {"web_search": {"usd_per_call": "0.01"}}}


@pytest.mark.parametrize(
    ("query", "models"),
    [("model=big", ["big"]), ("model=big-latest", ["big"]), ("model=*i*", ["big", "tiny"]), ("model=nobody", []),
     ("provider=openai", ["big", "tiny"]), ("provider=elsewhere", []), ("limit=1", ["big"]),
     ("after=openai/big", ["tiny"])],
)  # fmt: skip
async def test_prices_are_found_by_provider_and_by_a_name_or_a_glob(
    parts: Parts, query: str, models: list[str]
) -> None:
    parts.policies = replace(parts.policies, price_book=dear_book())
    told: Any = await parts.operated("GET", f"/prices?{query}")
    assert [row["model"] for row in told["data"]] == models
    assert told["next"] == ("openai/big" if query == "limit=1" else None)


async def test_plans_in_force_and_the_disputes_that_cannot_be_yet(parts: Parts) -> None:
    (plan,) = (await parts.operated("GET", "/plans"))["data"]
    assert plan == {
        "name": "pro", "included": usd("5.00"), "credit_limit": usd("2.00"), "window": "month", "period": "calendar",
        "app_may_give": True,
    }  # fmt: skip
    assert await parts.operated("GET", "/disputes") == {"data": [], "next": None}


@pytest.mark.parametrize("path", ["/plans", "/prices", "/revenue", "/disputes", "/audit"])
async def test_none_of_it_is_for_app_keys(parts: Parts, path: str) -> None:
    assert (await parts.refused("GET", f"/admin/api{path}"))[:2] == (403, "forbidden")


# The gateway's own log.


async def test_policies_that_come_into_force_are_logged_once_however_many_workers_read_them(parts: Parts) -> None:
    auditing = parts.people.auditing
    assert (await parts.operated("GET", "/audit")) == {"data": [], "next": None}
    for digest, actor in (("aa", "start"), ("aa", "start"), ("bb", "SIGHUP"), ("bb", "SIGHUP"), ("aa", "SIGHUP")):
        await auditing.policies_in_force(digest, ("limits.yaml",), actor=actor, authenticated="command")
    entries = (await parts.operated("GET", "/audit"))["data"]
    assert [(entry["actor"], entry["before"], entry["after"]["digest"]) for entry in entries] == [
        ("start", None, "aa"), ("SIGHUP", {"digest": "aa"}, "bb"), ("SIGHUP", {"digest": "bb"}, "aa"),
    ]  # fmt: skip
    assert {entry["action"] for entry in entries} == {"policies.change"}
    first = await parts.operated("GET", "/audit?limit=1")
    assert (await parts.operated("GET", f"/audit?after={first['next']}"))["data"] == entries[1:]
