"""The keys of the demo: an operator's, and an app's with money on its account. Kept in the data directory, so that a
second start finds the same account.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import msgspec

from gateway.cli.operator_key import make_operator_key
from gateway.config import load_config

CREDIT_USD = "100.00"


class DemoKeys(msgspec.Struct):
    """What `demo.json` tells of them."""

    app_key: str
    operator_key: str


def demo_keys(data_dir: Path, config: Path, base_url: str) -> DemoKeys:
    """The keys, made on the first start. Errors: httpx.HTTPError, Problem, OSError."""
    path = data_dir / "demo-keys.json"
    if path.exists():
        keys = msgspec.json.decode(path.read_bytes(), type=DemoKeys)
        headers = {"authorization": f"Bearer {keys.app_key}"}
        if httpx.get(f"{base_url}/api/account", headers=headers, timeout=30).is_success:
            return keys
    operator_key = asyncio.run(make_operator_key(load_config(config), "demo"))
    with httpx.Client(
        base_url=f"{base_url}/admin/api", headers={"authorization": f"Bearer {operator_key}"}, timeout=30
    ) as admin:
        account = _made(admin.post("/accounts", json={"name": "Demo app"}))["id"]
        money = {"amount": CREDIT_USD, "currency": "USD"}
        _made(admin.post(f"/accounts/{account}/credits", json={"amount": money, "cause": "promotion"}))
        app_key = _made(admin.post(f"/accounts/{account}/keys", json={"name": "demo app"}))["key"]
    keys = DemoKeys(app_key, operator_key)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(keys))
    return keys


def _made(answer: httpx.Response) -> dict[str, str]:
    answer.raise_for_status()
    return dict(answer.json())
