"""No request to our own paths gets a 500: neither one that the description allows, nor any other. What is refused says
why, and which member was wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from described import Schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_values import JUNK, RAW, allowed, spoiled
from servers import running_valkey
from site_parts import Site, running_site

from gateway.web.openapi import ENDPOINTS
from gateway.web.openapi_endpoints import Endpoint, Who

# A few seconds for all paths together; a password is meant to take long.
EXAMPLES, EXAMPLES_OF_PASSWORDS = 30, 8
GUARDED = tuple(endpoint for endpoint in ENDPOINTS if endpoint.who is not Who.NOBODY)
_DEAR = {"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40_000}
_IDS = st.sampled_from([
    "x", "org_zz", "ac_zz", "ak_zz", "q_zz", "ho_zz", "req_zz", "bu_zz", "org_", "_", "..", "%00", "%ff", "%2F", "%0a", "😀",
    "x" * 3_000, "org_" + "0" * 60, "req_" + "z" * 26, "evt_zz1-1", "*", "~",
])  # fmt: skip
_HEADERS = st.sampled_from([
    b"", b" ", b"x" * 300, b"\xff", b"\xc3\xa9", b"*", b"-1", b"1e3", b"9" * 30, b"18446744073709551616-0", b"0-0", b"a,b",
])  # fmt: skip
_CREDENTIALS = st.sampled_from([
    b"", b"Bearer", b"Bearer x", b"Bearer fb_live_00", b"Bearer fb_op_" + b"0" * 64, b"L402 x:y", b"\xff", b"Basic eDp5",
    b"Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl", b"L402 " + b"A" * 9_000 + b":" + b"0" * 64,
])  # fmt: skip


@dataclass
class Attacked:
    """A running gateway with something of every kind on it. `real`: ids that exist, by the path that takes them, or by their name in it."""

    runner: asyncio.Runner
    site: Site
    proof: str = ""
    real: dict[str, str] = field(default_factory=dict)

    def ask(self, endpoint: Endpoint, target: str, content: bytes | None, headers: dict[str, bytes]) -> httpx.Response:
        shown = {
            Who.OPERATOR: f"Bearer {self.site.operator_key}", Who.AGENT: f"L402 {self.proof}",
        }.get(endpoint.who, f"Bearer {self.site.app_key}")  # fmt: skip
        named = [(name.encode(), value) for name, value in ({"Authorization": shown.encode()} | headers).items()]
        asked = self.site.http.request(endpoint.method, target, content=content, headers=named)
        return self.runner.run(asked)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    directory = tmp_path_factory.mktemp("attacked")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with running_valkey(directory, *durable) as port, asyncio.Runner() as runner:
        running = running_site(f"redis://127.0.0.1:{port}/0", directory)
        site = runner.run(running.__aenter__())
        try:
            attacked = Attacked(runner, site)
            runner.run(furnish(attacked))
            yield attacked
        finally:
            runner.run(running.__aexit__(None, None, None))


async def furnish(attacked: Attacked) -> None:
    """Something of every kind, so that what is asked goes further than to a 404."""
    site = attacked.site
    other = await site.operate("POST", "/accounts", {"name": "Other"})
    await site.must("POST", "/api/persons", {"id": "alice"})
    await site.must("POST", f"/api/persons?account={other['id']}", {"id": "alice"}, key=site.operator_key)
    key = await site.must("POST", "/api/keys", {"permissions": ["read"]})
    budget = await site.must("PUT", "/api/budgets", {"limit": "5", "window": "total"})
    allowance = await site.must("POST", "/api/allowances", {"cap": "0.5"}, user="alice")
    waiting = (await site.ask("POST", "/v1/chat/completions", _DEAR, user="alice")).json()
    paid = await site.ask("POST", "/v1/chat/completions", _DEAR | {"max_tokens": 9})
    await site.must("PUT", "/api/webhooks", {"url": "https://receiver.invalid/hook"})
    attacked.proof = await site.bought()
    attacked.real = {
        "/admin/api/accounts": other["id"], "/api/persons": "alice", "/api/keys": key["id"],
        "/api/budgets": budget["id"], "/api/allowances": allowance["id"], "/api/quotes": waiting["quote"]["id"],
        "/api/requests": paid.headers["farebox-request-id"], "person": "alice",
    }  # fmt: skip


@st.composite
def targets(draw: st.DrawFn, endpoint: Endpoint, attacked: Attacked) -> str:
    """A path and a query."""
    target = endpoint.path
    for name in re.findall("{([^}]+)}", endpoint.path):
        real = attacked.real[name] if name in attacked.real else attacked.real.get(endpoint.path.partition("/{")[0])
        an_id = draw(st.just(real) | st.just(real) | _IDS if real else _IDS)
        target = target.replace(f"{{{name}}}", an_id if an_id.startswith("%") else quote(an_id, safe="*~"))
    described = attacked.site.described
    operation = described.document["paths"][endpoint.path][endpoint.method.lower()]
    query = {}
    for parameter in described.parameters(endpoint.path, operation):
        if parameter["in"] == "query" and draw(st.booleans()):
            account = st.just(attacked.real["/admin/api/accounts"]) if parameter["name"] == "account" else st.nothing()
            value = draw(account | allowed(parameter["schema"], described.resolved) | _IDS | JUNK)
            query[parameter["name"]] = value if isinstance(value, str) else json.dumps(value)
    return target + ("?" + "&".join(f"{name}={quote(value)[:2_000]}" for name, value in query.items()) if query else "")


@st.composite
def headers(draw: st.DrawFn, endpoint: Endpoint, attacked: Attacked) -> dict[str, bytes]:
    """For whom it is asked, under which key, with what proof; as it is described, and sometimes not."""
    given: dict[str, bytes] = {}
    described = attacked.site.described
    operation = described.document["paths"][endpoint.path][endpoint.method.lower()]
    for parameter in described.parameters(endpoint.path, operation):
        if parameter["in"] == "header" and draw(st.integers(0, 3)) == 0:
            value = draw(allowed(parameter["schema"], described.resolved))
            given[parameter["name"]] = draw(st.just(str(value).encode()) | _HEADERS)
    if "Farebox-User" in given and draw(st.booleans()):
        given["Farebox-User"] = b"alice"
    if draw(st.integers(0, 9)) == 0:
        given["Authorization"] = draw(_CREDENTIALS | st.just(f"Bearer {attacked.site.operator_key}".encode()))
    return given


@st.composite
def contents(draw: st.DrawFn, schema: Schema | None, attacked: Attacked) -> tuple[bytes | None, bool]:
    """A body, and whether the description allows it."""
    resolve, validator = attacked.site.described.resolved, attacked.site.described.validator
    if schema is None:
        return draw(st.none() | RAW), True
    kind = draw(st.integers(0, 9))
    if kind == 0:
        raw = draw(RAW)
        return raw, not raw.strip() and validator(schema).is_valid({})
    value = draw(allowed(schema, resolve) if kind < 5 else spoiled(schema, resolve))
    return json.dumps(value, ensure_ascii=False).encode(), validator(schema).is_valid(value)


def settled(endpoint: Endpoint) -> settings:
    examples = EXAMPLES_OF_PASSWORDS if endpoint.name == "set_credential" else EXAMPLES
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda endpoint: endpoint.name)
def test_whatever_is_asked_is_answered_or_refused_with_a_reason(attacked: Attacked, endpoint: Endpoint) -> None:
    @settled(endpoint)
    @given(data=st.data())
    def attack(data: st.DataObject) -> None:
        target = data.draw(targets(endpoint, attacked), label="target")
        said = data.draw(headers(endpoint, attacked), label="headers")
        content, is_allowed = data.draw(contents(endpoint.body, attacked), label="body")
        answer = attacked.ask(endpoint, target, content, said)
        assert answer.status_code < 500, answer.text
        if not answer.is_success:
            told: dict[str, Any] = answer.json()
            assert told["code"] and (answer.status_code != 422 or told.get("param") is not None), told
        else:
            assert is_allowed, "it was taken, and the description says that it is not"

    attack()


def relayed(attacked: Attacked) -> list[tuple[str, str]]:
    """What is relayed and read: with a body that is JSON."""
    own = {endpoint.path for endpoint in ENDPOINTS}
    return [
        (path, method)
        for path, method, operation in attacked.site.described.operations()
        if path not in own and "application/json" in operation.get("requestBody", {}).get("content", {})
    ]


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_relayed_gets_no_500(attacked: Attacked, data: st.DataObject) -> None:
    path, method = data.draw(st.sampled_from(relayed(attacked)), label="path")
    body = attacked.site.described.document["paths"][path][method.lower()]["requestBody"]["content"]
    content, _ = data.draw(contents(body["application/json"]["schema"], attacked), label="body")
    model = data.draw(st.sampled_from(["gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "llama3.2"]))
    if content is not None and b'"model"' in content and data.draw(st.booleans()):
        with suppress(ValueError, TypeError, RecursionError):
            content = json.dumps(json.loads(content) | {"model": model}).encode()
    key = data.draw(st.sampled_from([attacked.site.app_key, attacked.site.app_key, ""]))
    shown = f"Bearer {key}" if key else f"L402 {attacked.proof}"
    asked = attacked.site.http.request(
        method, re.sub("{[^}]+}", model, path), content=content, headers={"authorization": shown}
    )
    answer = attacked.runner.run(asked)
    assert answer.status_code != 500, answer.text
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.json()["code"]
