"""Every form in which a credential may be shown, and every way in which it may be wrong: status and code, as the HTTP
contract has them, from the running gateway.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import pytest
from e2e.dialects import SPEECHES, Speech
from e2e.outside import NodeThread
from e2e.stack import Parts, Stack, proof, start_stack
from pymacaroons import Macaroon

from gateway.adapters.macaroons import Mint

SECRET = bytes(range(32))
PATH = "/raw/search"
TOKEN_BYTES = slice(34, 66)


@dataclass(frozen=True)
class Desk:
    """The gateway, and the node whose invoices the tests settle as they like."""

    stack: Stack
    node: NodeThread

    def offer(self, sats: int = 100) -> dict[str, Any]:
        """A challenge's body."""
        answer = self.stack.http.get(PATH, headers={"farebox-deposit": str(sats)})
        assert answer.status_code == 402
        members: dict[str, Any] = answer.json()
        return members

    def buy(self, sats: int = 100) -> tuple[str, str]:
        """Macaroon and preimage."""
        offer = self.offer(sats)
        return offer["macaroon"], self.node.settle(offer["paymentHash"])

    def ask(self, *headers: tuple[str, str], query: str = "", method: str = "GET", path: str = PATH) -> httpx.Response:
        """One call with these header lines."""
        return self.stack.http.request(method, path + query, headers=list(headers))


