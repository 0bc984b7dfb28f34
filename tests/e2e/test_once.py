"""On running gateways: many requests at once under one `Idempotency-Key`, over two processes; and policies that come into
force, which the audit log tells whoever brought them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from e2e.crowd import Ask, Reply, ask_all
from e2e.people import Org, make_org, usd
from e2e.stack import Parts, Stack, start_stack, until


async def crowd(org: Org, path: str, body: Any, *, key: str, bearer: str, count: int) -> list[Reply]:
    headers = {"authorization": f"Bearer {bearer}", "idempotency-key": key}
    return await ask_all(org.stack.port, [Ask(path, headers, json.dumps(body).encode())] * count)


async def test_a_crowd_over_two_processes_moves_money_once_and_makes_one_key(pair: Stack) -> None:
    org = await asyncio.to_thread(make_org, pair, credit="")
    path = f"/admin/api/accounts/{org.org_id}/credits"
    for number in range(3):
        replies = await crowd(
            org, path, {"amount": usd("1.00")}, key=f"credit {number}", bearer=org.operator_key, count=40
        )
        assert Counter(reply.status for reply in replies) == {201: 40}, replies[0].body
        assert len({reply.body for reply in replies}) == 1
    assert org.account()["available"] == usd("3.00")
    replies = await crowd(org, "/api/keys", {"name": "crowd"}, key="key", bearer=org.app_key, count=40)
    assert Counter(reply.status for reply in replies) == {201: 40}
    assert len({json.loads(reply.body)["key"] for reply in replies}) == 1
    made = [key for key in org.must("GET", "/api/keys")["data"] if key["name"] == "crowd"]
    assert len(made) == 1
    logged = [entry["action"] for entry in org.operate("GET", f"/audit?account={org.org_id}")["data"]]
    assert logged.count("credit.add") == 3 and logged.count("key.create") == 2


def test_policies_that_come_into_force_are_logged_at_start_by_signal_and_by_an_operator(
    parts: Parts, tmp_path: Path
) -> None:
    with start_stack(tmp_path, parts, workers=2) as stack:
        org = make_org(stack, credit="")
        (begun,) = org.operate("GET", "/audit")["data"]
        assert (begun["actor"], begun["before"]) == ("start", None)
        _margin(tmp_path, "1.1")
        os.kill(stack.process.pid, signal.SIGHUP)
        until(lambda: len(org.operate("GET", "/audit")["data"]) == 2, what="the entry")
        by_signal = org.operate("GET", "/audit")["data"][1]
        assert (by_signal["actor"], by_signal["authenticated"]) == ("SIGHUP", "command")
        assert by_signal["before"]["digest"] == begun["after"]["digest"] != by_signal["after"]["digest"]
        _margin(tmp_path, "1.2")
        assert "policies in force" in org.operate("POST", "/reload")["detail"]
        by_hand = org.operate("GET", "/audit")["data"][-1]
        assert by_hand["authenticated"] == "operator" and by_hand["actor"].startswith("key ak_")
        assert by_hand["after"]["files"], "which files there were"
        _margin(tmp_path, "nonsense")
        proof = {"authorization": f"Bearer {org.operator_key}"}
        refused = stack.http.post("/admin/api/reload", json={}, headers=proof)
        assert refused.status_code == 409 and "kept" in refused.json()["detail"]
        assert len(org.operate("GET", "/audit")["data"]) == 3
        _margin(tmp_path, "1.2")
        stack.check_books()


def _margin(directory: Path, margin: str) -> None:
    file = directory / "policies" / "limits.yaml"
    limits = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**limits, "margin": margin}))
