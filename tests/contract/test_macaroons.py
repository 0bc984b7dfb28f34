"""Our tokens against the library that other implementations are byte-compatible with."""

from __future__ import annotations

import hmac
import os
import stat
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from bolthub._engine import parse_challenge as bolthub_parse
from bolthub.delegate import attenuate
from hypothesis import given
from hypothesis import strategies as st
from l402_requests.challenge import parse_challenge as l402_requests_parse
from pymacaroons import Caveat, Macaroon, Verifier
from pymacaroons.serializers import BinarySerializer

from gateway.adapters.macaroons import ENVIRONMENT_NAME, IDENTIFIER, Mint, _create, load_master_secrets
from gateway.core.challenges import Challenge, www_authenticate
from gateway.core.money import Rate
from gateway.core.tokens import Unverified, Verified

NEW, OLD = b"n" * 32, b"o" * 32
HASH, TOKEN = sha256(b"\x01" * 32).digest(), bytes(range(32))
MINT = Mint((NEW, OLD))
MINTED = MINT.mint(payment_hash=HASH, token_id=TOKEN, service="farebox", expires_at_s=1_790_000_000)
RAW = b64decode(MINTED)


def theirs(raw: bytes) -> Macaroon:
    return BinarySerializer().deserialize_raw(raw)


def with_caveats(raw: bytes, *caveats: str) -> bytes:
    macaroon = theirs(raw)
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return bytes(BinarySerializer().serialize_raw(macaroon))


def root_key(secret: bytes, identifier: bytes) -> bytes:
    return hmac.digest(secret, identifier, "sha256")


def test_what_we_mint_the_library_verifies() -> None:
    macaroon = theirs(RAW)
    assert len(macaroon.identifier_bytes) == 66
    assert IDENTIFIER.unpack(macaroon.identifier_bytes) == (0, HASH, TOKEN)
    verifier = Verifier()
    verifier.satisfy_general(lambda caveat: caveat in ("services=farebox:0", "farebox_valid_until=1790000000"))
    assert verifier.verify(macaroon, root_key(NEW, macaroon.identifier_bytes))


def test_a_minted_token_is_verified_with_its_caveats() -> None:
    verified = MINT.verify(RAW)
    assert isinstance(verified, Verified)
    assert (verified.token_id, verified.payment_hash, verified.own_caveats) == (TOKEN, HASH, 2)
    assert [text for text, _ in verified.links] == [b"services=farebox:0", b"farebox_valid_until=1790000000"]
    assert verified.links[-1][1].hex() == theirs(RAW).signature


@given(st.lists(st.text(min_size=1, max_size=40), max_size=8))
def test_what_others_append_is_verified_as_the_library_does(caveats: list[str]) -> None:
    attenuated = with_caveats(RAW, *caveats)
    verified = MINT.verify(attenuated)
    assert isinstance(verified, Verified)
    assert [text.decode() for text, _ in verified.links[2:]] == caveats
    assert verified.links[-1][1].hex() == theirs(attenuated).signature


def test_a_foreign_client_attenuates_what_we_verify() -> None:
    verified = MINT.verify(b64decode(attenuate(MINTED, method="POST", n_uses=3, path_prefix="/v1")))
    assert isinstance(verified, Verified)
    assert [text for text, _ in verified.links[2:]] == [b"method=POST", b"n_uses=3", b"path_prefix=/v1"]


def test_the_signature_after_a_caveat_does_not_depend_on_what_follows() -> None:
    short, long = MINT.verify(with_caveats(RAW, "n_uses=3")), MINT.verify(with_caveats(RAW, "n_uses=3", "method=GET"))
    assert isinstance(short, Verified)
    assert isinstance(long, Verified)
    assert long.links[:3] == short.links


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_a_token_changed_in_any_byte_is_not_ours(position: int, change: int) -> None:
    forged = bytearray(RAW)
    forged[position] ^= change
    assert isinstance(MINT.verify(bytes(forged)), Unverified)


@given(st.binary(max_size=300))
def test_hostile_bytes_are_a_refusal_and_nothing_else(raw: bytes) -> None:
    assert isinstance(MINT.verify(raw), Unverified)
    assert isinstance(MINT.verify(b"\x02" + raw), Unverified)
    assert isinstance(MINT.verify(RAW[: len(raw)]), Unverified)


