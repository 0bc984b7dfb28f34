"""Whose budget it is that somebody asks for, under the names that requests are counted by.

A scope that does not exist is refused, so that no budget counts nothing by a misspelling: persons and keys are looked
up, a model is stored under its canonical name whatever alias was given. Sessions and tasks need no registry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from gateway.core.budget_input import BudgetInput
from gateway.core.budgets import EVERYBODY
from gateway.core.directory import Principal, Scope
from gateway.core.errors import Forbidden, InvalidRequest
from gateway.flows.directory import Directory

# The canonical name of a model, None where the price book has none of that name.
Canonical = Callable[[str], str | None]
# Whether a key of the organization exists.
KeyExists = Callable[[str, str], Awaitable[bool]]


class BudgetScopes:
    """Resolves scopes, and says who may touch them."""

    def __init__(self, *, directory: Directory, canonical: Canonical, key_exists: KeyExists) -> None:
        self._directory = directory
        self._canonical = canonical
        self._key_exists = key_exists

    async def resolved(self, principal: Principal, given: BudgetInput) -> Scope:
        """The scope with canonical names; of what a person's request leaves out, that person. Errors: InvalidRequest
        where something of it does not exist; Forbidden where it is another's."""
        scope, org_id, param = given.scope or Scope(), principal.org_id, f"{given.prefix}scope"
        if scope.org not in ("", org_id):
            raise Forbidden("this organization is not yours", param=f"{param}.org")
        user = scope.user or principal.person_id
        self.must_be_own(principal, user, f"{param}.user")
        if user and user != EVERYBODY and await self._directory.find_person(org_id, user) is None:
            raise InvalidRequest(f"there is no person {user!r}; POST /api/persons makes one", param=f"{param}.user")
        if scope.key and not await self._key_exists(org_id, scope.key):
            raise InvalidRequest(f"there is no key {scope.key!r}", param=f"{param}.key")
        model = scope.model and self._canonical(scope.model)
        if model is None:
            raise InvalidRequest(f"no model {scope.model!r} has a price here", param=f"{param}.model")
        return replace(scope, org=org_id, user=user, model=model)

    @staticmethod
    def must_be_own(principal: Principal, user: str, param: str) -> None:
        """Who may change a budget of this person ("" the organization's). Errors: Forbidden."""
        if principal.vouched == "jwt":
            # Else a person would lift the limit that the app has set them.
            raise Forbidden("budgets are changed with the app's key, not with a person's token", param=param)
        if principal.person_id and (user != principal.person_id or user == EVERYBODY):
            raise Forbidden("a person changes their own budgets only", param=param)
