"""From the configuration to the compiled route table: where names become upstreams and prices become integers.

What cannot be served is refused here, at start, with the path of the key: a route of a raw upstream without a price,
two routes of one path that ask for different things, a route whose operation nobody can tell.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.config import Config, FlatPrice, RouteConfig, UpstreamConfig
from gateway.config_reader import ConfigError
from gateway.core.endings import Asked, asked_by
from gateway.core.operations import Dialect, Operation
from gateway.core.price_entries import picousd_up
from gateway.core.routing import Route, RouteTable, Upstream, default_routes

# Whose prices apply when the configuration does not say.
DEFAULT_PROVIDERS = {Dialect.OPENAI: "openai", Dialect.ANTHROPIC: "anthropic", Dialect.GEMINI: "google"}
_DIALECT_OF = {
    Operation.MESSAGES: Dialect.ANTHROPIC,
    Operation.GENERATE: Dialect.GEMINI,
    Operation.STREAM_GENERATE: Dialect.GEMINI,
    Operation.EMBED: Dialect.GEMINI,
    Operation.OLLAMA_CHAT: Dialect.OLLAMA,
    Operation.OLLAMA_GENERATE: Dialect.OLLAMA,
    Operation.RAW: Dialect.RAW,
}


def route_table(config: Config) -> RouteTable:
    """Compile the configuration's routes. Errors: ConfigError with every problem."""
    upstreams = {name: _upstream(name, each) for name, each in config.upstreams.items()}
    problems: list[str] = []
    routes = [_route(each, upstreams, f"routes[{index}]", problems) for index, each in enumerate(config.routes)]
    own = [route for route in routes if route is not None]
    _same_operation(own, problems)
    if problems:
        raise ConfigError(problems)
    if config.default_routes:
        taken = {(route.path, method) for route in own for method in route.methods}
        own += [each for each in default_routes(upstreams.values()) if _adds(each, own, taken)]
    return RouteTable(own, upstreams.values())


def _adds(default: Route, own: list[Route], taken: set[tuple[str, str]]) -> bool:
    """A route out of the box follows the operator's on the same path only if it asks for the same operation."""
    if (default.path, default.methods[0]) not in taken:
        return True
    return all(route.operation is default.operation for route in own if route.path == default.path)


def _upstream(name: str, config: UpstreamConfig) -> Upstream:
    provider = config.provider or DEFAULT_PROVIDERS.get(config.dialect)
    return Upstream(name, config.dialect, urlsplit(config.base_url).path.rstrip("/"), provider)


def _route(config: RouteConfig, upstreams: dict[str, Upstream], path: str, problems: list[str]) -> Route | None:
    upstream = upstreams[config.upstream]
    asked = _asked(config, upstream)
    if asked is None:
        problems.append(f"{path}.operation: the path does not tell; name one of {', '.join(Operation)}")
        return None
    if asked.operation is Operation.RAW and config.price is None:
        problems.append(f'{path}.price: missing; a raw route needs {{usd_per_call: "0.001"}} or the name of a rule')
        return None
    if asked.operation is Operation.RAW and config.models:
        problems.append(f"{path}.models: a raw route names no model; leave it out")
        return None
    prefix = f"/{upstream.name}" if config.path.startswith(f"/{upstream.name}/") else ""
    price = picousd_up(config.price.usd_per_call) if isinstance(config.price, FlatPrice) else config.price
    return Route(
        path=config.path,
        methods=config.methods,
        upstream=upstream,
        operation=asked.operation,
        dialect=asked.dialect,
        models=config.models,
        price=price,
        payers=frozenset(each.value for each in config.payers),
        prefix=prefix,
    )


def _asked(config: RouteConfig, upstream: Upstream) -> Asked | None:
    if config.operation is not None:
        return Asked(config.operation, _DIALECT_OF.get(config.operation, _spoken(config.operation, upstream)), None)
    if upstream.dialect is Dialect.RAW:
        return Asked(Operation.RAW, Dialect.RAW, None)
    found = {asked_by(method, config.path, upstream.dialect) for method in config.methods}
    return found.pop() if len(found) == 1 else None


def _spoken(operation: Operation, upstream: Upstream) -> Dialect:
    """Listings and token counting exist in every dialect; the rest of what is left is OpenAI's."""
    return upstream.dialect if operation in (Operation.LISTING, Operation.INPUT_TOKENS) else Dialect.OPENAI


def _same_operation(routes: list[Route], problems: list[str]) -> None:
    seen: dict[tuple[str, str], Operation] = {}
    for index, route in enumerate(routes):
        for method in route.methods:
            known = seen.setdefault((route.path, method), route.operation)
            if known is not route.operation:
                problems.append(f"routes[{index}].operation: {method} {route.path} is {known} in an earlier route")
