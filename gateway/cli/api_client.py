"""What the commands over the HTTP API share: address and key, errors in one line, tables by default, `--json`.

Each command that changes something has an id, and sends it as `Idempotency-Key`. Where the answer is lost, the request
is sent again under the same id, and an error that leaves the outcome open tells the id with which the command may be
given again. The failure this prevents: a credit whose answer was lost, given again by hand, and there twice.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec

URL_VARIABLE, KEY_VARIABLE = "FAREBOX_URL", "FAREBOX_KEY"
DEFAULT_URL = "http://127.0.0.1:8402"
_TIMEOUT_S = 30.0
_WIDEST = 60
# An answer that was lost is asked for twice more; a gateway that starts again is back by then, or the person looks.
_PAUSES_S = (0.5, 2.0)
_ID_BYTES = 8
# What the ledger takes as the name of a movement.
_ID = re.compile(r"[A-Za-z0-9._:@-]{1,100}", re.ASCII)
# What is read, or taken out, may be asked for again as it is.
_AS_IT_IS = frozenset({"GET", "DELETE"})
# Nothing was sent: there is no outcome to ask for.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
# Whoever answers so, the gateway or a proxy before it, may have done it, or may in a moment.
_PASSING = frozenset({502, 503, 504})


class ApiError(Exception):
    """The gateway refused, or cannot be reached."""


class ApiClient:
    """A gateway's API. `account`: which one an operator means; `user`: for which person an app asks; `command_id`:
    under which a change happens once, whoever sends it again."""

    def __init__(self, url: str, key: str, *, account: str = "", user: str = "", command_id: str = "") -> None:
        headers = {b"authorization": f"Bearer {key}".encode()}
        if user:
            headers[b"farebox-user"] = user.encode()
        self.command_id = command_id or f"cli:{secrets.token_hex(_ID_BYTES)}"
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
        if method in _AS_IT_IS:
            try:
                answer = self._http.request(method, path, params=given)
            except httpx.HTTPError as error:
                raise ApiError(self._unreached(error)) from None
            hint = ""
        else:
            answer = self._changed(method, path, body, given)
            hint = self._how_to_repeat() if answer.status_code >= 500 or _comes_later(answer) else ""
        if answer.is_success:
            return answer
        raise ApiError(_told(answer) + hint)

    def _changed(self, method: str, path: str, body: Any, query: dict[str, Any]) -> httpx.Response:
        """A change's answer. It is asked for again where it is lost, for the id makes it happen once."""
        headers = {"idempotency-key": self.command_id}
        answer, lost = None, ""
        try:
            for pause_s in (0.0, *_PAUSES_S):
                time.sleep(pause_s)
                try:
                    answer = self._http.request(method, path, params=query, json=body, headers=headers)
                except httpx.HTTPError as error:
                    if isinstance(error, _NOT_SENT) and answer is None and not lost:
                        raise ApiError(self._unreached(error)) from None
                    lost = str(error) or type(error).__name__
                    continue
                if not _comes_later(answer):
                    return answer
        except KeyboardInterrupt:
            raise ApiError(f"interrupted{self._how_to_repeat()}") from None
        if answer is not None:
            return answer
        raise ApiError(f"the answer of {self._http.base_url} was lost: {lost}{self._how_to_repeat()}")

    def _unreached(self, error: httpx.HTTPError) -> str:
        return f"{self._http.base_url} cannot be reached: {error}"

    def _how_to_repeat(self) -> str:
        return (
            f"\nfarebox: it may have been done or not. Give the same command again within a day with "
            f"--id {self.command_id}: then it is done once"
        )

    def close(self) -> None:
        """Let the connection go."""
        self._http.close()


def _comes_later(answer: httpx.Response) -> bool:
    """Whether the answer may be another one in a moment: what is under way under the id says when (`Retry-After`)."""
    return answer.status_code in _PASSING or (answer.status_code == 409 and "retry-after" in answer.headers)


def _told(answer: httpx.Response) -> str:
    """A refusal in one line."""
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    where = f" ({problem['param']})" if problem.get("param") else ""
    return f"{problem.get('code', answer.status_code)}{where}: {problem.get('detail', answer.reason_phrase)}"


def _command_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise argparse.ArgumentTypeError("must be 1 to 100 letters, digits and . _ : @ -")
    return text


def add_api_arguments(parser: argparse.ArgumentParser, *, changes: bool = False) -> None:
    """Arguments of every command over the API; `changes`: of one that changes something."""
    if changes:
        text = "your own id of this change: given again with it, the command changes nothing more"
        parser.add_argument("--id", dest="command_id", type=_command_id, metavar="ID", help=text)
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
    command_id = getattr(args, "command_id", None) or ""
    api = ApiClient(args.url, key, account=args.account, user=args.user, command_id=command_id)
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
