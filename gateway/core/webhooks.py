"""Outgoing webhooks: where an organization wants to be told, and how hard we try. Signed as Standard Webhooks says.

What is tried is the receiver, not the event: pauses grow until it takes something. Once it was given up (an event
died), each of the following events has one attempt, with the pause kept, so that what is told today does not wait for
days behind what nobody took; and what waits for one receiver is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from gateway.core.request_record import rfc3339

EVENTS = (
    "budget.alert", "budget.forecast", "budget.paused", "budget.resumed", "charge.posted", "quote.waiting",
    "quote.answered", "overage.needed", "overage.answered", "webhook.test",
)  # fmt: skip

# Each charge, batched: only for who asks for it by `usage`.
USAGE = "usage.posted"


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Pauses double from the first to the greatest; eighteen attempts are about three days. Beyond `waiting_most` of
    one organization the oldest become dead letters, and beyond `dead_most` those are forgotten."""

    first_pause_s: int = 5
    greatest_pause_s: int = 6 * 3_600
    attempts_most: int = 18
    waiting_most: int = 1_000
    dead_most: int = 1_000

    def pause_s(self, attempts: int) -> int:
        """How long after so many failed attempts."""
        return int(min(self.first_pause_s * 2 ** min(max(attempts - 1, 0), 30), self.greatest_pause_s))

    def gives_up(self, attempts: int) -> bool:
        """Whether the event that was just tried is dead."""
        return attempts >= self.attempts_most


class Hook(Struct, frozen=True):
    """An organization's endpoint. Secrets are sealed; after a rotation the old one signs too until
    `previous_until_ms`."""

    org_id: str
    url: str
    secret: str
    events: tuple[str, ...] = ()  # empty: all
    previous_secret: str = ""
    previous_until_ms: int = 0
    usage: bool = False  # each charge, as a CloudEvent

    def wants(self, kind: str) -> bool:
        """Whether it is to be told events of this kind."""
        return self.usage if kind == USAGE else not self.events or kind in self.events


class Delivery(Struct, frozen=True):
    """How an organization's receiver fares. `attempts`: that failed since it took the last event; nothing is tried
    before `next_at_ms`."""

    attempts: int = 0
    next_at_ms: int = 0
    failing_since_ms: int = 0
    last_at_ms: int = 0
    last_error: str = ""
    gone: bool = False  # it answered 410: nothing is sent until the endpoint is set again


def hook_members(hook: Hook, delivery: Delivery, waiting: int) -> dict[str, Any]:
    """The endpoint as the API shows it."""
    return {
        "url": hook.url,
        "events": list(hook.events),
        "usage": hook.usage,
        "state": "disabled" if delivery.gone else "failing" if delivery.failing_since_ms else "active",
        "last_delivery": rfc3339(delivery.last_at_ms) if delivery.last_at_ms else None,
        "failing_since": rfc3339(delivery.failing_since_ms) if delivery.failing_since_ms else None,
        "last_error": delivery.last_error or None,
        "next_attempt": rfc3339(delivery.next_at_ms) if delivery.next_at_ms else None,
        "waiting": waiting,
    }
