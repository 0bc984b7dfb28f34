"""What a challenge asks for and how it is written down."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.challenges import (
    Challenge,
    ChallengePolicy,
    Memo,
    asked_deposit,
    challenge_members,
    deposit_sats,
    read_memo,
    token_of_top_up,
    write_memo,
    www_authenticate,
)
from gateway.core.errors import InvalidRequest
from gateway.core.invoices import payment_hash_of
from gateway.core.money import Rate
from gateway.core.tokens import account_of

KEY, OLD_KEY = b"k" * 32, b"o" * 32
MEMO = Memo("farebox", bytes(range(32)), b"\x01" * 8, Rate(60_000_000_000))
CHALLENGE = Challenge(
    macaroon="AgEC+/==",
    invoice="lnbcrt1xyz",
    payment_hash=b"\xab" * 32,
    token_id=b"\x7f" * 32,
    amount_sats=21,
    rate=Rate(100_000_000_000),
    expires_at_s=1_790_000_000,
)


def test_the_header_has_the_one_order_that_every_client_parses() -> None:
    assert www_authenticate(CHALLENGE) == (
        'L402 macaroon="AgEC+/==", invoice="lnbcrt1xyz", version="0", token="AgEC+/=="'
    )


def test_the_body_names_amounts_and_hash_in_both_spellings() -> None:
    members = challenge_members(CHALLENGE, payment_methods=("lightning", "card"), cost_nanousd=None)
    assert members == {
        "cost": {"amount": "0.021", "currency": "USD"},
        "payment_methods": ["lightning", "card"],
        "invoice": "lnbcrt1xyz",
        "macaroon": "AgEC+/==",
        "paymentHash": "ab" * 32,
        "payment_hash": "ab" * 32,
        "amountSats": 21,
        "amount_sats": 21,
        "priceSats": 21,
        "creditSats": 21,
        "expiresAt": "2026-09-21T14:13:20Z",
        "expires_at": "2026-09-21T14:13:20Z",
    }
    priced = challenge_members(CHALLENGE, payment_methods=(), cost_nanousd=100_000_000)
    assert priced["cost"] == {"amount": "0.10", "currency": "USD"}


def test_a_memo_is_read_back() -> None:
    text = write_memo(MEMO, amount_msat=1_000, key=KEY)
    assert read_memo(text, amount_msat=1_000, keys=(KEY,)) == MEMO
    assert read_memo(text, amount_msat=1_000, keys=(OLD_KEY, KEY)) == MEMO
    assert len(text) < 400


@given(st.integers(0, 400), st.sampled_from("0123456789abcdef =z"))
def test_a_memo_changed_anywhere_is_not_ours(position: int, letter: str) -> None:
    text = write_memo(MEMO, amount_msat=1_000, key=KEY)
    changed = text[: position % len(text)] + letter + text[position % len(text) + 1 :]
    assert (read_memo(changed, amount_msat=1_000, keys=(KEY,)) is None) == (changed != text)


def test_a_memo_copied_to_another_amount_or_key_is_not_ours() -> None:
    text = write_memo(MEMO, amount_msat=1_000, key=KEY)
    assert read_memo(text, amount_msat=2_000, keys=(KEY,)) is None
    assert read_memo(text, amount_msat=1_000, keys=(OLD_KEY,)) is None
    assert read_memo(text + "\n", amount_msat=1_000, keys=(KEY,)) is None
    assert read_memo("coffee", amount_msat=1_000, keys=(KEY,)) is None


def test_a_memo_at_no_rate_credits_nothing() -> None:
    text = write_memo(Memo("farebox", bytes(32), bytes(8), Rate(0)), amount_msat=1, key=KEY)
    assert read_memo(text, amount_msat=1, keys=(KEY,)) is None


@pytest.mark.parametrize(
    ("asked", "needed_msat", "sats"),
    [
        (None, 0, 1_000),
        (None, 1_000_001, 1_001),
        (None, 10**12, 5_000),
        (21, 0, 21),
        (21, 10**12, 21),
        (3, 0, 10),
        (10**9, 0, 5_000),
    ],
)
def test_a_deposit_lies_within_the_limits(asked: int | None, needed_msat: int, sats: int) -> None:
    policy = ChallengePolicy(least_deposit_sats=10, greatest_deposit_sats=5_000)
    assert deposit_sats(policy, asked=asked, needed_msat=needed_msat) == sats


def test_a_deposit_is_read_from_either_header() -> None:
    assert asked_deposit([(b"farebox-deposit", b"21")]) == 21
    assert asked_deposit([(b"x-bolthub-credit", b" 21 "), (b"farebox-deposit", b"21")]) == 21
    assert asked_deposit([(b"host", b"21")]) is None


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"1.5", b"1e3", b"0x10", b"\xc2\xb2", b"9" * 13])
def test_a_deposit_that_is_no_amount_names_its_header(value: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked_deposit([(b"farebox-deposit", value)])
    assert refused.value.param == "farebox-deposit"


def test_two_deposits_that_disagree_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        asked_deposit([(b"farebox-deposit", b"1"), (b"x-bolthub-credit", b"2")])


def test_a_delegate_tops_up_a_token_of_its_own() -> None:
    assert token_of_top_up(b"t", attenuated=False) == b"t"
    assert token_of_top_up(b"t", attenuated=True) is None


def test_an_account_carries_its_partition() -> None:
    assert re.fullmatch(r"tk_7f[0-9a-f]{62}", account_of(b"\x7f" * 32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"service": "Farebox"},
        {"service": "a:b"},
        {"default_deposit_sats": 0},
        {"least_deposit_sats": 2_000},
        {"retention_s": 1},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"service|deposit|retention"):
        ChallengePolicy(**wrong)  # type: ignore[arg-type]


def test_the_payment_hash_is_read_from_an_invoice() -> None:
    # The first example of the BOLT 11 text.
    example = (
        "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5"
        "rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqn"
        "ls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql"
    )
    expected = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")
    assert payment_hash_of(example) == expected
    assert payment_hash_of(example.upper()) == expected
    assert payment_hash_of("lnbc1") is None
    assert payment_hash_of("lnbc1" + "b" * 200) is None
    assert payment_hash_of("") is None
