"""The agent's whole path through a running gateway and a real pair of nodes: 402, payment, stream, spend, cut, top-up,
refund; the seller's node killed and restarted in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from e2e.stack import CALL_MSAT, CHAT, Parts, Stack, body, proof, start_stack, until
from lnd.nodes import RealNode, RealPair

from gateway import lnrpc
from gateway.client import Caps, LndWallet, Payer
from gateway.client.challenges import Challenge, read_challenge
from gateway.client.purse import Payment
from gateway.simulators.upstream_serving import spawned_upstream

# gpt-4o costs 10 USD a million tokens of output; a msat is a millionth of a dollar here.
DEAR, OUTPUT_MSAT = "gpt-4o", 10
_LEAD = ": farebox "


@pytest.fixture(scope="module")
def parts(real_pair: RealPair) -> Iterator[Parts]:
    """The real seller's node, and a simulated upstream in a process of its own."""
    seller = real_pair.seller
    lnd = {
        "address": seller.address,
        "tls_cert": str(seller.program.directory / "tls.cert"),
        "macaroon": seller.macaroon(),
    }
    with spawned_upstream() as upstream_url:
        yield Parts(upstream_url, "", lnd)


@pytest.fixture(scope="module")
def gateway(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("gateway"), parts) as stack:
        yield stack


@pytest.fixture(scope="module")
def wallet(real_pair: RealPair) -> Iterator[LndWallet]:
    """What an agent pays with: the payer's node."""
    wallet = LndWallet(
        real_pair.payer.address, tls_cert=real_pair.payer.tls_cert_pem, macaroon=real_pair.payer.macaroon()
    )
    yield wallet
    wallet.close()


def challenged(gateway: Stack, sats: int, **headers: str) -> Challenge:
    """The challenge of a request that shows `headers`, checked as a client does."""
    answer = gateway.http.get("/v1/models", headers={"farebox-deposit": str(sats), **headers})
    assert answer.status_code == 402, answer.text
    return checked(answer, sats)


def checked(answer: Any, sats: int) -> Challenge:
    found = read_challenge(answer.headers.get_list("www-authenticate"), now_s=time.time())
    assert isinstance(found, Challenge), found
    assert found.amount_msat == sats * 1_000
    return found


def paid(wallet: LndWallet, challenge: Challenge) -> str:
    """The credential that the payment makes of a challenge."""
    outcome = wallet.pay(
        Payment(
            challenge.payment_hash, "http://gateway", challenge.service, challenge.macaroon, challenge.invoice,
            challenge.amount_msat, 1_000, time.time(), challenge.expires_at_s,
        )
    )  # fmt: skip
    assert outcome.state == "paid", outcome
    return f"{challenge.macaroon}:{outcome.preimage}"


def stream(gateway: Stack, credential: str, tokens: int) -> tuple[str, str, dict[str, Any]]:
    """A stream read to its end: its request id, its text, and what its comment says."""
    headers = proof(credential) | {"x-sim-output-tokens": str(tokens)}
    said = body("Hello there", model=DEAR, stream=True)
    with gateway.http.stream("POST", CHAT, headers=headers, json=said) as answer:
        assert answer.status_code == 200, answer.read()
        lines = list(answer.iter_lines())
    assert lines[-2] == "data: [DONE]"
    return answer.headers["farebox-request-id"], text_of(lines), note_of(lines)


def text_of(lines: list[str]) -> str:
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def note_of(lines: list[str]) -> dict[str, Any]:
    (note,) = [json.loads(line.removeprefix(_LEAD)) for line in lines if line.startswith(_LEAD)]
    return dict(note)


def call(gateway: Stack, credential: str) -> Any:
    return gateway.http.get("/raw/search", headers=proof(credential))


def invoice_of(node: RealNode, amount_msat: int = 0) -> Any:
    request = lnrpc.lightning.Invoice(value_msat=amount_msat, expiry=600)
    return node.call("lnrpc.Lightning/AddInvoice", request, lnrpc.lightning.AddInvoiceResponse)


def received_msat(node: RealNode, payment_hash: bytes) -> int:
    found = node.call(
        "lnrpc.Lightning/LookupInvoice", lnrpc.lightning.PaymentHash(r_hash=payment_hash), lnrpc.lightning.Invoice
    )
    return int(found.amt_paid_msat)


