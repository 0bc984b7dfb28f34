"""People in the end-to-end tests: an operator, an account with money, an app key, and requests in a person's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from e2e.stack import Stack

CHAT = "/v1/chat/completions"


def usd(amount: str) -> dict[str, str]:
    """Money as the API takes it."""
    return {"amount": amount, "currency": "USD"}


@dataclass(slots=True)
class Org:
    """An account with an app key, on a running gateway."""

    stack: Stack
    operator_key: str
    org_id: str
    app_key: str

    def headers(self, user: str = "", **more: str) -> dict[str, str]:
        """Headers of the app, for a person where one is named."""
        named = {"farebox-user": user} if user else {}
        return {"authorization": f"Bearer {self.app_key}"} | named | more

    def ask(self, method: str, path: str, body: Any = None, *, user: str = "", **more: str) -> httpx.Response:
        """A request to our own paths."""
        return self.stack.http.request(method, path, json=body, headers=self.headers(user, **more))

    def must(self, method: str, path: str, body: Any = None, *, user: str = "", **more: str) -> Any:
        """The same; its answer, which is good."""
        answer = self.ask(method, path, body, user=user, **more)
        assert answer.is_success, answer.text
        return answer.json()

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the operator."""
        headers = {"authorization": f"Bearer {self.operator_key}"}
        answer = self.stack.http.request(method, f"/admin/api{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def chat(
        self, *, user: str = "", model: str = "gpt-4o-mini", max_tokens: int | None = 100, text: str = "Hello there",
        headers: Mapping[str, str] | None = None, **more: Any,
    ) -> httpx.Response:  # fmt: skip
        """One unstreamed call."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        return self.stack.http.post(CHAT, json=body, headers=self.headers(user) | dict(headers or {}))

    def account(self, user: str = "") -> Any:
        """`GET /api/account`."""
        return self.must("GET", "/api/account", user=user)

    def budget(self, limit: str, *, user: str = "", **more: Any) -> Any:
        """PUT one budget."""
        return self.must("PUT", "/api/budgets", {"limit": usd(limit), **more}, user=user)


def make_org(stack: Stack, *, credit: str = "100.00", **settings: Any) -> Org:
    """A fresh account with money and a key."""
    code, text = stack.farebox("keys", "create", "--operator")
    assert code == 0, text
    operator_key = text.strip().splitlines()[-1]
    org = Org(stack, operator_key, "", "")
    made = org.operate("POST", "/accounts", {"name": "Acme", **settings})
    org.org_id = made["id"]
    if credit:
        given = {"amount": usd(credit), "cause": "payment", "source": "test"}
        org.operate("POST", f"/accounts/{org.org_id}/credits", given)
    org.app_key = org.operate("POST", f"/accounts/{org.org_id}/keys", {"name": "app"})["key"]
    return org
