"""Opens what serves operators: accounts and their money, persons, the audit log, revenue, what is in force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.routing import BaseRoute

from gateway.adapters.redis.accounts import RedisAccounts
from gateway.adapters.redis.usage import RedisUsage
from gateway.adapters.system import Machine
from gateway.config import Config
from gateway.flows.funding import Funding
from gateway.flows.operating import Operating
from gateway.flows.price_list import PriceList
from gateway.flows.revenue import Revenue
from gateway.people_assembly import People, providers
from gateway.policies import Policies
from gateway.store_assembly import Store
from gateway.web.api.admin import admin_routes
from gateway.web.api.admin_books import book_routes
from gateway.web.api.admin_money import money_routes
from gateway.web.api.admin_persons import operated_person_routes
from gateway.web.api.admin_policies import Reload, policy_routes
from gateway.web.principal import Api


@dataclass(slots=True)
class Operators:
    """What serves operators."""

    operating: Operating
    funding: Funding
    prices: PriceList
    revenue: Revenue
    policies: Callable[[], Policies]


def open_operators(
    config: Config, people: People, *, store: Store, policies: Callable[[], Policies], system: Machine
) -> Operators:
    """Connects to nobody yet."""
    accounts = RedisAccounts(store.link)
    return Operators(
        operating=Operating(
            store=people.store, directory=people.directory, accounts=accounts, ledger=store.ledger,
            peopling=people.peopling, system=system,
        ),
        funding=Funding(accounts=accounts, auditing=people.auditing, ledger=store.ledger, system=system),
        prices=PriceList(policies=policies, providers=providers(config), system=system),
        revenue=Revenue(usage=RedisUsage(store.link), accounts=accounts, books=store.ledger),
        policies=policies,
    )  # fmt: skip


def operator_routes(operators: Operators, people: People, *, api: Api, reload: Reload) -> list[BaseRoute]:
    """The paths of operators."""
    operating = operators.operating
    return [
        *admin_routes(api, operating, people.keying),
        *money_routes(api, operators.funding),
        *operated_person_routes(api, operating, people.peopling, people.step_up),
        *book_routes(api, operating, people.auditing, operators.revenue),
        *policy_routes(api, operators.policies, operators.prices, reload),
    ]
