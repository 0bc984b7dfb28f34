"""The whole gateway in this process, put together as `farebox serve` does it, over a real store, a simulated node and a
simulated upstream; with an operator, an account with money, its app key, and an agent's wallet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import httpx
import uvicorn
import yaml
from described import Described
from starlette.routing import BaseRoute

from gateway.adapters.redis.link import RedisLink
from gateway.app import open_gateway
from gateway.cli.operator_key import make_operator_key
from gateway.config import Config, config_from
from gateway.core.routing import RouteTable
from gateway.routes import route_table
from gateway.simulators.lightning import LightningNetwork, PaymentOrder, SimulatedNode
from gateway.simulators.upstream import upstream_app
from gateway.web.site import own_site

ORIGIN = "http://farebox"
USD_PER_BTC = "100000"  # a sat is a tenth of a cent


def usd(amount: str) -> dict[str, str]:
    """Money as the API takes it."""
    return {"amount": amount, "currency": "USD"}


@dataclass(slots=True)
class Site:
    """A running gateway. Every answer is held against the description that it gives of itself."""

    config: Config
    http: httpx.AsyncClient
    routes: list[BaseRoute]
    link: RedisLink
    wallet: SimulatedNode
    operator_key: str
    described: Described = field(init=False)
    org_id: str = ""
    app_key: str = ""

    @property
    def table(self) -> RouteTable:
        """What is relayed."""
        return route_table(self.config)

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, user: str = "", **headers: str
    ) -> httpx.Response:
        """A request with the app's key, or another; "" for none. Names of headers are written with underscores."""
        shown = self.app_key if key is None else key
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if shown:
            named.setdefault("authorization", f"Bearer {shown}")
        if user:
            named["farebox-user"] = user
        return await self.http.request(method, path, json=body, headers=named)

    async def must(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The same; its answer, which is good."""
        answer = await self.ask(method, path, body, **more)
        assert answer.is_success, (answer.status_code, answer.text)
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str]:
        """The same; status and code of a refusal."""
        answer = await self.ask(method, path, body, **more)
        assert not answer.is_success, answer.text
        return answer.status_code, answer.json()["code"]

    async def operate(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """A request of the operator; its answer, which is good."""
        return await self.must(method, f"/admin/api{path}", body, key=self.operator_key, **headers)

    async def bought(self, sats: int = 1_000) -> str:
        """A credential, `<macaroon>:<preimage>`, worth so many sats."""
        offer = (await self.ask("GET", "/l402/balance", key="", farebox_deposit=str(sats))).json()
        payment = await self.wallet.pay(PaymentOrder(offer["invoice"]))
        return f"{offer['macaroon']}:{payment.preimage.hex()}"

    async def make_org(self, *, credit: str = "1000.00", **settings: Any) -> None:
        """A fresh account with money and a key, in whose name everything is asked from now on."""
        self.org_id = (await self.operate("POST", "/accounts", {"name": "Acme", **settings}))["id"]
        await self.operate("POST", f"/accounts/{self.org_id}/credits", {"amount": usd(credit)})
        self.app_key = (await self.operate("POST", f"/accounts/{self.org_id}/keys", {"name": "app"}))["key"]


@asynccontextmanager
async def running_site(store_url: str, directory: Path, *, approvals: Any = None) -> AsyncIterator[Site]:
    """`approvals`: of the policies, where they differ from the shipped ones."""
    async with AsyncExitStack() as stack:
        network = LightningNetwork()
        node, wallet = SimulatedNode(network=network), SimulatedNode(network=network)
        for each in (node, wallet):
            await each.start()
            stack.push_async_callback(each.close)
        upstream = await stack.enter_async_context(_served(upstream_app()))
        config = _config(store_url, directory, node, upstream, approvals or {})
        routes: list[BaseRoute] = []

        def noted(given: list[BaseRoute]) -> Any:
            routes.extend(given)
            return own_site(given)

        with mock.patch("gateway.app.own_site", noted):
            gateway = await stack.enter_async_context(open_gateway(config))
        transport = httpx.ASGITransport(cast(Any, gateway.app))  # an answer that breaks off raises here
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=ORIGIN))
        link = await RedisLink.open(store_url)
        stack.push_async_callback(link.close)
        site = Site(config, http, routes, link, wallet, await make_operator_key(config))
        site.described = Described((await http.get("/openapi.json")).json())
        http.event_hooks = {"response": [site.described.check]}
        await site.make_org()
        yield site


def _config(store_url: str, directory: Path, node: SimulatedNode, upstream: str, approvals: Any) -> Config:
    """Four dialects and a flat price; high limits of challenges, because all tests come from one address."""
    certificate, policies = directory / "tls.cert", directory / "policies"
    certificate.write_bytes(node.tls_cert_pem)
    (policies / "prices").mkdir(parents=True)
    (policies / "limits.yaml").write_text("{}")
    (policies / "approvals.yaml").write_text(yaml.safe_dump(approvals))
    (policies / "plans.yaml").write_text(
        yaml.safe_dump({"plans": {"pro": {"included_usd": "5.00", "credit_limit_usd": "2.00", "window": "month"}}})
    )
    upstreams = {
        "openai": {"dialect": "openai", "base_url": f"{upstream}/openai/v1", "api_key": "k"},
        "anthropic": {"dialect": "anthropic", "base_url": f"{upstream}/anthropic", "api_key": "k"},
        "google": {"dialect": "gemini", "base_url": f"{upstream}/gemini", "api_key": "k"},
        "ollama": {"dialect": "ollama", "base_url": f"{upstream}/ollama"},
        "tools": {"dialect": "raw", "base_url": f"{upstream}/raw"},
    }
    flat = {"path": "/raw/*", "methods": ["GET", "POST"], "upstream": "tools", "price": {"usd_per_call": "0.001"}}
    lnd = {"address": node.address, "tls_cert": str(certificate), "macaroon": node.macaroon_hex}
    many = {"challenges_per_minute": 10**6, "open_invoices_per_address": 10**6, "open_invoices_per_prefix": 10**6}
    return config_from(
        {
            "data_dir": str(directory / "data"), "policies_dir": str(policies), "public_url": ORIGIN,
            "redis": {"url": store_url}, "upstreams": upstreams, "routes": [flat], "lightning": {"lnd": lnd},
            "rates": {"fixed_usd_per_btc": USD_PER_BTC}, "limits": {**many, "open_invoices_most": 10**6},
        },
        environ={},
    )  # fmt: skip


@asynccontextmanager
async def _served(app: Any) -> AsyncIterator[str]:
    """An application on a socket of this machine."""
    settings = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(settings)
    with mock.patch.object(server, "capture_signals", nullcontext):
        task = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await task
