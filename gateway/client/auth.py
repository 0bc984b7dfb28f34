"""Pays L402 challenges in the middle of ordinary HTTP calls: one `Payer`, with an auth flow for httpx and one for
httpx2.

    payer = Payer(HttpWallet("http://127.0.0.1:9737"), caps=Caps(per_call_sats=1_000))
    client = OpenAI(base_url="https://gateway/v1", api_key="none", http_client=httpx2.Client(auth=payer.httpx2_auth()))

Answers are handed on unread, so streams stream; only a 402 above a cap is read, to see whether less may be asked for.
Where nothing was paid, the 402 itself comes back, with the reason in a response header, `Farebox-Client-Refusal`: an
exception from here would make SDKs try again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import httpx2

from gateway.client.flow import (
    Answered,
    Command,
    Enter,
    Flow,
    Haggle,
    Leave,
    Outcome,
    Pay,
    Refuse,
    Save,
    Send,
    Track,
    call,
)
from gateway.client.purse import Caps, Payment, Purse, Refusal
from gateway.client.purse_file import PurseFile
from gateway.client.wallets import Wallet

DEPOSIT_HEADER = "Farebox-Deposit"
DEPOSIT_HEADERS = (DEPOSIT_HEADER, "X-Bolthub-Credit")
OFFER_MOST_BYTES = 65_536
REFUSAL_HEADER = "Farebox-Client-Refusal"
# How often an asynchronous call looks whether another one has finished paying; a payment takes a tenth of a second.
_ENTER_PAUSE_S = 0.01
_DEFAULT_PORTS = {"http": 80, "https": 443}

Notice = Payment | Refusal


class Payer:
    """Everything that an agent's calls share: wallet, purse, caps. Safe to use from threads and loops at once.

    `deposit_sats`: how much each challenge is asked to be for. `purse_file`: where tokens and spending are kept.
    `observe` is told of every payment that is about to be made and of every refusal; `confirm` may decline a payment.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        caps: Caps | None = None,
        deposit_sats: int | None = None,
        purse_file: Path | str | None = None,
        allow_plain_http: bool = False,
        observe: Callable[[Notice], None] | None = None,
        confirm: Callable[[Payment], bool] | None = None,
    ) -> None:
        """Errors: ValueError or PermissionError when the purse file cannot be used."""
        self.purse = Purse(caps or Caps())
        self._wallet = wallet
        self._deposit_sats = deposit_sats
        self._file = PurseFile(purse_file) if purse_file is not None else None
        self._allow_plain_http = allow_plain_http
        self._observe = observe
        self._confirm = confirm
        self._entries: dict[str, threading.Lock] = {}
        self._entries_lock = threading.Lock()
        if self._file is not None:
            self._file.load_into(self.purse)

    def httpx_auth(self) -> HttpxAuth:
        """For `httpx.Client(auth=...)` and `httpx.AsyncClient(auth=...)`."""
        return HttpxAuth(self)

    def httpx2_auth(self) -> Httpx2Auth:
        """For `httpx2.Client(auth=...)` and `httpx2.AsyncClient(auth=...)`, on which the official SDKs stand."""
        return Httpx2Auth(self)

    def flow(self, url: Any) -> Flow:
        """The conversation of one call to this address."""
        secure = self._allow_plain_http or url.scheme == "https" or _is_loopback(url.host)
        return call(self.purse, origin_of(url), secure=secure)

    def dress(self, request: Any, command: Send) -> None:
        """Put the token in the place of whatever the client sent as its own."""
        if self._deposit_sats is not None:
            request.headers.setdefault(DEPOSIT_HEADER, str(self._deposit_sats))
        if command.deposit_sats is not None:
            request.headers[DEPOSIT_HEADER] = str(command.deposit_sats)
        if command.token is not None:
            request.headers["Authorization"] = f"L402 {command.token.credential}"

    def entry(self, origin: str) -> threading.Lock:
        """The lock of a host: one payment at a time."""
        with self._entries_lock:
            return self._entries.setdefault(origin, threading.Lock())

    def act(self, command: Save | Pay | Track) -> Outcome | None:
        """Carry out what takes time: the wallet's and the file's part."""
        if isinstance(command, Pay):
            return self._pay(command.payment)
        if isinstance(command, Track):
            return self._wallet.track(command.payment)
        if self._file is not None:
            self._file.save(self.purse)
        return None

    def _pay(self, payment: Payment) -> Outcome:
        if self._confirm is not None and not self._confirm(payment):
            return Outcome("failed", reason="declined")
        self._tell(payment)
        return self._wallet.pay(payment)

    def refused(self, response: Any, refusal: Refusal) -> None:
        """Say on the response why nothing was paid."""
        response.headers[REFUSAL_HEADER] = f"{refusal.code}: {refusal.detail}".encode("ascii", "replace").decode()
        self._tell(refusal)

    def _tell(self, notice: Notice) -> None:
        if self._observe is not None:
            self._observe(notice)


