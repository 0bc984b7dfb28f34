"""Opens the store: the configured Redis, or an embedded one, and what the ledger needs around it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.adapters.embedded import embedded_server
from gateway.adapters.metrics import Metrics
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.memory import MemoryWatch
from gateway.adapters.redis.spool import PostSpool
from gateway.background import Background
from gateway.config import Config
from gateway.upkeep_assembly import Upkeep, open_upkeep


@dataclass(slots=True)
class Store:
    """The open store."""

    link: RedisLink
    ledger: RedisLedger
    spool: PostSpool
    worker: str
    upkeep: Upkeep


async def open_store(
    stack: AsyncExitStack, config: Config, *, worker: str, metrics: Metrics, background: Background
) -> Store:
    """Errors: Unavailable, InvalidRequest (the URL), OSError."""
    url = config.redis.url or await stack.enter_async_context(embedded_server(config.data_dir))

    link = await RedisLink.open(url, observe=metrics.store_call)
    stack.push_async_callback(link.close)
    ledger = RedisLedger(link, worker=worker)
    spool = PostSpool.open(config.data_dir)

    def tell(short: bool) -> None:  # noqa: FBT001 - the watch's callback
        ledger.memory_is_short = short

    background.run("memory watch", MemoryWatch(link, tell=tell).run)
    upkeep = await open_upkeep(
        stack, link=link, ledger=ledger, spool=spool, worker=worker, data_dir=config.data_dir, background=background
    )
    return Store(link, ledger, spool, worker, upkeep)
