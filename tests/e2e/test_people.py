"""An app routes its users' calls through the gateway with one key; each person behind it has a budget."""

from __future__ import annotations

from base64 import b64encode
from decimal import Decimal
from hashlib import sha256
from typing import Any

import httpx
import pytest
from e2e.people import Org, make_org, usd
from e2e.stack import Stack


@pytest.fixture(scope="module")
def org(stack: Stack) -> Org:
    return make_org(stack)


def test_a_person_is_served_with_the_apps_key_and_sees_quote_cost_and_balance(org: Org) -> None:
    answer = org.chat(user="alice")
    assert answer.status_code == 200, answer.text
    assert "currency=USD" in answer.headers["farebox-cost"]
    quote = answer.headers["farebox-quote"]
    assert quote.startswith('id="q_') and "max=" in quote and "confidence=" in quote
    assert org.must("GET", "/api/persons/alice")["made"] == "first_sight"
    record = org.must("GET", f"/api/requests/{answer.headers['farebox-request-id']}", user="alice")
    assert record["state"] == "posted" and record["model"]


def test_a_monthly_limit_refuses_what_would_pass_it(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "bob"})
    made = org.budget("0.00005", user="bob", window="month")
    assert made["scope"]["user"] == "bob" and made["state"] == "active"
    served = [org.chat(user="bob") for _ in range(8)]
    statuses = {answer.status_code for answer in served}
    assert statuses == {200, 402}, [answer.text for answer in served]
    refused = next(answer for answer in served if answer.status_code == 402).json()
    assert refused["code"] == "budget_exceeded"
    assert refused["limit"]["id"] == made["id"] and refused["limit"]["resets_at"]
    (listed,) = org.must("GET", "/api/budgets", user="bob")["data"]
    assert Decimal(listed["used"]["amount"]) <= Decimal("0.00005")
    assert org.chat(user="alice").status_code == 200, "others go on"


def test_above_the_automatic_tier_a_quote_waits_and_its_approval_is_used_once(org: Org) -> None:
    ask: dict[str, Any] = {"user": "carol", "model": "gpt-4", "max_tokens": 40_000}
    refused = org.chat(**ask)
    assert refused.status_code == 402, refused.text
    body = refused.json()
    assert body["code"] == "approval_required" and body["tier"] == "explicit"
    quote_id = body["quote"]["id"]
    waiting = org.must("GET", "/api/approvals", user="carol")["data"]
    assert [each["quote_id"] for each in waiting] == [quote_id]
    assert org.chat(**ask, headers={"farebox-quote": quote_id}).json()["code"] == "approval_required"
    foreign = org.ask("POST", f"/api/quotes/{quote_id}/approve", {}, user="mallory")
    assert (foreign.status_code, foreign.json()["code"]) == (403, "foreign_quote")
    approved = org.must("POST", f"/api/quotes/{quote_id}/approve", {"approved_max": usd("2.00")}, user="carol")
    assert approved["status"] == "approved"
    other = org.chat(user="carol", model="gpt-4", max_tokens=39_999, headers={"farebox-quote": quote_id})
    assert (other.status_code, other.json()["code"]) == (409, "quote_mismatch")
    served = org.chat(**ask, headers={"farebox-quote": quote_id})
    assert served.status_code == 200, served.text
    again = org.chat(**ask, headers={"farebox-quote": quote_id})
    assert (again.status_code, again.json()["code"]) == (409, "quote_used")
    forged = org.chat(**ask, headers={"farebox-quote": f"{quote_id[:-4]}0000"})
    assert (forged.status_code, forged.json()["code"]) == (404, "unknown_quote")


def test_an_upstream_that_fails_opens_the_approval_again(org: Org) -> None:
    ask: dict[str, Any] = {"user": "carol", "model": "gpt-4", "max_tokens": 40_000, "text": "once more"}
    quote_id = org.chat(**ask).json()["quote"]["id"]
    org.must("POST", f"/api/quotes/{quote_id}/approve", {}, user="carol")
    failed = org.chat(**ask, headers={"farebox-quote": quote_id, "x-sim-fault": "status-500"})
    assert failed.status_code >= 500
    assert org.must("GET", f"/api/quotes/{quote_id}", user="carol")["state"] == "approved"
    assert org.chat(**ask, headers={"farebox-quote": quote_id}).status_code == 200


