"""The description is valid, complete and nothing more: it is compared with the routes that are served."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator
from servers import flush
from site_parts import Site, running_site
from starlette.routing import Route, WebSocketRoute

from gateway.core.routing import Match
from gateway.web.openapi import ENDPOINTS
from gateway.web.openapi_endpoints import Who
from gateway.web.openapi_schemas import Schema

of_module = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(valkey_port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    flush(valkey_port)
    async with running_site(f"redis://127.0.0.1:{valkey_port}/0", tmp_path_factory.mktemp("site")) as running:
        yield running


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def test_it_is_valid_openapi_3_1_with_every_reference_leading_somewhere(site: Site) -> None:
    document = site.described.document
    OpenAPIV31SpecValidator(document).validate()
    named = {f"#/components/{kind}/{name}" for kind, all_ in document["components"].items() for name in all_}
    assert set(references(document)) <= named
    assert named >= {"#/components/schemas/Money", "#/components/schemas/Budget", "#/components/schemas/Problem"}


def test_nothing_is_described_that_nothing_refers_to(site: Site) -> None:
    document = site.described.document
    kinds = document["components"].keys() - {"securitySchemes"}
    named = {f"#/components/{kind}/{name}" for kind in kinds for name in document["components"][kind]}
    assert named - set(references(document)) == set()
    shown = {name for _, _, operation in site.described.operations() for each in operation["security"] for name in each}
    assert shown == document["components"]["securitySchemes"].keys()


def test_every_route_of_our_own_is_described_and_nothing_else_is(site: Site) -> None:
    served: dict[str, set[str]] = {}
    for route in site.routes:
        assert isinstance(route, Route | WebSocketRoute), route
        methods = (route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"GET"}
        served.setdefault(route.path_format, set()).update(methods)
    described: dict[str, set[str]] = {}
    for endpoint in ENDPOINTS:
        described.setdefault(endpoint.path, set()).add(endpoint.method)
    assert described == served
    for path, methods in served.items():
        assert methods <= {method.upper() for method in site.described.document["paths"][path]}


def test_a_websocket_is_described_as_the_get_that_it_begins_as(site: Site) -> None:
    sockets = {route.path for route in site.routes if isinstance(route, WebSocketRoute)} | {"/v1/realtime"}
    upgraded = {path for path, _, operation in site.described.operations() if "101" in operation["responses"]}
    assert sockets <= upgraded


def test_every_relayed_path_is_described_and_leads_to_an_upstream(site: Site) -> None:
    own = {endpoint.path for endpoint in ENDPOINTS}
    relayed = [(path, method) for path, method, _ in site.described.operations() if path not in own]
    for path, method in relayed:
        asked = "models" if method == "GET" else "v1/chat/completions"
        real = re.sub(r"{[^}]+}", "x", path.replace("{upstream}", "openai").replace("{path}", asked))
        assert isinstance(site.table.match(method, real), Match), (method, path)
    paths = site.described.document["paths"]
    for route in site.table.routes:
        spelled = (route.path.replace("*", "{rest}"), f"{route.path[:-1]}{{model}}:generateContent")
        described = {method for path in spelled for method in paths.get(path, {})}
        assert {method.lower() for method in route.methods} <= described, route
    for path in ("/openai/v1/chat/completions", "/anthropic/v1/messages", "/ollama/api/chat", "/raw/{rest}",
                 "/google/v1beta/models/{model}:streamGenerateContent", "/{upstream}/{path}"):  # fmt: skip
        assert path in paths
    assert site.described.document["paths"]["/{upstream}/{path}"]["parameters"][0]["schema"]["enum"] == [
        "openai", "anthropic", "google", "ollama",
    ]  # fmt: skip


def test_names_are_unique_and_paths_do_not_collide(site: Site) -> None:
    operations = list(site.described.operations())
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(names) == len(set(names))
    shapes = [re.sub(r"{[^}]+}", "{}", path) for path in site.described.document["paths"]]
    assert len(shapes) == len(set(shapes))


def test_every_name_in_a_path_is_a_parameter(site: Site) -> None:
    for path, _, operation in site.described.operations():
        given = [each["name"] for each in site.described.parameters(path, operation) if each["in"] == "path"]
        assert sorted(given) == sorted(re.findall(r"{([^}]+)}", path)), path
        assert path.startswith("/") and "*" not in path


def test_objects_of_requests_are_closed(site: Site) -> None:
    def objects(schema: Schema) -> Iterator[Schema]:
        resolved = site.described.resolved(schema)
        if resolved.get("type") == "object":
            yield resolved
        for each in resolved.get("anyOf", []):
            yield from objects(each)

    for endpoint in ENDPOINTS:
        for schema in objects(endpoint.body or {}):
            assert schema["additionalProperties"] is False, endpoint.name


@of_module
@pytest.mark.parametrize("spelling", ["bearer", "api_key", "google_key", "azure_key", "query_key"])
async def test_each_way_to_show_a_key_is_served(site: Site, spelling: str) -> None:
    scheme = site.described.document["components"]["securitySchemes"][spelling]
    for value, path in ((site.app_key, "/api/account"), (await site.bought(), "/l402/balance")):
        headers, query = {}, ""
        if scheme["type"] == "http":
            headers = {"authorization": f"Bearer {value}"}
        elif scheme["in"] == "header":
            headers = {scheme["name"]: value}
        else:
            query = f"?{scheme['name']}={value.replace('+', '%2B')}"
        answer = await site.http.get(path + query, headers=headers)
        assert answer.status_code == 200, answer.text
        operation = site.described.document["paths"][path]["get"]
        assert {spelling: []} in operation["security"]


@of_module
@pytest.mark.parametrize("header", ["Farebox-Deposit", "X-Bolthub-Credit"])
async def test_each_name_of_a_deposit_is_served(site: Site, header: str) -> None:
    for path in ("/l402/balance", "/v1/models"):
        answer = await site.http.get(path, headers={header: "77"})
        assert (answer.status_code, answer.json()["creditSats"]) == (402, 77)
        operation = site.described.document["paths"][path]["get"]
        assert header in [each["name"] for each in site.described.parameters(path, operation)]


@of_module
async def test_a_list_is_paged_where_it_is_described_so(site: Site) -> None:
    for endpoint in ENDPOINTS:
        if endpoint.method != "GET" or "{" in endpoint.path or endpoint.who not in (Who.APP, Who.OPERATOR):
            continue
        operation = site.described.document["paths"][endpoint.path]["get"]
        named = {each["name"] for each in site.described.parameters(endpoint.path, operation)}
        key = site.operator_key if endpoint.who is Who.OPERATOR else site.app_key
        answer = await site.ask("GET", f"{endpoint.path}?limit=0", key=key)
        refused = answer.status_code == 422 and answer.json()["param"] == "limit"
        assert ("limit" in named) is refused is ("after" in named), endpoint.path


def test_the_relay_describes_who_may_be_named_and_what_comes_back(site: Site) -> None:
    operation = site.described.document["paths"]["/v1/chat/completions"]["post"]
    named = {each["name"] for each in site.described.parameters("/v1/chat/completions", operation)}
    assert {"Farebox-User", "Farebox-Session", "Farebox-Quote", "Farebox-Deposit"} <= named
    answered = {"Farebox-Request-Id", "Farebox-Quote", "Farebox-Cost", "Farebox-Balance"}
    assert answered <= operation["responses"]["200"]["headers"].keys()
    payment = site.described.document["components"]["schemas"]["PaymentRequired"]["properties"]
    assert payment.keys() >= {
        "paymentHash", "payment_hash", "amountSats", "amount_sats", "priceSats", "creditSats", "expiresAt",
        "expires_at", "invoice", "macaroon", "quote", "tier", "approve_url", "limit", "topup_url", "balance",
    }  # fmt: skip
