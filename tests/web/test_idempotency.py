"""`Idempotency-Key` over HTTP, on a real store: of many at once one acts, a death moves nothing twice, and what is kept
tells nobody a secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.adapters.redis.idempotency import RedisIdempotency
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.vault import Vault
from gateway.core.errors import Conflict, Unavailable
from gateway.core.idempotency import Answered, OtherBody, Ours, UnderWay
from gateway.web import idempotency

KEY = {"idempotency-key": "k"}
CREDIT = {"amount": usd("1.00")}


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.operated("GET", "/plans")  # makes the operator's key
        yield running


def credits_of(parts: Parts) -> str:
    return f"/accounts/{parts.org_id}/credits"


async def balance(parts: Parts) -> int:
    found = await parts.ledger.balance(parts.account)
    assert found is not None
    return found.available


def records(parts: Parts) -> RedisIdempotency:
    assert isinstance(parts.api.records, RedisIdempotency)
    return parts.api.records


async def test_twenty_credits_at_once_under_one_key_credit_once(parts: Parts) -> None:
    answers = await asyncio.gather(*(parts.operate("POST", credits_of(parts), CREDIT, **KEY) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.content for answer in answers} == {answers[0].content}
    assert await balance(parts) == 11 * USD


async def test_ten_keys_at_once_under_one_key_are_one_key(parts: Parts) -> None:
    answers = await asyncio.gather(*(parts.ask("POST", "/api/keys", {"name": "n"}, **KEY) for _ in range(10)))
    assert {answer.content for answer in answers} == {answers[0].content} and answers[0].status_code == 201
    named = [key for key in (await parts.must("GET", "/api/keys"))["data"] if key["name"] == "n"]
    assert len(named) == 1


async def test_other_keys_move_money_of_their_own(parts: Parts) -> None:
    for number in range(3):
        await parts.operated("POST", credits_of(parts), CREDIT, **{"idempotency-key": f"k{number}"})
    for _ in range(2):
        await parts.operated("POST", credits_of(parts), CREDIT)
    assert await balance(parts) == 15 * USD


async def test_another_body_is_refused_also_while_the_first_is_under_way(parts: Parts) -> None:
    asked: dict[str, Any] = {"amount": usd("2.00")}
    one, other = await asyncio.gather(
        parts.operate("POST", credits_of(parts), CREDIT, **KEY), parts.operate("POST", credits_of(parts), asked, **KEY)
    )
    assert sorted((one.status_code, other.status_code)) == [201, 409]
    refused = one if one.status_code == 409 else other
    assert refused.json()["code"] == "idempotency_mismatch"


async def test_the_query_is_part_of_what_is_asked(parts: Parts) -> None:
    for user in ("alice", "bob"):
        await parts.must("POST", "/api/persons", {"id": user})
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "scope": {"user": "*"}})
    path = f"/api/budgets/{made['id']}/resume"
    await parts.must("POST", f"{path}?user=alice", {}, **KEY)
    refused = await parts.refused("POST", f"{path}?user=bob", {}, **KEY)
    assert refused[:2] == (409, "idempotency_mismatch")


async def test_who_waits_too_long_is_told_when_to_come_back(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "WAIT_S", 0.1)
    body = msgspec.json.encode(CREDIT)
    headers = {"authorization": f"Bearer {parts.operator_key}", **KEY}
    path = f"/admin/api{credits_of(parts)}"
    payer = _payer(parts)
    # Somebody else has begun the same, and is not done.
    begun = await records(parts).begin(payer, f"POST {path}", "k", b"\0" + body)
    assert isinstance(begun, Ours)
    waited = await parts.http.post(path, content=body, headers=headers)
    assert (waited.status_code, waited.json()["code"], waited.headers["retry-after"]) == (409, "conflict", "1")
    assert "x-should-retry" not in waited.headers and await balance(parts) == 10 * USD
    await records(parts).forget(payer, f"POST {path}", "k", begun.owner)
    assert (await parts.http.post(path, content=body, headers=headers)).status_code == 201


def _payer(parts: Parts) -> str:
    identity = parts.operator_key.removeprefix("fb_op_")[:16]
    return f"ak_{identity}::org_{identity}"


@pytest.mark.parametrize("movement", ["credits", "debits"])
async def test_a_death_between_the_movement_and_its_answer_moves_nothing_twice(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, movement: str
) -> None:
    path = f"/accounts/{parts.org_id}/{movement}"
    body = CREDIT if movement == "credits" else CREDIT | {"cause": "correction"}
    monkeypatch.setattr(records(parts), "_lease_ms", 50)

    async def dies(*_: Any) -> None:
        raise Unavailable("the store went away")

    with monkeypatch.context() as patched:
        patched.setattr(records(parts), "finish", dies)
        first = await parts.operated("POST", path, body, **KEY)
    again = await parts.operated("POST", path, body, **KEY)
    assert again["id"] == first["id"] and again["available"] == first["available"]
    assert await balance(parts) == (11 * USD if movement == "credits" else 9 * USD)
    entries = [entry for entry in await parts.audited() if entry.subject == first["id"]]
    assert len(entries) == 1, "it was done once, and is logged once"


async def test_the_callers_own_id_is_the_movements_id(parts: Parts) -> None:
    wanted = CREDIT | {"id": "case-7"}
    for key in ("k1", "k2"):
        told = await parts.operated("POST", credits_of(parts), wanted, **{"idempotency-key": key})
        assert told["id"] == "case-7"
    assert await balance(parts) == 11 * USD


async def test_an_unknown_outcome_leaves_the_key_to_the_same_body(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(*_: Any, **__: Any) -> None:
        raise Unavailable("nobody knows")

    with monkeypatch.context() as patched:
        patched.setattr(parts.operators.funding, "credit", unknown)
        assert (await parts.operate("POST", credits_of(parts), CREDIT, **KEY)).status_code == 503
    other = await parts.operate("POST", credits_of(parts), CREDIT | {"cause": "goodwill"}, **KEY)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    assert (await parts.operate("POST", credits_of(parts), CREDIT, **KEY)).status_code == 201


async def test_a_refused_request_leaves_its_key_free(parts: Parts) -> None:
    refused = await parts.operate("POST", credits_of(parts), {"amount": usd("0.00")}, **KEY)
    assert refused.status_code == 422
    assert (await parts.operate("POST", credits_of(parts), CREDIT, **KEY)).status_code == 201


async def test_what_is_kept_of_answers_and_bodies_tells_no_secret(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "alice"})
    path, password = "/api/persons/alice/credentials", "correct horse battery"
    body = msgspec.json.encode({"password": password})
    headers = {"authorization": f"Bearer {parts.key}", "farebox-user": "alice"}
    totp = await parts.must("POST", path, {"totp": {}}, user="alice", **{"idempotency-key": "totp"})
    sent = await parts.http.post(path, content=body, headers=headers | {"idempotency-key": "password"})
    assert sent.is_success, sent.text
    made = await parts.must("POST", "/api/keys", {}, **{"idempotency-key": "key"})
    wanted = {"url": "https://receiver.example/hook"}
    hook = await parts.must("PUT", "/api/webhooks", wanted, **{"idempotency-key": "hook"})
    secrets = [made["key"], hook["secret"], totp["totp"]["secret"], password, sha256(body).hexdigest()]
    kept = await _kept(parts.link)
    assert len(kept) == 4
    for secret in [*secrets, sha256(body).digest()]:
        needle = secret.encode() if isinstance(secret, str) else secret
        assert all(needle not in content for content in kept)


async def _kept(link: RedisLink) -> list[bytes]:
    """All that there is in records of idempotency."""
    found, cursor = [], b"0"
    while True:
        cursor, names = await link.command("SCAN", cursor, "MATCH", "*idem:*", "COUNT", 10_000, key="")
        for name in names:
            fields = await link.command("HGETALL", name, key=name.decode())
            pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
            found.append(b"".join(part for pair in pairs for part in pair))
        if cursor == b"0":
            return found


# The records themselves.

PLACE = ("org_7f00", "POST /x", "k")


async def test_a_record_is_taken_over_once_its_lease_is_over(valkey_url: str) -> None:
    link = await RedisLink.open(valkey_url)
    kept = RedisIdempotency(link, Vault((b"\1" * 32,)), lease_ms=30)
    first = await kept.begin(*PLACE, b"body")
    assert isinstance(first, Ours)
    assert isinstance(await kept.begin(*PLACE, b"body"), UnderWay)
    assert isinstance(await kept.begin(*PLACE, b"other"), OtherBody)
    await asyncio.sleep(0.05)
    assert isinstance(await kept.begin(*PLACE, b"other"), OtherBody), "a death frees the key for nothing else"
    second = await kept.begin(*PLACE, b"body")
    assert isinstance(second, Ours)
    await kept.finish(*PLACE, first.owner, b"of the first")
    assert not isinstance(await kept.begin(*PLACE, b"body"), Answered), "whoever lost the key answers nobody"
    await kept.finish(*PLACE, second.owner, b"of the second")
    assert await kept.begin(*PLACE, b"body") == Answered(b"of the second")
    await link.close()


async def test_answers_open_under_an_older_secret_and_not_without_it(valkey_url: str) -> None:
    link = await RedisLink.open(valkey_url)
    old, new = b"\1" * 32, b"\2" * 32
    before = RedisIdempotency(link, Vault((old,)))
    begun = await before.begin(*PLACE, b"body")
    assert isinstance(begun, Ours)
    await before.finish(*PLACE, begun.owner, b"answer")
    rotated = RedisIdempotency(link, Vault((new, old)))
    assert await rotated.begin(*PLACE, b"body") == Answered(b"answer")
    assert isinstance(await rotated.begin(*PLACE, b"other"), OtherBody)
    assert isinstance(await RedisIdempotency(link, Vault((new,))).begin(*PLACE, b"body"), OtherBody)
    (name,) = (await link.command("SCAN", "0", "MATCH", "*idem:*", "COUNT", 10_000, key=""))[1]
    await link.command("HSET", name, "answer", b"not sealed", key=name.decode())
    with pytest.raises(Conflict):
        await rotated.begin(*PLACE, b"body")
    await link.close()
