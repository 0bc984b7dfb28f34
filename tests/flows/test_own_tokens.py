"""What a person by a token of their own is told where they are refused: what is theirs, nothing of the organization's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from described import Described
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Permission, Principal
from gateway.core.errors import PaymentRequired
from gateway.core.hypothetical import parse_hypothetical
from gateway.flows.explaining import Explaining
from gateway.web.openapi import openapi_document

LONG = {"model": "large", "text": "much to read, " * 60}


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


def is_described(schema: str, value: Any) -> bool:
    """Whether a value is as `/openapi.json` says, with nothing besides."""
    described = Described(openapi_document([], version="1"))
    return described.validator({"$ref": f"#/components/schemas/{schema}"}, described._closed).is_valid(value)


async def refused(parts: Parts, **asked: Any) -> dict[str, Any]:
    with pytest.raises(PaymentRequired) as raised:
        await parts.place(user="alice", **asked)
    return {"code": raised.value.code, **raised.value.members}


async def explained(parts: Parts, vouched: str, **members: Any) -> Any:
    explaining: Explaining = parts.people.explaining(parts)
    key_id = "ak_" + parts.key.removeprefix("fb_live_")[:16]
    principal = Principal(parts.org_id, key_id, "alice", tuple(Permission), vouched=vouched)
    asked = {"model": "large", "input_tokens": 1_000, "max_output_tokens": 10} | members
    return await explaining.explained(principal, parse_hypothetical(asked, tail="00" + "0" * 24, now_s=0.0))


async def test_what_the_organization_has_left_is_not_told(parts: Parts) -> None:
    await parts.make_org()
    await parts.credit(1_000)
    short = await refused(parts, by_token=True)
    assert short["code"] == "payment_required" and short["cost"] and short["quote"]
    assert "balance" not in short and "topup_url" not in short
    told = await refused(parts)
    assert told["balance"]["available"]["amount"] == "0.000001" and told["topup_url"]


async def test_nor_where_a_share_of_it_is_held(parts: Parts) -> None:
    await parts.make_org(share_ppm=1)
    await parts.credit(10 * USD)
    assert "balance" not in await refused(parts, by_token=True)
    assert "balance" in await refused(parts)


async def test_a_budget_of_others_too_is_named_without_its_figures(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.01")})
    hit = (await refused(parts, by_token=True, **LONG))["limit"]
    assert hit == {"id": made["id"], "state": "active"} and is_described("LimitHit", hit)
    assert (await refused(parts, **LONG))["limit"]["used"] == usd("0.00")
    await parts.must("DELETE", f"/api/budgets/{made['id']}")
    for scope in ({"user": "alice"}, {"user": "*"}):
        own = await parts.must("PUT", "/api/budgets", {"limit": usd("0.01"), "scope": scope})
        hit = (await refused(parts, by_token=True, **LONG))["limit"]
        assert (hit["id"], hit["used"]) == (own["id"], usd("0.00"))
        await parts.must("DELETE", f"/api/budgets/{own['id']}")


async def test_nor_does_an_explanation_tell_them(parts: Parts) -> None:
    of_all = await parts.must("PUT", "/api/budgets", {"limit": usd("0.01")})
    own = await parts.must("PUT", "/api/budgets", {"limit": usd("5.00")}, user="alice")
    told = await explained(parts, "jwt")
    assert is_described("Explained", told)
    by_id = {each["id"]: each for each in told["limits"]}
    assert by_id[of_all["id"]] == {"id": of_all["id"], "state": "active"}
    assert by_id[own["id"]]["limit"] == usd("5.00")
    assert told["decision"] == "refuse" and of_all["id"] in told["why"] and "USD" not in told["why"]
    assert "0.01 USD" in (await explained(parts, "app"))["why"]
