"""Answers to the questions of running streams: by whom the request belongs to, once, in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.accounts import GREATEST_ARGUMENT
from gateway.core.approvals import ApprovalPolicy, tier_of
from gateway.core.directory import AuditEntry, Permission, Principal
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.money import Unit, money_object
from gateway.core.questions import ACTIONS, Question, answer_members
from gateway.core.quotes import Tier
from gateway.flows.quoting import Prove
from gateway.people_ports import Questions
from gateway.ports import System


class Answering:
    """Takes answers."""

    def __init__(
        self, *, questions: Questions, policy: Callable[[], ApprovalPolicy], prove: Prove, system: System
    ) -> None:
        self._questions = questions
        self._policy = policy
        self._prove = prove
        self._system = system

    async def answer(
        self,
        principal: Principal,
        hold_id: str,
        *,
        action: str,
        overage_id: str,
        additional_max: int | None,
        proof: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Answer the open question of a request of the principal's. `additional_max` None: what was asked for. The same
        answer again is answered the same. Errors: Problem; nothing has changed then."""
        if action not in ACTIONS:
            raise InvalidRequest(f"must be one of {', '.join(ACTIONS)}", param="action")
        question = await self._questions.find(hold_id)
        if question is None or question.org_id != principal.org_id:
            raise NotFound("nothing was asked for this request", param="id")
        if principal.person_id and question.person_id not in ("", principal.person_id):
            raise Forbidden("this request belongs to another person", code="foreign_request")
        if overage_id not in ("", question.overage_id):
            state = {"state": question.state, "overage_id": question.overage_id}
            raise Conflict("another question is the newest", param="overage_id", members=state)
        more = question.additional_needed if additional_max is None else additional_max
        wanted = "approved" if action == "approve_overage" else "stopped"
        if question.state == wanted and (wanted == "stopped" or question.additional_max == more):
            return answer_members(question)
        if question.state != "open" or self._now_ms() >= question.expires_at_ms:
            state = {"state": "expired" if question.state == "open" else question.state}
            raise Conflict("this question was answered, or has ended", code="illegal_transition", members=state)
        method = await self._allowed(principal, question, action, more, proof)
        after = replace(
            question, state=wanted, additional_max=more if wanted == "approved" else 0,
            answered_by=principal.person_id or f"key {principal.key_id}",
        )  # fmt: skip
        audit = AuditEntry(
            self._now_ms(), question.org_id, principal.actor, method, f"overage.{wanted}", question.overage_id,
            msgspec.json.encode(question), msgspec.json.encode(after),
        )  # fmt: skip
        if not await self._questions.answer(question, after, audit):
            raise Conflict("somebody else answered first", code="illegal_transition")
        return answer_members(after)

    async def _allowed(
        self, principal: Principal, question: Question, action: str, more: int, proof: Mapping[str, Any]
    ) -> str:
        """How the answer was authenticated. Errors: Forbidden, InvalidRequest."""
        policy = self._policy()
        if Permission.APPROVE not in principal.permissions:
            raise Forbidden("this key may not approve")
        if principal.vouched == "app" and not principal.operator and not policy.app_may_approve:
            raise Forbidden("the person must answer themselves, with a token of the identity provider")
        if action == "stop":
            return principal.authenticated
        if more <= 0:
            raise InvalidRequest("must be above zero", param="additional_max")
        most = question.original_max + more
        if most > GREATEST_ARGUMENT:
            raise InvalidRequest("more than an account can hold", param="additional_max")
        if policy.two_persons_above is not None and most > policy.two_persons_above:
            top = money_object(policy.two_persons_above, Unit.NANOUSD)["amount"]
            message = f"above {top} USD two persons approve before the work; one cannot agree to it in mid-stream"
            raise Forbidden(message, code="two_persons_needed", param="additional_max")
        if question.of_organization and principal.vouched == "jwt":
            raise Forbidden("this lifts a budget of the organization: it answers with its key", code="not_yours")
        if tier_of(policy, most) is not Tier.STEP_UP and not proof:
            return principal.authenticated
        return f"key+{await self._prove(principal, proof, f'{question.overage_id} {more} {question.expires_at_ms}')}"

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)
