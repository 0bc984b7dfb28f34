"""The paths on which an agent asks about its credit, over HTTP."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from bolthub.delegate import attenuate
from l402_parts import Parts, running_parts, shown
from pymacaroons.serializers import BinarySerializer
from servers import flush, running_valkey
from starlette.applications import Starlette

from gateway.core.errors import Problem
from gateway.web.addresses import Addresses
from gateway.web.l402 import L402Desk, l402_routes
from gateway.web.problems import on_problem


@dataclass
class Agent:
    parts: Parts
    http: httpx.AsyncClient
    macaroon: str
    preimage: str
    desk: L402Desk

    @property
    def proof(self) -> dict[str, str]:
        return {"authorization": f"L402 {self.macaroon}:{self.preimage}"}

    def narrowed(self, **caveats: object) -> dict[str, str]:
        return {"authorization": f"L402 {attenuate(self.macaroon, **caveats)}:{self.preimage}"}

    def with_caveat(self, caveat: str) -> dict[str, str]:
        macaroon = BinarySerializer().deserialize_raw(b64decode(self.macaroon))
        macaroon.add_first_party_caveat(caveat)
        shown = b64encode(BinarySerializer().serialize_raw(macaroon)).decode()
        return {"authorization": f"L402 {shown}:{self.preimage}"}

    async def refund(self, invoice: str, **headers: str) -> httpx.Response:
        return await self.http.post("/l402/refund", json={"payment_request": invoice}, headers=self.proof | headers)


@pytest.fixture(scope="module")
def durable_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory: Path = tmp_path_factory.mktemp("durable")
    with running_valkey(directory, "--appendonly", "yes", "--appendfsync", "always") as port:
        yield port


@pytest.fixture
async def agent(durable_port: int) -> AsyncIterator[Agent]:
    flush(durable_port)
    async with running_parts(f"redis://127.0.0.1:{durable_port}/0") as parts:
        desk = L402Desk(
            policy=lambda: parts.policy,
            challenger=parts.challenger,
            verifier=parts.verifier,
            crediting=parts.crediting,
            refunder=parts.refunder,
            ledger=parts.ledger,
            records=parts.records,
            addresses=Addresses(()),
            system=parts.clock,
        )
        app = Starlette(routes=l402_routes(desk), exception_handlers={Problem: on_problem})
        challenge, credential = await parts.bought()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://farebox") as http:
            yield Agent(parts, http, challenge.macaroon, (credential.preimage or b"").hex(), desk)


async def test_a_balance_shows_what_was_bought_and_what_is_left(agent: Agent) -> None:
    answer = await agent.http.get("/l402/balance", headers=agent.proof)
    assert answer.status_code == 200
    members = answer.json()
    expires_at = members.pop("expires_at")
    assert members == {
        "credited_msat": 1_000_000,
        "posted_msat": 0,
        "held_msat": 0,
        "available_msat": 1_000_000,
    }
    assert expires_at.endswith("Z")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-something"},
        {"authorization": "L402 rubbish"},
        {"authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"},  # a person's, not a payer's
        {"authorization": f"L402 {b64encode(b'rubbish').decode()}:{'00' * 32}"},
    ],
)
async def test_without_a_proof_every_path_answers_with_a_challenge(agent: Agent, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/l402/balance"), ("POST", "/l402/refund"), ("POST", "/l402/revoke")):
        answer = await agent.http.request(method, path, headers=headers | {"farebox-deposit": "21"})
        assert answer.status_code == 402
        assert answer.json()["creditSats"] == 21
        assert answer.headers["www-authenticate"].startswith('L402 macaroon="')
        assert next(iter(answer.headers)) == "www-authenticate"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-api-key": "fb_live_7f00"}, 403, "forbidden"),
        ({"authorization": "Bearer fb_live_7f00", "x-api-key": "fb_live_7f01"}, 400, "ambiguous_credential"),
    ],
)
async def test_other_credentials_are_refused_without_a_challenge(
    agent: Agent, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await agent.http.get("/l402/balance", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "www-authenticate" not in answer.headers


async def test_a_caveat_that_forbids_is_403_without_a_challenge(agent: Agent) -> None:
    for headers in (agent.narrowed(path_prefix="/v1"), agent.with_caveat("mood=good")):
        answer = await agent.http.get("/l402/balance", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "www-authenticate" not in answer.headers
    assert (await agent.http.get("/l402/balance", headers=agent.narrowed(method="GET"))).status_code == 200


@pytest.mark.parametrize(
    "body", [b"[" * 16_000, b'{"payment_request":' * 800, b"\xff", b"", b"null", b'{"payment_request":7}']
)
async def test_a_body_that_is_none_is_refused_and_refunds_nothing(agent: Agent, body: bytes) -> None:
    answer = await agent.http.post("/l402/refund", content=body, headers=agent.proof)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await agent.http.get("/l402/balance", headers=agent.proof)).json()["held_msat"] == 0


async def test_an_attenuated_credential_neither_refunds_nor_revokes(agent: Agent) -> None:
    invoice = agent.parts.wallet.add_invoice(amount_msat=1_000)
    headers = agent.narrowed(method="POST")
    for path, body in (("/l402/refund", {"payment_request": invoice}), ("/l402/revoke", {})):
        answer = await agent.http.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_a_refund_answers_with_what_was_paid(agent: Agent) -> None:
    answer = await agent.refund(agent.parts.wallet.add_invoice(amount_msat=400_000))
    assert answer.status_code == 200
    members = answer.json()
    assert len(members.pop("payment_hash")) == 64
    assert members == {"refunded_msat": 400_000, "fee_msat": 0, "state": "paid"}
    balance = (await agent.http.get("/l402/balance", headers=agent.proof)).json()
    assert (balance["posted_msat"], balance["available_msat"]) == (400_000, 600_000)


async def test_an_expired_token_still_takes_its_credit_back(agent: Agent) -> None:
    agent.parts.clock.ahead_s = agent.parts.policy.token_lifetime_s + 60
    await agent.parts.crediting.credit(agent.parts.payer(shown(agent.macaroon, bytes.fromhex(agent.preimage)), now_s=0))
    assert (await agent.http.get("/l402/balance", headers=agent.proof)).status_code == 200
    narrowed = await agent.http.get("/l402/balance", headers=agent.narrowed(method="GET"))
    assert narrowed.status_code == 402


async def test_the_same_key_and_body_get_the_same_answer(agent: Agent) -> None:
    invoice = agent.parts.wallet.add_invoice(amount_msat=1_000)
    answers = await asyncio.gather(*(agent.refund(invoice, **{"idempotency-key": "k1"}) for _ in range(5)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert (await agent.refund(invoice, **{"idempotency-key": "k1"})).content == answers[0].content
    balance = (await agent.http.get("/l402/balance", headers=agent.proof)).json()
    assert balance["posted_msat"] == 1_000


async def test_the_same_key_with_another_body_is_refused(agent: Agent) -> None:
    await agent.refund(agent.parts.wallet.add_invoice(amount_msat=1_000), **{"idempotency-key": "k1"})
    other = await agent.refund(agent.parts.wallet.add_invoice(amount_msat=1_000), **{"idempotency-key": "k1"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")


async def test_a_refused_request_leaves_its_key_free(agent: Agent) -> None:
    refused = await agent.refund(agent.parts.wallet.add_invoice(amount_msat=5_000_000), **{"idempotency-key": "k1"})
    assert refused.status_code == 422
    served = await agent.refund(agent.parts.wallet.add_invoice(amount_msat=1_000), **{"idempotency-key": "k1"})
    assert served.status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'"x"', "body"),
        (b"{", "body"),
        (b"\xff", "body"),
        (b"{}", "payment_request"),
        (b'{"payment_request": null}', "payment_request"),
        (b'{"payment_request": 5}', "payment_request"),
        (b'{"payment_request": "x"}', "payment_request"),
        (b'{"payment_request": "lnbc1", "amount": 1}', "amount"),
    ],
)
async def test_a_bad_body_is_422_and_names_the_field(agent: Agent, body: bytes, param: str) -> None:
    answer = await agent.http.post("/l402/refund", content=body, headers=agent.proof)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param


async def test_a_body_above_its_limit_is_413(agent: Agent) -> None:
    answer = await agent.http.post("/l402/refund", content=b" " * 20_000, headers=agent.proof)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_revoked_token_takes_nothing_back(agent: Agent) -> None:
    for _ in range(2):
        answer = await agent.http.post("/l402/revoke", headers=agent.proof)
        assert (answer.status_code, answer.json()["revoked"]) == (200, True)
    refused = await agent.refund(agent.parts.wallet.add_invoice(amount_msat=1_000))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_a_node_that_is_away_is_503_after_a_valid_proof(agent: Agent) -> None:
    agent.parts.simulated.faults.refuse = frozenset({"*"})
    answer = await agent.http.get("/l402/balance", headers=agent.proof)
    assert (answer.status_code, answer.json()["code"]) == (503, "lightning_unavailable")
    assert "www-authenticate" not in answer.headers


async def test_the_description_tells_how_to_pay(agent: Agent) -> None:
    described = (await agent.http.get("/.well-known/l402.json")).json()
    assert described["service"] == "farebox"
    assert described["deposit"]["default_sats"] == 1_000
    assert described["refund"] == "/l402/refund"


async def test_a_payment_that_is_not_settled_needs_a_challenge_on_every_path(agent: Agent) -> None:
    challenge = await agent.parts.challenger.challenge("192.0.2.1")
    agent.parts.simulated.accept(challenge.payment_hash)
    preimage = agent.parts.simulated.preimage(challenge.payment_hash).hex()
    headers = {"authorization": f"L402 {challenge.macaroon}:{preimage}"}
    body = {"payment_request": agent.parts.wallet.add_invoice(amount_msat=1_000)}
    for method, path in (("GET", "/l402/balance"), ("POST", "/l402/refund"), ("POST", "/l402/revoke")):
        answer = await agent.http.request(method, path, headers=headers, json=body)
        assert answer.status_code == 402
        assert answer.headers["www-authenticate"].startswith("L402 ")


async def test_a_refund_in_flight_is_not_the_last_answer_under_its_key(agent: Agent) -> None:
    parts = agent.parts
    parts.refund_policy = replace(parts.refund_policy, answer_within_s=0.2)
    parts.simulated.faults.keep_payments_in_flight = True
    invoice = parts.wallet.add_invoice(amount_msat=1_000)
    waiting = (await agent.refund(invoice, **{"idempotency-key": "k1"})).json()
    assert (waiting["state"], waiting["refunded_msat"]) == ("in_flight", 0)
    parts.simulated.release(bytes.fromhex(waiting["payment_hash"]))
    async with asyncio.timeout(10):
        while (paid := (await agent.refund(invoice, **{"idempotency-key": "k1"})).json())["state"] != "paid":
            await asyncio.sleep(0.02)
    assert paid["refunded_msat"] == 1_000


async def test_a_key_that_is_too_long_is_refused(agent: Agent) -> None:
    answer = await agent.refund("lnbc1", **{"idempotency-key": "k" * 256})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "idempotency-key")


async def test_where_the_node_may_not_pay_refunds_are_forbidden(agent: Agent) -> None:
    desk = replace(agent.desk, refunder=None)
    app = Starlette(routes=l402_routes(desk), exception_handlers={Problem: on_problem})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://farebox") as http:
        answer = await http.post("/l402/refund", json={"payment_request": "lnbc1"}, headers=agent.proof)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