def books_are_in_order(gateway: Stack) -> None:
    status, report = gateway.farebox("reconcile")
    assert status == 0, report
    assert "the books are in order" in report


def test_an_agent_pays_streams_is_cut_tops_up_and_takes_the_rest_back(
    gateway: Stack, wallet: LndWallet, real_pair: RealPair
) -> None:
    asked = gateway.http.post(CHAT, json=body("Hello there", model=DEAR, stream=True), headers={"farebox-deposit": "9"})
    assert asked.status_code == 402
    offer = checked(asked, 9)
    credential = paid(wallet, offer)

    request_id, text, note = stream(gateway, credential, 200)
    assert len(text.split()) == 200 == gateway.sent(request_id)["tokens_sent"]
    assert 200 * OUTPUT_MSAT <= note["cost"]["amount_msat"] <= 200 * OUTPUT_MSAT + 100
    assert note["final"] and note["cut"] is None
    left = 9_000 - note["cost"]["amount_msat"]
    assert gateway.settled(credential) == {
        "credited": 9_000, "posted": 9_000 - left, "held": 0, "available": left,
    }  # fmt: skip

    answered = call(gateway, credential)
    assert answered.headers["farebox-balance"] == f"amount_msat={left - CALL_MSAT}"

    request_id, text, note = stream(gateway, credential, 5_000)
    assert note["cut"] == "credit"
    assert len(text.split()) * OUTPUT_MSAT <= note["cost"]["amount_msat"] <= left - CALL_MSAT
    assert len(text.split()) > 400, "it was cut too soon"
    until(lambda: gateway.sent(request_id)["cut_off"], what="the end of the upstream's work")

    refused = call(gateway, credential)
    assert refused.status_code == 402
    top_up = challenged_again(gateway, credential, 400, offer)
    topped = paid(wallet, top_up)
    assert call(gateway, topped).status_code == 200
    assert call(gateway, credential).status_code == 200, "the first credential is as good as the second"
    balance = gateway.settled(credential)
    assert balance["credited"] == 9_000 + 400_000

    named = invoice_of(real_pair.payer)
    answer = gateway.http.post(
        "/l402/refund", headers=proof(credential), json={"payment_request": named.payment_request}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    refund = answer.json()
    assert refund["state"] == "paid"
    assert received_msat(real_pair.payer, named.r_hash) == refund["refunded_msat"] > 380_000
    again = gateway.http.post(
        "/l402/refund", headers=proof(credential), json={"payment_request": named.payment_request}, timeout=60
    )
    assert again.json() == refund
    after = gateway.settled(credential)
    assert after["available"] == balance["available"] - refund["refunded_msat"] - refund["fee_msat"]
    books_are_in_order(gateway)


def challenged_again(gateway: Stack, credential: str, sats: int, first: Challenge) -> Challenge:
    """The top-up that a spent credential is offered: of the same token."""
    answer = gateway.http.get("/raw/search", headers=proof(credential) | {"farebox-deposit": str(sats)})
    assert answer.status_code == 402
    offer = checked(answer, int(answer.json()["creditSats"]))
    assert offer.token_id == first.token_id
    assert offer.payment_hash != first.payment_hash
    return offer


def test_a_client_with_an_lnd_wallet_pays_once_and_spends_on(gateway: Stack, wallet: LndWallet) -> None:
    told: list[object] = []
    payer = Payer(wallet, caps=Caps(per_call_sats=60), deposit_sats=50, observe=told.append)
    with httpx2.Client(auth=payer.httpx2_auth(), base_url=gateway.base_url, timeout=60) as client:
        headers = {"x-sim-output-tokens": "40"}
        with client.stream("POST", CHAT, json=body(model=DEAR, stream=True), headers=headers) as answer:
            assert answer.status_code == 200
            lines = list(answer.iter_lines())
        assert len(text_of(lines).split()) == 40
        assert client.get("/raw/search").status_code == 200
    (payment,) = told
    assert isinstance(payment, Payment)
    (token,) = [one for one in payer.purse.payments() if one.payment_hash == payment.payment_hash]
    assert gateway.settled(token.credential)["credited"] == 50_000


def farebox_pay(gateway: Stack, payer: RealNode, purse: Path, *, max_sats: int) -> subprocess.CompletedProcess[str]:
    """`farebox pay` on a stream, with the payer's node."""
    directory = payer.program.directory
    command = [
        *(sys.executable, "-m", "gateway", "pay", f"{gateway.base_url}{CHAT}", "--yes", "--purse", str(purse)),
        *("-H", "content-type: application/json", "-H", "x-sim-output-tokens: 25"),
        *("-d", json.dumps(body(model=DEAR, stream=True)), "--max-sats", str(max_sats), "--deposit", "25"),
        *("--lnd", payer.address, "--lnd-tls-cert", str(directory / "tls.cert")),
        *("--lnd-macaroon", str(directory / "data/chain/bitcoin/simnet/admin.macaroon")),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_farebox_pay_streams_with_a_real_node_as_wallet(gateway: Stack, real_pair: RealPair, tmp_path: Path) -> None:
    purse = tmp_path / "purse.json"
    too_dear = farebox_pay(gateway, real_pair.payer, purse, max_sats=20)
    assert too_dear.returncode == 2
    assert "not paid" in too_dear.stderr
    first = farebox_pay(gateway, real_pair.payer, purse, max_sats=30)
    assert first.returncode == 0, first.stderr
    assert "price: 25 sats" in first.stderr
    assert len(text_of(first.stdout.split("\n")).split()) == 25
    second = farebox_pay(gateway, real_pair.payer, purse, max_sats=30)
    assert second.returncode == 0, second.stderr
    assert "price" not in second.stderr, "there was credit left"


def refused_for_lightning(answer: Any) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "lightning_unavailable"
    assert int(answer.headers["retry-after"]) > 0


def test_a_killed_node_stops_no_paid_credit_and_loses_no_payment(
    gateway: Stack, wallet: LndWallet, real_pair: RealPair
) -> None:
    credential = paid(wallet, challenged(gateway, 5))
    assert call(gateway, credential).status_code == 200
    late = challenged(gateway, 40)
    os.kill(gateway.process.pid, signal.SIGSTOP)  # so that the gateway cannot see the payment before the node is gone
    try:
        shown = paid(wallet, late)
        real_pair.seller.kill()
    finally:
        os.kill(gateway.process.pid, signal.SIGCONT)
    try:
        for _ in range(4):
            assert call(gateway, credential).status_code == 200, "paid credit goes on being served"
        refused_for_lightning(call(gateway, credential))  # spent: a top-up cannot be made, and no 402 without one
        refused_for_lightning(gateway.http.get("/v1/models"))
        meanwhile = call(gateway, shown)
        if meanwhile.status_code != 200:  # the node may have told of the payment with its last breath
            refused_for_lightning(meanwhile)
    finally:
        real_pair.bring_back(real_pair.seller)
    until(lambda: call(gateway, shown).status_code == 200, what="the credit of the payment before the kill")
    assert gateway.settled(shown)["credited"] == 40_000
    fresh = paid(wallet, challenged(gateway, 3))
    assert call(gateway, fresh).status_code == 200
    books_are_in_order(gateway)
    assert gateway.settled(shown)["credited"] == 40_000, "credited twice"


def test_a_gateway_that_starts_without_its_node_serves_what_is_paid_and_catches_up(
    gateway: Stack, wallet: LndWallet, real_pair: RealPair
) -> None:
    credential = paid(wallet, challenged(gateway, 10))
    assert call(gateway, credential).status_code == 200
    late = challenged(gateway, 40)
    gateway.kill()
    shown = paid(wallet, late)
    real_pair.seller.kill()
    try:
        gateway.restart()
        assert call(gateway, credential).status_code == 200, "paid credit is served without the node"
        refused_for_lightning(call(gateway, shown))  # paid and not credited yet: never a second invoice
        refused_for_lightning(gateway.http.get("/v1/models"))
    finally:
        real_pair.bring_back(real_pair.seller)
    until(lambda: call(gateway, shown).status_code == 200, what="the credit of the payment before the kill")
    assert gateway.settled(shown)["credited"] == 40_000
    books_are_in_order(gateway)
