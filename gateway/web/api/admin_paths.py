"""How operators name accounts: `org_...` or `ac_...`, in the path or in the query; read once, here."""

from __future__ import annotations

from starlette.requests import Request

from gateway.core.directory import Permission, Principal
from gateway.core.errors import InvalidRequest, NotFound
from gateway.core.ids import account_id

ACCOUNTS = "/admin/api/accounts"


def named_account(request: Request) -> str:
    """The account of the path, by its own id. Errors: NotFound where it is no such id."""
    account = account_id(request.path_params["id"])
    if account is None:
        raise NotFound("there is no such account", param="id")
    return account


def named_in_query(param: str, text: str) -> str:
    """The account of the query, by its own id. Errors: InvalidRequest where it is no such id."""
    account = account_id(text)
    if account is None:
        raise InvalidRequest("must be org_... or ac_..., then hexadecimal digits", param=param)
    return account


def acting_in(operator: Principal, org_id: str) -> Principal:
    """The operator in the name of an organization."""
    return Principal(org_id, operator.key_id, "", tuple(Permission), operator=True, vouched="operator")
