"""The simulated wallet over HTTP, served by uvicorn on a real socket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from lnd.steps import an_invoice, looked_up
from lnd.worlds import SimulatedWorld, adapter

from gateway.adapters.lnd import LndNode
from gateway.simulators.wallet import wallet_app


@pytest.fixture
async def wallet(simulated: SimulatedWorld) -> AsyncIterator[httpx.AsyncClient]:
    config = uvicorn.Config(wallet_app(simulated.payer), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    server.should_exit = True
    await serving


@pytest.fixture
async def shop(simulated: SimulatedWorld) -> AsyncIterator[LndNode]:
    node = adapter(simulated.seller)
    yield node
    await node.close()


async def test_the_wallet_pays_and_gives_the_preimage(wallet: httpx.AsyncClient, shop: LndNode) -> None:
    before = (await wallet.get("/balance")).json()["balance_msat"]
    invoice = await an_invoice(shop, 5_000)
    answer = await wallet.post("/pay", json={"invoice": invoice.payment_request})
    paid = answer.json()
    assert answer.status_code == 200
    assert hashlib.sha256(bytes.fromhex(paid["preimage"])).digest() == invoice.payment_hash
    assert (paid["amount_msat"], paid["fee_msat"]) == (5_000, 0)
    assert (await looked_up(shop, invoice.payment_hash)).state == "settled"
    assert (await wallet.get("/balance")).json()["balance_msat"] == before - 5_000


async def test_the_wallet_makes_invoices_with_and_without_amount(wallet: httpx.AsyncClient, shop: LndNode) -> None:
    fixed = (await wallet.post("/invoice", json={"amount_msat": 7_000})).json()
    assert (await shop.decode(fixed["invoice"])).amount_msat == 7_000
    free = (await wallet.post("/invoice", json={"memo": "refund"})).json()
    decoded = await shop.decode(free["invoice"])
    assert (decoded.amount_msat, decoded.description) == (None, "refund")
    payment = await shop.pay(free["invoice"], amount_msat=3_000, fee_limit_msat=0, timeout_s=10, cltv_limit=300)
    assert (payment.state, payment.payment_hash.hex()) == ("succeeded", free["payment_hash"])


async def test_an_invoice_is_never_paid_twice(wallet: httpx.AsyncClient, shop: LndNode) -> None:
    body = {"invoice": (await an_invoice(shop)).payment_request}
    answers = await asyncio.gather(*(wallet.post("/pay", json=body) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    late = await wallet.post("/pay", json=body)
    assert late.json()["detail"] == "invoice is already paid"
    assert late.headers["content-type"] == "application/problem+json"


async def test_a_failed_payment_is_a_problem(
    simulated: SimulatedWorld, wallet: httpx.AsyncClient, shop: LndNode
) -> None:
    simulated.payer.faults.fail_payments = "NO_ROUTE"
    answer = await wallet.post("/pay", json={"invoice": (await an_invoice(shop)).payment_request})
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_failed")
    assert answer.json()["detail"] == "NO_ROUTE"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/pay", b""),
        ("/pay", b"[]"),
        ("/pay", b'{"invoice": 5}'),
        ("/pay", b'{"invoice": "x", "surprise": 1}'),
        ("/invoice", b'{"amount_msat": "5"}'),
        ("/invoice", b'{"amount_msat": -5}'),
    ],
)
async def test_bad_input_is_a_problem(wallet: httpx.AsyncClient, path: str, content: bytes) -> None:
    answer = await wallet.post(path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_junk_is_not_paid(wallet: httpx.AsyncClient) -> None:
    answer = await wallet.post("/pay", json={"invoice": "lnbc1junk"})
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_refused")


async def test_a_body_that_is_too_large_is_not_read(wallet: httpx.AsyncClient) -> None:
    answer = await wallet.post("/pay", json={"invoice": "x" * 70_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
