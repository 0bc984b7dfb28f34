"""What is really answered is what the description says: every path of our own, in success and in refusal; the relay's
refusals too. Each answer is held against its schema as it comes (`site_parts`), its objects closed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from described import Schema
from site_parts import ORIGIN, Site, running_site, usd
from soft_passkey import SoftPasskey

from gateway.adapters.redis.directory import RedisDirectory
from gateway.adapters.redis.outbox import RedisOutbox
from gateway.adapters.redis.questions import RedisQuestions
from gateway.core.ids import hold_of_request
from gateway.core.questions import Question
from gateway.web.openapi import ENDPOINTS
from gateway.web.openapi_endpoints import Endpoint, Who

CHAT = "/v1/chat/completions"
PASSWORD = "correct horse battery"
FAR_MS = 4_000_000_000_000
# A dollar at most goes without asking: 40,000 tokens of gpt-4 may cost 2.40.
DEAR: dict[str, Any] = {"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40_000}
CHEAP = DEAR | {"model": "gpt-4o-mini", "max_tokens": 20}
_numbers = count()


@pytest.fixture
async def site(valkey_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(valkey_url, tmp_path) as running:
        yield running


async def once(site: Site, method: str, path: str, body: Any = None, **more: Any) -> Any:
    """A change that is sent twice under one key, which answers the same; another body under it is refused."""
    key = f"key {next(_numbers)}"
    first = await site.must(method, path, body, idempotency_key=key, **more)
    again = await site.must(method, path, body, idempotency_key=key, **more)
    assert again == first
    other = {"something": "else"} if not isinstance(body, dict) else {**body, "something": "else"}
    status, code = await site.refused(method, path, other, idempotency_key=key, **more)
    assert (status, code) in {(409, "idempotency_mismatch"), (422, "invalid_request")}
    spaced = json.dumps(body if body is not None else {}, indent=3) + "  "
    headers = {"authorization": f"Bearer {more.get('key', site.app_key)}", "idempotency-key": key}
    headers |= {"farebox-user": more["user"]} if "user" in more else {}
    answer = await site.http.request(method, path, content=spaced, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_mismatch"), answer.text
    return first


async def operators(site: Site) -> None:
    key = site.operator_key
    base = "/admin/api/accounts"
    settings = {"name": "Beta", "time_zone": "Europe/Berlin", "plan": "pro", "share_ppm": 500_000}
    made = await once(site, "POST", base, settings, key=key)
    await once(site, "PATCH", f"{base}/{made['id']}", {"suspended": False, "name": ""}, key=key)
    await once(site, "POST", f"{base}/{made['id']}/keys", {"permissions": ["read"]}, key=key)
    credit = {"amount": "25", "cause": "goodwill", "source": "support", "id": "case-7"}
    await once(site, "POST", f"{base}/{made['account']}/credits", credit, key=key)
    await site.operate("POST", f"/accounts/{made['id']}/credits", credit)
    await once(site, "POST", f"{base}/{made['id']}/debits", {"amount": usd("99"), "cause": "chargeback"}, key=key)
    await once(site, "PUT", f"{base}/{made['id']}/credit-limit", {"limit": "5.5"}, key=key)
    await once(site, "PUT", f"{base}/{made['id']}/credit-limit", {"limit": None}, key=key)
    for path in ("/accounts", f"/accounts/{made['id']}", f"/audit?account={made['id']}&limit=2"):
        await site.operate("GET", path)
    for path in (
        "/audit",
        "/revenue?group_by=day,account,model",
        "/disputes",
        "/plans",
        "/prices?model=gpt-4o*&limit=3",
    ):
        await site.operate("GET", path)
    await once(site, "POST", "/admin/api/reload", {}, key=key)


async def operated_persons(site: Site) -> None:
    path = f"/admin/api/accounts/{site.org_id}/persons/alice"
    wanted = {"plan": None, "suspended": True}
    changed = await once(site, "PATCH", path, wanted, key=site.operator_key)
    assert (changed["plan"], changed["state"]) == (None, "suspended")
    await site.operate("GET", f"/accounts/{changed['account']}")
    await site.operate("DELETE", f"/accounts/{site.org_id}/persons/alice/credentials")
    await site.operate("PATCH", f"/accounts/{site.org_id}/persons/alice", {"suspended": False})


async def keys(site: Site) -> None:
    wanted = {"name": "narrow", "permissions": ["read"], "routes": ["/v1/*"], "models": ["gpt-*"],
              "addresses": ["10.0.0.0/8"], "expires_at": "2100-01-01T00:00:00Z", "hide_prices": True}  # fmt: skip
    made = await once(site, "POST", "/api/keys", wanted)
    await once(site, "POST", f"/api/keys/{made['id']}/rotate", {"grace_s": 60})
    await site.must("GET", "/api/keys")
    await site.must("DELETE", f"/api/keys/{made['id']}")


async def persons(site: Site) -> None:
    made = await once(site, "POST", "/api/persons", {"id": "alice", "budgets": [{"limit": "5"}]})
    assert made["budgets"]
    await site.must("POST", "/api/persons", {"id": "bob"})
    assert (await site.must("GET", "/api/persons?limit=1"))["next"]
    await site.must("GET", "/api/persons/alice")
    path = "/api/persons/alice/credentials"
    await once(site, "POST", path, {"password": PASSWORD}, user="alice")
    proof = {"proof": {"password": PASSWORD}}
    await site.must("POST", path, {"totp": {}, **proof}, user="alice")
    options = (await site.must("POST", path, {"passkey": {}, **proof}, user="alice"))["passkey"]["options"]
    created = SoftPasskey(ORIGIN, options["rp"]["id"]).create(options)
    await site.must("POST", path, {"passkey": {"credential": created}}, user="alice")
    await site.refused("POST", path, {"password": PASSWORD + "!"}, user="alice")


async def budgets(site: Site) -> None:
    made = await once(site, "PUT", "/api/budgets", {"limit": "50", "alerts_pct": [80], "on_exceed": "pause"})
    await site.must("PUT", "/api/budgets", made)
    raised = {"id": made["id"], "limit": usd("75"), "until": "2100-01-01T00:00:00Z", "window": "week"}
    assert "limit_after" in await site.must("PUT", "/api/budgets", raised)
    both = [{"limit": "9", "scope": {"user": "*"}, "window": "day"}, {"limit": "9", "scope": {"model": "gpt-4o"}}]
    await site.must("PUT", "/api/budgets", both)
    await site.must("PUT", "/api/budgets", {"budgets": both})
    assert (await site.must("GET", "/api/budgets?limit=1"))["next"]
    await site.must("GET", "/api/budgets", user="alice")
    await once(site, "POST", f"/api/budgets/{made['id']}/resume", {})
    await site.must("DELETE", f"/api/budgets/{made['id']}")


async def allowances(site: Site) -> None:
    wanted = {"cap": "0.50", "per_call_cap": "0.1", "models": ["gpt-4o*"], "count": 9, "session": "s",
              "expires_at": "2100-01-01T00:00:00Z"}  # fmt: skip
    made = await once(site, "POST", "/api/allowances", wanted, user="bob")
    await site.must("GET", "/api/allowances")
    asked = {"model": "gpt-4o-mini", "input_tokens": 10, "user": "bob", "session": "s"}
    assert (await site.must("POST", "/api/policies/explain", asked))["rule"] == "allowance"
    await site.must("DELETE", f"/api/allowances/{made['id']}")


async def quoted(site: Site, user: str, body: Any = DEAR) -> str:
    answer = await site.ask("POST", CHAT, body, user=user)
    assert answer.status_code == 402, answer.text
    quote_id: str = answer.json()["quote"]["id"]
    return quote_id


async def approvals(site: Site) -> None:
    waiting = [await quoted(site, "bob"), await quoted(site, "bob", DEAR | {"n": 2})]
    await site.must("GET", "/api/approvals")
    await site.must("GET", f"/api/quotes/{waiting[0]}?approved_max=1.50", user="bob")
    await once(site, "POST", f"/api/quotes/{waiting[0]}/approve", {"approved_max": "2"}, user="bob")
    await once(site, "POST", f"/api/quotes/{waiting[1]}/refuse", {}, user="bob")
    assert (await site.ask("POST", CHAT, DEAR, user="bob", farebox_quote=waiting[0])).status_code == 200
    for code in ({"farebox_quote": waiting[0]}, {"farebox_quote": waiting[1]}, {"farebox_quote": "q_00"}):
        assert (await site.ask("POST", CHAT, DEAR, user="bob", **code)).status_code in (404, 409)
    step_up = await quoted(site, "alice", DEAR | {"max_tokens": 400_000, "n": 2})
    assert (await site.must("GET", f"/api/quotes/{step_up}", user="alice"))["passkey_options"]
    await site.refused("POST", f"/api/quotes/{step_up}/approve", {}, user="alice")


async def requests(site: Site) -> None:
    paid = await site.ask("POST", CHAT, CHEAP, user="bob")
    request_id = paid.headers["farebox-request-id"]
    question = Question(
        overage_id="ov_00ff", hold_id=hold_of_request(request_id), org_id=site.org_id, person_id="bob", reason="cap",
        tier="explicit", original_max=10**6, current_cost=10**5, additional_needed=10**6,
        asked_at_ms=int(time.time() * 1_000), expires_at_ms=FAR_MS,
    )  # fmt: skip
    await RedisQuestions(site.link, RedisDirectory(site.link)).ask(question)
    answer = {"action": "approve_overage", "additional_max": "0.01", "overage_id": "ov_00ff"}
    await once(site, "POST", f"/api/requests/{request_id}/overage", answer, user="bob")
    await site.refused("POST", f"/api/requests/{request_id}/overage", {"action": "stop"}, user="bob")
    await site.must("GET", f"/api/requests/{request_id}", user="bob")
    events = await site.ask("GET", f"/api/requests/{request_id}/events", user="bob")
    assert events.status_code == 200 and "overage_answered" in events.text
    for unseen in ("99999999999999999999-1", "18446744073709551616-0", "x", "1"):
        path = f"/api/requests/{request_id}/events?last_event_id={unseen}"
        assert (await site.refused("GET", path, user="bob"))[0] == 422
    for grouped in ("", "&group_by=model", "&format=csv", "&format=focus", "&user=bob", "&from=2026-01-01T00:00:00Z"):
        assert (await site.ask("GET", f"/api/usage?to=2026-12-31{grouped}")).is_success
    await site.must("GET", "/api/usage?group_by=day,model,user,key")
    await site.must("GET", "/api/account")
    await site.must("GET", "/api/account", user="alice")
    for asked in (
        {"model": "gpt-4"},
        {"path": CHAT, "body": DEAR, "user": "bob"},
        {"path": "/v1/models", "method": "GET"},
    ):
        await site.must("POST", "/api/policies/explain", asked)


async def webhooks(site: Site) -> None:
    wanted = {"url": "https://receiver.invalid/hook", "events": ["quote.waiting", "webhook.test"]}
    await once(site, "PUT", "/api/webhooks", wanted)
    await once(site, "POST", "/api/webhooks/rotate", {})
    await once(site, "POST", "/api/webhooks/test", {})
    await site.must("GET", "/api/webhooks")
    outbox = RedisOutbox(site.link)
    while not (waiting := await outbox.oldest(site.org_id, 1)):
        assert (await site.must("GET", "/api/webhooks"))["url"]
    await outbox.bury(waiting[0], 10)
    (dead,) = (await site.must("GET", "/api/webhooks/dead"))["data"]
    await site.must("GET", "/api/events")
    await once(site, "POST", f"/api/webhooks/dead/{dead['id']}/retry", {})
    await site.must("DELETE", "/api/webhooks")


async def agents(site: Site) -> None:
    proof = f"L402 {await site.bought(1_000)}"
    await site.must("GET", "/l402/balance", key="", authorization=proof)
    paid = await site.ask("POST", CHAT, CHEAP, key="", authorization=proof)
    record = await site.must("GET", f"/api/requests/{paid.headers['farebox-request-id']}", key="", authorization=proof)
    assert record["cost"]["amount_msat"] > 0
    invoice = {"payment_request": site.wallet.add_invoice(amount_msat=1_000)}
    refund = await site.ask("POST", "/l402/refund", invoice, key="", authorization=proof, idempotency_key="r")
    assert refund.is_success or refund.status_code == 503, refund.text  # this store keeps no append-only file
    other = {"payment_request": site.wallet.add_invoice(amount_msat=1_000)}
    await site.ask("POST", "/l402/refund", other, key="", authorization=proof, idempotency_key="r")
    await site.must("POST", "/l402/revoke", key="", authorization=proof, idempotency_key="v")
    await site.refused("POST", "/l402/revoke", {}, key="", authorization=proof, idempotency_key="v")
    for path in ("/.well-known/l402.json", "/health/live", "/health/ready", "/openapi.json"):
        await site.must("GET", path, key="")
    assert (await site.ask("GET", "/metrics", key="")).status_code == 200


async def refusals(site: Site, endpoint: Endpoint) -> None:
    """Without a credential, with one of another kind, with ids of nobody, with bodies of nobody's."""
    path = re.sub(r"{[^}]+}", "x", endpoint.path)
    method = endpoint.method
    shown = site.operator_key if endpoint.who is Who.OPERATOR else site.app_key
    await site.refused(method, path, key="")
    await site.refused(method, path, key="fb_live_00")
    if endpoint.body is not None:
        assert (await site.refused(method, path, {"no_such": 1}, key=shown))[0] in (403, 404, 422)
        assert (await site.refused(method, path, [], key=shown))[0] in (403, 404, 422)
    if endpoint.once:
        await site.refused(method, path, {}, key=shown, idempotency_key="x" * 256)
    if endpoint.who is Who.APP:
        await site.refused(method, path, key=shown, user="x" * 129)
        assert (await site.refused(method, path, key=site.operator_key))[0] == 422
    if endpoint.who is Who.OPERATOR:
        assert (await site.refused(method, path, key=site.app_key)) == (403, "forbidden")


