"""What is no request here: a method, a protocol, a form of body or a head that nobody serves is told so, and never sold
an invoice for."""

from __future__ import annotations

import gzip
import json
import socket

import httpx
import pytest
from e2e.people import Org, make_org
from e2e.stack import CHAT, Stack, body, proof

GRPC = {"content-type": "application/grpc"}
REALTIME = "/v1/realtime?model=gpt-realtime"


@pytest.fixture(scope="module")
def org(stack: Stack) -> Org:
    return make_org(stack)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(("path", "allowed"), [(CHAT, "POST"), ("/v1/models", "GET"), ("/openai/v1/models", "GET")])
def test_a_method_that_nobody_serves_is_not_sold(stack: Stack, method: str, path: str, allowed: str) -> None:
    answer = stack.http.request(method, path, headers={"farebox-deposit": "5"})
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert "www-authenticate" not in answer.headers
    if method != "HEAD":
        assert code_of(answer) == (405, "method_not_allowed")


def test_a_get_of_any_path_that_is_served_buys_credit(stack: Stack) -> None:
    for path in (CHAT, "/v1/messages", REALTIME):
        offer = stack.http.get(path, headers={"farebox-deposit": "7"})
        assert (code_of(offer), offer.json()["creditSats"]) == ((402, "payment_required"), 7)
    credential = stack.buy(10)
    assert code_of(stack.http.get(CHAT, headers=proof(credential))) == (405, "method_not_allowed")


def test_a_head_of_our_own_paths_is_not_sold_either(stack: Stack) -> None:
    for path in ("/l402/balance", f"/api/requests/req_00{'0' * 26}"):
        answer = stack.http.head(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert "www-authenticate" not in answer.headers


def test_a_realtime_path_without_an_upgrade_says_that_it_takes_one(stack: Stack, org: Org) -> None:
    for shown in (proof(stack.buy(10)), org.headers()):
        answer = stack.http.get(REALTIME, headers=shown)
        assert code_of(answer) == (426, "upgrade_required")
        assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "upgrade")
        assert "WebSocket" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/l402/balance/", "/metrics/", "/health/live/", "/api/keys/"])
def test_a_slash_too_many_is_an_unknown_path_and_no_redirect(stack: Stack, path: str) -> None:
    answer = stack.http.get(path, headers={"host": "evil.example"})
    assert code_of(answer) == (404, "not_found")
    assert "location" not in answer.headers


def test_a_compressed_body_is_refused_by_the_header_that_says_so(stack: Stack, org: Org) -> None:
    packed = gzip.compress(json.dumps(body()).encode())
    said = {"content-type": "application/json", "content-encoding": "gzip"}
    refund = gzip.compress(b'{"payment_request": "lnbc1"}')
    credential = proof(stack.buy(10))
    for path, shown, sent in (
        (CHAT, credential, packed),
        (CHAT, {}, packed),
        ("/api/allowances", org.headers(), packed),
        ("/l402/refund", credential, refund),
    ):
        answer = stack.http.post(path, content=sent, headers=shown | said)
        assert code_of(answer) == (422, "invalid_request"), path
        assert answer.json()["param"] == "content-encoding"
    plain = stack.http.post(CHAT, json=body(), headers=credential | {"content-encoding": "identity"})
    assert plain.status_code == 200


def test_a_head_that_is_too_long_gets_the_body_of_all_refusals(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as wire:
        wire.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 200_000)
        answer = b""
        while piece := wire.recv(65_536):
            answer += piece
    head, _, said = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ") and b"content-type: application/problem+json" in head
    assert (json.loads(said)["code"], json.loads(said)["status"]) == ("too_large", 431)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/embeddings", "/raw/x", "/l402/refund"])
def test_a_grpc_caller_without_a_credential_is_told_to_pay_as_grpc_tells_it(stack: Stack, path: str) -> None:
    answer = stack.http.post(path, content=b"\0\0\0\0\2\x0a\0", headers=GRPC)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["grpc-status"], answer.headers["grpc-message"]) == ("13", "payment required")
    assert answer.headers["www-authenticate"].startswith('L402 macaroon="')
    assert answer.headers["content-type"] == "application/grpc"


def test_a_grpc_caller_is_refused_by_grpcs_own_codes(stack: Stack) -> None:
    assert stack.http.get("/l402/balance", headers=GRPC).headers["grpc-status"] == "13"
    assert stack.http.get("/l402/nothing", headers=GRPC).headers["grpc-status"] == "12"
    assert stack.http.get("/api/keys", headers=GRPC).headers["grpc-status"] == "16"
    body_of_grpc = stack.http.post(CHAT, content=b"\0\0\0\0\0", headers=GRPC | proof(stack.buy(10)))
    assert body_of_grpc.headers["grpc-status"] == "3"
