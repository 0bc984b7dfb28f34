"""From a credential to its credit: what is believed, what is looked up, what is credited, and how often."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from bolthub.delegate import attenuate
from l402_parts import RATE, Parts, running_parts, shown
from pymacaroons.serializers import BinarySerializer
from servers import running_valkey

from gateway.adapters.macaroons import Mint
from gateway.core.challenges import Memo, write_memo
from gateway.core.credentials import L402Credential, parse_credential
from gateway.core.errors import Unavailable
from gateway.core.holds import Placed, Refusal, Refused
from gateway.core.money import Rate, Unit
from gateway.core.tokens import account_of
from gateway.flows.crediting import Crediting
from gateway.flows.verifying import Forbids, NeedsChallenge, VerifiedPayer
from gateway.simulators.lightning import PaymentOrder


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_parts(valkey_url) as parts:
        yield parts


@pytest.fixture(scope="module")
def other_mint() -> Mint:
    return Mint((b"\x02" * 32,))


def with_caveats(macaroon: str, *caveats: str) -> str:
    read = BinarySerializer().deserialize_raw(b64decode(macaroon))
    for caveat in caveats:
        read.add_first_party_caveat(caveat)
    return b64encode(BinarySerializer().serialize_raw(read)).decode()


@contextmanager
def following(parts: Parts) -> Iterator[asyncio.Task[None]]:
    task = asyncio.create_task(parts.crediting.credit_settled())
    try:
        yield task
    finally:
        task.cancel()


async def credited(parts: Parts, account: str, amount_msat: int) -> None:
    async with asyncio.timeout(10):
        while (balance := await parts.ledger.balance(account)) is None or balance.credited < amount_msat:
            await asyncio.sleep(0.01)
    assert balance.credited == amount_msat


async def test_a_paid_credential_is_credited_when_place_asks_for_it(parts: Parts) -> None:
    challenge, credential = await parts.bought(100)
    payer = parts.payer(credential)
    assert payer.account == account_of(challenge.token_id)
    refused = await parts.place(payer, 1_000)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.NO_ACCOUNT
    assert await parts.crediting.credit(payer) == RATE
    placed = await parts.place(payer, 1_000)
    assert isinstance(placed, Placed)
    assert placed.available == 99_000


async def test_a_payment_is_credited_once_however_often_it_is_shown(parts: Parts) -> None:
    _, credential = await parts.bought(100)
    payer = parts.payer(credential)
    await asyncio.gather(*(parts.crediting.credit(payer) for _ in range(50)))
    await parts.crediting.credit(payer)
    with following(parts):
        _, other = await parts.bought(7)
        await credited(parts, parts.payer(other).account, 7_000)
    await credited(parts, payer.account, 100_000)


async def test_what_was_paid_is_credited_also_above_what_was_asked(parts: Parts) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1", asked_sats=10)
    parts.simulated.settle(challenge.payment_hash, amount_msat=12_345)
    payer = parts.payer(shown(challenge.macaroon, parts.simulated.preimage(challenge.payment_hash)))
    await parts.crediting.credit(payer)
    await credited(parts, payer.account, 12_345)


async def test_a_payment_that_nobody_showed_is_credited_from_the_nodes_stream(parts: Parts) -> None:
    with following(parts):
        challenge, _ = await parts.bought(33)
        await credited(parts, account_of(challenge.token_id), 33_000)


async def test_a_payment_made_while_nobody_listened_is_credited_at_the_start(parts: Parts) -> None:
    challenge, _ = await parts.bought(34)
    with following(parts):
        await credited(parts, account_of(challenge.token_id), 34_000)


async def test_a_rewind_credits_again_what_the_store_has_lost(parts: Parts) -> None:
    with following(parts):
        challenge, _ = await parts.bought(35)
        account = account_of(challenge.token_id)
        await credited(parts, account, 35_000)
        key = f"{{p{challenge.token_id[0]:02x}}}a:{account}"
        assert await parts.link.command("DEL", key, key=key) == 1
        parts.crediting.rewind()
        await credited(parts, account, 35_000)


async def test_the_stream_goes_on_when_the_store_was_away(parts: Parts) -> None:
    with following(parts) as task:
        parts.simulated.drop_streams()
        challenge, _ = await parts.bought(36)
        await credited(parts, account_of(challenge.token_id), 36_000)
        assert not task.done()


async def test_invoices_of_other_programs_on_the_node_are_never_credited(parts: Parts) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1", asked_sats=10)
    memo = Memo("farebox", challenge.token_id, b"\x01" * 8, RATE)
    ours = write_memo(memo, amount_msat=10_000, key=parts.mint.memo_keys[0])
    for text, amount_msat in (("coffee", 10_000), (ours, 1_000_000), (ours.replace("mac=", "mac=0"), 10_000)):
        await parts.wallet.pay(PaymentOrder(parts.simulated.add_invoice(amount_msat=amount_msat, memo=text)))
    with following(parts):
        last, _ = await parts.bought(1)
        await credited(parts, account_of(last.token_id), 1_000)
    assert await parts.ledger.balance(account_of(challenge.token_id)) is None


async def test_an_unsettled_hold_invoice_is_not_paid_although_its_preimage_is_known(parts: Parts) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1", asked_sats=10)
    parts.simulated.accept(challenge.payment_hash)
    payer = parts.payer(shown(challenge.macaroon, parts.simulated.preimage(challenge.payment_hash)))
    assert await parts.crediting.credit(payer) == NeedsChallenge("the payment is not settled")
    assert await parts.crediting.rate_of(payer) == NeedsChallenge("the payment is not settled")
    parts.simulated.settle(challenge.payment_hash)
    assert await parts.crediting.rate_of(payer) == RATE


async def test_a_payment_older_than_retention_is_not_credited(parts: Parts) -> None:
    _, credential = await parts.bought()
    payer = parts.payer(credential)
    parts.clock.ahead_s = parts.policy.retention_s + 60
    assert isinstance(await parts.crediting.credit(payer), NeedsChallenge)
    assert await parts.ledger.balance(payer.account) is None


async def test_a_node_that_is_away_is_our_fault_and_no_challenge(parts: Parts) -> None:
    _, credential = await parts.bought()
    payer = parts.payer(credential)
    parts.simulated.faults.refuse = frozenset({"*"})
    with pytest.raises(Unavailable) as refused:
        await parts.crediting.credit(payer)
    assert (refused.value.status, refused.value.code) == (503, "lightning_unavailable")


async def test_a_paid_invoice_that_the_node_does_not_know_is_our_fault_and_no_challenge(parts: Parts) -> None:
    preimage = b"\x07" * 32
    macaroon = parts.mint.mint(
        payment_hash=sha256(preimage).digest(), token_id=b"\x07" * 32, service="farebox", expires_at_s=4_000_000_000
    )
    with pytest.raises(Unavailable):
        await parts.crediting.credit(parts.payer(shown(macaroon, preimage)))


async def test_an_account_has_the_rate_of_its_latest_challenge(parts: Parts) -> None:
    _, credential = await parts.bought(100)
    payer = parts.payer(credential)
    assert parts.crediting.known_rate(payer) is None
    assert await parts.crediting.rate_of(payer) == RATE
    assert parts.crediting.known_rate(payer) == RATE
    parts.rates.rate = Rate(70_000_000_000)
    top_up = await parts.challenger.challenge("192.0.2.1", top_up_of=payer.top_up_of)
    bought = parts.payer(shown(top_up.macaroon, await parts.pay(top_up)))
    assert await parts.crediting.credit(bought) == Rate(70_000_000_000)
    assert await parts.crediting.rate_of(payer) == Rate(70_000_000_000)


async def test_whoever_asks_what_there_is_sees_a_top_up_paid_a_moment_ago(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flows.crediting.REMEMBERED_RATES", 1)
    _, credential = await parts.bought(100)
    payer = parts.payer(credential)
    assert await parts.crediting.rate_of(payer) == RATE
    top_up = await parts.challenger.challenge("192.0.2.1", asked_sats=50, top_up_of=payer.top_up_of)
    topped = parts.payer(shown(top_up.macaroon, await parts.pay(top_up)))
    for shown_payer in (topped, topped, payer, topped):
        assert await parts.crediting.rate_after_credit(shown_payer) == RATE
    await credited(parts, payer.account, 150_000)


async def test_with_the_node_away_what_is_known_of_a_credit_is_told(parts: Parts) -> None:
    _, credential = await parts.bought(100)
    payer = parts.payer(credential)
    assert await parts.crediting.rate_of(payer) == RATE
    parts.simulated.faults.refuse = frozenset({"*"})
    assert await parts.crediting.rate_after_credit(payer) == RATE


async def test_an_unpaid_top_up_hides_nothing_of_what_is_known(parts: Parts) -> None:
    _, credential = await parts.bought(100)
    payer = parts.payer(credential)
    assert await parts.crediting.rate_of(payer) == RATE
    top_up = await parts.challenger.challenge("192.0.2.1", top_up_of=payer.top_up_of)
    unpaid = parts.payer(shown(top_up.macaroon, parts.simulated.preimage(top_up.payment_hash)))
    assert await parts.crediting.rate_after_credit(unpaid) == RATE


async def test_a_revoked_token_places_nothing(parts: Parts) -> None:
    _, credential = await parts.bought()
    payer = parts.payer(credential)
    await parts.crediting.credit(payer)
    await parts.ledger.revoke(payer.token, payer.account)
    refused = await parts.place(payer, 1)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.REVOKED


async def test_proofs_that_prove_nothing_need_a_challenge(parts: Parts, other_mint: Mint) -> None:
    challenge, credential = await parts.bought()
    other, _ = await parts.bought()
    preimage = credential.preimage or b""
    forged = other_mint.mint(
        payment_hash=challenge.payment_hash, token_id=challenge.token_id, service="farebox", expires_at_s=4_000_000_000
    )
    wrong = [
        shown(challenge.macaroon, bytes(32)),
        shown(other.macaroon, preimage),
        shown(forged, preimage),
        replace(credential, macaroons=(b"\x02rubbish",), digest=b"1"),
        replace(credential, macaroons=(*credential.macaroons, b64decode(other.macaroon)), digest=b"2"),
        replace(credential, preimage=None, digest=b"3"),
    ]
    for credential in wrong:
        outcome = parts.verifier.verify(credential, parts.context())
        assert isinstance(outcome, NeedsChallenge), credential
        assert outcome.top_up_of is None
        assert parts.verifier.verify(credential, parts.context()) == outcome


async def test_an_expired_token_needs_a_fresh_challenge_and_still_owns_its_credit(parts: Parts) -> None:
    _, credential = await parts.bought()
    later = parts.policy.token_lifetime_s + int(parts.clock.now_s()) + 1
    assert isinstance(parts.verifier.verify(credential, parts.context()), VerifiedPayer)
    expired = parts.verifier.verify(credential, parts.context(now_s=later))
    assert isinstance(expired, NeedsChallenge)
    assert expired.top_up_of is None
    assert isinstance(parts.verifier.owner(credential, parts.context(now_s=later)), VerifiedPayer)


async def test_a_caveat_that_forbids_is_no_challenge(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    preimage = credential.preimage or b""
    narrowed = shown(attenuate(challenge.macaroon, method="GET"), preimage)
    assert isinstance(parts.verifier.verify(narrowed, parts.context()), Forbids)
    assert isinstance(parts.verifier.verify(narrowed, parts.context(method="GET")), VerifiedPayer)
    unknown = shown(with_caveats(challenge.macaroon, "model=gpt-5"), preimage)
    assert isinstance(parts.verifier.verify(unknown, parts.context()), Forbids)
    assert isinstance(parts.verifier.verify(credential, parts.context(service="other")), Forbids)


async def test_the_preimage_may_stand_in_a_caveat(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    carried = with_caveats(challenge.macaroon, f"preimage={(credential.preimage or b'').hex()}")
    headers = [(b"macaroon", b64decode(carried).hex().encode())]
    parsed = parse_credential(headers)
    assert isinstance(parsed, L402Credential)
    payer = parts.payer(parsed)
    assert not payer.attenuated
    assert payer.token_id == challenge.token_id
    wrong = with_caveats(challenge.macaroon, f"preimage={'11' * 32}")
    parsed = parse_credential([(b"macaroon", b64decode(wrong).hex().encode())])
    assert isinstance(parsed, L402Credential)
    assert isinstance(parts.verifier.verify(parsed, parts.context()), NeedsChallenge)


async def test_uses_are_counted_for_all_who_hold_the_narrowed_token(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    preimage = credential.preimage or b""
    await parts.crediting.credit(parts.payer(credential))
    narrowed = attenuate(challenge.macaroon, n_uses=2)
    delegate = parts.payer(shown(narrowed, preimage))
    again = parts.payer(shown(attenuate(narrowed, n_uses=2), preimage))
    assert delegate.top_up_of is None
    assert isinstance(await parts.place(delegate, 1), Placed)
    assert isinstance(await parts.place(again, 1), Placed)
    for spent in (delegate, again):
        refused = await parts.place(spent, 1)
        assert isinstance(refused, Refused)
        assert refused.reason is Refusal.LIMIT
    assert isinstance(await parts.place(parts.payer(credential), 1), Placed)


async def test_sats_are_counted_for_the_narrowed_token(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    await parts.crediting.credit(parts.payer(credential))
    delegate = parts.payer(shown(attenuate(challenge.macaroon, max_sats=3), credential.preimage or b""))
    assert isinstance(await parts.place(delegate, 2_500), Placed)
    refused = await parts.place(delegate, 501)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.LIMIT


async def test_a_policy_that_ignores_a_caveat_takes_effect_at_once(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    tagged = shown(with_caveats(challenge.macaroon, "nonce=1"), credential.preimage or b"")
    assert isinstance(parts.verifier.verify(tagged, parts.context()), Forbids)
    parts.policy = replace(parts.policy, ignorable_caveats=frozenset({"nonce"}))
    assert isinstance(parts.verifier.verify(tagged, parts.context()), VerifiedPayer)
    parts.policy = replace(parts.policy, ignorable_caveats=frozenset())
    assert isinstance(parts.verifier.verify(tagged, parts.context()), Forbids)


async def test_a_worker_that_did_not_credit_an_account_asks_the_ledger_for_its_rate(parts: Parts) -> None:
    _, credential = await parts.bought()
    payer = parts.payer(credential)
    await parts.crediting.credit(payer)
    other = another(parts)
    assert other.known_rate(payer) is None
    assert await other.rate_of(payer) == RATE
    assert other.known_rate(payer) == RATE


async def test_a_token_over_an_invoice_that_names_another_is_not_credited(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    stolen = parts.mint.mint(
        payment_hash=challenge.payment_hash, token_id=b"\x09" * 32, service="farebox", expires_at_s=4_000_000_000
    )
    outcome = await parts.crediting.credit(parts.payer(shown(stolen, credential.preimage or b"")))
    assert outcome == NeedsChallenge("the invoice does not belong to the token")


async def test_only_so_many_credentials_and_rates_are_remembered(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flows.verifying.REMEMBERED_CREDENTIALS", 2)
    monkeypatch.setattr("gateway.flows.crediting.REMEMBERED_RATES", 2)
    payers = []
    for _ in range(3):
        _, credential = await parts.bought()
        payers.append(parts.payer(credential))
        await parts.crediting.rate_of(payers[-1])
    known = [parts.crediting.known_rate(payer) for payer in payers]
    assert known == [None, RATE, RATE]
    assert len(parts.verifier._known) == 2


async def test_the_stream_begins_again_when_node_and_store_were_away(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flows.crediting.FIRST_PAUSE_S", 0.01)
    parts.simulated.faults.refuse = frozenset({"GetInfo"})
    with following(parts):
        challenge, _ = await parts.bought(37)
        await asyncio.sleep(0.05)
        parts.simulated.faults.refuse = frozenset()
        await credited(parts, account_of(challenge.token_id), 37_000)


async def test_a_payment_that_the_ledger_refuses_keeps_no_other_from_being_credited(parts: Parts) -> None:
    huge = await parts.challenger.challenge("192.0.2.1", asked_sats=10)
    inexact = await parts.challenger.challenge("192.0.2.1", asked_sats=10)
    greatest = 999_999_999_999_999
    for number in range(9):
        await parts.ledger.credit(
            f"pay{number}", account_of(huge.token_id), greatest, unit=Unit.MSAT, rate=RATE, source="lightning"
        )
    with following(parts):
        parts.simulated.settle(huge.payment_hash, amount_msat=greatest)
        parts.simulated.settle(inexact.payment_hash, amount_msat=greatest + 1)
        challenge, _ = await parts.bought(38)
        await credited(parts, account_of(challenge.token_id), 38_000)
    payer = parts.payer(shown(huge.macaroon, parts.simulated.preimage(huge.payment_hash)))
    with pytest.raises(Unavailable) as refused:
        await parts.crediting.credit(payer)
    assert refused.value.code == "credit_refused"


async def test_a_new_store_is_filled_from_the_node(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flows.crediting.PAGE", 2)
    bought = [await parts.bought(sats) for sats in (1, 2, 3)]
    await parts.challenger.challenge("192.0.2.1")
    await parts.wallet.pay(PaymentOrder(parts.simulated.add_invoice(amount_msat=1_000, memo="coffee")))
    await parts.crediting.credit(parts.payer(bought[0][1]))
    assert await parts.crediting.recover() == 2
    assert await parts.crediting.recover() == 0
    for sats, (challenge, _) in enumerate(bought, start=1):
        await credited(parts, account_of(challenge.token_id), sats * 1_000)


async def test_a_store_that_runs_anew_gets_back_what_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flows.crediting.WATCH_PAUSE_S", 0.02)
    options = ("--appendonly", "no", "--save", "", "--enable-debug-command", "yes")
    with running_valkey(tmp_path, *options) as port:
        async with running_parts(f"redis://127.0.0.1:{port}/0") as parts:
            with following(parts):
                challenge, _ = await parts.bought(39)
                account = account_of(challenge.token_id)
                await credited(parts, account, 39_000)
                run = await parts.book.store_run()
                with suppress(Unavailable):
                    await parts.link.command("DEBUG", "RESTART", "0", key="")
                async with asyncio.timeout(20):
                    while await now_running(parts) in ("", run):
                        await asyncio.sleep(0.02)
                await credited(parts, account, 39_000)


async def test_a_store_that_is_away_ends_a_recovery_loudly(parts: Parts) -> None:
    await parts.bought()
    await parts.link.close()
    with pytest.raises(Unavailable):
        await parts.crediting.recover()


async def test_a_fault_of_our_own_ends_the_loop_loudly(parts: Parts) -> None:
    parts.crediting.rewind()  # before the loop has begun there is nothing to read again
    await parts.bought()
    parts.policy = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        async with asyncio.timeout(10):
            await parts.crediting.credit_settled()


async def now_running(parts: Parts) -> str:
    try:
        return await parts.book.store_run()
    except Unavailable:
        return ""


def another(parts: Parts) -> Crediting:
    """A second worker's."""
    return Crediting(
        policy=lambda: parts.policy,
        node=parts.node,
        ledger=parts.ledger,
        mint=parts.mint,
        book=parts.book,
        system=parts.clock,
    )
