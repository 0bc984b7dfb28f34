"""Every request leaves one line and one count: whose it was, what it cost, why it was refused or broke off; and nothing
that is worth money."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from e2e.crowd import Ask, ask_one
from e2e.people import Org, make_org, usd
from e2e.stack import CHAT, Parts, Stack, body, proof, start_stack, until
from e2e.test_broken_streams import Client
from prometheus_client.parser import text_string_to_metric_families

Line = dict[str, Any]


@pytest.fixture(scope="module")
def logged(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway whose log nobody else writes to, with short patience."""
    with start_stack(tmp_path_factory.mktemp("logged"), parts, upstream={"read_idle_timeout_s": 1.0}) as running:
        yield running
        running.check_books()


@pytest.fixture(scope="module")
def org(logged: Stack) -> Org:
    return make_org(logged)


def lines(stack: Stack) -> list[Line]:
    return [json.loads(line) for line in stack.log.read_text().splitlines() if line.startswith('{"at"')]


def line_where(stack: Stack, holds: Callable[[Line], bool]) -> Line:
    """The one line of which this is true."""
    until(lambda: any(holds(line) for line in lines(stack)), what="the line")
    (found,) = [line for line in lines(stack) if holds(line)]
    return found


def line_of(stack: Stack, answer: httpx.Response) -> Line:
    return line_of_id(stack, answer.headers["farebox-request-id"])


def line_of_id(stack: Stack, request_id: str) -> Line:
    return line_where(stack, lambda line: line.get("request_id") == request_id)


def count(stack: Stack, family: str, **labels: str) -> float:
    """The value of one series."""
    found = text_string_to_metric_families(stack.http.get("/metrics").text)
    samples = (sample for each in found for sample in each.samples if sample.name == f"{family}_total")
    return sum(sample.value for sample in samples if sample.labels == labels)


def requests(stack: Stack, route: str, operation: str, status: int) -> float:
    return count(stack, "farebox_requests", route=route, operation=operation, status=str(status))


def test_an_agents_own_paths_are_logged_and_counted(logged: Stack) -> None:
    credential = logged.buy(30)
    logged.balance(credential)
    account = line_where(logged, lambda line: line["route"] == "/l402/balance")["account"]
    assert account.startswith("tk_")
    asked = {"payment_request": logged.invoice(10_000)}
    refund = logged.http.post("/l402/refund", json=asked, headers=proof(credential))
    assert refund.status_code == 200, refund.text
    line = line_where(logged, lambda line: line["route"] == "/l402/refund")
    assert (line["method"], line["status"], line["operation"], line["account"]) == ("POST", 200, "l402", account)
    assert line["policy"] and line["ms"] > 0
    assert logged.http.get("/l402/balance?reason=none").status_code == 402
    refused = line_where(logged, lambda line: line["route"] == "/l402/balance" and line["status"] == 402)
    assert (refused["reason"], "account" in refused) == ("payment_required", False)
    assert requests(logged, "/l402/refund", "l402", 200) == requests(logged, "/l402/balance", "l402", 402) == 1
    assert count(logged, "farebox_refused", reason="payment_required") >= 1


def test_a_persons_requests_tell_organization_key_and_person(logged: Stack, org: Org) -> None:
    (key,) = org.must("GET", "/api/keys")["data"]
    whose = {"org": org.org_id, "key_id": key["id"], "user": "ann"}
    told = line_of(logged, org.chat(user="ann"))
    assert told.items() >= (whose | {"status": 200, "route": CHAT, "basis": "reported"}).items()
    assert told["amount"] > 0 and told["hold"].startswith("ho_") and told["usage"]["output_tokens"] > 0
    org.must("GET", "/api/account", user="ann")
    assert line_where(logged, lambda line: line["route"] == "/api/account").items() >= whose.items()
    assert org.ask("PUT", "/api/budgets", {"limit": "much"}, user="ann").status_code == 422
    wrong = line_where(logged, lambda line: line["route"] == "/api/budgets")
    assert wrong.items() >= (whose | {"reason": "invalid_request", "operation": "api"}).items()
    operated = line_where(logged, lambda line: line["route"] == "/admin/api/accounts")
    assert operated["operation"] == "admin" and operated["key_id"].startswith("ak_")


