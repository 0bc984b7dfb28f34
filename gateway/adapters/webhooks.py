"""Sends webhooks: signed (Standard Webhooks), never to an address of the inside, never following a redirect.

The receiver's name is resolved here, every address is checked, and the connection goes to the address that was checked:
a name that answers differently a moment later leads nowhere else.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from base64 import b64encode
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook

from gateway.core.errors import InvalidRequest

_SECRET_BYTES = 24


def make_secret() -> str:
    """A fresh signing secret."""
    return "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


class WebhookSender:
    """Sends over one pool of connections. `allow_private`: for endpoints on the operator's own network."""

    def __init__(self, *, allow_private: bool, timeout_s: float) -> None:
        self._allow_private = allow_private
        self._http = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, trust_env=False)

    def check(self, url: str) -> None:
        """Errors: InvalidRequest where no webhook could ever go to this address."""
        parts = urlsplit(url)
        schemes = ("https", "http") if self._allow_private else ("https",)
        if parts.scheme not in schemes or not parts.hostname or parts.username or parts.password or len(url) > 2_000:
            raise InvalidRequest(f"must be {' or '.join(schemes)}://host/..., without user or password", param="url")

    async def send(self, url: str, *, event_id: str, body: bytes, signing: list[str]) -> tuple[int, str]:
        """Status (0: no answer) and why it failed, in a word. Never raises for what the receiver does."""
        try:
            self.check(url)
            target, host = await self._resolved(url)
            now = datetime.now(UTC)
            text = body.decode()
            signatures = " ".join(Webhook(secret).sign(event_id, now, text) for secret in signing)
            headers = {
                "host": host, "content-type": "application/json", "webhook-id": event_id,
                "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signatures,
            }  # fmt: skip
            name = urlsplit(url).hostname or ""
            request = self._http.build_request(
                "POST", target, content=body, headers=headers, extensions={"sni_hostname": name}
            )
            answer = await self._http.send(request, stream=True)
            try:
                return answer.status_code, "" if answer.is_success else f"status {answer.status_code}"
            finally:
                await answer.aclose()
        except InvalidRequest as error:
            return 0, error.detail
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return 0, type(error).__name__

    async def _resolved(self, url: str) -> tuple[str, str]:
        """The address with a number for its name, and the Host to send. Errors: InvalidRequest, OSError."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        if not addresses or (not self._allow_private and not all(ip_address(each).is_global for each in addresses)):
            raise InvalidRequest("the receiver's address is not a public one", param="url")
        number = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        target = parts._replace(netloc=f"{number}:{port}", fragment="").geturl()
        return target, parts.netloc

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()
