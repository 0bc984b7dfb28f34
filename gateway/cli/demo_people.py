"""What a person behind an app lives through on a running demo, printed step by step; every step checks what it says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from gateway.cli.demo_telling import must, say

_CHAT = "/v1/chat/completions"
_SMALL, _LARGE = "gpt-4o-mini", "gpt-4"


class PeopleStory:
    """One app with one key, one person who is new each time."""

    def __init__(self, gateway: httpx.Client, app_key: str) -> None:
        self._gateway = gateway
        self._user = f"alice-{secrets.token_hex(3)}"
        self._headers = {"authorization": f"Bearer {app_key}", "farebox-user": self._user}
        self._quote_id = ""

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Title and action of each step."""
        yield f"An app calls {_CHAT} with its key, for the person {self._user}", self._small
        yield "The person may spend 0.10 USD a month, and wants to hear of it at 80 %", self._budget
        yield "A dear request is not started: it waits for the person's approval", self._ask
        yield "The person raises the budget and approves up to 2 USD; the request runs once", self._approve
        yield "A session may spend 1.50 USD without being asked again", self._allow
        yield "What it cost, to the last nanodollar", self._usage

    def _small(self) -> None:
        answer = self._chat(_SMALL, 50)
        must(answer.status_code == 200, f"200 was due, {answer.status_code} came: {answer.text}")
        say(f"quoted: {answer.headers['farebox-quote']}")
        say(f"charged: {answer.headers['farebox-cost']}; balance: {answer.headers['farebox-balance']}")

    def _budget(self) -> None:
        made = self._put({"limit": _usd("0.10"), "window": "month", "alerts_pct": [80]})
        say(f"{made['id']}: {made['used']['amount']} of {made['limit']['amount']} USD used, until {made['resets_at']}")

    def _ask(self) -> None:
        answer = self._chat(_LARGE, 20_000)
        must(answer.status_code == 402, f"402 was due, {answer.status_code} came")
        asked = answer.json()
        must(asked["code"] == "approval_required", f"an approval was due, {asked['code']} came")
        self._quote_id = asked["quote"]["id"]
        say(f"402 {asked['code']}: at most {asked['quote']['max']['amount']} USD; {asked['approve_url']}")

    def _approve(self) -> None:
        self._put({"limit": _usd("5.00"), "window": "month", "alerts_pct": [80]})
        path = f"/api/quotes/{self._quote_id}/approve"
        approved = self._good(self._gateway.post(path, json={"approved_max": _usd("2.00")}, headers=self._headers))
        say(f"{approved['status']} up to {approved['approved_max']['amount']} USD by {approved['approved_by'][0]}")
        answer = self._chat(_LARGE, 20_000, {"farebox-quote": self._quote_id})
        must(answer.status_code == 200, f"200 was due, {answer.status_code} came: {answer.text}")
        say(f"charged: {answer.headers['farebox-cost']}")
        again = self._chat(_LARGE, 20_000, {"farebox-quote": self._quote_id})
        must(again.status_code == 409, "an approval buys one request, and bought two")
        say(f"a second time: {again.status_code} {again.json()['code']}")

    def _allow(self) -> None:
        wanted = {"session": "s1", "models": ["gpt-4*"], "cap": _usd("1.50"), "per_call_cap": _usd("1.40")}
        made = self._good(self._gateway.post("/api/allowances", json=wanted, headers=self._headers))
        say(f"{made['id']}: {made['left']['amount']} USD left for session s1")
        answer = self._chat(_LARGE, 20_000, {"farebox-session": "s1"})
        must(answer.status_code == 200, f"200 was due, {answer.status_code} came: {answer.text}")
        say(f"the same request in that session, unasked: charged {answer.headers['farebox-cost']}")

    def _usage(self) -> None:
        answer = self._gateway.get("/api/usage", params={"group_by": "model"}, headers=self._headers)
        rows = self._good(answer)["data"]
        must(bool(rows), "no usage was counted")
        for row in rows:
            cost = row["cost"]["amount"]
            say(f"{row['model']}: {row['requests']} requests, {row['output_tokens']} tokens, {cost} USD")

    def _chat(self, model: str, most: int, headers: dict[str, str] | None = None) -> httpx.Response:
        body = {"model": model, "max_tokens": most, "messages": [{"role": "user", "content": "What is a toll for?"}]}
        return self._gateway.post(_CHAT, content=json.dumps(body), headers=self._headers | (headers or {}))

    def _put(self, budget: dict[str, Any]) -> dict[str, Any]:
        # The demo's person was made on first sight; their budget is theirs.
        return self._good(self._gateway.put("/api/budgets", json=budget, headers=self._headers))

    def _good(self, answer: httpx.Response) -> dict[str, Any]:
        must(answer.is_success, f"{answer.status_code} came: {answer.text}")
        return dict(answer.json())


def _usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}
