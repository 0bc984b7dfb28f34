"""What the commands over the HTTP API share: address and key, errors in one line, tables by default, `--json`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec

URL_VARIABLE, KEY_VARIABLE = "FAREBOX_URL", "FAREBOX_KEY"
DEFAULT_URL = "http://127.0.0.1:8402"
_TIMEOUT_S = 30.0
_WIDEST = 60


class ApiError(Exception):
    """The gateway refused, or cannot be reached."""


class ApiClient:
    """A gateway's API. `account`: which one an operator means; `user`: for which person an app asks."""

    def __init__(self, url: str, key: str, *, account: str = "", user: str = "") -> None:
        headers = {"authorization": f"Bearer {key}"}
        if user:
            headers["farebox-user"] = user
        self._account = account
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)

    def get(self, path: str, **query: Any) -> Any:
        """A GET's answer. Errors: ApiError."""
        return self._ask("GET", path, None, query)

    def text(self, path: str, **query: Any) -> str:
        """A GET's answer as it is. Errors: ApiError."""
        return self._send("GET", path, None, query).text

    def post(self, path: str, body: Any = None) -> Any:
        """A POST's answer. Errors: ApiError."""
        return self._ask("POST", path, body or {}, {})

    def put(self, path: str, body: Any) -> Any:
        """A PUT's answer. Errors: ApiError."""
        return self._ask("PUT", path, body, {})

    def patch(self, path: str, body: Any) -> Any:
        """A PATCH's answer. Errors: ApiError."""
        return self._ask("PATCH", path, body, {})

    def delete(self, path: str) -> Any:
        """A DELETE's answer. Errors: ApiError."""
        return self._ask("DELETE", path, None, {})

    def pages(self, path: str, **query: Any) -> list[Any]:
        """All of a list. Errors: ApiError."""
        data: list[Any] = []
        after = ""
        while True:
            answer = self.get(path, **query, **({"after": after} if after else {}))
            data += answer["data"]
            if not answer.get("next"):
                return data
            after = answer["next"]

    def _ask(self, method: str, path: str, body: Any, query: dict[str, Any]) -> Any:
        return self._send(method, path, body, query).json()

    def _send(self, method: str, path: str, body: Any, query: dict[str, Any]) -> httpx.Response:
        if self._account and not path.startswith("/admin/"):
            query["account"] = self._account
        given = {name: value for name, value in query.items() if value is not None}
        try:
            answer = self._http.request(method, path, params=given, json=body)
        except httpx.HTTPError as error:
            message = f"{self._http.base_url} cannot be reached: {error}"
            raise ApiError(message) from None
        if answer.is_success:
            return answer
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        where = f" ({problem['param']})" if problem.get("param") else ""
        message = f"{problem.get('code', answer.status_code)}{where}: {problem.get('detail', answer.reason_phrase)}"
        raise ApiError(message)

    def close(self) -> None:
        """Let the connection go."""
        self._http.close()


def add_api_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command over the API."""
    url = os.environ.get(URL_VARIABLE, DEFAULT_URL)
    parser.add_argument("--url", default=url, help=f"the gateway (default {URL_VARIABLE}, else {DEFAULT_URL})")
    parser.add_argument("--key-file", help=f"a file with the key (default: the variable {KEY_VARIABLE})")
    parser.add_argument("--account", default="", help="which account an operator key means")
    parser.add_argument("--user", default="", help="for which person an app key asks")
    parser.add_argument("--json", action="store_true", help="the answer as JSON instead of a table")


def api_command(args: argparse.Namespace, act: Callable[[ApiClient, argparse.Namespace], None]) -> int:
    """Run a command over the API; the exit code."""
    key = os.environ.get(KEY_VARIABLE, "")
    if args.key_file:
        try:
            with open(args.key_file, encoding="utf-8") as file:  # noqa: PTH123 - a word of the command line
                key = file.read().strip()
        except OSError as error:
            print(f"farebox: {error}", file=sys.stderr)
            return 2
    if not key:
        print(f"farebox: no key: set {KEY_VARIABLE}, or give --key-file", file=sys.stderr)
        return 2
    api = ApiClient(args.url, key, account=args.account, user=args.user)
    try:
        act(api, args)
    except ApiError as error:
        print(f"farebox: {error}", file=sys.stderr)
        return 1
    finally:
        api.close()
    return 0


def show(args: argparse.Namespace, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table, or all of them as JSON."""
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(list(rows))).decode())
        return
    table = [list(columns), *([_cell(_member(row, name)) for name in columns] for row in rows)]
    widths = [min(max(len(line[place]) for line in table), _WIDEST) for place in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _member(row: dict[str, Any], name: str) -> Any:
    """A member by its path: `quote.max`."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict) and "currency" in value:
        return f"{value['amount']} {value['currency']}"
    if isinstance(value, dict):
        return " ".join(f"{name}={_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ",".join(map(_cell, value)) or "-"
    return str(value)
