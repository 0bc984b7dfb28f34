"""Whoever asks for invoices and pays none is stopped, and nobody else is."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from e2e.stack import Parts, Stack, proof, start_stack, until

UNPAID_MOST = 8


@pytest.fixture(scope="module")
def gateway(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    limits = {"open_invoices_per_address": UNPAID_MOST, "challenges_per_minute": 200, "open_invoices_per_prefix": 12}
    with start_stack(tmp_path_factory.mktemp("floods"), parts, limits=limits, trusted_proxies=["127.0.0.1"]) as running:
        yield running


def asked(gateway: Stack, address: str, **headers: str) -> httpx.Response:
    """A call by somebody at this address, as the trusted proxy tells it."""
    return gateway.http.get("/raw/x", headers={"x-forwarded-for": address, **headers})


def test_the_ninth_unpaid_invoice_of_an_address_is_429_and_paying_one_makes_room(gateway: Stack) -> None:
    offers = [asked(gateway, "192.0.2.1") for _ in range(UNPAID_MOST)]
    assert [offer.status_code for offer in offers] == [402] * UNPAID_MOST
    assert len({offer.json()["paymentHash"] for offer in offers}) == UNPAID_MOST, "nobody shares an invoice"
    refused = asked(gateway, "192.0.2.1")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
    assert "www-authenticate" not in refused.headers and "invoice" not in refused.json()
    first = offers[0].json()
    credential = f"{first['macaroon']}:{gateway.pay(first['invoice'])}"
    assert asked(gateway, "192.0.2.1", **proof(credential)).status_code == 200, "paid credit is served in any flood"
    until(lambda: asked(gateway, "192.0.2.1").status_code == 402, what="room for another one")


def test_a_network_is_stopped_before_others_are(gateway: Stack) -> None:
    statuses = [asked(gateway, f"198.51.100.{host}").status_code for host in range(1, 20)]
    assert statuses == [402] * 12 + [429] * 7
    assert asked(gateway, "203.0.113.7").status_code == 402


def test_a_top_up_is_never_shed(gateway: Stack) -> None:
    offer = asked(gateway, "192.0.3.1", **{"farebox-deposit": "1"}).json()
    credential = f"{offer['macaroon']}:{gateway.pay(offer['invoice'])}"
    assert asked(gateway, "192.0.3.1", **proof(credential)).status_code == 200
    until(lambda: asked(gateway, "192.0.3.1").status_code == 429, what="the flood's end")
    assert asked(gateway, "192.0.3.1", **proof(credential)).status_code == 402
