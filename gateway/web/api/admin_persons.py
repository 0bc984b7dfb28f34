"""`/admin/api/accounts/{id}/persons/{person}`: what operators do with a person: plan, suspension, lost credentials."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Principal
from gateway.flows.operating import Operating
from gateway.flows.peopling import Peopling
from gateway.flows.step_up import StepUp
from gateway.web.api.admin import plan_of, suspended_of
from gateway.web.api.admin_paths import ACCOUNTS, acting_in, named_account
from gateway.web.api_bodies import json_answer
from gateway.web.principal import Api

_PERSON = ACCOUNTS + "/{id}/persons/{person:path}"


def operated_person_routes(api: Api, operating: Operating, peopling: Peopling, step_up: StepUp) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def acting(request: Request) -> tuple[Principal, str]:
        operator = await api.operator(request)
        org_id = await operating.organization(named_account(request))
        person = await peopling.find(org_id, request.path_params["person"])
        return acting_in(operator, org_id), person.person_id

    async def change(request: Request) -> Response:
        principal, person_id = await acting(request)

        async def act(body: dict[str, Any]) -> Any:
            plan = plan_of(body) if "plan" in body else None
            suspended = suspended_of(body) if "suspended" in body else None
            return await peopling.change(principal, person_id, plan=plan, suspended=suspended)

        return await api.changed(request, principal, act, allowed=("plan", "suspended"))

    async def reset(request: Request) -> Response:
        principal, person_id = await acting(request)
        await step_up.reset(principal, person_id)
        return json_answer({"id": person_id, "deleted": True})

    return [
        Route(_PERSON, change, methods=["PATCH"]),
        Route(_PERSON + "/credentials", reset, methods=["DELETE"]),
    ]
