"""A gateway without a Lightning node sells no credit, and says so: nobody is told to pay an invoice that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.people import make_org
from e2e.stack import CHAT, Parts, Stack, body, start_stack


@pytest.fixture(scope="module")
def keys_only(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("keys_only"), parts, lightning={}) as running:
        yield running
        running.check_books()


@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", CHAT), ("GET", "/l402/balance")]
)
def test_whoever_shows_nothing_is_told_that_a_key_is_needed(keys_only: Stack, method: str, path: str) -> None:
    answer = keys_only.http.request(method, path, json=body() if method == "POST" else None)
    told = answer.json()
    assert (answer.status_code, told["code"], told["payment_methods"]) == (402, "payment_required", [])
    assert "no credit is sold here" in told["detail"] and "invoice" not in told["detail"]
    assert "www-authenticate" not in answer.headers and "invoice" not in told


def test_the_description_claims_no_way_to_pay(keys_only: Stack, stack: Stack) -> None:
    assert keys_only.http.get("/.well-known/l402.json").json()["payment_methods"] == []
    assert stack.http.get("/.well-known/l402.json").json()["payment_methods"] == ["lightning"]


def test_accounts_are_served(keys_only: Stack) -> None:
    assert make_org(keys_only).chat().status_code == 200
