"""Session allowances: made, listed, withdrawn at once. Who makes one approves all of it in advance, and so needs what
an approval of its cap would need; what takes two persons cannot be allowed by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.allowances import allowance_object, allowance_scope
from gateway.core.approvals import ApprovalPolicy, tier_of
from gateway.core.directory import Allowance, AuditEntry, Permission, Principal
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.money import Unit, money_object
from gateway.core.quotes import Tier
from gateway.flows.budgeting import Store
from gateway.flows.directory import Directory
from gateway.flows.quoting import Prove
from gateway.people_ports import DirectoryStore
from gateway.ports import System

_ID_BYTES = 11
_ATTEMPTS = 8


class Allowing:
    """Makes and withdraws allowances."""

    def __init__(
        self,
        *,
        store: DirectoryStore,
        counters: Store,
        directory: Directory,
        policy: Callable[[], ApprovalPolicy],
        prove: Prove,
        system: System,
    ) -> None:
        self._store = store
        self._counters = counters
        self._directory = directory
        self._policy = policy
        self._prove = prove
        self._system = system

    async def listed(
        self, org_id: str, *, person_id: str = "", after: str = "", most: int = 1_000
    ) -> list[dict[str, Any]]:
        """Allowances of a person, or of all persons of the organization, by their ids, above the id `after`."""
        found = sorted(await self._of(org_id, person_id), key=lambda each: each.allowance_id)
        return await self._objects(org_id, [each for each in found if each.allowance_id > after][:most])

    async def _of(self, org_id: str, person_id: str) -> Sequence[Allowance]:
        if not person_id:
            return await self._store.allowances(org_id)
        person = await self._store.person(org_id, person_id)
        return person.allowances if person is not None else ()

    async def _objects(self, org_id: str, allowances: list[Allowance]) -> list[dict[str, Any]]:
        names = [("total", allowance_scope(each)) for each in allowances]
        money = await self._counters.counters(org_id, names)
        uses = await self._counters.counters(org_id, names, prefix="u")
        now_ms = self._now_ms()
        return [
            allowance_object(
                each,
                used=spent.used if spent is not None else 0,
                held=spent.held if spent is not None else 0,
                calls=calls.used + calls.held if calls is not None else 0,
                now_ms=now_ms,
            )
            for each, (spent, _), (calls, _) in zip(allowances, money, uses, strict=True)
        ]

    async def make(self, principal: Principal, wanted: Allowance, proof: Mapping[str, Any]) -> dict[str, Any]:
        """Make an allowance. Errors: InvalidRequest, Forbidden (a step-up is needed or failed), Conflict."""
        if not wanted.person_id:
            raise InvalidRequest("an allowance is a person's: name them", param="farebox-user")
        now_ms = self._now_ms()
        if wanted.expires_at_ms and wanted.expires_at_ms <= now_ms:
            raise InvalidRequest("must be in the future", param="expires_at")
        if wanted.per_call_cap > wanted.cap:
            raise InvalidRequest("must be at most the cap", param="per_call_cap")
        method = await self._allowed(principal, wanted, proof)
        for _ in range(_ATTEMPTS):
            person = await self._directory.find_person(principal.org_id, wanted.person_id)
            if person is None:
                raise NotFound("there is no such person", param="user")
            allowance = replace(
                wanted,
                allowance_id=f"al_{principal.org_id.rpartition('_')[2][:2]}{self._system.token_hex(_ID_BYTES)}",
                org_id=principal.org_id,
                created_at_ms=now_ms,
                created_by=principal.actor,
            )
            audit = self._audit(principal, "allowance.create", method, None, allowance)
            done = await self._store.put_allowance(allowance, audit, expected=person.version)
            self._directory.forget(principal.org_id, wanted.person_id)
            if done is not None:
                return (await self._objects(principal.org_id, [allowance]))[0]
        raise Conflict("others are changing this person; try again")

    async def _allowed(self, principal: Principal, wanted: Allowance, proof: Mapping[str, Any]) -> str:
        policy = self._policy()
        if Permission.APPROVE not in principal.permissions:
            raise Forbidden("an allowance approves in advance: this key may not approve")
        if principal.vouched == "app" and not principal.operator and not policy.app_may_approve:
            raise Forbidden("the person must allow it themselves, with a token of the identity provider")
        if policy.two_persons_above is not None and wanted.cap > policy.two_persons_above:
            top = money_object(policy.two_persons_above, Unit.NANOUSD)["amount"]
            raise Forbidden(f"above {top} USD two persons approve each request; one cannot allow it", param="cap")
        if tier_of(policy, wanted.cap) is not Tier.STEP_UP and not proof:
            return "key" if principal.vouched == "app" else principal.vouched
        return f"key+{await self._prove(principal, proof, f'allowance {wanted.cap} {wanted.expires_at_ms}')}"

    async def revoke(self, principal: Principal, allowance_id: str) -> dict[str, Any]:
        """Withdraw it; the next hold finds it gone. Errors: NotFound, Forbidden, Conflict."""
        if not {Permission.APPROVE, Permission.MANAGE} & set(principal.permissions):
            raise Forbidden("this key may neither approve nor manage")
        for _ in range(_ATTEMPTS):
            found = await self._find(principal, allowance_id)
            person = await self._store.person(principal.org_id, found.person_id)
            after = replace(found, revoked=True)
            if found.revoked:
                return (await self._objects(principal.org_id, [found]))[0]
            audit = self._audit(principal, "allowance.revoke", principal.authenticated, found, after)
            expected = person.version if person is not None else 0
            done = await self._store.put_allowance(after, audit, expected=expected)
            self._directory.forget(principal.org_id, found.person_id)
            if done is not None:
                return (await self._objects(principal.org_id, [after]))[0]
        raise Conflict("others are changing this person; try again")

    async def _find(self, principal: Principal, allowance_id: str) -> Allowance:
        for each in await self._of(principal.org_id, principal.person_id):
            if each.allowance_id == allowance_id:
                return each
        raise NotFound("there is no such allowance", param="id")

    def _audit(
        self, principal: Principal, action: str, method: str, before: Allowance | None, after: Allowance
    ) -> AuditEntry:
        return AuditEntry(
            self._now_ms(), principal.org_id, principal.actor, method, action, after.allowance_id,
            msgspec.json.encode(before), msgspec.json.encode(after),
        )  # fmt: skip

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)
