"""A small server that speaks L402 in front of the simulated upstream, with a selling node and a paying wallet behind
it, in a thread of its own: what the client for agents is tested against, without the gateway.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from gateway.adapters.macaroons import Mint
from gateway.core.tokens import Verified
from gateway.simulators.bolt11 import decode
from gateway.simulators.lightning import LightningNetwork, SimulatedNode
from gateway.simulators.upstream import SimulatedUpstream
from gateway.simulators.wallet import wallet_app

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass
class Toll:
    """What it does, to be changed at any time, and what it saw."""

    price_sats: int = 10
    deposit_sats: int = 25
    # Answers a paid token with another 402, or with this status.
    never_serves: bool = False
    status_when_paid: int = 0
    swaps_invoice: bool = False
    # Says in the body how much credit it sells.
    sells_credit: bool = False
    least_deposit_sats: int = 1
    challenge_form: str = 'L402 macaroon="{macaroon}", invoice="{invoice}", version="0", token="{macaroon}"'
    authorizations: list[str] = field(default_factory=list)
    challenges: int = 0


class TollBooth:
    """`base_url`, `wallet_url`, and the knobs in `toll`."""

    def __init__(self) -> None:
        network = LightningNetwork()
        self.toll = Toll()
        self.seller = SimulatedNode(network=network)
        self.buyer = SimulatedNode(network=network)
        self.base_url = self.wallet_url = ""
        self.loop = asyncio.new_event_loop()
        self._mint = Mint((b"\x07" * 32,))
        self._upstream = SimulatedUpstream()
        self._credits_sats: dict[bytes, int] = {}
        self._credited: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        shown = headers.get(b"authorization", b"").decode()
        self.toll.authorizations.append(shown)
        service = "other" if scope["path"].startswith("/other/") else "farebox"
        token_id = self._paid(shown, service)
        if token_id is None or self.toll.never_serves or self._credits_sats[token_id] < self.toll.price_sats:
            await self._challenge(send, service, token_id or secrets.token_bytes(32), headers)
        elif self.toll.status_when_paid:
            await _answer(send, self.toll.status_when_paid, [])
        else:
            self._credits_sats[token_id] -= self.toll.price_sats
            await self._upstream(scope, receive, send)

    def settled(self) -> int:
        """How many invoices were really paid, counted at the paying node."""
        return (10**12 - self.buyer.balance_msat) // (self.toll.deposit_sats * 1_000)

    def do(self, call: Callable[[], Any]) -> Any:
        """Run something in the booth's loop."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def _paid(self, shown: str, service: str) -> bytes | None:
        scheme, _, credential = shown.partition(" ")
        macaroon, _, preimage = credential.rpartition(":")
        if scheme == "Bearer" and macaroon:
            scheme = "L402"
        if scheme != "L402" or not macaroon:
            return None
        verified = self._mint.verify(base64.b64decode(macaroon))
        if not isinstance(verified, Verified) or f"services={service}:0".encode() != verified.links[0][0]:
            return None
        if hashlib.sha256(bytes.fromhex(preimage)).digest() != verified.payment_hash:
            return None
        if verified.payment_hash not in self._credited:
            self._credited.add(verified.payment_hash)
            held = self._credits_sats.get(verified.token_id, 0)
            self._credits_sats[verified.token_id] = held + self.toll.deposit_sats
        return verified.token_id

    async def _challenge(self, send: Send, service: str, token_id: bytes, headers: dict[bytes, bytes]) -> None:
        self.toll.challenges += 1
        asked = int(headers.get(b"farebox-deposit", self.toll.deposit_sats))
        self.toll.deposit_sats = max(asked, self.toll.least_deposit_sats)
        invoice = self.seller.add_invoice(amount_msat=self.toll.deposit_sats * 1_000, expiry_s=600)
        bound = secrets.token_bytes(32) if self.toll.swaps_invoice else decode(invoice).payment_hash
        macaroon = self._mint.mint(
            payment_hash=bound, token_id=token_id, service=service, expires_at_s=int(time.time()) + 3_600
        )
        line = self.toll.challenge_form.format(macaroon=macaroon, invoice=invoice)
        offer = {"creditSats": self.toll.deposit_sats} if self.toll.sells_credit else {}
        await _answer(send, 402, [(b"www-authenticate", line.encode())], offer)

    async def _serve(self, ready: threading.Event, ended: asyncio.Event) -> None:
        await self.seller.start()
        await self.buyer.start()
        async with _Serving(self) as self.base_url, _Serving(wallet_app(self.buyer)) as self.wallet_url:
            ready.set()
            await ended.wait()
        await self.buyer.close()
        await self.seller.close()


@contextmanager
def toll_booth() -> Iterator[TollBooth]:
    """A running booth."""
    booth = TollBooth()
    ready, ended = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: booth.loop.run_until_complete(booth._serve(ready, ended)))
    thread.start()
    try:
        assert ready.wait(20)
        yield booth
    finally:
        booth.loop.call_soon_threadsafe(ended.set)
        thread.join()
        booth.loop.close()


class _Serving:
    """An ASGI application on a free port of the running loop."""

    def __init__(self, app: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> str:
        self._server.capture_signals = _nothing  # type: ignore[method-assign]
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._server.should_exit = True
        await self._task
        self._listener.close()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


async def _answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], offer: dict[str, Any] | None = None
) -> None:
    body = json.dumps({"error": {"message": "pay first", "type": "payment_required"}, **(offer or {})}).encode()
    lines = [(b"content-type", b"application/problem+json"), (b"x-should-retry", b"false"), *headers]
    lines.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
