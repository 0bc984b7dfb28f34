"""A person's own token, of an identity provider, through the running gateway: on the relay and on our own paths."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from e2e.people import Org, make_org, usd
from e2e.stack import CHAT, Parts, Stack, body, start_stack
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://login.example/", "farebox"
FLAT = "/raw/search"


class Provider:
    """Signs tokens; its public keys lie in a file."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.curve = ec.generate_private_key(ec.SECP256R1())

    def jwks(self) -> str:
        keys = [
            json.loads(RSAAlgorithm.to_jwk(self.key.public_key())) | {"kid": "rsa"},
            json.loads(ECAlgorithm.to_jwk(self.curve.public_key())) | {"kid": "ec"},
        ]
        return json.dumps({"keys": keys})

    def token(self, person: str, *, key_id: str = "rsa", **more: Any) -> str:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": person, "exp": int(time.time()) + 600} | more
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": key_id})


class Served:
    """A gateway whose provider's tokens alone run under a key of the organization."""

    def __init__(self, stack: Stack, org: Org, key: dict[str, Any], provider: Provider) -> None:
        self.stack, self.org, self.key, self.provider = stack, org, key, provider

    def ask(self, method: str, path: str, person: str = "alice", *, json: Any = None, **headers: str) -> httpx.Response:
        shown = {"authorization": f"Bearer {self.provider.token(person)}"} | headers
        return self.stack.http.request(method, path, json=json, headers=shown)


@pytest.fixture(scope="module")
def served(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory, provider = tmp_path_factory.mktemp("identity"), Provider()
    (directory / "jwks.json").write_text(provider.jwks())
    settings = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(directory / "jwks.json")}
    with start_stack(directory / "first", parts) as first:  # makes the organization that the configuration names
        org = make_org(first)
        key = org.must("POST", "/api/keys", {"name": "tokens alone"})
    named = {"providers": [settings | {"account": org.org_id, "key": key["id"]}]}
    with start_stack(directory / "first", parts, identity=named) as stack:
        org.stack = stack
        yield Served(stack, org, key, provider)
        stack.check_books()


def test_a_token_alone_names_person_and_payer(served: Served) -> None:
    answer = served.ask("POST", CHAT, json=body(max_tokens=20))
    assert answer.status_code == 200, answer.text
    assert served.org.must("GET", "/api/persons/alice")["made"] == "first_sight"
    usage = served.org.must("GET", "/api/usage?group_by=user,key", user="alice")["data"]
    assert [(row["user"], row["key"]) for row in usage] == [("alice", served.key["id"])]


def test_a_token_beside_an_app_key_names_the_person(served: Served) -> None:
    both = {"authorization": f"Bearer {served.provider.token('bob')}", "x-api-key": served.org.app_key}
    assert served.stack.http.get(FLAT, headers=both).status_code == 200
    assert served.org.must("GET", "/api/persons/bob")["made"] == "first_sight"
    other = served.stack.http.get(FLAT, headers=both | {"farebox-user": "carol"})
    assert (other.status_code, other.json()["param"]) == (422, "farebox-user")


def test_a_forged_or_foreign_token_is_no_key(served: Served) -> None:
    stranger = Provider()
    texts = [
        stranger.token("alice"), served.provider.token("alice", iss="https://elsewhere/"),
        served.provider.token("alice", exp=int(time.time()) - 60), served.provider.token("alice", key_id="ec"),
        served.provider.token("alice", key_id="none"), served.provider.token("alice")[:-4] + "AAAA",
    ]  # fmt: skip
    for text in texts:
        for path in (FLAT, "/api/account"):
            answer = served.stack.http.get(path, headers={"authorization": f"Bearer {text}"})
            assert answer.status_code in (401, 402), (path, answer.text)


def test_a_person_who_spoils_their_token_is_not_taken_for_nobody(served: Served) -> None:
    """An app that passes on what its users show would have their budgets fall away."""
    head, claims, signature = served.provider.token("alice").split(".")
    spoilt = (
        f"{head}.{claims}.", f"{head}.{claims}", f"{head}.{claims}.{signature}=", f"{head}.e30.x", "eyJ",
        f"{head}.{claims}{'A' * 8_000}.{signature}",
    )  # fmt: skip
    for text in spoilt:
        both = {"authorization": f"Bearer {text}", "x-api-key": served.org.app_key}
        answer = served.stack.http.get(FLAT, headers=both)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key"), text


def test_a_token_never_reaches_the_upstream(served: Served) -> None:
    answer = served.ask("GET", FLAT)
    sent = served.stack.sent(answer.headers["farebox-request-id"])
    assert served.provider.token("alice")[:40] not in json.dumps(sent)
    assert served.provider.token("alice")[:40] not in served.stack.log.read_text()


