"""Tokens of identity providers: real signatures, keys over real HTTP and from a file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_curve_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.adapters import identity as module
from gateway.adapters.identity import Identity, NamedPerson, Provider
from gateway.core.errors import InvalidKey, Unavailable

ISSUER, AUDIENCE = "https://login.example/", "farebox"


@pytest.fixture(scope="module")
def keys() -> list[RSAPrivateKey]:
    return [generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


def jwk(key: RSAPrivateKey, key_id: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    return made | {"kid": key_id, "use": "sig", "alg": "RS256"}


@dataclass
class KeyServer:
    """An identity provider's JWKS over HTTP."""

    answer: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    asked: int = 0
    address: str = ""


@pytest.fixture
def server() -> Iterator[KeyServer]:
    state = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            body = json.dumps(state.answer).encode()
            self.send_response(state.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_port}/jwks.json"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def provider(jwks: str, **more: Any) -> Provider:
    return Provider(issuer=ISSUER, audience=AUDIENCE, jwks=jwks, **more)


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600} | more


def token(key: RSAPrivateKey, key_id: str = "k1", **more: Any) -> str:
    wanted = {name: value for name, value in claims(**more).items() if value is not None}
    return jwt.encode(wanted, key, algorithm="RS256", headers={"kid": key_id})


@pytest.fixture
async def verifier(server: KeyServer, keys: list[RSAPrivateKey]) -> AsyncIterator[Identity]:
    server.answer = {"keys": [jwk(keys[0], "k1")]}
    made = Identity([provider(server.address, org_id="org_00a", key_id="ak_00b")], time.time)
    yield made
    await made.close()


async def test_a_good_token_names_a_person_and_is_remembered(
    verifier: Identity, server: KeyServer, keys: list[RSAPrivateKey]
) -> None:
    good = token(keys[0])
    assert verifier.seen(good) is None
    named = await verifier.verify(good)
    assert (named.person_id, named.org_id, named.key_id) == ("alice", "org_00a", "ak_00b")
    assert verifier.seen(good) == named
    await verifier.verify(token(keys[0], sub="bob"))
    assert server.asked == 1, "the keys are remembered too"


REFUSED = {
    "expired": {"exp": int(time.time()) - 120},
    "not yet": {"nbf": int(time.time()) + 600},
    "another audience": {"aud": "somebody else"},
    "no audience": {"aud": None},
    "no end": {"exp": None},
    "another issuer": {"iss": "https://login.example"},
    "no issuer": {"iss": None},
    "no person": {"sub": None},
    "an empty person": {"sub": ""},
    "a person of another kind": {"sub": 7},
    "a very long person": {"sub": "x" * 129},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
async def test_a_token_that_says_something_else_is_refused(
    verifier: Identity, keys: list[RSAPrivateKey], change: dict[str, Any]
) -> None:
    bad = token(keys[0], **change)
    with pytest.raises(InvalidKey):
        await verifier.verify(bad)
    assert verifier.seen(bad) is None


async def test_a_leeway_forgives_clocks_that_differ(verifier: Identity, keys: list[RSAPrivateKey]) -> None:
    assert (await verifier.verify(token(keys[0], exp=int(time.time()) - 5))).person_id == "alice"


async def test_a_foreign_signature_is_refused(verifier: Identity, keys: list[RSAPrivateKey]) -> None:
    with pytest.raises(InvalidKey):
        await verifier.verify(token(keys[1]))


async def test_a_key_of_another_kind_than_the_algorithm_is_no_key_for_it(
    server: KeyServer, keys: list[RSAPrivateKey]
) -> None:
    curve = generate_curve_key(SECP256R1())
    server.answer = {"keys": [jwk(keys[0], "rsa"), json.loads(ECAlgorithm.to_jwk(curve.public_key())) | {"kid": "ec"}]}
    verifier = Identity([provider(server.address)], time.time)
    with pytest.raises(InvalidKey):
        await verifier.verify(token(keys[0], "ec"))
    with pytest.raises(InvalidKey):
        await verifier.verify(jwt.encode(claims(), curve, algorithm="ES256", headers={"kid": "rsa"}))
    good = jwt.encode(claims(), curve, algorithm="ES256", headers={"kid": "ec"})
    assert (await verifier.verify(good)).person_id == "alice"
    await verifier.close()


async def test_a_token_without_a_signature_is_refused(verifier: Identity) -> None:
    with pytest.raises(InvalidKey):
        await verifier.verify(jwt.encode(claims(), "", algorithm="none", headers={"kid": "k1"}))


async def test_the_public_key_is_no_shared_secret(verifier: Identity, keys: list[RSAPrivateKey]) -> None:
    """The old trick: HS256, "signed" with the public key as everybody can read it."""
    secret = keys[0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "k1"}, claims())
    ]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    forged = b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
    with pytest.raises(InvalidKey):
        await verifier.verify(forged)


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "e30.e30.e30", "\xff.\xff.\xff", "x" * 100_000])
async def test_nonsense_is_refused(verifier: Identity, text: str) -> None:
    with pytest.raises(InvalidKey):
        await verifier.verify(text)


