"""The counter where requests with an app key get their holds: what is mended before anything is refused or asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Principal
from gateway.core.errors import Forbidden, InvalidKey, PaymentRequired

DEAR: dict[str, Any] = {"model": "large", "tokens": 20_000}


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.credit(100 * USD)
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


async def waiting(parts: Parts) -> list[Any]:
    found: list[Any] = (await parts.must("GET", "/api/approvals"))["data"]
    return found


async def test_allowances_that_are_used_up_keep_nobody_from_what_goes_without_them(parts: Parts) -> None:
    for _ in range(12):
        await parts.must("POST", "/api/allowances", {"user": "alice", "cap": usd("0.0003")}, user="alice")
        await parts.spend(220_000, user="alice", tokens=150)
    work = await parts.place(user="alice", tokens=150)
    assert work.granted
    parts.change_approvals(auto_most=1_000)
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user="alice", tokens=150)
    assert refused.value.code == "approval_required"


async def test_an_input_is_counted_before_somebody_is_asked(parts: Parts) -> None:
    """1,800 tokens in 10.8 KB: as many tokens as bytes would cost more than goes without asking."""
    text = "hello world " * 900
    explained = {"path": "/v1/chat/completions", "body": {
        "model": "large", "max_tokens": 10, "messages": [{"role": "user", "content": text}],
    }}  # fmt: skip
    told = await parts.must("POST", "/api/policies/explain", explained)
    assert (told["decision"], told["tier"]) == ("allow", "auto")
    assert (await parts.place(model="large", tokens=10, text=text)).granted < USD
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(model="large", tokens=10, text=text * 10)
    assert refused.value.code == "approval_required"


async def test_what_is_told_of_a_count_by_a_foreign_vocabulary_has_not_its_margin(parts: Parts) -> None:
    text = "hello world " * 9_000  # 18,000 tokens: 1.80 USD; the hold reckons with three times as many
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(model="large", tokens=10, text=text)
    quote = refused.value.members["quote"]
    assert float(quote["min"]["amount"]) <= 1.8 <= float(quote["max"]["amount"])


async def revoke_elsewhere(parts: Parts) -> None:
    """As another worker does: this one hears nothing of it."""
    key_id = "ak_" + parts.key.removeprefix("fb_live_")[:16]
    key = await parts.people.store.key(key_id)
    assert key is not None
    audit = parts.people.keying._audit(Principal(parts.org_id, key_id), "key.revoke", key, replace(key, revoked=True))
    await parts.people.store.put_key(replace(key, revoked=True), audit, expected=None)


async def test_a_revoked_key_is_refused_before_anybody_is_asked(parts: Parts) -> None:
    await parts.place(user="alice")  # remembered
    other = await parts.make_key()
    await parts.place(user="alice")
    await revoke_elsewhere(parts)
    with pytest.raises(InvalidKey):
        await parts.place(user="alice", **DEAR)
    parts.key = other
    assert await waiting(parts) == []


@pytest.mark.parametrize("path", ["", "/persons/alice"])
async def test_nobody_is_asked_for_whoever_is_suspended(parts: Parts, path: str) -> None:
    await parts.place(user="alice")
    remembered = parts.people.directory.seen_person(parts.org_id, "alice")
    org = parts.people.directory._orgs[parts.org_id]
    assert remembered is not None
    await parts.operated("PATCH", f"/accounts/{parts.org_id}{path}", {"suspended": True})
    parts.people.directory._orgs[parts.org_id] = org  # what another worker remembers
    parts.people.directory._persons[parts.org_id, "alice"] = remembered
    with pytest.raises(Forbidden, match="suspended"):
        await parts.place(user="alice", **DEAR)
    await parts.operated("PATCH", f"/accounts/{parts.org_id}{path}", {"suspended": False})
    assert await waiting(parts) == []


async def test_a_change_that_another_worker_made_is_taken_up_before_somebody_is_asked(parts: Parts) -> None:
    await parts.place(user="alice")
    org = parts.people.directory._orgs[parts.org_id]
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.01")})
    parts.people.directory._orgs[parts.org_id] = org
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user="alice", **DEAR, text="much to read, " * 60)
    assert refused.value.code == "budget_exceeded" and refused.value.members["limit"]["id"] == made["id"]
