"""The servers' own clocks: holds are renewed until a time of theirs, not of ours."""

from __future__ import annotations

from gateway.adapters.redis.durability import Servers
from gateway.core.errors import Unavailable


async def server_clocks_ms(link: Servers) -> dict[str, int]:
    """Unix time of each primary in ms. Errors: Unavailable."""
    clocks: dict[str, int] = {}
    for server, reply in (await link.each_server("TIME")).items():
        if not isinstance(reply, list):
            raise Unavailable("The store does not tell the time.")
        clocks[server] = int(reply[0]) * 1000 + int(reply[1]) // 1000
    return clocks