async def test_every_path_of_our_own_answers_as_it_is_described(site: Site) -> None:
    for part in (
        operators,
        keys,
        persons,
        budgets,
        allowances,
        approvals,
        requests,
        webhooks,
        operated_persons,
        agents,
    ):
        await part(site)
    for endpoint in ENDPOINTS:
        if endpoint.who is not Who.NOBODY:
            await refusals(site, endpoint)
    good = {(method, path) for method, path, status in site.described.seen if status < 300}
    refused = {(method, path) for method, path, status in site.described.seen if 400 <= status < 500}
    repeated = {(method, path) for method, path, status in site.described.seen if status == 409}
    refundable = ("POST", "/l402/refund")
    assert {(each.method, each.path) for each in ENDPOINTS} - good <= {refundable}
    assert {(each.method, each.path) for each in ENDPOINTS if each.who is not Who.NOBODY} - refused == set()
    assert {(each.method, each.path) for each in ENDPOINTS if each.once} - repeated - {refundable} == set()


async def test_what_takes_no_key_for_repeats_does_not_say_so(site: Site) -> None:
    """Of the same key and two bodies nothing is refused there."""
    await site.must("PUT", "/api/webhooks", {"url": "https://receiver.invalid/hook"})
    for endpoint in ENDPOINTS:
        if endpoint.method == "POST" and not endpoint.once and endpoint.who in (Who.APP, Who.OPERATOR):
            shown = site.operator_key if endpoint.who is Who.OPERATOR else site.app_key
            path = re.sub(r"{[^}]+}", "x", endpoint.path)
            for body in ({"model": "gpt-4"}, {"model": "gpt-4o"}):
                answer = await site.ask(endpoint.method, path, body, key=shown, idempotency_key="k")
                assert answer.status_code != 409, answer.text


