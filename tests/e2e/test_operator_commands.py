"""`farebox accounts` as an operator runs it, against a running gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from e2e.lossy import lossy_way
from e2e.people import Org, make_org, usd
from e2e.stack import Stack


@pytest.fixture(scope="module")
def org(stack: Stack) -> Org:
    return make_org(stack)


def accounts(org: Org, *words: str, url: str = "") -> tuple[int, str]:
    return command(org, "accounts", *words, url=url)


def command(org: Org, *words: str, url: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "gateway", *words]
    environment = os.environ | {"FAREBOX_URL": url or org.stack.base_url, "FAREBOX_KEY": org.operator_key}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


def rows(org: Org, *words: str) -> list[dict[str, Any]]:
    code, text = accounts(org, *words, "--json")
    assert code == 0, text
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_a_person_is_suspended_let_go_on_and_given_their_credentials_anew(org: Org) -> None:
    path, password = "/api/persons/alice/credentials", "correct horse battery"
    org.must("POST", "/api/persons", {"id": "alice"})
    org.must("POST", path, {"password": password}, user="alice")
    (row,) = rows(org, "suspend", org.org_id, "--user", "alice")
    assert (row["id"], row["state"]) == ("alice", "suspended")
    assert org.chat(user="alice").status_code == 403 and org.chat(user="bob").status_code == 200
    (row,) = rows(org, "resume", org.org_id, "--user", "alice")
    assert row["state"] == "active" and org.chat(user="alice").status_code == 200
    assert org.ask("POST", path, {"password": "staple horse battery"}, user="alice").status_code == 403
    assert rows(org, "reset-credentials", org.org_id, "--user", "alice") == [{"id": "alice", "deleted": True}]
    org.must("POST", path, {"password": "staple horse battery"}, user="alice")
    code, text = accounts(org, "reset-credentials", org.org_id)
    assert code == 1 and "--user" in text and "Traceback" not in text
    logged = [row["action"] for row in rows(org, "audit", org.org_id)]
    assert logged.count("person.change") == 2 and "credential.reset" in logged


@pytest.mark.parametrize(("action", "left"), [("credit", "125.00"), ("debit", "75.00")])
def test_money_whose_answer_is_lost_moves_once(stack: Stack, action: str, left: str) -> None:
    org = make_org(stack)
    with lossy_way(stack.base_url) as way:
        way.lose = 1
        code, text = accounts(org, action, org.org_id, "25.00", url=way.url)
        assert code == 0 and len(way.bodies) == 2 and left in text, text
        way.lose = 3
        code, text = accounts(org, action, org.org_id, "10.00", url=way.url)
        assert code == 1 and "was lost" in text and len(way.bodies) == 5 and len(set(way.bodies)) == 2, text
        told = re.search(r"--id (\S+):", text)
        assert told is not None and "Traceback" not in text
        code, text = accounts(org, action, org.org_id, "10.00", "--id", told[1])
        assert code == 0, text
    moved = 135 if action == "credit" else 65
    assert org.account()["available"] == usd(f"{moved}.00")
    code, text = accounts(org, action, org.org_id, "11.00", "--id", told[1])
    assert code == 1 and "idempotency_mismatch" in text, "another amount under the same id"


def test_what_is_made_or_set_with_a_lost_answer_is_made_once(stack: Stack) -> None:
    org = make_org(stack)
    before = len(rows(org, "list"))
    with lossy_way(stack.base_url) as way:
        for words in (
            ("accounts", "create", "Lost", "--id", "lost-1"),
            ("keys", "create", "--account", org.org_id, "--name", "lost"),
            ("accounts", "credit-limit", org.org_id, "5.00", "--id", "lost-2"),
            ("budgets", "set", "50.00", "--account", org.org_id),
        ):
            way.lose = 2
            code, text = command(org, *words, url=way.url)
            assert code == 0, text
    assert len(rows(org, "list")) == before + 1
    assert [each["name"] for each in org.must("GET", "/api/keys")["data"]].count("lost") == 1
    logged = [row["action"] for row in rows(org, "audit", org.org_id)]
    assert (logged.count("credit.limit"), logged.count("budget.put")) == (1, 1)


def test_what_was_never_sent_is_told_as_such_and_an_id_is_a_name(org: Org) -> None:
    code, text = accounts(org, "credit", org.org_id, "25.00", url="http://127.0.0.1:9")
    assert code == 1 and "cannot be reached" in text and "--id" not in text
    code, text = accounts(org, "debit", org.org_id, "25.00", "--id", "é {}")
    assert code == 2 and "argument --id" in text and "Traceback" not in text


def test_an_account_is_found_in_the_list_and_loses_its_plan(org: Org) -> None:
    assert org.org_id in [row["id"] for row in rows(org, "list")]
    (row,) = rows(org, "plan", org.org_id)
    assert row["plan"] is None
    code, text = accounts(org, "plan", org.org_id, "gold")
    assert code == 1 and "invalid_request (plan)" in text
    assert rows(org, "audit")[0]["action"] == "policies.change"


def test_an_operator_key_that_got_out_is_revoked_with_the_next_request(stack: Stack) -> None:
    """Also without a gateway to ask, and by its text: whoever finds a leaked key has that, not its id."""
    mine, leaked = make_org(stack), make_org(stack)
    assert leaked.operate("GET", "/accounts")["data"]
    code, text = stack.farebox("keys", "revoke", "--operator", leaked.operator_key)
    assert code == 0 and leaked.operator_key not in text and text.startswith("ak_"), text
    proof = {"authorization": f"Bearer {leaked.operator_key}"}
    assert stack.http.get("/admin/api/accounts", headers=proof).status_code == 401
    assert mine.operate("GET", "/accounts")["data"]
    for other in ("ak_00", "", mine.app_key):
        code, text = stack.farebox("keys", "revoke", "--operator", other)
        assert code == 1 and "no such operator key" in text and "Traceback" not in text
    assert mine.chat().status_code == 200
    code, text = stack.farebox("keys", "revoke", "--operator", mine.operator_key)
    assert code == 0 and mine.chat().status_code == 200


def test_the_account_of_an_audit_log_is_named_either_way(org: Org) -> None:
    named = rows(org, "audit", org.org_id)
    assert named and rows(org, "audit", "--account", org.org_id) == named != rows(org, "audit")
