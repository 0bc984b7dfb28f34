"""L402 clients of others, from PyPI and unchanged, buy credit with a wallet of theirs and use it."""

from __future__ import annotations

from typing import Any

import bolthub
import httpx
import pytest
from e2e.stack import CHAT, Stack, body
from l402_requests import AsyncL402Client, BudgetController, L402Client
from l402_requests.wallets import WalletBase


class BolthubWallet:
    """What bolthub asks of a wallet."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.paid: list[str] = []

    def pay_invoice(self, bolt11: str) -> str:
        self.paid.append(bolt11)
        return self._stack.pay(bolt11)


class RequestsWallet(WalletBase):  # type: ignore[misc]  # untyped
    """What l402-requests asks of a wallet."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.paid: list[str] = []

    async def pay_invoice(self, bolt11: str) -> str:
        self.paid.append(bolt11)
        return self._stack.pay(bolt11)


def test_bolthub_buys_credit_with_get_and_spends_it(stack: Stack) -> None:
    wallet = BolthubWallet(stack)
    with bolthub.L402Client(wallet) as client:
        bought = client.buy_credit(f"{stack.base_url}/raw/search", 10)
        assert bought["credit_sats"] == 10
        answers = [client.get(f"{stack.base_url}/raw/search") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(wallet.paid) == 1
    assert [answer.headers["farebox-balance"] for answer in answers] == [f"amount_msat={n}000" for n in (9, 8, 7)]


def test_bolthub_buys_credit_with_post_and_spends_it_on_another_path(stack: Stack) -> None:
    wallet = BolthubWallet(stack)
    with bolthub.L402Client(wallet) as client:
        client.buy_credit(f"{stack.base_url}{CHAT}", 500, method="POST")
        answer = client.post(f"{stack.base_url}{CHAT}", json=body(max_tokens=20))
        also = client.get(f"{stack.base_url}/raw/search")
    assert (answer.status_code, also.status_code) == (200, 200)
    assert len(wallet.paid) == 1


def test_bolthub_pays_as_it_goes(stack: Stack) -> None:
    wallet = BolthubWallet(stack)
    with bolthub.L402Client(wallet, budget_sats=5_000) as client:
        assert client.post(f"{stack.base_url}{CHAT}", json=body(max_tokens=20)).status_code == 200
        assert client.total_spent == 1_000 and len(wallet.paid) == 1


async def test_bolthub_async_buys_credit(stack: Stack) -> None:
    class Wallet:
        async def pay_invoice(self, bolt11: str) -> str:
            return stack.pay(bolt11)

    client_class: Any = bolthub.AsyncL402Client
    async with client_class(Wallet()) as client:
        await client.buy_credit(f"{stack.base_url}/raw/search", 5)
        answer = await client.get(f"{stack.base_url}/raw/search")
    assert answer.status_code == 200


def test_bolthub_goes_on_paying_when_its_credit_is_spent(stack: Stack) -> None:
    wallet = BolthubWallet(stack)
    headers = {"x-bolthub-credit": "1"}
    with bolthub.L402Client(wallet) as client:
        client.buy_credit(f"{stack.base_url}/raw/search", 1)
        statuses = [client.get(f"{stack.base_url}/raw/search", headers=headers).status_code for _ in range(3)]
    assert statuses == [200] * 3
    # It keeps what `buy_credit` bought, and forgets a token that a plain call bought: one invoice for each of the calls
    # after the first, none twice.
    assert len(set(wallet.paid)) == len(wallet.paid) == 3


def test_l402_requests_pays_once_and_spends_the_rest(stack: Stack) -> None:
    wallet = RequestsWallet(stack)
    client = L402Client(wallet=wallet, budget=BudgetController(max_sats_per_request=2_000), timeout=30)
    answers = [client.get(f"{stack.base_url}/raw/search") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(wallet.paid) == 1


def test_l402_requests_posts_and_streams(stack: Stack) -> None:
    wallet = RequestsWallet(stack)
    client = L402Client(wallet=wallet, budget=BudgetController(max_sats_per_request=2_000), timeout=30)
    answer = client.post(f"{stack.base_url}{CHAT}", json=body(max_tokens=20))
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 20
    streamed = client.post(f"{stack.base_url}{CHAT}", json=body(max_tokens=20, stream=True))
    assert b"data: [DONE]" in streamed.content
    assert len(wallet.paid) == 1


async def test_l402_requests_async_asks_for_its_own_deposit(stack: Stack) -> None:
    wallet = RequestsWallet(stack)
    headers = {"farebox-deposit": "7"}
    async with AsyncL402Client(wallet=wallet, budget=BudgetController(), timeout=30) as client:
        answer: httpx.Response = await client.get(f"{stack.base_url}/raw/search", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["farebox-balance"] == "amount_msat=6000"


@pytest.mark.parametrize("header", ["farebox-deposit", "x-bolthub-credit"])
def test_a_deposit_is_echoed(stack: Stack, header: str) -> None:
    offer = stack.http.get("/raw/search", headers={header: "42"}).json()
    assert (offer["creditSats"], offer["amountSats"], offer["amount_sats"]) == (42, 42, 42)