class _Auth:
    """The flows for both libraries: their requests and responses are alike in all that is used here."""

    def __init__(self, payer: Payer) -> None:
        self._payer = payer

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Drive one call."""
        request.read()  # a body that can be sent a second time
        payer, flow = self._payer, self._payer.flow(request.url)
        entry = _Entry(payer.entry(origin_of(request.url)))
        response: Any = None
        event: Any = None
        try:
            while (command := _next(flow, event)) is not None:
                event = None
                if isinstance(command, Send):
                    payer.dress(request, command)
                    response = yield request
                    event = _answered(response)
                elif isinstance(command, Haggle):
                    event = _may_haggle(request, response) and _sells_credit(response.read())
                elif isinstance(command, Enter):
                    entry.enter()
                    event = time.time()
                elif isinstance(command, Leave):
                    entry.leave()
                elif isinstance(command, Refuse):
                    payer.refused(response, command.refusal)
                else:
                    event = payer.act(command)
        finally:
            flow.close()
            entry.leave()

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Drive one call; the wallet and the file are asked in threads."""
        await request.aread()
        payer, flow = self._payer, self._payer.flow(request.url)
        entry = _Entry(payer.entry(origin_of(request.url)))
        response: Any = None
        event: Any = None
        try:
            while (command := _next(flow, event)) is not None:
                event = None
                if isinstance(command, Send):
                    payer.dress(request, command)
                    response = yield request
                    event = _answered(response)
                elif isinstance(command, Haggle):
                    event = _may_haggle(request, response) and _sells_credit(await response.aread())
                elif isinstance(command, Enter):
                    while not entry.try_enter():
                        await asyncio.sleep(_ENTER_PAUSE_S)
                    event = time.time()
                elif isinstance(command, Leave):
                    entry.leave()
                elif isinstance(command, Refuse):
                    payer.refused(response, command.refusal)
                else:
                    event = await asyncio.to_thread(payer.act, command)
        finally:
            flow.close()
            entry.leave()


class HttpxAuth(_Auth, httpx.Auth):
    """For httpx."""


class Httpx2Auth(_Auth, httpx2.Auth):
    """For httpx2."""


class _Entry:
    """One call's hold on its host's lock, let go exactly once, also when the call is cancelled."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._entered = False

    def enter(self) -> None:
        self._lock.acquire()
        self._entered = True

    def try_enter(self) -> bool:
        self._entered = self._lock.acquire(blocking=False)
        return self._entered

    def leave(self) -> None:
        if self._entered:
            self._entered = False
            self._lock.release()


def origin_of(url: Any) -> str:
    """`scheme://host:port`, lower case, the port always written."""
    scheme = url.scheme.lower()
    return f"{scheme}://{url.host.lower()}:{url.port or _DEFAULT_PORTS.get(scheme, 0)}"


def _next(flow: Flow, event: Any) -> Command | None:
    try:
        return flow.send(event)
    except StopIteration:
        return None


def _answered(response: Any) -> Answered:
    challenges = response.headers.get_list("www-authenticate")
    return Answered(response.status_code, challenges, origin_of(response.url), time.time())


def _may_haggle(request: Any, response: Any) -> bool:
    """Whether nobody chose a deposit, and the answer is short enough to be read."""
    if any(name in request.headers for name in DEPOSIT_HEADERS):
        return False
    length = response.headers.get("content-length", "")
    return length.isdecimal() and int(length) <= OFFER_MOST_BYTES


def _sells_credit(body: bytes) -> bool:
    """Whether a 402 says how much credit it sells: such a server takes other deposits too."""
    try:
        offer = json.loads(body)
    except ValueError:
        return False
    return isinstance(offer, dict) and type(offer.get("creditSats")) is int


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
