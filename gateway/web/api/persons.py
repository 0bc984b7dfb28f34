"""`/api/persons`: the humans behind an app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.budget_input import BudgetInput, parse_budgets
from gateway.core.directory import PERSON_ID_CHARACTERS, Permission, Scope
from gateway.core.errors import Forbidden, InvalidRequest
from gateway.core.person_headers import check_person_id
from gateway.flows.budgeting import Budgeting
from gateway.flows.peopling import Peopling, person_members
from gateway.flows.step_up import StepUp
from gateway.people_ports import DirectoryStore
from gateway.web.api.proofs import check_proof
from gateway.web.api_bodies import json_answer, page, text_of
from gateway.web.principal import Api


def person_routes(
    api: Api, peopling: Peopling, budgeting: Budgeting, store: DirectoryStore, step_up: StepUp
) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def make(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(body: dict[str, Any]) -> Any:
            person_id = text_of(body, "id", most=PERSON_ID_CHARACTERS)
            check_person_id(person_id, param="id")
            if principal.person_id not in ("", person_id):
                raise Forbidden("a person makes no other", param="id")
            plan = text_of(body, "plan", default="")
            now_ms = int(api.system.now_s() * 1_000)
            given = parse_budgets({"budgets": body["budgets"]}, now_ms) if body.get("budgets") else []
            theirs = _theirs(given, person_id)
            made = await peopling.make(principal, person_id, plan)
            if theirs:
                made["budgets"] = await budgeting.put(principal, theirs)
            return made

        return await api.changed(
            request, principal, act, allowed=("id", "plan", "budgets"), required=("id",), status=201
        )

    async def listed(request: Request) -> Response:
        principal = await api.organization(request, Permission.READ)
        limit, after = page(request)
        found = await store.persons(principal.org_id, after=after, most=limit)
        data = [person_members(person) for person in found]
        return json_answer({"data": data, "next": found[-1].person_id if len(found) == limit else None})

    async def read(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        person_id = request.path_params["id"]
        if principal.person_id not in ("", person_id):
            raise Forbidden("a person sees no other")
        shown = person_members(await peopling.find(principal.org_id, person_id))
        shown["budgets"] = await budgeting.listed(principal.org_id, person_id=person_id)
        return json_answer(shown)

    async def credentials(request: Request) -> Response:
        principal = await api.principal(request, Permission.APPROVE)
        person_id = request.path_params["id"]
        if principal.person_id not in ("", person_id):
            raise Forbidden("a person sets their own credentials only")
        await peopling.find(principal.org_id, person_id)
        theirs = replace(principal, person_id=person_id)

        async def act(body: dict[str, Any]) -> Any:
            check_proof(body.get("proof"), "proof")
            return await step_up.enrol(theirs, body)

        return await api.changed(request, theirs, act, allowed=("password", "totp", "passkey", "proof"))

    return [
        Route("/api/persons/{id:path}/credentials", credentials, methods=["POST"]),
        Route("/api/persons", listed, methods=["GET"]),
        Route("/api/persons", make, methods=["POST"]),
        Route("/api/persons/{id:path}", read, methods=["GET"]),
    ]


def _theirs(given: Sequence[BudgetInput], person_id: str) -> list[BudgetInput]:
    """The budgets as this person's. Errors: InvalidRequest for one of somebody else."""
    for index, each in enumerate(given):
        if each.scope is not None and each.scope.user not in ("", person_id):
            raise InvalidRequest("it is of this person; leave it out", param=f"budgets[{index}].scope.user")
    return [replace(each, scope=replace(each.scope or Scope(), user=person_id)) for each in given]
