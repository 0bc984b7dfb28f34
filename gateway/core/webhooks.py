"""Outgoing webhooks: where an organization wants to be told, and how hard we try. Signed as Standard Webhooks says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from gateway.core.request_record import rfc3339

EVENTS = (
    "budget.alert", "budget.forecast", "budget.paused", "quote.waiting", "quote.answered", "overage.needed",
    "overage.answered", "webhook.test",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Pauses double from the first to the greatest; eighteen attempts are about three days. A receiver that takes
    longer than `timeout_s` is tried again."""

    first_pause_s: int = 5
    greatest_pause_s: int = 6 * 3_600
    attempts_most: int = 18
    timeout_s: float = 10.0
    dead_most: int = 1_000

    def pause_s(self, attempts: int) -> int:
        """How long after so many failed attempts."""
        return int(min(self.first_pause_s * 2 ** max(attempts - 1, 0), self.greatest_pause_s))


class Hook(Struct, frozen=True):
    """An organization's endpoint. Secrets are sealed; after a rotation the old one signs too until
    `previous_until_ms`."""

    org_id: str
    url: str
    secret: str
    events: tuple[str, ...] = ()  # empty: all
    previous_secret: str = ""
    previous_until_ms: int = 0
    disabled: bool = False  # it answered 410 Gone


class Delivery(Struct, frozen=True):
    """How the oldest waiting event of an organization fares."""

    attempts: int = 0
    next_at_ms: int = 0
    failing_since_ms: int = 0
    last_at_ms: int = 0
    last_error: str = ""


def hook_members(hook: Hook, delivery: Delivery, waiting: int) -> dict[str, Any]:
    """The endpoint as the API shows it."""
    return {
        "url": hook.url,
        "events": list(hook.events),
        "state": "disabled" if hook.disabled else "failing" if delivery.failing_since_ms else "active",
        "last_delivery": rfc3339(delivery.last_at_ms) if delivery.last_at_ms else None,
        "failing_since": rfc3339(delivery.failing_since_ms) if delivery.failing_since_ms else None,
        "last_error": delivery.last_error or None,
        "waiting": waiting,
    }