@pytest.fixture(scope="module")
def desk(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("desk")
    node = NodeThread(directory)
    try:
        secrets = {"macaroon_master": {1: SECRET.hex()}}
        with start_stack(directory, parts, lightning={"lnd": node.lnd}, secrets=secrets) as stack:
            yield Desk(stack, node)
    finally:
        node.close()


@pytest.fixture(scope="module")
def paid(desk: Desk) -> tuple[str, str]:
    return desk.buy(10_000)


def auth(value: str) -> tuple[str, str]:
    return ("authorization", value)


def url_safe(macaroon: str) -> str:
    return urlsafe_b64encode(b64decode(macaroon)).decode()


def narrowed(macaroon: str, *caveats: str) -> str:
    """With caveats of the client's own."""
    token = Macaroon.deserialize(url_safe(macaroon).rstrip("="))
    for caveat in caveats:
        token.add_first_party_caveat(caveat)
    return b64encode(b64decode(token.serialize() + "==", altchars=b"-_")).decode()


def in_hex(macaroon: str, preimage: str) -> str:
    return b64decode(narrowed(macaroon, f"preimage={preimage}")).hex()


FORMS: dict[str, Callable[[str, str], list[tuple[str, str]]]] = {
    "L402": lambda m, p: [auth(f"L402 {m}:{p}")],
    "LSAT": lambda m, p: [auth(f"LSAT {m}:{p}")],
    "any case": lambda m, p: [auth(f"lSaT {m}:{p}")],
    "doubled scheme": lambda m, p: [auth(f"L402 L402 {m}:{p}")],
    "two lines": lambda m, p: [auth(f"LSAT {m}:{p}"), auth(f"L402 {m}:{p}")],
    "both in one line": lambda m, p: [auth(f"LSAT {m}:{p}, L402 {m}:{p}")],
    "unpadded": lambda m, p: [auth(f"L402 {m.rstrip('=')}:{p}")],
    "url-safe": lambda m, p: [auth(f"L402 {url_safe(m)}:{p}")],
    "url-safe, unpadded": lambda m, p: [auth(f"L402 {url_safe(m).rstrip('=')}:{p}")],
    "upper-case preimage": lambda m, p: [auth(f"L402 {m}:{p.upper()}")],
    "auth-params": lambda m, p: [auth(f'L402 macaroon="{m}", preimage="{p}"')],
    "auth-params without a comma": lambda m, p: [auth(f'L402 macaroon="{m}" preimage="{p}"')],
    "Macaroon": lambda m, p: [("macaroon", in_hex(m, p))],
    "Grpc-Metadata-Macaroon": lambda m, p: [("grpc-metadata-macaroon", in_hex(m, p))],
    "bearer key": lambda m, p: [auth(f"Bearer {m}:{p}")],
    "x-api-key": lambda m, p: [("x-api-key", f"{m}:{p}")],
    "x-goog-api-key": lambda m, p: [("x-goog-api-key", f"{m}:{p}")],
    "beside a key that is none of ours": lambda m, p: [auth("Bearer sk-something"), ("x-api-key", f"{m}:{p}")],
    "caveats of others that allow it": lambda m, p: [
        auth(f"L402 {narrowed(m, 'method=GET', 'path_prefix=/raw', 'valid_until=99999999999')}:{p}")
    ],
    "an expiry in milliseconds": lambda m, p: [auth(f"L402 {narrowed(m, 'valid_until=1999999999999')}:{p}")],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_paid_credential_is_served(desk: Desk, paid: tuple[str, str], form: str) -> None:
    answer = desk.ask(*FORMS[form](*paid))
    assert (answer.status_code, answer.headers.get("farebox-cost")) == (200, "amount_msat=1000"), answer.text
    assert not desk.stack.sent(answer.headers["farebox-request-id"])["payer_credential_seen"]


def test_a_key_in_the_query_is_a_credential_too(desk: Desk, paid: tuple[str, str]) -> None:
    macaroon, preimage = paid
    answer = desk.ask(query=f"?key={url_safe(macaroon)}:{preimage}&q=tolls")
    assert answer.status_code == 200
    assert not desk.stack.sent(answer.headers["farebox-request-id"])["payer_credential_seen"]


def flipped(macaroon: str) -> str:
    """The last bit of the signature turned."""
    raw = bytearray(b64decode(macaroon))
    raw[-1] ^= 1
    return b64encode(raw).decode()


CHALLENGED: dict[str, Callable[[str, str], list[tuple[str, str]]]] = {
    "nothing": lambda _m, _p: [],
    "a key that is none of ours": lambda _m, _p: [auth("Bearer sk-somebodys-own")],
    "basic": lambda _m, _p: [auth("Basic dXNlcjpwYXNz")],
    "an empty credential": lambda _m, _p: [auth("L402 :")],
    "no base64": lambda _m, p: [auth(f"L402 !!!:{p}")],
    "no macaroon": lambda _m, p: [auth(f"L402 {b64encode(b'not one').decode()}:{p}")],
    "forged signature": lambda m, p: [auth(f"L402 {flipped(m)}:{p}")],
    "another's secret": lambda _m, p: [auth(f"L402 {minted(bytes(32), service='farebox')}:{p}")],
    "wrong preimage": lambda m, _p: [auth(f"L402 {m}:{'ab' * 32}")],
    "short preimage": lambda m, p: [auth(f"L402 {m}:{p[:-2]}")],
    "no preimage": lambda m, _p: [auth(f"L402 {m}:")],
    "expired": lambda m, p: [auth(f"L402 {narrowed(m, f'farebox_valid_until={int(time.time()) - 5}')}:{p}")],
    "expired by a client's caveat": lambda m, p: [auth(f"L402 {narrowed(m, 'valid_until=1700000000')}:{p}")],
}
PREIMAGE = bytes(32)


def minted(secret: bytes, *, service: str, expires_at_s: int = 2_000_000_000) -> str:
    payment_hash = sha256(PREIMAGE).digest()
    return Mint((secret,)).mint(
        payment_hash=payment_hash, token_id=bytes(32), service=service, expires_at_s=expires_at_s
    )


def check_challenge(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 402, answer.text
    offer = answer.headers["www-authenticate"]
    members: dict[str, Any] = answer.json()
    assert members["code"] == "payment_required" and members["error"]["code"] == "payment_required"
    names = [part.partition("=")[0] for part in offer.removeprefix("L402 ").split(", ")]
    assert names == ["macaroon", "invoice", "version", "token"]
    assert f'macaroon="{members["macaroon"]}"' in offer and f'invoice="{members["invoice"]}"' in offer
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["cache-control"], answer.headers["x-should-retry"]) == ("no-store", "false")
    return members


def token_id(macaroon: str) -> bytes:
    identifier: bytes = Macaroon.deserialize(url_safe(macaroon).rstrip("=")).identifier_bytes
    return identifier[TOKEN_BYTES]


@pytest.mark.parametrize("case", CHALLENGED)
def test_what_proves_nothing_gets_a_fresh_challenge(desk: Desk, paid: tuple[str, str], case: str) -> None:
    members = check_challenge(desk.ask(*CHALLENGED[case](*paid)))
    assert token_id(members["macaroon"]) != token_id(paid[0])


def test_an_unpaid_invoice_and_its_preimage_get_a_fresh_challenge(desk: Desk) -> None:
    offer = desk.offer()
    answer = desk.ask(auth(f"L402 {offer['macaroon']}:{desk.node.preimage(offer['paymentHash'])}"))
    assert check_challenge(answer)["paymentHash"] != offer["paymentHash"]


def test_an_unsettled_hold_invoice_buys_nothing_until_it_is_settled(desk: Desk) -> None:
    offer = desk.offer()
    shown = auth(f"L402 {offer['macaroon']}:{desk.node.accept(offer['paymentHash'])}")
    check_challenge(desk.ask(shown))
    desk.node.settle(offer["paymentHash"])
    assert desk.ask(shown).status_code == 200


def test_a_spent_credential_is_topped_up_under_the_same_token(desk: Desk) -> None:
    macaroon, preimage = desk.buy(1)
    shown = auth(f"L402 {macaroon}:{preimage}")
    assert desk.ask(shown).status_code == 200
    members = check_challenge(desk.ask(shown))
    assert token_id(members["macaroon"]) == token_id(macaroon)
    assert members["paymentHash"] != Macaroon.deserialize(url_safe(macaroon).rstrip("=")).identifier_bytes[2:34].hex()
    topped = f"{members['macaroon']}:{desk.node.settle(members['paymentHash'])}"
    assert desk.stack.balance(topped)["credited"] == 1_001_000
    assert desk.ask(shown).status_code == 200, "whichever of the two tokens is shown"


def test_a_paid_top_up_is_never_offered_again(desk: Desk) -> None:
    macaroon, preimage = desk.buy(1)
    shown, deposit = auth(f"L402 {macaroon}:{preimage}"), ("farebox-deposit", "1")
    offered = set()
    for _ in range(3):
        assert desk.ask(shown, deposit).status_code == 200
        members = check_challenge(desk.ask(shown, deposit))
        assert members["paymentHash"] == check_challenge(desk.ask(shown, deposit))["paymentHash"], (
            "shown again until paid"
        )
        offered.add(members["paymentHash"])
        assert (
            desk.stack.balance(f"{members['macaroon']}:{desk.node.settle(members['paymentHash'])}")["available"]
            == 1_000
        )
    assert len(offered) == 3


def test_a_spent_credential_that_a_delegate_narrowed_gets_a_token_of_its_own(desk: Desk) -> None:
    macaroon, preimage = desk.buy(1)
    delegated = auth(f"L402 {narrowed(macaroon, 'method=GET')}:{preimage}")
    assert desk.ask(delegated).status_code == 200
    members = check_challenge(desk.ask(delegated))
    assert token_id(members["macaroon"]) != token_id(macaroon)


FORBIDDEN: dict[str, Callable[[str, str], list[tuple[str, str]]]] = {
    "an unknown caveat": lambda m, p: [auth(f"L402 {narrowed(m, 'colour=blue')}:{p}")],
    "a caveat without a value": lambda m, p: [auth(f"L402 {narrowed(m, 'colour')}:{p}")],
    "another method": lambda m, p: [auth(f"L402 {narrowed(m, 'method=POST')}:{p}")],
    "another path": lambda m, p: [auth(f"L402 {narrowed(m, 'path_prefix=/v1')}:{p}")],
    "a caveat that widens": lambda m, p: [auth(f"L402 {narrowed(m, 'method=GET', 'method=GET,POST')}:{p}")],
    "other capabilities": lambda m, p: [auth(f"L402 {narrowed(m, 'farebox_capabilities=images')}:{p}")],
    "another service": lambda _m, _p: [auth(f"L402 {minted(SECRET, service='other')}:{PREIMAGE.hex()}")],
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_a_caveat_forbids_is_403_and_no_challenge(desk: Desk, paid: tuple[str, str], case: str) -> None:
    answer = desk.ask(*FORBIDDEN[case](*paid))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "www-authenticate" not in answer.headers and "invoice" not in answer.json()


def test_uses_are_counted_and_adding_a_caveat_starts_no_new_count(desk: Desk) -> None:
    macaroon, preimage = desk.buy(10)
    twice = narrowed(macaroon, "n_uses=2")
    again = narrowed(twice, "method=GET")
    answers = [desk.ask(auth(f"L402 {token}:{preimage}")) for token in (twice, again, twice, again)]
    assert [answer.status_code for answer in answers] == [200, 200, 403, 403]


def test_sats_of_a_delegate_are_counted(desk: Desk) -> None:
    macaroon, preimage = desk.buy(10)
    shown = auth(f"L402 {narrowed(macaroon, 'max_sats=3')}:{preimage}")
    assert [desk.ask(shown).status_code for _ in range(4)] == [200, 200, 200, 403]
    assert desk.ask(auth(f"L402 {macaroon}:{preimage}")).status_code == 200


def test_two_different_credentials_are_ambiguous(desk: Desk, paid: tuple[str, str]) -> None:
    other = desk.buy(1)
    answer = desk.ask(auth(f"L402 {paid[0]}:{paid[1]}"), ("x-api-key", f"{other[0]}:{other[1]}"))
    assert (answer.status_code, answer.json()["code"]) == (400, "ambiguous_credential")


def test_what_another_service_sold_stands_beside_a_good_proof_as_if_it_were_not_there(
    desk: Desk, paid: tuple[str, str]
) -> None:
    good = f"{paid[0]}:{paid[1]}"
    foreign = Macaroon(identifier="elsewhere", key="secret", version=2).serialize()
    forged = narrowed(paid[0], "method=GET")[:-6] + "AAAA=="
    for line in (f"L402 {foreign}:{'0' * 64}", f"L402 {forged}:{paid[1]}", "L402 junk", f"LSAT {paid[0]}:{'0' * 64}"):
        assert desk.ask(auth(line), ("x-api-key", good)).status_code == 200, line
        assert desk.ask(auth(f"{line}, L402 {good}")).status_code == 200, line


def test_one_token_in_two_forms_is_one_credential(desk: Desk, paid: tuple[str, str]) -> None:
    good = auth(f"L402 {paid[0]}:{paid[1]}")
    plain = b64decode(paid[0]).hex()
    proved = b64decode(narrowed(paid[0], f"preimage={paid[1]}")).hex()
    for value in (plain, proved):
        assert desk.ask(good, ("macaroon", value)).status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        'L402 macaroon="{0}", preimage="{1}"', 'L402 macaroon="{0}" preimage="{1}"', "L402 macaroon={0} preimage={1}",
        'L402 version="0", token="{0}", preimage="{1}"', "L402 version=0,token={0},preimage={1}",
        'L402 preimage="{1}", macaroon="{0}"', 'LSAT macaroon="{0}", invoice="lnbc1", version="0", preimage="{1}"',
    ],
)  # fmt: skip
def test_parameters_come_in_any_order_quoted_or_bare(desk: Desk, paid: tuple[str, str], form: str) -> None:
    assert desk.ask(auth(form.format(*paid))).status_code == 200


def test_an_unknown_app_key_is_401_and_no_challenge(desk: Desk) -> None:
    answer = desk.ask(auth("Bearer fb_live_00aaaaaaaaaaaaaaaaaaaaaaaa"))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key")
    assert "invoice" not in answer.json()


def test_a_revoked_token_gets_a_fresh_challenge(desk: Desk) -> None:
    macaroon, preimage = desk.buy(10)
    shown = auth(f"L402 {macaroon}:{preimage}")
    assert desk.ask(shown).status_code == 200
    assert desk.ask(shown, method="POST", path="/l402/revoke").status_code == 200
    members = check_challenge(desk.ask(shown))
    assert token_id(members["macaroon"]) != token_id(macaroon)


@pytest.mark.parametrize("path", ["/l402/refund", "/l402/revoke"])
def test_an_attenuated_credential_neither_refunds_nor_revokes(desk: Desk, paid: tuple[str, str], path: str) -> None:
    macaroon, preimage = paid
    shown = proof(f"{narrowed(macaroon, 'n_uses=100')}:{preimage}")
    answer = desk.stack.http.post(path, json={"payment_request": "lnbcrt1"}, headers=shown)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_caller_of_grpc_gets_its_challenge_as_grpc_has_it(desk: Desk) -> None:
    answer = desk.stack.http.post(PATH, headers={"content-type": "application/grpc"})
    assert answer.status_code == 200
    assert (answer.headers["grpc-status"], answer.headers["grpc-message"]) == ("13", "payment required")
    assert answer.headers["www-authenticate"].startswith('L402 macaroon="')


def test_listings_cost_nothing_and_need_a_credential_that_we_know(desk: Desk, paid: tuple[str, str]) -> None:
    before = desk.stack.balance(":".join(paid))
    assert desk.ask(auth(f"L402 {':'.join(paid)}"), path="/v1/models").status_code == 200
    assert desk.stack.balance(":".join(paid)) == before
    check_challenge(desk.ask(path="/v1/models"))
    offer = desk.offer()
    unpaid = auth(f"L402 {offer['macaroon']}:{desk.node.preimage(offer['paymentHash'])}")
    check_challenge(desk.ask(unpaid, path="/v1/models"))


REFUSALS: dict[str, Callable[[Any], bool]] = {
    "openai": lambda error: error["code"] == "payment_required",
    "responses": lambda error: error["code"] == "payment_required",
    "anthropic": lambda error: isinstance(error["type"], str) and isinstance(error["message"], str),
    "gemini": lambda error: error["code"] == 402,
    "ollama": lambda error: isinstance(error, str),
}


@pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.name)
def test_a_refusal_speaks_the_callers_dialect(desk: Desk, speech: Speech) -> None:
    answer = desk.stack.http.post(speech.path, content=speech.body(limit=20), headers=speech.headers)
    assert answer.status_code == 402 and answer.json()["code"] == "payment_required"
    assert REFUSALS[speech.name](answer.json()["error"])
