"""Sends webhooks: signed (Standard Webhooks), never to an address of the inside, never following a redirect.

The receiver's name is resolved here, every number it stands for is checked, and the connection goes to a number that
was checked: a name that answers differently a moment later leads nowhere else. Each delivery has a connection of its
own: one that is kept belongs to the name that its certificate was checked for, and numbers are shared by many names.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from gateway.core.errors import InvalidRequest
from gateway.core.receivers import Receiver, is_allowed, receiver_of

_SECRET_BYTES = 24
# Names whose servers do not answer keep a thread for half a minute; they must not keep those of everybody else.
_RESOLVERS = 16
# A name may have an address that cannot be reached from here (IPv6, often).
_NUMBERS_TRIED = 3
_ANY_NUMBER_OF_FRESH = httpx.Limits(max_connections=None, max_keepalive_connections=0)


def make_secret() -> str:
    """A fresh signing secret."""
    return "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def numbers_of(host: str, port: int) -> list[str]:
    """What a name stands for now, as the system says. Errors: OSError."""
    return [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class WebhookSender:
    """Sends. `allow_private`: to receivers on the operator's own network too. A delivery takes at most `timeout_s`."""

    def __init__(
        self, *, allow_private: bool, timeout_s: float, resolve: Callable[[str, int], list[str]] = numbers_of
    ) -> None:
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="webhook-names")
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=timeout_s / _NUMBERS_TRIED),
            follow_redirects=False,
            trust_env=False,
            limits=_ANY_NUMBER_OF_FRESH,
        )

    def check(self, url: str) -> None:
        """Errors: InvalidRequest where no webhook could ever go to this address."""
        receiver_of(url, allow_private=self._allow_private)

    async def send(
        self, url: str, *, event_id: str, body: bytes, signing: list[str], media_type: str = "application/json"
    ) -> tuple[int, str]:
        """Status (0: no answer) and why it failed, in a word. Never raises for what the receiver does."""
        now, text = datetime.now(UTC), body.decode()
        headers = {
            "content-type": media_type, "webhook-id": event_id, "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Webhook(secret).sign(event_id, now, text) for secret in signing),
        }  # fmt: skip
        try:
            async with asyncio.timeout(self._timeout_s):
                receiver = receiver_of(url, allow_private=self._allow_private)
                status = await self._post(receiver, await self._numbers(receiver), body, headers)
        except InvalidRequest as error:
            return 0, error.detail
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return 0, type(error).__name__
        return status, "" if 200 <= status < 300 else f"status {status}"

    async def _numbers(self, receiver: Receiver) -> list[str]:
        """All that the name stands for. Errors: InvalidRequest where any of it is of the inside; OSError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, self._resolve, receiver.host, receiver.port
        )
        if not found or not all(is_allowed(each, allow_private=self._allow_private) for each in found):
            raise InvalidRequest("the receiver's address is not a public one", param="url")
        return list(dict.fromkeys(found))

    async def _post(self, receiver: Receiver, numbers: list[str], body: bytes, headers: dict[str, str]) -> int:
        """The status, from the first number that takes a connection. Errors: httpx.HTTPError, httpx.InvalidURL."""
        *others, last = numbers[:_NUMBERS_TRIED]
        for number in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._post_to(number, receiver, body, headers)
        return await self._post_to(last, receiver, body, headers)

    async def _post_to(self, number: str, receiver: Receiver, body: bytes, headers: dict[str, str]) -> int:
        request = self._http.build_request(
            "POST", receiver.at(number), content=body, headers={"host": receiver.authority, **headers},
            extensions={"sni_hostname": receiver.host},
        )  # fmt: skip
        answer = await self._http.send(request, stream=True)
        await answer.aclose()  # what it says besides is not read
        return answer.status_code

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()
        self._resolvers.shutdown(wait=False, cancel_futures=True)
