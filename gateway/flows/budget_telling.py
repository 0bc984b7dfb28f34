"""Puts what the ledger told of a budget into the words of the API, as soon as it is taken up: its definition still
stands then, nearly always. What cannot be read is told as it is, for an event must never be lost to its form."""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.budget_events import KINDS, readable, record_of
from gateway.core.budgets import scope_of_text
from gateway.core.directory import BudgetDefinition, Event, OrgView, PersonView

_log = logging.getLogger("farebox.webhooks")


class Store(Protocol):
    """What of the directory matters here."""

    async def org(self, org_id: str) -> OrgView | None: ...
    async def person(self, org_id: str, person_id: str) -> PersonView | None: ...


class BudgetTelling:
    """Reads events of budgets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def readable(self, event: Event) -> Event:
        """The event as the API says it. Errors: Unavailable."""
        if event.kind not in KINDS:
            return event
        try:
            told = msgspec.json.decode(event.data)
            org = await self._store.org(event.org_id)
            assert org is not None, "an organization is never taken out"
            user = scope_of_text(told.get("scope", "")).user
            definition = await self._definition(org, record_of(told)[0], user)
            return replace(event, data=msgspec.json.encode(readable(told, org.org, definition)))
        except (AssertionError, KeyError, TypeError, ValueError):
            _log.exception("event %s is told as the ledger wrote it", event.event_id)
            return event

    async def _definition(self, org: OrgView, budget_id: str, user: str) -> BudgetDefinition | None:
        """The budget: the organization's, or in the record of the person whom its scope names."""
        found = list(org.budgets)
        if user and all(each.budget_id != budget_id for each in found):
            person = await self._store.person(org.org.org_id, user)
            found += person.budgets if person is not None else ()
        return next((each for each in found if each.budget_id == budget_id), None)