async def test_a_new_key_of_the_provider_is_found(
    verifier: Identity, server: KeyServer, keys: list[RSAPrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    await verifier.verify(token(keys[0]))
    server.answer = {"keys": [jwk(keys[0], "k1"), jwk(keys[1], "k2")]}
    with pytest.raises(InvalidKey):
        await verifier.verify(token(keys[1], "k2"))
    assert server.asked == 1, "unknown names ask at most once a minute, else strangers would keep the provider busy"
    monkeypatch.setattr(module, "UNKNOWN_KEY_S", 0.0)
    assert (await verifier.verify(token(keys[1], "k2"))).person_id == "alice"


async def test_a_provider_that_is_away_shuts_nobody_out_who_is_known(
    verifier: Identity, server: KeyServer, keys: list[RSAPrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    await verifier.verify(token(keys[0]))
    server.status, server.answer = 503, {}
    monkeypatch.setattr(module, "REFRESH_S", 0.0)
    assert (await verifier.verify(token(keys[0], sub="bob"))).person_id == "bob"


async def test_without_any_key_it_is_our_own_fault_until_they_come(
    server: KeyServer, keys: list[RSAPrivateKey]
) -> None:
    server.status = 500
    verifier = Identity([provider(server.address)], time.time)
    with pytest.raises(Unavailable):
        await verifier.verify(token(keys[0]))
    server.status, server.answer = 200, {"keys": [jwk(keys[0], "k1")]}
    assert (await verifier.verify(token(keys[0]))).person_id == "alice"
    await verifier.close()


async def test_a_key_set_that_is_too_large_is_not_read(server: KeyServer, keys: list[RSAPrivateKey]) -> None:
    server.answer = {"keys": [jwk(keys[0], "k1")], "filler": "x" * module.JWKS_MOST_BYTES}
    verifier = Identity([provider(server.address)], time.time)
    with pytest.raises(Unavailable):
        await verifier.verify(token(keys[0]))
    await verifier.close()


async def test_keys_from_a_file_and_a_claim_of_choice(tmp_path: Path, keys: list[RSAPrivateKey]) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(keys[0], "k1")]}))
    verifier = Identity([provider(str(path), person_claim="email")], time.time)
    named = await verifier.verify(token(keys[0], email="alice@example.org"))
    assert named == NamedPerson("alice@example.org", "", "", named.expires_at_s)
    await verifier.close()


async def test_what_was_verified_ends_with_the_token(server: KeyServer, keys: list[RSAPrivateKey]) -> None:
    server.answer = {"keys": [jwk(keys[0], "k1")]}
    ahead_s = 0.0
    verifier = Identity([provider(server.address)], lambda: time.time() + ahead_s)
    good = token(keys[0])
    await verifier.verify(good)
    ahead_s = 601.0
    assert verifier.seen(good) is None
    await verifier.close()
