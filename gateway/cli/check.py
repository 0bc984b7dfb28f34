"""`farebox check`: everything that can be known of a configuration before it serves, with doubt counted as failure.

It prints the routes and prices in force as the gateway will use them, and the digest of the policies. Exit code 0: no
doubt; 1: a doubt, each on a line of its own; 2: the configuration cannot be read at all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config import Config, LndConfig, load_config
from gateway.config_reader import ConfigError
from gateway.core.money import usd_string
from gateway.core.operations import Dialect, Operation
from gateway.core.price_cards import PriceCard
from gateway.core.price_table import margin_text, usd_of_picousd
from gateway.core.routing import Route, RouteTable, Upstream
from gateway.policies import Policies
from gateway.policy_files import load_policies
from gateway.routes import route_table

# Where the default provider of a dialect is at home. Another host may have other prices for the same names.
_HOMES = {
    Dialect.OPENAI: "api.openai.com",
    Dialect.ANTHROPIC: "api.anthropic.com",
    Dialect.GEMINI: "generativelanguage.googleapis.com",
}
OFFERED_MOST = 2_000  # lines of prices; more would say nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox check`."""
    parser.add_argument("--config", type=Path, required=True, help="the YAML file; every key is in config.example.yaml")
    parser.add_argument("--brief", action="store_true", help="leave out the table of prices")


def run(args: argparse.Namespace) -> int:
    """Check a configuration and its policies, and print what is in force."""
    try:
        config = load_config(args.config)
        table = route_table(config)
        policies = load_policies(config)
    except ConfigError as error:
        _print_doubts(error.problems)
        return 2
    except (OSError, UnicodeDecodeError) as error:
        _print_doubts([str(error)])
        return 2
    now_s = time.time()
    print("\n".join(_routes(table, policies)))
    if not args.brief:
        print("\n".join(_prices(table, policies, now_s)))
        print("\n".join(_fees(policies)))
        print("\n".join(_approvals(policies)))
    print(f"\npolicies {policies.digest}\n  {', '.join(policies.files)}")
    doubts = list(doubts_of(config, table, policies, now_s))
    _print_doubts(doubts)
    print("no doubts" if not doubts else f"{len(doubts)} doubts")
    return 1 if doubts else 0


def doubts_of(config: Config, table: RouteTable, policies: Policies, now_s: float) -> Iterator[str]:
    """What is legal and yet cannot be meant, a line each."""
    if not config.upstreams:
        yield "upstreams: there is none, so nothing can be served"
    for name, upstream in table.upstreams.items():
        yield from _upstream_doubts(name, upstream, table, policies, now_s)
        home, given = _HOMES.get(upstream.dialect), config.upstreams[name]
        if home is not None and given.provider is None and urlsplit(given.base_url).hostname != home:
            yield f"upstreams.{name}.provider: missing; it is not {home}, so say whose prices apply"
    for index, route in enumerate(table.routes[: len(config.routes)]):
        if isinstance(route.price, str) and policies.price_book.rule(route.price) is None:
            known = ", ".join(policies.price_book.rules) or "none"
            yield f"routes[{index}].price: no rule is named {route.price!r} in prices/*.yaml; there are {known}"
        for method in route.methods:
            if any(_takes_all_of(route, method, earlier) for earlier in table.routes[:index]):
                yield f"routes[{index}].path: {method} {route.path} is never reached, an earlier route takes it all"
    yield from _lightning_doubts(config)


def _upstream_doubts(
    name: str, upstream: Upstream, table: RouteTable, policies: Policies, now_s: float
) -> Iterator[str]:
    if upstream.dialect is Dialect.RAW:
        if not any(route.upstream.name == name for route in table.routes):
            yield f"upstreams.{name}: no route leads to it, and a raw upstream has none out of the box"
    elif upstream.provider is None:
        yield f"upstreams.{name}.provider: missing, so no model of it has a price and all are refused"
    elif upstream.provider not in policies.price_book.providers:
        yield f"upstreams.{name}.provider: {upstream.provider!r} has no prices; {_near(upstream.provider, policies)}"
    elif not any(True for _ in _cards(upstream.provider, policies, now_s)):
        yield f"upstreams.{name}.provider: no model of {upstream.provider} has a price now"


def _near(provider: str, policies: Policies) -> str:
    names = policies.price_book.providers
    return f"providers are {', '.join(names)}, or write prices/{provider}.yaml"


def _takes_all_of(route: Route, method: str, earlier: Route) -> bool:
    return method in earlier.methods and earlier.path == route.path and not earlier.models


def _lightning_doubts(config: Config) -> Iterator[str]:
    lnd = config.lightning.lnd
    if not lnd.address:
        return
    if config.rates.fixed_usd_per_btc is None and not config.rates.feeds:
        yield "rates: neither fixed_usd_per_btc nor feeds, so no challenge can be made"
    yield from _lnd_file_doubts(lnd)


