"""The audit log as operators read it, and the entries that no change of the directory writes by itself: money that an
operator moved, policies that came into force, budgets that the ledger paused.

What happens in another step than its entry has an id, and so has the entry: whoever repeats the one writes the other,
once. What belongs to no organization stands in the gateway's own log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.core.directory import AuditEntry, Event, Principal
from gateway.core.errors import Conflict
from gateway.core.request_record import rfc3339
from gateway.people_ports import AuditLog
from gateway.ports import System

# The gateway's own log lies in the first partition.
GATEWAY = "org_00"
_POLICIES = "policies"
# Who pauses a budget that a posting has used up.
LEDGER = "ledger"
_ATTEMPTS = 5
# An event waits for its receiver for days at most; after that nobody shows it a second time.
_EVENT_KEPT_MS = 30 * 86_400_000


class Auditing:
    """Reads and writes the audit log."""

    def __init__(self, *, log: AuditLog, system: System) -> None:
        self._log = log
        self._system = system

    async def listed(self, org_id: str, *, after: int, most: int) -> list[dict[str, Any]]:
        """The entries of an organization, or of the gateway itself (`GATEWAY`), numbered above `after`."""
        return [audit_members(entry) for entry in await self._log.read(org_id, after=after, most=most)]

    async def moved(
        self, principal: Principal, org_id: str, action: str, subject: str, *, once: str, before: Any, after: Any
    ) -> None:
        """What an operator did to an account. `once`: the movement's own id."""
        entry = AuditEntry(
            self._now_ms(), org_id, principal.actor, principal.authenticated, action, subject,
            msgspec.json.encode(before), msgspec.json.encode(after),
        )  # fmt: skip
        await self._log.append(entry, once=f"{action}|{once}")

    async def policies_in_force(self, digest: str, files: Sequence[str], *, actor: str, authenticated: str) -> None:
        """Which policies count from now on; nothing where the log has said so already: of several workers one does.
        Errors: Unavailable, Conflict."""
        for _ in range(_ATTEMPTS):
            noted, version = await self._log.noted(GATEWAY, _POLICIES)
            if noted == digest.encode():
                return
            before = {"digest": noted.decode()} if noted else None
            after = {"digest": digest, "files": list(files)}
            entry = AuditEntry(
                self._now_ms(), GATEWAY, actor, authenticated, "policies.change", _POLICIES,
                msgspec.json.encode(before), msgspec.json.encode(after),
            )  # fmt: skip
            if await self._log.note(_POLICIES, digest.encode(), entry, expected=version):
                return
        raise Conflict("others are changing the policies; try again")

    async def witness(self, event: Event) -> None:
        """A budget that was paused by the very posting that used it up: that step only tells so, this writes it
        down. Errors: Unavailable."""
        if event.kind != "budget.paused":
            return
        told = msgspec.json.decode(event.data)
        if told.get("by") != LEDGER:
            return
        entry = AuditEntry(
            event.at_ms, event.org_id, LEDGER, LEDGER, "budget.pause", told["budget_id"], b'{"state":"active"}',
            event.data,
        )  # fmt: skip
        await self._log.append(entry, once=event.event_id, forget_at_ms=event.at_ms + _EVENT_KEPT_MS)

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def audit_members(entry: AuditEntry) -> dict[str, Any]:
    """An entry as the API shows it."""
    return {
        "number": entry.number,
        "at": rfc3339(entry.at_ms),
        "actor": entry.actor,
        "authenticated": entry.authenticated,
        "action": entry.action,
        "subject": entry.subject,
        "before": msgspec.json.decode(entry.before),
        "after": msgspec.json.decode(entry.after),
        "digest": entry.digest,
    }
