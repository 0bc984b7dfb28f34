"""How the client for agents decides, without any I/O: a conversation of commands and outcomes."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import bolt11
import pytest
from bolt11 import Bolt11, MilliSatoshi, TagChar, Tags
from hypothesis import given
from hypothesis import strategies as st
from pymacaroons import Macaroon
from pymacaroons.macaroon import MACAROON_V2

from gateway.client.challenges import BadChallenge, Challenge, NoChallenge, l402_parameters, read_challenge
from gateway.client.flow import Answered, Enter, Haggle, Leave, Outcome, Pay, Refuse, Save, Send, Track, call
from gateway.client.invoices import BadInvoice, read_invoice
from gateway.client.purse import Caps, Payment, PaymentState, Purse, Refusal

ORIGIN = "https://gateway.example:443"
NOW_S = 1_800_000_000.0
KEY = "e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734"


def preimage_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def hash_of(number: int) -> str:
    return hashlib.sha256(bytes.fromhex(preimage_of(number))).hexdigest()


def invoice(number: int, msat: int | None = 1_000_000, *, currency: str = "bcrt", expiry_s: int = 600) -> str:
    """An invoice written by a library that is not ours."""
    tags = Tags()
    tags.add(TagChar.payment_hash, hash_of(number))
    tags.add(TagChar.payment_secret, "11" * 32)
    tags.add(TagChar.description, "credit")
    tags.add(TagChar.expire_time, expiry_s)
    amount = None if msat is None else MilliSatoshi(msat)
    return bolt11.encode(Bolt11(currency=currency, amount_msat=amount, date=int(NOW_S), tags=tags), KEY)


def macaroon(payment_hash: str, service: str = "farebox", token: bytes = b"\5" * 32) -> str:
    identifier = struct.pack(">H32s32s", 0, bytes.fromhex(payment_hash), token)
    made = Macaroon(identifier=identifier, key=b"k" * 32, version=MACAROON_V2)
    made.add_first_party_caveat(f"services={service}:0")
    raw = base64.urlsafe_b64decode(made.serialize() + "==")
    return base64.b64encode(raw).decode()


def header(number: int, msat: int | None = 1_000_000, service: str = "farebox", *, bound: int | None = None) -> str:
    token = macaroon(hash_of(number if bound is None else bound), service)
    return f'L402 macaroon="{token}", invoice="{invoice(number, msat)}", version="0", token="{token}"'


def wants(number: int, **asked: Any) -> Answered:
    return Answered(402, [header(number, **asked)], ORIGIN, NOW_S)


def answers(status: int) -> Answered:
    return Answered(status, [], ORIGIN, NOW_S)


def paid(number: int, fee_msat: int | None = 0) -> Outcome:
    return Outcome("paid", preimage=preimage_of(number), fee_msat=fee_msat)


class Talk:
    """One call: `hears` an outcome, and gives the command that follows; None at the end."""

    def __init__(self, purse: Purse, *, secure: bool = True) -> None:
        self._flow = call(purse, ORIGIN, secure=secure)
        self.said: Any = next(self._flow)

    def hears(self, outcome: Any = None) -> Any:
        try:
            self.said = self._flow.send(outcome)
        except StopIteration:
            self.said = None
        return self.said

    def pays(self, number: int, outcome: Outcome, **asked: Any) -> Any:
        """From the 402 to what follows the payment and the leaving."""
        assert self.hears(wants(number, **asked)) == Enter()
        assert self.hears(NOW_S) == Save()
        assert isinstance(self.hears(), Pay)
        assert self.hears(outcome) == Save()
        assert self.hears() == Leave()
        return self.hears()


@pytest.fixture
def purse() -> Purse:
    return Purse(Caps())


def refusal_of(command: Any) -> str:
    assert isinstance(command, Refuse), command
    return command.refusal.code


# The conversation


def test_first_call_pays_and_second_call_shows_the_token(purse: Purse) -> None:
    talk = Talk(purse)
    assert talk.said == Send(None)
    again = talk.pays(1, paid(1))
    assert isinstance(again, Send) and again.token is not None
    assert again.token.credential == f"{macaroon(hash_of(1))}:{preimage_of(1)}"
    assert talk.hears(answers(200)) is None
    assert Talk(purse).said == Send(purse.token(ORIGIN))


def test_an_answer_that_is_no_402_is_handed_on(purse: Purse) -> None:
    for status in (200, 404, 429, 500, 503):
        assert Talk(purse).hears(answers(status)) is None


def test_a_402_without_a_challenge_is_handed_on_unpaid(purse: Purse) -> None:
    other = Answered(402, ['Payment realm="x", method="card"', "Bearer"], ORIGIN, NOW_S)
    assert Talk(purse).hears(other) is None


def test_a_spent_token_is_topped_up_once(purse: Purse) -> None:
    first = Talk(purse)
    first.pays(1, paid(1))
    first.hears(answers(200))
    second = Talk(purse)
    again = second.pays(2, paid(2))
    assert isinstance(again, Send) and again.token is not None and again.token.payment_hash == hash_of(2)


def test_a_402_after_paying_is_not_paid_in_the_same_call(purse: Purse) -> None:
    talk = Talk(purse)
    talk.pays(1, paid(1))
    assert refusal_of(talk.hears(wants(2))) == "not_served"
    assert talk.hears() is None


def test_a_host_that_never_serves_is_paid_twice_at_most(purse: Purse) -> None:
    payments = 0
    for number in range(1_000):
        talk = Talk(purse)
        command = talk.hears(wants(number, msat=1_000))
        while command is not None:
            if isinstance(command, Pay):
                payments += 1
                command = talk.hears(paid(number))
            elif isinstance(command, Enter):
                command = talk.hears(NOW_S)
            elif isinstance(command, Send):
                command = talk.hears(wants(number + 10_000, msat=1_000))
            else:
                command = talk.hears()
    assert payments == 2


def test_slow_calls_under_way_do_not_open_the_breaker(purse: Purse) -> None:
    under_way = []
    for number in range(1, 5):
        talk = Talk(purse)
        command: Any = talk.said
        for _ in range(10):
            if isinstance(command, Send) and command.token and command.token.payment_hash == hash_of(number):
                break
            outcome = {Send: wants(number), Enter: NOW_S, Pay: paid(number)}.get(type(command))
            command = talk.hears(outcome)
        under_way.append(talk)
    assert [talk.hears(answers(200)) for talk in under_way] == [None] * 4
    assert len(purse.payments()) == 4


def test_a_call_given_up_is_judged_again(purse: Purse) -> None:
    for number in (1, 2):
        talk = Talk(purse)
        talk.pays(number, paid(number))
        del talk
    last = Talk(purse)
    last.hears(wants(3))
    assert last.hears(NOW_S) == Leave()
    assert refusal_of(last.hears()) == "unserved"


def test_a_5xx_after_paying_keeps_the_token_and_pays_no_more(purse: Purse) -> None:
    talk = Talk(purse)
    talk.pays(1, paid(1))
    assert talk.hears(answers(503)) is None
    retry = Talk(purse)
    assert isinstance(retry.said, Send) and retry.said.token is not None
    assert retry.hears(answers(200)) is None


def test_a_token_that_another_call_bought_meanwhile_is_used_first(purse: Purse) -> None:
    waiting = Talk(purse)
    assert waiting.hears(wants(2)) == Enter()
    other = Talk(purse)
    other.pays(1, paid(1))
    assert waiting.hears(NOW_S) == Leave()
    assert waiting.hears() == Send(purse.token(ORIGIN))


def test_tokens_are_kept_by_service(purse: Purse) -> None:
    for number, service in ((1, "farebox"), (2, "other")):
        talk = Talk(purse)
        talk.pays(number, paid(number), service=service)
        talk.hears(answers(200))
    back = Talk(purse)
    assert back.hears(wants(3, service="farebox")) == Enter()
    assert back.hears(NOW_S) == Leave()
    assert back.hears() == Send(purse.token(ORIGIN, "farebox"))


def test_a_challenge_is_never_paid_twice(purse: Purse) -> None:
    first = Talk(purse)
    first.pays(1, paid(1))
    first.hears(answers(200))
    second = Talk(purse)
    assert second.hears(wants(1)) == Enter()
    assert second.hears(NOW_S) == Leave()
    assert refusal_of(second.hears()) == "already_paid"


def test_a_payment_with_unknown_outcome_is_tracked_before_another(purse: Purse) -> None:
    assert refusal_of(Talk(purse).pays(1, Outcome("open", reason="timed out"))) == "payment_open"
    later = Talk(purse)
    later.hears(wants(2))
    assert isinstance(track := later.hears(NOW_S), Track) and track.payment.payment_hash == hash_of(1)
    assert later.hears(Outcome("open")) == Leave()
    assert refusal_of(later.hears()) == "payment_open"
    last = Talk(purse)
    last.hears(wants(3))
    last.hears(NOW_S)
    assert last.hears(paid(1)) == Save()
    assert last.hears() == Leave()
    assert last.hears() == Send(purse.token(ORIGIN))
    assert [payment.payment_hash for payment in purse.payments()] == [hash_of(1)]


def test_an_invoice_that_the_wallet_never_saw_is_given_to_it_again(purse: Purse) -> None:
    Talk(purse).pays(1, Outcome("open"))
    later = Talk(purse)
    later.hears(wants(2))
    later.hears(NOW_S)
    assert isinstance(pay := later.hears(Outcome("unknown")), Pay) and pay.payment.payment_hash == hash_of(1)


def test_an_invoice_that_the_wallet_never_saw_fails_with_its_expiry(purse: Purse) -> None:
    Talk(purse).pays(1, Outcome("open"))
    later = Talk(purse)
    later.hears(Answered(402, [header(2)], ORIGIN, NOW_S))
    assert isinstance(later.hears(NOW_S + 601), Track)
    assert later.hears(Outcome("unknown")) == Save()
    assert later.hears() == Save() and isinstance(later.hears(), Pay)


def test_a_payment_that_nobody_can_tell_of_is_given_up_but_counts_as_spent(purse: Purse) -> None:
    Talk(purse).pays(1, Outcome("open"))
    spent = purse.spent_msat(now_s=NOW_S)
    later = Talk(purse)
    later.hears(wants(2))
    later.hears(NOW_S + 600 + 3_600)
    assert later.hears(Outcome("open")) == Save()
    assert [payment.state for payment in purse.payments()][:1] == [PaymentState.LOST]
    assert purse.spent_msat(now_s=NOW_S + 4_200) >= spent > 0


def test_a_failed_payment_costs_nothing_and_may_be_tried_again(purse: Purse) -> None:
    assert refusal_of(Talk(purse).pays(1, Outcome("failed", reason="no route"))) == "payment_failed"
    assert purse.spent_msat(now_s=NOW_S) == 0
    assert isinstance(Talk(purse).pays(1, paid(1)), Send)


def test_a_preimage_that_proves_nothing_is_no_payment(purse: Purse) -> None:
    assert refusal_of(Talk(purse).pays(1, Outcome("paid", preimage="00" * 32))) == "payment_open"
    assert purse.token(ORIGIN) is None


def test_nothing_is_paid_or_shown_over_plain_http(purse: Purse) -> None:
    first = Talk(purse)
    first.pays(1, paid(1))
    first.hears(answers(200))
    insecure = Talk(purse, secure=False)
    assert insecure.said == Send(None)
    assert refusal_of(insecure.hears(wants(2))) == "insecure"


def test_a_challenge_of_another_host_is_not_paid(purse: Purse) -> None:
    elsewhere = replace(wants(1), origin="https://evil.example:443")
    assert refusal_of(Talk(purse).hears(elsewhere)) == "other_host"


def test_a_payment_that_is_printed_shows_nothing_worth_money(purse: Purse) -> None:
    Talk(purse).pays(1, paid(1))
    (payment,) = purse.payments()
    assert payment.preimage not in repr(payment) and payment.macaroon not in repr(payment)


# Caps


@pytest.mark.parametrize(
    ("caps", "code"),
    [
        (Caps(per_call_sats=999), "call_cap"),
        (Caps(per_host_sats=1_999), "host_cap"),
        (Caps(per_day_sats=1_999), "day_cap"),
    ],
)
def test_caps_are_not_passed_by_one_msat(caps: Caps, code: str) -> None:
    purse = Purse(replace(caps, per_call_sats=min(caps.per_call_sats, 1_000)))
    refused = ""
    for number in (1, 2):
        talk = Talk(purse)
        if talk.hears(wants(number)) == Enter() and (command := talk.hears(NOW_S)) == Leave():
            assert talk.hears() == Haggle()
            refused = refusal_of(talk.hears(False))
            break
        assert command == Save()
        talk.hears()
        talk.hears(paid(number, fee_msat=0))
        talk.hears()
        talk.hears()
        talk.hears(answers(200))
    assert refused == code


def test_a_challenge_above_the_cap_is_asked_for_once_more_at_what_the_cap_leaves() -> None:
    talk = Talk(Purse(Caps(per_call_sats=10)))
    assert (talk.hears(wants(1)), talk.hears(NOW_S), talk.hears()) == (Enter(), Leave(), Haggle())
    assert talk.hears(True) == Send(None, 10)
    again = talk.pays(2, paid(2), msat=10_000)
    assert isinstance(again, Send) and again.deposit_sats == 10
    assert again.token is not None and again.token.amount_msat == 10_000
    assert talk.hears(answers(200)) is None


def test_a_second_challenge_above_the_cap_is_refused() -> None:
    talk = Talk(Purse(Caps(per_call_sats=10)))
    assert (talk.hears(wants(1)), talk.hears(NOW_S), talk.hears()) == (Enter(), Leave(), Haggle())
    assert talk.hears(True) == Send(None, 10)
    assert (talk.hears(wants(2, msat=10_001)), talk.hears(NOW_S)) == (Enter(), Leave())
    assert refusal_of(talk.hears()) == "call_cap"


def test_where_a_cap_leaves_nothing_nothing_is_asked_for() -> None:
    purse = Purse(Caps(1_000, 1_000, 1_000))
    Talk(purse).pays(1, paid(1))
    talk = Talk(purse)
    assert (talk.hears(wants(2)), talk.hears(NOW_S)) == (Enter(), Leave())
    assert refusal_of(talk.hears()) == "host_cap"


def test_the_token_that_was_spent_is_shown_again_with_the_smaller_wish(purse: Purse) -> None:
    Talk(purse).pays(1, paid(1))
    purse.caps = Caps(per_call_sats=10)
    talk = Talk(purse)
    assert (talk.hears(wants(2)), talk.hears(NOW_S), talk.hears()) == (Enter(), Leave(), Haggle())
    assert talk.hears(True) == Send(purse.token(ORIGIN), 10)


def test_caps_of_a_day_come_back_after_a_day() -> None:
    purse = Purse(Caps(1_000, 1_000, 1_000))
    Talk(purse).pays(1, paid(1))
    assert purse.spent_msat(now_s=NOW_S + 86_399) == 1_000_000
    assert purse.spent_msat(now_s=NOW_S + 86_400) == 0


@given(amounts=st.lists(st.integers(1, 2_000_000), max_size=30), fees=st.integers(0, 5_000_000))
def test_spending_never_passes_the_caps_whatever_is_asked(amounts: list[int], fees: int) -> None:
    purse = Purse(Caps(per_call_sats=1_500, per_host_sats=4_000, per_day_sats=4_000))
    for number, amount in enumerate(amounts):
        challenge = Challenge("m", "i", f"{number:064x}", "t", "s", amount, int(NOW_S) + 600)
        started = purse.start(challenge, ORIGIN, now_s=NOW_S)
        if isinstance(started, Payment):
            assert started.amount_msat + started.fee_msat <= 1_500_000
            purse.served(purse.paid(started, preimage="", fee_msat=min(fees, started.fee_msat)))
    assert purse.spent_msat(now_s=NOW_S) <= 4_000_000


def test_merging_purses_keeps_the_outcome_that_is_known(purse: Purse) -> None:
    Talk(purse).pays(1, Outcome("open"))
    open_ones = purse.payments()
    other = Purse(Caps(), open_ones)
    other.paid(open_ones[0], preimage=preimage_of(1), fee_msat=7)
    for first, second in ((purse, other), (other, purse)):
        merged = Purse(Caps(), first.payments())
        merged.merge(second.payments())
        assert [payment.state for payment in merged.payments()] == [PaymentState.PAID]


# Challenges and invoices

FORMS = [
    'L402 macaroon="{m}", invoice="{i}"',
    'LSAT invoice="{i}", macaroon="{m}"',
    'l402 macaroon="{m}" invoice="{i}"',
    "L402 macaroon={m}, invoice={i}",
    'L402 version="0", token="{m}", invoice="{i}"',
    'Bearer realm="a, b", L402 macaroon="{m}", invoice="{i}"',
    'Payment id="x", request="abc==", L402 macaroon="{m}", invoice="{i}", Basic realm="y"',
    'L402 L402 macaroon="{m}",invoice="{i}"',
    'L402 realm="a \\"quoted\\" one", macaroon = "{m}" , invoice = "{i}"',
]


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_a_challenge_is_read(form: str) -> None:
    token, text = macaroon(hash_of(1)), invoice(1)
    found = read_challenge(["Negotiate", form.format(m=token, i=text)], now_s=NOW_S)
    assert isinstance(found, Challenge)
    assert (found.macaroon, found.invoice, found.payment_hash) == (token, text, hash_of(1))
    assert (found.service, found.amount_msat, found.token_id) == ("farebox", 1_000_000, "05" * 32)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (header(1, bound=2), "not the one"),
        (header(1, msat=None), "no amount"),
        (header(1).replace("lnbcrt", "lnbcrr"), "cannot be read|checksum|amount"),
        ('L402 macaroon="AAAA", invoice="lnbc1"', "bech32|macaroon"),
        (f'L402 macaroon="AAAA", invoice="{invoice(1)}"', "macaroon"),
        (f'L402 invoice="{invoice(1)}"', "lacks"),
    ],
)
def test_a_challenge_that_is_not_what_it_says_is_not_paid(purse: Purse, line: str, reason: str) -> None:
    found = read_challenge([line], now_s=NOW_S)
    assert isinstance(found, BadChallenge) and re.search(reason, found.reason), found
    assert refusal_of(Talk(purse).hears(Answered(402, [line], ORIGIN, NOW_S))) == "bad_challenge"


def test_an_expired_invoice_is_not_paid() -> None:
    assert isinstance(read_challenge([header(1)], now_s=NOW_S + 599), Challenge)
    assert isinstance(read_challenge([header(1)], now_s=NOW_S + 600), BadChallenge)


@given(st.text(max_size=200))
def test_no_header_breaks_the_parser(text: str) -> None:
    list(l402_parameters([text, f"L402 {text}"]))
    assert isinstance(read_challenge([text], now_s=NOW_S), NoChallenge | BadChallenge)


def _amounts() -> Iterator[int]:
    yield from (1, 10, 999, 1_000, 12_345, 1_000_000, 2_500_000_000, 100_000_000_000)


@pytest.mark.parametrize("msat", list(_amounts()))
@pytest.mark.parametrize("currency", ["bc", "tb", "bcrt", "tbs"])
def test_invoices_of_another_library_are_read_alike(msat: int, currency: str) -> None:
    terms = read_invoice(invoice(3, msat, currency=currency, expiry_s=77))
    assert (terms.amount_msat, terms.payment_hash) == (msat, hash_of(3))
    assert (terms.created_at_s, terms.expires_at_s) == (int(NOW_S), int(NOW_S) + 77)
    assert read_invoice(invoice(3, msat, currency=currency).upper()).amount_msat == msat


@given(place=st.integers(0, 200), letter=st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_one_wrong_letter_is_noticed(place: int, letter: str) -> None:
    good = invoice(1)
    place = min(place, len(good) - 1)
    if good[place] != letter:
        with pytest.raises(BadInvoice):
            read_invoice(good[:place] + letter + good[place + 1 :])


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(BadInvoice):
        read_invoice(text)


def test_reading_a_hostile_header_is_quick() -> None:
    started = time.perf_counter()
    for hostile in ('L402 a="' + "\\" * 100_000, "L402 " + "a=" * 50_000, "," * 100_000, "L402 " * 20_000):
        list(l402_parameters([hostile]))
    assert time.perf_counter() - started < 2


def test_refusals_name_a_code_and_a_reason(purse: Purse) -> None:
    refused = Talk(Purse(Caps(per_call_sats=1))).hears(wants(1))
    assert refused == Enter()
    challenge = read_challenge([header(1)], now_s=NOW_S)
    assert isinstance(challenge, Challenge)
    limited = Purse(Caps(per_call_sats=1)).start(challenge, ORIGIN, now_s=NOW_S)
    assert isinstance(limited, Refusal) and "1000000 msat" in limited.detail
