"""Challenges on a real store and a node on a socket."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace

import bolt11
import pytest
from l402_parts import RATE, Parts, running_parts, shown

from gateway.adapters.lnd import LndNode
from gateway.core.challenges import Challenge, read_memo
from gateway.core.errors import RateLimited, Unavailable
from gateway.core.holds import Placed
from gateway.core.tokens import Verified
from gateway.flows.challenging import Challenger
from gateway.ports import Invoice


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_parts(valkey_url) as parts:
        yield parts


def limited(parts: Parts, **limits: int) -> None:
    parts.policy = replace(parts.policy, **limits)  # type: ignore[arg-type]


async def test_a_challenge_binds_invoice_memo_and_token_together(parts: Parts) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1", asked_sats=21)
    decoded = bolt11.decode(challenge.invoice)
    assert bytes.fromhex(decoded.payment_hash) == challenge.payment_hash
    assert decoded.amount_msat == 21_000
    memo = read_memo(decoded.description or "", amount_msat=21_000, keys=parts.mint.memo_keys)
    assert memo is not None
    assert (memo.token_id, memo.service, memo.rate) == (challenge.token_id, "farebox", RATE)
    verified = parts.mint.verify(b64decode(challenge.macaroon))
    assert isinstance(verified, Verified)
    assert (verified.token_id, verified.payment_hash) == (challenge.token_id, challenge.payment_hash)


async def test_the_refusal_carries_header_and_members(parts: Parts) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1")
    refusal = parts.challenger.refusal(challenge, "Pay.", members={"quote": {"id": "q_1"}})
    assert refusal.status == 402
    assert re.fullmatch(
        r'L402 macaroon="[^"]+", invoice="ln[^"]+", version="0", token="[^"]+"', refusal.headers["www-authenticate"]
    )
    assert refusal.members["creditSats"] == 1_000
    assert next(iter(refusal.members)) == "quote"


async def test_every_request_gets_an_invoice_and_a_token_of_its_own(parts: Parts) -> None:
    challenges = [await parts.challenger.challenge("192.0.2.1") for _ in range(3)]
    assert len({challenge.invoice for challenge in challenges}) == 3
    assert len({challenge.token_id for challenge in challenges}) == 3


async def test_the_ninth_unpaid_challenge_of_one_address_is_429_and_its_neighbour_is_served(parts: Parts) -> None:
    for _ in range(8):
        await parts.challenger.challenge("192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        await parts.challenger.challenge("192.0.2.1")
    assert refused.value.retry_after_s is not None
    assert 590 <= refused.value.retry_after_s <= 600
    await parts.challenger.challenge("192.0.2.2")


async def test_a_paid_challenge_gives_its_place_back(parts: Parts) -> None:
    limited(parts, unpaid_per_address=1)
    _, credential = await parts.bought()
    with pytest.raises(RateLimited):
        await parts.challenger.challenge("192.0.2.1")
    await parts.crediting.credit(parts.payer(credential))
    await parts.challenger.challenge("192.0.2.1")


async def test_a_network_has_a_rate_that_comes_back_with_time(parts: Parts) -> None:
    limited(parts, challenges_per_minute=3, unpaid_per_address=0)
    for host in range(3):
        await parts.challenger.challenge(f"2001:db8:7::{host}")
    with pytest.raises(RateLimited) as refused:
        await parts.challenger.challenge("2001:db8:7:ffff::1")
    assert refused.value.retry_after_s is not None
    assert 19 <= refused.value.retry_after_s <= 20
    await parts.challenger.challenge("2001:db8:8::1")


async def test_a_network_is_capped_before_all_are(parts: Parts) -> None:
    limited(parts, open_per_prefix=2)
    await parts.challenger.challenge("192.0.2.1")
    await parts.challenger.challenge("192.0.2.2")
    with pytest.raises(RateLimited):
        await parts.challenger.challenge("192.0.2.3")
    await parts.challenger.challenge("198.51.100.1")


async def test_when_all_is_full_the_busiest_network_is_shed_and_a_quiet_one_served(parts: Parts) -> None:
    limited(parts, open_in_all=4)
    for host in range(4):
        await parts.challenger.challenge(f"192.0.2.{host}")
    with pytest.raises(RateLimited):
        await parts.challenger.challenge("192.0.2.9")
    for network in range(4):
        await parts.challenger.challenge(f"198.51.{network}.1")
    with pytest.raises(RateLimited):
        await parts.challenger.challenge("203.0.113.1")


async def test_a_top_up_is_never_shed(parts: Parts) -> None:
    limited(parts, open_in_all=1, challenges_per_minute=1, open_per_prefix=1)
    await parts.challenger.challenge("192.0.2.1")
    with pytest.raises(RateLimited):
        await parts.challenger.challenge("192.0.2.2")
    await parts.challenger.challenge("192.0.2.2", top_up_of=b"\x01" * 32)


async def test_a_top_up_carries_the_same_token_with_a_new_payment_hash(parts: Parts) -> None:
    first, credential = await parts.bought(100)
    payer = parts.payer(credential)
    await parts.crediting.credit(payer)
    second = await parts.challenger.challenge("192.0.2.1", asked_sats=50, top_up_of=payer.top_up_of)
    assert second.token_id == first.token_id
    assert second.payment_hash != first.payment_hash
    bought = parts.payer(shown(second.macaroon, await parts.pay(second)))
    await parts.crediting.credit(bought)
    for either in (payer, bought):
        placed = await parts.place(either, 1)
        assert isinstance(placed, Placed)
    balance = await parts.ledger.balance(payer.account)
    assert balance is not None
    assert balance.credited == 150_000


async def test_a_thousand_spent_requests_share_one_top_up(parts: Parts) -> None:
    token = b"\x02" * 32
    asked = [parts.challenger.challenge("192.0.2.1", top_up_of=token) for _ in range(1_000)]
    challenges: list[Challenge] = await asyncio.gather(*asked)
    assert len({challenge.invoice for challenge in challenges}) == 1
    later = await parts.challenger.challenge("198.51.100.1", top_up_of=token)
    assert later == challenges[0]
    other = await parts.challenger.challenge("192.0.2.1", asked_sats=5, top_up_of=token)
    assert other.amount_sats == 5


async def test_a_top_up_that_was_paid_is_not_shown_again(parts: Parts) -> None:
    _, credential = await parts.bought(100)
    payer = parts.payer(credential)
    await parts.crediting.credit(payer)
    second = await parts.challenger.challenge("192.0.2.1", top_up_of=payer.top_up_of)
    await parts.crediting.credit(parts.payer(shown(second.macaroon, await parts.pay(second))))
    third = await parts.challenger.challenge("192.0.2.1", top_up_of=payer.top_up_of)
    assert third.invoice != second.invoice


async def test_a_top_up_is_used_again_only_while_half_its_life_is_left(parts: Parts) -> None:
    limited(parts, invoice_expiry_s=60)
    token = b"\x03" * 32
    await parts.challenger.challenge("192.0.2.1", top_up_of=token)
    left_ms = await parts.link.command("PTTL", f"top_up:{{p00}}:{token.hex()}", key=f"top_up:{{p00}}:{token.hex()}")
    assert 25_000 < left_ms <= 30_000


async def test_without_a_rate_there_is_no_challenge_and_no_invoice(parts: Parts) -> None:
    parts.rates.rate = None
    with pytest.raises(Unavailable) as refused:
        await parts.challenger.challenge("192.0.2.1")
    assert refused.value.code == "rate_unavailable"
    assert await parts.node.list_invoices(after_add_index=0, most=10) == []


async def test_a_node_that_is_away_takes_no_place(parts: Parts) -> None:
    limited(parts, unpaid_per_address=1)
    parts.simulated.faults.refuse = frozenset({"AddInvoice"})
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            await parts.challenger.challenge("192.0.2.1")
        assert refused.value.code == "lightning_unavailable"
    parts.simulated.faults.refuse = frozenset()
    await parts.challenger.challenge("192.0.2.1")


async def test_a_caller_that_goes_away_takes_no_place(parts: Parts) -> None:
    limited(parts, unpaid_per_address=1)
    parts.simulated.faults.slow_s = 0.3
    task = asyncio.create_task(parts.challenger.challenge("192.0.2.1"))
    key = "challenge:{p00}:at:192.0.2.1"
    async with asyncio.timeout(5):
        while await parts.link.command("ZCARD", key, key=key) == 0:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await parts.link.command("ZCARD", key, key=key) == 0


async def test_expired_challenges_count_no_more(parts: Parts) -> None:
    limited(parts, unpaid_per_address=1, invoice_expiry_s=1)
    await parts.challenger.challenge("192.0.2.1")
    async with asyncio.timeout(10):
        while True:
            try:
                await parts.challenger.challenge("192.0.2.1")
            except RateLimited:
                await asyncio.sleep(0.05)
            else:
                break


class Confused(LndNode):
    """A node whose invoice is for another payment than it says."""

    async def add_invoice(self, *, amount_msat: int, memo: str, expiry_s: int) -> Invoice:
        invoice = await super().add_invoice(amount_msat=amount_msat, memo=memo, expiry_s=expiry_s)
        return replace(invoice, payment_hash=bytes(32))


async def test_an_invoice_for_another_payment_is_never_handed_out(parts: Parts) -> None:
    node = Confused.open(
        parts.simulated.address, tls_cert=parts.simulated.tls_cert_pem, macaroon=parts.simulated.macaroon_hex
    )
    challenger = Challenger(
        policy=lambda: parts.policy,
        node=node,
        rates=parts.rates,
        mint=parts.mint,
        book=parts.book,
        system=parts.clock,
    )
    with pytest.raises(Unavailable) as refused:
        await challenger.challenge("192.0.2.1")
    assert refused.value.code == "lightning_unavailable"
    await node.close()


async def test_a_place_is_given_back_once(parts: Parts) -> None:
    await parts.book.release(b"never")
    await parts.challenger.challenge("192.0.2.1")
    key = "challenge:{p00}:all"
    (nonce,) = await parts.link.command("ZRANGE", key, 0, -1, key=key)
    for _ in range(2):
        await parts.book.release(bytes.fromhex(nonce.decode()))
    assert await parts.link.command("ZCARD", key, key=key) == 0
