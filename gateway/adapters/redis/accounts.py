"""Whose account is whose, in Redis: an organization's account is found by its id, a person's own in `{pNN}owners`,
which is written in the step that gives it to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.core.directory import AccountOwner, account_of_org
from gateway.core.holds import PARTITIONS
from gateway.core.ids import org_of_account


class RedisAccounts:
    """`people_ports.AccountIndex`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def owner(self, account: str) -> AccountOwner | None:
        """Whose account this is; None where it is nobody's."""
        of_tag, org_id = keys.tag(account), org_of_account(account)
        if await self._link.command("SISMEMBER", f"{of_tag}orgs", org_id, key=of_tag):
            return AccountOwner(org_id)
        raw = await self._link.command("HGET", keys.owners_key(of_tag), account, key=of_tag)
        return None if raw is None else msgspec.json.decode(raw, type=AccountOwner)

    async def all(self) -> Sequence[str]:
        """Every account of the store, those of organizations and persons' own, in the order of their ids."""
        found = await asyncio.gather(*map(self._of_partition, range(PARTITIONS)))
        return sorted(account for accounts in found for account in accounts)

    async def _of_partition(self, partition: int) -> list[str]:
        of_tag = keys.partition_tag(partition)
        orgs = await self._link.command("SMEMBERS", f"{of_tag}orgs", key=of_tag)
        own = await self._link.command("HKEYS", keys.owners_key(of_tag), key=of_tag)
        return [*(account_of_org(org_id.decode()) for org_id in orgs), *(account.decode() for account in own)]
