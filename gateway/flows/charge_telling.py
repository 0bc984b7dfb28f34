"""Tells an account's webhook what was charged without asking anybody, where the policy wants it told.

Beside the request: the posting stands, and waits for nothing. A charge whose posting had to wait for the store is not
told; it shows in the usage like any other.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from gateway.core.directory import Event
from gateway.core.errors import Unavailable
from gateway.core.holds import Posted
from gateway.core.ids import quote_of_request
from gateway.core.money import money_object
from gateway.flows.settling import Work
from gateway.people_ports import Outbox
from gateway.ports import System

_log = logging.getLogger("farebox.webhooks")

# One write each; more than this at once means that the store is away, and then nothing is posted either.
_AT_ONCE = 1_000


class ChargeTelling:
    """Writes `charge.posted`."""

    def __init__(self, *, outbox: Outbox, system: System) -> None:
        self._outbox = outbox
        self._system = system
        self._writing: set[asyncio.Task[None]] = set()

    def tell(self, work: Work, posted: Posted) -> None:
        """Tell of a charge of an account. Never waits."""
        if work.caller is None or len(self._writing) >= _AT_ONCE:
            return
        data = msgspec.json.encode(charge_members(work, posted))
        event = Event("", work.caller.key.org_id, "charge.posted", int(self._system.now_s() * 1_000), data)
        task = asyncio.create_task(self._write(event))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, event: Event) -> None:
        try:
            await self._outbox.add(event)
        except Unavailable as error:
            _log.warning("a charge of %s is not told: %s", event.org_id, error)

    async def close(self) -> None:
        """Wait for what is being written; a write is bounded by the store's own timeout."""
        await asyncio.gather(*self._writing, return_exceptions=True)


def charge_members(work: Work, posted: Posted) -> dict[str, Any]:
    """The event's data."""
    assert work.caller is not None, "only accounts are told"
    return {
        "request_id": work.request_id,
        "user": work.caller.person_id or None,
        "session": work.caller.said.session or None,
        "key": work.caller.key.key_id,
        "model": work.model or work.terms.facts.model,
        "cost": money_object(posted.posted, work.unit),
        "quote_id": quote_of_request(work.request_id),
        "pockets": [{"pocket": name, "amount": money_object(part, work.unit)} for name, part in posted.pockets if part],
    }
