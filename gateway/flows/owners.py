"""Whose account it is that an operator names."""

from __future__ import annotations

from gateway.core.directory import AccountOwner
from gateway.core.errors import NotFound
from gateway.people_ports import AccountIndex


async def owner_of(accounts: AccountIndex, account: str) -> AccountOwner:
    """Errors: NotFound."""
    found = await accounts.owner(account)
    if found is None:
        raise NotFound("there is no such account", param="id")
    return found


async def organization_of(accounts: AccountIndex, account: str) -> str:
    """The organization whose account it is. Errors: NotFound, for a person's own too."""
    found = await owner_of(accounts, account)
    if found.person_id:
        raise NotFound("this is a person's own account; name their organization", param="id")
    return found.org_id