def _lnd_file_doubts(lnd: LndConfig) -> Iterator[str]:
    if lnd.tls_cert and not Path(lnd.tls_cert).is_file():
        yield f"lightning.lnd.tls_cert: there is no file {lnd.tls_cert}"
    is_hex = all(each in "0123456789abcdefABCDEF" for each in lnd.macaroon)
    if not is_hex and not Path(lnd.macaroon).is_file():
        yield "lightning.lnd.macaroon: neither hex nor a file that exists"


def _cards(provider: str, policies: Policies, now_s: float) -> Iterator[PriceCard]:
    for model in policies.price_book.models(provider):
        card = policies.price_book.card(provider, model, now_s)
        if card is not None:
            yield card


def _routes(table: RouteTable, policies: Policies) -> Iterator[str]:
    rows = [("METHOD", "PATH", "MODELS", "UPSTREAM", "ASKS FOR", "PRICE", "PAYERS")]
    rows += [
        (
            ",".join(route.methods), route.path, ",".join(route.models) or "*", route.upstream.name,
            route.operation.value, _route_price(route, policies), ",".join(sorted(route.payers)),
        )
        for route in table.routes
    ]  # fmt: skip
    addressed = [each for each in table.upstreams.values() if each.dialect is not Dialect.RAW]
    rows += [
        ("*", f"/{each.name}/*", "*", each.name, "by its ending", _book(each), "account,agent") for each in addressed
    ]
    yield from _columns(rows)


def _route_price(route: Route, policies: Policies) -> str:
    if isinstance(route.price, int):
        return f"${usd_of_picousd(route.price)} a call"
    if isinstance(route.price, str):
        card = policies.price_book.rule(route.price)
        return f"rule {route.price}" + (f": ${usd_of_picousd(card.call)} a call" if card else ": unknown")
    free = route.operation in (Operation.LISTING, Operation.INPUT_TOKENS)
    return "free" if free else _book(route.upstream)


def _book(upstream: Upstream) -> str:
    return f"book: {upstream.provider or 'no provider'}"


def _prices(table: RouteTable, policies: Policies, now_s: float) -> Iterator[str]:
    yield "\nUSD per million tokens, at the shortest length and in the standard tier; other units as named"
    rows: list[tuple[str, ...]] = [
        ("PROVIDER", "MODEL", "INPUT", "CACHED", "WRITE", "OUTPUT", "OTHER", "MARGIN", "SOURCE")
    ]
    providers = sorted({each.provider for each in table.upstreams.values() if each.provider})
    for provider in providers:
        rows += [_price_row(card) for card in _cards(provider, policies, now_s)]
    yield from _columns(rows[:OFFERED_MOST])


def _fees(policies: Policies) -> Iterator[str]:
    yield "\nServer tools and rules, USD a call; a fee that the book names for a model stands before these"
    rows = [("NAME", "FOR", "PRICE")]
    for provider, fees in policies.price_book.tools.fees.items():
        rows += [(name, provider or "all providers", usd_of_picousd(fee)) for name, fee in fees.items()]
    rows += [(name, "routes", usd_of_picousd(card.call)) for name, card in policies.price_book.rules.items()]
    yield from _columns(rows)


def _approvals(policies: Policies) -> Iterator[str]:
    """What goes without asking, and what plans include."""
    approvals = policies.approvals
    two = approvals.two_persons_above
    yield ""
    yield (
        f"approvals: up to {usd_string(approvals.auto_most)} USD a request and "
        f"{usd_string(approvals.cumulative_most)} USD in {approvals.cumulative_window_s} s nobody is asked; up to "
        f"{usd_string(approvals.explicit_most)} USD a yes is enough; above it a step-up"
        + ("" if two is None else f"; above {usd_string(two)} USD two persons")
    )
    for plan in policies.plans.values():
        owed = f", then up to {usd_string(plan.credit_limit)} USD owed" if plan.credit_limit else ""
        yield f"plan {plan.name}: {usd_string(plan.included)} USD included each {plan.window} ({plan.period}){owed}"


def _price_row(card: PriceCard) -> tuple[str, ...]:
    prices = card.bands[0].prices
    tokens = (prices.input, prices.cached_input, prices.cache_write, prices.output)
    shown = tuple(usd_of_picousd(each * 1_000_000) if card.has_tokens else "-" for each in tokens)
    others = [
        *(f"${usd_of_picousd(each)} a {unit}" for unit, each in _other_units(card) if each),
        *(f"over {band.above_input_tokens} tokens: {usd_of_picousd(band.prices.input * 1_000_000)} / "
          f"{usd_of_picousd(band.prices.output * 1_000_000)}" for band in card.bands[1:]),
        *(f"tier {name}" for name in card.tiers),
    ]  # fmt: skip
    margin = margin_text(card.margin_ppm)
    return (card.provider, card.model, *shown, "; ".join(others) or "-", margin, card.source or "-")


def _other_units(card: PriceCard) -> Iterable[tuple[str, int | None]]:
    return (("call", card.call), ("second", card.second), ("character", card.character), ("image", card.image))


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _print_doubts(doubts: Iterable[str]) -> None:
    for doubt in doubts:
        print(f"farebox check: {doubt}", file=sys.stderr)