MINE = [("GET", "/api/account"), ("GET", "/api/budgets"), ("GET", "/api/allowances"), ("GET", "/api/approvals"),
        ("GET", "/api/usage"), ("GET", "/api/persons/alice")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), MINE)
def test_a_person_sees_what_is_theirs(served: Served, method: str, path: str) -> None:
    assert served.ask("GET", FLAT).status_code == 200
    assert served.ask(method, path).status_code == 200


NOT_MINE: list[tuple[str, str, Any]] = [
    ("GET", "/api/keys", None),
    ("POST", "/api/keys", {}),
    ("GET", "/api/persons", None),
    ("GET", "/api/persons/bob", None),
    ("POST", "/api/persons", {"id": "alice", "plan": "pro"}),
    ("POST", "/api/persons", {"id": "mallory"}),
    ("PUT", "/api/budgets", {"limit": usd("1000.00"), "scope": {"user": "alice"}}),
    ("PUT", "/api/budgets", {"limit": usd("1000.00")}),
    ("PUT", "/api/webhooks", {"url": "https://attacker.example/"}),
    ("GET", "/api/webhooks", None),
    ("DELETE", "/api/webhooks", None),
    ("POST", "/api/webhooks/test", {}),
    ("GET", "/api/webhooks/dead", None),
    ("GET", "/api/events", None),
    ("POST", "/api/allowances", {"user": "bob", "cap": usd("1.00")}),
    ("POST", "/api/persons/bob/credentials", {"password": "a long enough one"}),
    ("GET", "/admin/api/accounts", None),
    ("POST", "/admin/api/accounts", {}),
]


@pytest.mark.parametrize(("method", "path", "asked"), NOT_MINE)
def test_a_persons_token_is_not_the_app(served: Served, method: str, path: str, asked: Any) -> None:
    answer = served.ask(method, path, json=asked)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), answer.text


def test_a_person_does_not_see_what_the_organization_has(served: Served) -> None:
    whole = served.ask("POST", CHAT, json=body(max_tokens=5))
    assert "farebox-cost" in whole.headers and "farebox-balance" not in whole.headers
    stream = served.ask("POST", CHAT, json=body(max_tokens=5, stream=True)).text
    (line,) = [line for line in stream.splitlines() if line.startswith(": farebox ")]
    told = json.loads(line.removeprefix(": farebox "))
    assert told["balance"] is None and told["cost"]["currency"] == "USD"
    assert "farebox-balance" in served.stack.http.post(CHAT, json=body(), headers=served.org.headers("alice")).headers


def test_a_person_approves_their_own_request_by_their_own_token(served: Served) -> None:
    dear = {"model": "gpt-4", "max_tokens": 40_000, "messages": [{"role": "user", "content": "much"}]}
    refused = served.ask("POST", CHAT, json=dear)
    assert refused.status_code == 402, refused.text
    quote_id = refused.json()["quote"]["id"]
    path = f"/api/quotes/{quote_id}/approve"
    assert served.ask("POST", path, "bob", json={}).json()["code"] == "foreign_quote"
    assert served.ask("POST", path, json={}).json()["status"] == "approved"
    assert served.ask("POST", CHAT, json=dear, **{"farebox-quote": quote_id}).status_code == 200
    log = served.org.operate("GET", f"/audit?account={served.org.org_id}")["data"]
    (entry,) = [each for each in log if each["action"] == "quote.approve"]
    assert entry["authenticated"] == "jwt"


def test_a_person_lifts_their_own_budget_but_not_the_organizations(served: Served) -> None:
    own = served.org.budget("0.0005", user="dora", on_exceed="ask") if _seen(served, "dora") else None
    refused = served.ask("GET", FLAT, "dora").json()
    assert (refused["code"], refused["reason"]) == ("approval_required", "budget")
    assert served.ask("POST", f"/api/quotes/{refused['quote']['id']}/approve", "dora", json={}).status_code == 200
    everyones = served.org.budget("0.000001", on_exceed="ask", window="day")
    refused = served.ask("GET", FLAT, "erin").json()
    answer = served.ask("POST", f"/api/quotes/{refused['quote']['id']}/approve", "erin", json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
    served.org.must("POST", f"/api/quotes/{refused['quote']['id']}/approve", {}, user="erin")
    for made in (own, everyones):
        assert made is not None
    served.org.must("DELETE", f"/api/budgets/{everyones['id']}")


def _seen(served: Served, person: str) -> bool:
    return served.ask("GET", FLAT, person).status_code == 200


def test_tokens_alone_end_with_the_key_that_they_run_under(served: Served) -> None:
    assert served.ask("GET", FLAT, "zoe").status_code == 200
    served.org.must("DELETE", f"/api/keys/{served.key['id']}")
    assert served.stack.http.get(FLAT, headers=served.org.headers("zoe")).status_code == 200
    for path in (FLAT, "/api/account"):
        answer = served.ask("GET", path, "zoe")
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key"), path
