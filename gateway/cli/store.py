"""Opens the configured store for a command: joined where it is embedded and already runs, started where it does not."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.adapters.embedded import embedded_server
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.spool import PostSpool
from gateway.config import Config
from gateway.upkeep_assembly import Upkeep, make_upkeep

# A person waits: longer than a gateway's request may.
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class OpenStore:
    """What `reconcile` and `doctor` work on."""

    link: RedisLink
    ledger: RedisLedger
    spool: PostSpool
    upkeep: Upkeep


@asynccontextmanager
async def open_for_command(config: Config) -> AsyncIterator[OpenStore]:
    """Errors: Unavailable, InvalidRequest, OSError."""
    if config.redis.url:
        async with _on(config.redis.url, config) as store:
            yield store
        return
    async with embedded_server(config.data_dir) as url, _on(url, config) as store:
        yield store


@asynccontextmanager
async def _on(url: str, config: Config) -> AsyncIterator[OpenStore]:
    link = await RedisLink.open(url, timeout_s=_TIMEOUT_S)
    try:
        ledger = RedisLedger(link, worker=f"command-{os.getpid()}-{secrets.token_hex(4)}")
        spool = PostSpool.open(config.data_dir)
        try:
            yield OpenStore(link, ledger, spool, make_upkeep(link, ledger, spool, config.data_dir))
        finally:
            spool.close()
    finally:
        await link.close()


def explain(error: Exception) -> str:
    """The error with its reason: whoever runs a command may know which server it was and what it said."""
    return f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
