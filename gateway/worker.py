"""One worker process: the application on uvicorn, its signals, its end.

SIGTERM: no new requests; running streams go on for the grace period, then are cut and settled; then the process ends.
SIGHUP: the policies are read again, as one object or not at all. A worker whose supervisor has gone ends like on
SIGTERM; a gateway that a person started stays when their shell goes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from functools import partial
from types import FrameType

import uvicorn

from gateway.app import Gateway, open_gateway
from gateway.config import Config
from gateway.config_reader import ConfigError
from gateway.core.errors import Problem
from gateway.web.head_limit import protocol_within

# Streams that were cut must still be settled, and their clients told.
SETTLE_S = 5.0
# The relay makes few cycles and many short-lived objects: the default thresholds collect in vain (2.5 % of the CPU).
GC_THRESHOLD = (50_000, 20, 50)
_ORPHAN_CHECK_S = 1.0


async def serve_worker(
    config: Config, listener: socket.socket, number: int, *, parent_pid: int | None = None, supervised: bool = False
) -> int:
    """Serve on the socket until told to stop, or until `parent_pid` has gone. `supervised`: it is our supervisor, which
    passes a SIGHUP on to all workers. Exit code 1 when the parts cannot be started."""
    try:
        async with open_gateway(config, worker_number=number) as gateway:
            if supervised and parent_pid is not None:
                gateway.tell_others = partial(os.kill, parent_pid, signal.SIGHUP)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)
            server = _server(gateway, config)
            reload = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            tasks = [
                asyncio.ensure_future(_reload_policies(gateway, reload)),
                asyncio.ensure_future(_drain(gateway, server, config.limits.grace_s)),
                asyncio.ensure_future(_watch_parent(server, parent_pid)),
            ]
            try:
                await server.serve(sockets=[listener])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    except (ConfigError, Problem, ValueError, OSError) as error:
        print(f"farebox: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


class _Server(uvicorn.Server):
    """Ends by returning. Uvicorn raises the signal that ended it a second time, which would end the process before what
    it still has to write - the spool, the log, its lease - is written."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True


def _server(gateway: Gateway, config: Config) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            gateway.app,
            http=protocol_within(config.limits.header_most_bytes),
            ws="websockets-sansio",
            ws_per_message_deflate=False,  # sound does not shrink, and a frame is passed on as it came
            loop="none",
            lifespan="off",
            access_log=False,
            log_level="critical",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(config.limits.grace_s + SETTLE_S),
        )
    )


async def _drain(gateway: Gateway, server: uvicorn.Server, grace_s: float) -> None:
    """Once the server is told to stop: refuse new work, let streams go on for the grace period, then cut them."""
    while not server.should_exit:
        await asyncio.sleep(0.05)
    gateway.drain()
    await asyncio.sleep(grace_s)
    gateway.stop_streams("restart")


async def _reload_policies(gateway: Gateway, reload: asyncio.Event) -> None:
    while True:
        await reload.wait()
        reload.clear()
        try:
            said = await gateway.reload_policies()
        except Problem as problem:
            said = problem.detail
        print(f"farebox: {said}", file=sys.stderr, flush=True)


async def _watch_parent(server: uvicorn.Server, parent_pid: int | None) -> None:
    """The parent is told, not asked for: it may have gone before we could ask."""
    if parent_pid is None:
        return
    while os.getppid() == parent_pid:
        await asyncio.sleep(_ORPHAN_CHECK_S)
    server.should_exit = True
