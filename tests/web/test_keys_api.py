"""Keys over HTTP, against a real store: shown once, limited, rotated, revoked; and what a key may give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from people_parts import Parts, running_people, usd

from gateway.core.directory import Permission
from gateway.core.errors import Forbidden, InvalidKey

KEYS = "/api/keys"


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        yield running


async def made(parts: Parts, **members: Any) -> Any:
    return await parts.must("POST", KEYS, members)


async def place_with(parts: Parts, text: str, **asked: Any) -> None:
    before, parts.key = parts.key, text
    try:
        work = await parts.place(**asked)
        await parts.ledger.void(work.hold_id, account=work.account)
    finally:
        parts.key = before


async def test_a_key_is_shown_once_and_kept_as_a_digest(parts: Parts) -> None:
    told = await made(parts, name="app")
    assert told["key"].startswith(f"fb_live_{parts.org_id[4:6]}") and told["id"].startswith("ak_")
    listed = (await parts.must("GET", KEYS))["data"]
    assert [each for each in listed if each["id"] == told["id"]] == [{n: v for n, v in told.items() if n != "key"}]
    kept = await parts.link.command("GET", f"{{p{told['id'][3:5]}}}key:{told['id'][3:]}", key=f"{{p{told['id'][3:5]}}}")
    assert told["key"].encode() not in kept and told["key"][-24:].encode() not in kept


async def test_a_key_admits_its_models_under_any_name_and_its_routes(parts: Parts) -> None:
    small = (await made(parts, models=["small"]))["key"]
    await place_with(parts, small)
    await place_with(parts, small, model="small-latest")
    chat = (await made(parts, routes=["/v1/embeddings"]))["key"]
    for text, asked in ((small, {"model": "large"}), (chat, {})):
        with pytest.raises(Forbidden):
            await admitted(parts, text, **asked)


async def admitted(parts: Parts, text: str, model: str = "small") -> None:
    """What the relay asks of a key before it places anything."""
    from people_parts import CHAT

    from gateway.core.call import Call
    from gateway.core.credentials import AppKey

    body = b'{"model":"%b","max_tokens":5,"messages":[]}' % model.encode()
    call = Call("POST", CHAT, b"", [], "127.0.0.1", "t", f"req_00{parts.clock.token_hex(12)}", 0.0, body)
    caller = await parts.people.desk.callers.known(call, AppKey(text, ""))
    request = parts.read(call)
    assert request.card is not None
    parts.people.desk.callers.admit(call, caller, request.match, request.card.model)


async def test_a_key_is_for_its_addresses(parts: Parts) -> None:
    elsewhere = (await made(parts, addresses=["10.0.0.0/8", "2001:db8::/32"]))["key"]
    with pytest.raises(Forbidden):
        await admitted(parts, elsewhere)
    assert await parts.refused("GET", "/api/account", key=elsewhere) == (403, "forbidden", None)
    here = (await made(parts, addresses=["127.0.0.0/8"]))["key"]
    await admitted(parts, here)


async def test_a_key_expires(parts: Parts) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    text = (await made(parts, expires_at=until.isoformat()))["key"]
    await place_with(parts, text)
    parts.clock.ahead_s = 3_601
    with pytest.raises(InvalidKey):
        await place_with(parts, text)
    assert (await parts.refused("GET", "/api/account", key=text))[:2] == (401, "invalid_key")


async def test_after_a_rotation_the_old_text_serves_for_its_grace_and_no_longer(parts: Parts) -> None:
    told = await made(parts)
    await place_with(parts, told["key"])
    fresh = (await parts.must("POST", f"{KEYS}/{told['id']}/rotate", {"grace_s": 60}))["key"]
    await place_with(parts, told["key"])
    await place_with(parts, fresh)
    parts.clock.ahead_s = 61
    with pytest.raises(InvalidKey):
        await place_with(parts, told["key"])
    await place_with(parts, fresh)


@pytest.mark.parametrize("change", ["revoke", "rotate"])
async def test_what_is_no_longer_good_stays_so_whatever_else_the_worker_reads(parts: Parts, change: str) -> None:
    """The organization is read anew for another key, which must not make the old one look fresh."""
    told, other = await made(parts), (await made(parts))["key"]
    await place_with(parts, told["key"])
    if change == "revoke":
        await parts.must("DELETE", f"{KEYS}/{told['id']}")
    else:
        await parts.must("POST", f"{KEYS}/{told['id']}/rotate", {"grace_s": 0})
    for _ in range(2):
        await place_with(parts, other)
        assert (await parts.must("GET", "/api/account"))["available"]
        with pytest.raises(InvalidKey):
            await place_with(parts, told["key"])
        assert (await parts.refused("POST", KEYS, {}, key=told["key"]))[:2] == (401, "invalid_key")


async def test_a_rotation_that_crosses_a_revocation_does_not_bring_the_key_back(parts: Parts) -> None:
    for _ in range(20):
        told = await made(parts)
        path = f"{KEYS}/{told['id']}"
        rotated, revoked = await asyncio.gather(
            parts.ask("POST", f"{path}/rotate", {"grace_s": 60}), parts.ask("DELETE", path)
        )
        assert revoked.status_code == 200 and rotated.status_code in (200, 409)
        assert [each["state"] for each in (await parts.must("GET", KEYS))["data"] if each["id"] == told["id"]] == [
            "revoked"
        ]


async def test_a_key_gives_no_more_than_it_has(parts: Parts) -> None:
    weak = await parts.make_key(
        permissions=(Permission.MANAGE, Permission.READ), models=("small",), addresses=("127.0.0.1/32",)
    )
    wider: list[tuple[dict[str, Any], str]] = [
        ({"permissions": ["manage", "approve"], "models": ["small"], "addresses": ["127.0.0.1/32"]}, "permissions"),
        ({"permissions": ["manage"], "models": ["large"], "addresses": ["127.0.0.1/32"]}, "models"),
        ({"permissions": ["manage"], "models": ["small"]}, "addresses"),
        ({}, "permissions"),
    ]
    for members, param in wider:
        assert await parts.refused("POST", KEYS, members, key=weak) == (403, "forbidden", param)
    same = {"permissions": ["read"], "models": ["small"], "addresses": ["127.0.0.1/32"]}
    assert (await parts.ask("POST", KEYS, same, key=weak)).status_code == 201


async def test_a_key_rotates_none_that_may_do_more_than_itself(parts: Parts) -> None:
    """Whoever rotates a key sees its new text."""
    strong = await made(parts)
    weak = await parts.make_key(permissions=(Permission.MANAGE, Permission.READ))
    path = f"{KEYS}/{strong['id']}/rotate"
    assert await parts.refused("POST", path, {}, key=weak) == (403, "forbidden", "permissions")
    await place_with(parts, strong["key"])


async def test_a_key_of_another_organization_is_not_there(parts: Parts) -> None:
    told, mine = await made(parts), parts.key
    await parts.make_org()
    assert (await parts.refused("DELETE", f"{KEYS}/{told['id']}"))[:2] == (404, "not_found")
    assert (await parts.refused("POST", f"{KEYS}/{told['id']}/rotate", {}))[:2] == (404, "not_found")
    parts.key = mine
    assert any(each["id"] == told["id"] for each in (await parts.must("GET", KEYS))["data"])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"permissions": ["all"]}, "permissions[0]"),
    ({"permissions": "relay"}, "permissions"),
    ({"permissions": False}, "permissions"),
    ({"permissions": {}}, "permissions"),
    ({"permissions": 0}, "permissions"),
    ({"permissions": ""}, "permissions"),
    ({"permissions": []}, "permissions"),
    ({"models": ""}, "models"),
    ({"routes": [1]}, "routes[0]"),
    ({"addresses": ["10.0.0.1/8"]}, "addresses[0]"),
    ({"addresses": ["here"]}, "addresses[0]"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": 0}, "expires_at"),
    ({"expires_at": ""}, "expires_at"),
    ({"hide_prices": 1}, "hide_prices"),
    ({"name": 7}, "name"),
    ({"operator": True}, "operator"),
]


@pytest.mark.parametrize(("members", "param"), BAD)
async def test_bad_input_is_refused_by_name(parts: Parts, members: dict[str, Any], param: str) -> None:
    before = len((await parts.must("GET", KEYS))["data"])
    assert await parts.refused("POST", KEYS, members) == (422, "invalid_request", param)
    assert len((await parts.must("GET", KEYS))["data"]) == before


FALSE_LIKE: list[tuple[dict[str, Any], str]] = [
    ({"per_call_cap": ""}, "per_call_cap"), ({"per_call_cap": 0}, "per_call_cap"), ({"expires_at": 0}, "expires_at"),
    ({"expires_at": False}, "expires_at"), ({"models": 0}, "models"), ({"routes": {}}, "routes"), ({"count": 0}, "count"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "param"), FALSE_LIKE)
async def test_what_is_as_good_as_nothing_widens_no_allowance(
    parts: Parts, members: dict[str, Any], param: str
) -> None:
    await parts.must("POST", "/api/persons", {"id": "alice"})
    asked = {"session": "s", "cap": usd("1.00")} | members
    assert await parts.refused("POST", "/api/allowances", asked, user="alice") == (422, "invalid_request", param)


@pytest.mark.parametrize("person_id", ["a/b", "team/7/zo\u00eb \U0001f98a", "100%", "credentials"])
async def test_a_person_has_any_name_that_a_header_carries(parts: Parts, person_id: str) -> None:
    path = f"/api/persons/{quote(person_id, safe='')}"
    await parts.must("POST", "/api/persons", {"id": person_id})
    assert (await parts.must("GET", path))["id"] == person_id
    await parts.must("POST", f"{path}/credentials", {"password": "correct horse battery"})
    assert (await parts.must("GET", path))["id"] == person_id


@pytest.mark.parametrize("person_id", ["*", " pad ", "pad "])
async def test_what_names_nobody_makes_no_person(parts: Parts, person_id: str) -> None:
    assert await parts.refused("POST", "/api/persons", {"id": person_id}) == (422, "invalid_request", "id")


async def test_a_person_is_given_no_budget_of_another(parts: Parts) -> None:
    given = {"scope": {"user": "bob"}, "limit": usd("1.00"), "window": "day"}
    members = {"id": "erin", "budgets": [given]}
    wrong = (422, "invalid_request", "budgets[0].scope.user")
    assert await parts.refused("POST", "/api/persons", members) == wrong
    assert (await parts.refused("GET", "/api/persons/erin"))[0] == 404


async def test_a_refusal_names_permissions_as_they_are_written(parts: Parts) -> None:
    weak = await parts.make_key(permissions=(Permission.MANAGE,))
    answer = await parts.ask("POST", KEYS, {"permissions": ["approve"]}, key=weak)
    assert "'approve'" in answer.json()["detail"] and "Permission" not in answer.json()["detail"]