# The relay.


async def test_the_refusals_of_the_relay_are_as_described_in_every_dialect(site: Site) -> None:
    spoken: list[tuple[str, Schema]] = [
        (CHAT, CHEAP), ("/v1/responses", {"model": "gpt-4o-mini", "input": "hi"}),
        ("/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": []}),
        ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": []}),
        ("/api/chat", {"model": "llama3.2", "messages": []}), ("/raw/weather", {}),
        ("/openai/v1/chat/completions", CHEAP),
    ]  # fmt: skip
    for path, body in spoken:
        for key in ("", "fb_live_00", site.operator_key, site.app_key):
            bodies: tuple[Any, ...] = (body, [], {"model": 7}, {"model": "nobody-has-this"})
            for asked in bodies:
                answer = await site.ask("POST", path, asked, key=key, user="bob")
                assert answer.status_code != 500, answer.text
    seen = {status for _, path, status in site.described.seen if path == CHAT}
    assert seen >= {200, 401, 402, 403, 404, 422}


async def test_a_used_up_budget_an_empty_wallet_and_a_spent_credit_are_refused_as_described(site: Site) -> None:
    async def code(answer: httpx.Response) -> Any:
        assert answer.status_code == 402, answer.text
        return answer.json()

    budget = await site.must("PUT", "/api/budgets", {"limit": "0.0000001"})
    told = await code(await site.ask("POST", CHAT, CHEAP))
    assert told["code"] == "budget_exceeded" and told["limit"]["id"] == budget["id"]
    await site.must("DELETE", f"/api/budgets/{budget['id']}")
    await site.must("PUT", "/api/budgets", {"limit": "0", "on_exceed": "pause", "window": "day"})
    for _ in range(2):
        told = await code(await site.ask("POST", CHAT, CHEAP))
    assert told["code"] == "budget_paused" and told["limit"]["state"] == "paused"
    await site.make_org(credit="0.00000001")
    told = await code(await site.ask("POST", CHAT, CHEAP))
    assert told["topup_url"] and told["balance"]["available"]
    spent = await site.bought(1)
    told = await code(await site.ask("POST", CHAT, DEAR, key="", authorization=f"L402 {spent}"))
    assert told["balance"]["available"] == {"amount_msat": 1_000} and told["invoice"]
