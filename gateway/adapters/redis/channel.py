"""A lasting way to one server: a connection that is opened again when it is lost.

Everybody who needs the server while it is away waits for the same single attempt, so that a restart of the store is
not met by ten thousand connects. Back-off between attempts is the callers' (`link.py`), because it is they who have
a deadline.
"""

from __future__ import annotations

import asyncio

from gateway.adapters.redis.address import Address
from gateway.adapters.redis.connection import Connection, Lost, RedisReplyError, connect

# A loopback or rack connect takes under 5 ms; a SYN lost once comes again after 1 s.
CONNECT_TIMEOUT_S = 1.5


class Channel:
    """At most one open connection to `address`."""

    def __init__(self, address: Address, *, reply_timeout_s: float) -> None:
        self.address = address
        self._reply_timeout_s = reply_timeout_s
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection | Lost] | None = None
        self._closed = False

    @property
    def live(self) -> Connection | None:
        """The connection, if it stands."""
        connection = self._connection
        return connection if connection is not None and not connection.lost else None

    async def open(self) -> Connection:
        """The connection, opened if need be. Errors: Lost(written=False) says why it cannot be."""
        live = self.live
        if live is not None:
            return live
        if self._closed:
            raise Lost("closed by us", written=False)
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        outcome = await asyncio.shield(self._opening)
        if isinstance(outcome, Lost):
            raise Lost(str(outcome), written=False)
        return outcome

    async def _open(self) -> Connection | Lost:
        """One attempt. Its failure is a value: perhaps nobody waits for it any more."""
        try:
            connection = await connect(
                self.address, reply_timeout_s=self._reply_timeout_s, connect_timeout_s=CONNECT_TIMEOUT_S
            )
        except TimeoutError:
            return Lost(f"{self.address} did not answer within {CONNECT_TIMEOUT_S:g} s", written=False)
        except (OSError, RedisReplyError, Lost) as error:
            return Lost(f"{self.address}: {error}", written=False)
        finally:
            self._opening = None
        if self._closed:
            await connection.close()
            return Lost("closed by us", written=False)
        self._connection = connection
        return connection

    def renew(self) -> None:
        """Open anew for the next call: behind the same name there may be another server now. Calls in flight keep
        the old connection until they are answered, or time ends them."""
        old, self._connection = self.live, None
        if old is not None:
            asyncio.get_running_loop().call_later(self._reply_timeout_s, old.abort, "another server has taken over")

    async def close(self) -> None:
        """End the connection and any attempt at one."""
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
            await asyncio.wait((opening,))
        if self._connection is not None:
            await self._connection.close()