def test_an_allowance_lets_a_session_spend_without_being_asked(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "dora"})
    ask: dict[str, Any] = {"user": "dora", "model": "gpt-4", "max_tokens": 20_000, "headers": {"farebox-session": "s1"}}
    assert org.chat(**ask).status_code == 402
    wanted = {"session": "s1", "models": ["gpt-4*"], "cap": usd("2.00"), "per_call_cap": usd("1.50")}
    made = org.must("POST", "/api/allowances", wanted, user="dora")
    assert org.chat(**ask).status_code == 200
    assert org.chat(**(ask | {"headers": {"farebox-session": "s2"}})).status_code == 402
    (listed,) = org.must("GET", "/api/allowances", user="dora")["data"]
    assert listed["calls"] in (0, 1) and Decimal(listed["used"]["amount"]) > 0
    org.must("DELETE", f"/api/allowances/{made['id']}", user="dora")
    assert org.chat(**ask).status_code == 402, "withdrawn at once"


def test_a_revoked_key_is_good_for_nothing_at_once(org: Org) -> None:
    made = org.must("POST", "/api/keys", {"name": "short"})
    own = {"authorization": f"Bearer {made['key']}"}
    assert org.chat(headers=own).status_code == 200
    org.must("DELETE", f"/api/keys/{made['id']}")
    answer = org.chat(headers=own)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key")


def test_usage_is_exact_by_day_model_and_person(org: Org) -> None:
    costs = [Decimal(_cost(org.chat(user="erin"))) for _ in range(3)]
    (row,) = org.must("GET", "/api/usage?group_by=user,model", user="erin")["data"]
    assert row["requests"] == 3 and row["user"] == "erin"
    assert Decimal(row["cost"]["amount"]) == sum(costs) == Decimal(row["prepaid"]["amount"])
    assert row["output_tokens"] > 0 and row["input_tokens"] > 0


def test_what_is_passed_on_unread_is_quoted_too(org: Org) -> None:
    speech = {"model": "tts-1", "voice": "alloy", "input": "Halt! Who goes there?"}
    answer = org.stack.http.post("/v1/audio/speech", json=speech, headers=org.headers("alice"))
    assert answer.status_code == 200 and answer.headers["farebox-quote"].startswith('id="q_')
    least = Decimal(answer.headers["farebox-quote"].split('min="')[1].split('"')[0])
    record = org.must("GET", f"/api/requests/{answer.headers['farebox-request-id']}", user="alice")
    assert least <= Decimal(record["cost"]["amount"])


def _upload(content: bytes) -> tuple[bytes, dict[str, str]]:
    """A recording to be written down, as a form, and its headers."""
    boundary = b"----toll"
    fields = b"".join(
        b'--%b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value)
        for name, value in ((b"model", b"whisper-1"), (b"response_format", b"json"))
    )
    head = b'--%b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
    body = fields + head % boundary + content + b"\r\n--%b--\r\n" % boundary
    return body, {"content-type": "multipart/form-data; boundary=----toll"}


def _digest(body: bytes) -> dict[str, str]:
    return {"content-digest": f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"}


def test_an_approval_of_an_upload_is_for_its_bytes(org: Org) -> None:
    """Large enough that its greatest time takes an approval."""
    path = "/v1/audio/transcriptions"
    good, form = _upload(b"\x01" * 9_000_000)
    evil, _ = _upload(b"\x02" * 9_000_000)
    headers = org.headers("gil") | form

    def send(body: bytes, **more: str) -> httpx.Response:
        return org.stack.http.post(path, content=body, headers=headers | more, timeout=60)

    nameless = send(good)
    assert (nameless.status_code, nameless.json()["param"]) == (422, "content-digest"), nameless.text
    asked = send(good, **_digest(good))
    assert asked.status_code == 402, asked.text
    quote = {"farebox-quote": asked.json()["quote"]["id"]}
    org.must("POST", f"/api/quotes/{quote['farebox-quote']}/approve", {}, user="gil")
    other = send(evil, **quote, **_digest(evil))
    assert (other.status_code, other.json()["code"]) == (409, "quote_mismatch")
    lying = send(evil, **quote, **_digest(good))
    assert (lying.status_code, lying.json()["param"]) == (422, "content-digest"), lying.text
    assert org.must("GET", f"/api/quotes/{quote['farebox-quote']}", user="gil")["state"] == "approved"
    assert send(good, **quote, **_digest(good)).status_code == 200


def _cost(answer: httpx.Response) -> str:
    return answer.headers["farebox-cost"].split('"')[1]