def test_a_refusal_tells_route_operation_and_whose_it_was(logged: Stack, org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "bob"})
    org.must("PUT", "/api/budgets", {"limit": usd("0.000001"), "scope": {"user": "bob"}, "window": "total"})
    over = org.chat(user="bob")
    assert over.status_code == 402
    line = line_of(logged, over)
    assert line.items() >= {"route": CHAT, "operation": "chat", "user": "bob", "org": org.org_id, "status": 402}.items()
    assert (line["model"], line["reason"]) == ("gpt-4o-mini", "budget_exceeded")
    spent = logged.buy(1)
    assert logged.http.get("/raw/all-of-it", headers=proof(spent)).status_code == 200
    poor = logged.http.post(CHAT, json=body(), headers=proof(spent))
    assert poor.status_code == 402 and line_of(logged, poor)["account"].startswith("tk_")
    for asked, reason in (
        (logged.http.post(CHAT, json=body()), "payment_required"),
        (logged.http.post(CHAT, content=b"{", headers=proof(spent)), "invalid_request"),
        (logged.http.post(CHAT, json=body(), headers={"authorization": "Bearer fb_live_00nobody"}), "invalid_key"),
    ):
        line = line_of(logged, asked)
        assert (line["route"], line["operation"], line["reason"]) == (CHAT, "chat", reason)
    assert requests(logged, CHAT, "chat", 402) >= 3 and requests(logged, CHAT, "chat", 422) == 1


async def test_a_stream_that_its_upstream_breaks_off_is_no_refusal(logged: Stack) -> None:
    credential = logged.buy(100)
    for fault, reason in (("close@30", "upstream_closed"), ("stall@30", "upstream_stalled")):
        wish = {"x-sim-fault": fault, "x-sim-output-tokens": "500"}
        said = json.dumps(body(stream=True)).encode()
        reply = await ask_one(logged.port, Ask(CHAT, proof(credential) | wish, said))
        line = line_of_id(logged, reply.request_id)
        assert (line["status"], line["reason"], line["state"]) == (200, reason, "posted")
        assert count(logged, "farebox_broken_answers", reason=reason) == 1
        assert count(logged, "farebox_refused", reason=reason) == 0


def test_a_client_that_hangs_up_in_mid_stream_leaves_its_reason(logged: Stack) -> None:
    credential = logged.buy(100)
    said = json.dumps(body(stream=True)).encode()
    wish = {"x-sim-output-tokens": "1000", "x-sim-interval-ms": "5"}
    client = Client(logged, Ask(CHAT, proof(credential) | wish, said))
    client.read_until(20)
    client.close()
    line = line_of_id(logged, client.request_id)
    assert (line["status"], line["reason"], line["basis"]) == (200, "client_gone", "counted")
    assert count(logged, "farebox_broken_answers", reason="client_gone") == 1


def test_what_machines_ask_all_the_time_leaves_no_line(logged: Stack) -> None:
    logged.http.get("/health/live")
    logged.http.get("/openapi.json")
    line_where(logged, lambda line: line["route"] == "/openapi.json")
    assert not [line for line in lines(logged) if line["route"].startswith(("/health", "/metrics"))]


def test_no_line_holds_what_is_worth_money(logged: Stack, org: Org) -> None:
    credential = logged.buy(10)
    macaroon, _, preimage = credential.partition(":")
    logged.http.get(f"/l402/balance?key={credential}")
    logged.http.get("/l402/balance", headers=proof(credential))
    logged.http.get("/v1/models", headers=proof(credential))
    org.ask("GET", "/api/account")
    marked = logged.http.post(CHAT, json=body("a prompt of mine"), headers=proof(credential))
    line_of(logged, marked)
    text = logged.log.read_text()
    for secret in (macaroon, preimage, org.app_key, org.operator_key, "a prompt of mine"):
        assert secret not in text