def test_a_caveat_cannot_be_taken_away() -> None:
    full = theirs(with_caveats(RAW, "method=GET"))
    full.caveats.pop()
    assert isinstance(MINT.verify(bytes(BinarySerializer().serialize_raw(full))), Unverified)


def test_a_macaroon_of_another_shape_is_not_ours() -> None:
    for identifier in (b"short", IDENTIFIER.pack(1, HASH, TOKEN)):
        macaroon = Macaroon(identifier=identifier, key=root_key(NEW, identifier), version=2)
        macaroon.add_first_party_caveat("services=farebox:0")
        macaroon.add_first_party_caveat("farebox_valid_until=1790000000")
        assert isinstance(MINT.verify(bytes(BinarySerializer().serialize_raw(macaroon))), Unverified)
    bare = Macaroon(identifier=theirs(RAW).identifier_bytes, key=root_key(NEW, theirs(RAW).identifier_bytes), version=2)
    assert isinstance(MINT.verify(bytes(BinarySerializer().serialize_raw(bare))), Unverified)
    assert isinstance(MINT.verify(with_caveats(RAW, *["method=GET"] * 63)), Unverified)


def test_a_token_of_an_older_secret_is_still_ours_and_of_a_removed_one_is_not() -> None:
    old = b64decode(Mint((OLD,)).mint(payment_hash=HASH, token_id=TOKEN, service="farebox", expires_at_s=1))
    assert isinstance(MINT.verify(old), Verified)
    assert isinstance(Mint((NEW,)).verify(old), Unverified)
    assert MINT.memo_keys[1:] == Mint((OLD,)).memo_keys


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_master_secrets({}, tmp_path / "data")
    path = tmp_path / "data" / "master-secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first[0]) == 32
    assert load_master_secrets({}, tmp_path / "data") == first
    assert os.listdir(tmp_path / "data") == ["master-secret"]
    named = load_master_secrets({}, tmp_path / "data", file_name="other")
    assert named != first
    assert load_master_secrets({}, tmp_path / "data", file_name="other") == named


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_master_secrets({}, tmp_path)
    (tmp_path / "master-secret").chmod(0o640)
    with pytest.raises(PermissionError):
        load_master_secrets({}, tmp_path)


def test_the_environment_comes_first_and_newest_first(tmp_path: Path) -> None:
    given_secrets = f"{NEW.hex()},{OLD.hex()}"
    assert load_master_secrets({ENVIRONMENT_NAME: given_secrets}, tmp_path) == (NEW, OLD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["zz", "abcd", f"{NEW.hex()},ab"])
def test_a_secret_that_is_too_short_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        load_master_secrets({ENVIRONMENT_NAME: text}, tmp_path)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Mint(())


def test_tokens_are_standard_base64_with_padding() -> None:
    assert b64encode(b64decode(MINTED, validate=True)).decode() == MINTED


def test_third_party_caveats_are_refused() -> None:
    macaroon = theirs(RAW)
    macaroon.caveats.append(Caveat(caveat_id="third", verification_key_id="key", location="there", version=2))
    assert MINT.verify(bytes(BinarySerializer().serialize_raw(macaroon))) == Unverified(
        "third-party caveats cannot be verified here"
    )


def test_of_two_processes_that_start_together_one_makes_the_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(lambda _: load_master_secrets({}, tmp_path), range(16)))
    assert len(set(loaded)) == 1
    _create(tmp_path / "master-secret")
    assert load_master_secrets({}, tmp_path) == loaded[0]
    assert os.listdir(tmp_path) == ["master-secret"]


def test_clients_that_we_did_not_write_read_the_challenge() -> None:
    challenge = Challenge(
        macaroon=MINTED,
        invoice="lnbcrt210n1invoice",
        payment_hash=HASH,
        token_id=TOKEN,
        amount_sats=21,
        rate=Rate(1),
        expires_at_s=1,
    )
    header = www_authenticate(challenge)
    assert bolthub_parse(header) == (MINTED, challenge.invoice)
    parsed = l402_requests_parse(header)
    assert (parsed.macaroon, parsed.invoice) == (MINTED, challenge.invoice)
