"""What looks after the store beside the requests: this worker's lease, the stop sign, and the sweeps."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from gateway.adapters.redis.clock import server_clocks_ms
from gateway.adapters.redis.drainer import DRAIN_EVERY_S, Drainer
from gateway.adapters.redis.durability import Level, look
from gateway.adapters.redis.freeze import Freezer
from gateway.adapters.redis.leases import Lease, WorkerLease
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.spool import PostSpool
from gateway.background import Background
from gateway.flows.reconcile import Reconciler
from gateway.flows.sweeping import HOLD_SWEEP_EVERY_S, HoldSweep, Report, Sweep, log_report, run_sweeps

_log = logging.getLogger("farebox.store")

# A posting that waits is owed since the store went away: often, as it costs a look into a directory.
_SPOOL_EVERY_S = 1.0


@dataclass(slots=True)
class Upkeep:
    """The parts that others ask: is everything frozen, do the books fit."""

    freezer: Freezer
    drainer: Drainer
    reconciler: Reconciler


def make_upkeep(link: RedisLink, ledger: RedisLedger, spool: PostSpool, data_dir: str | Path) -> Upkeep:
    """The parts, not yet running. `farebox reconcile` needs no more."""

    def tell(reason: str | None) -> None:
        ledger.is_frozen = reason is not None

    freezer = Freezer(link, tell=tell)
    drainer = Drainer(link, ledger, freezer, data_dir)

    async def replay() -> int:
        return (await spool.replay(ledger)).posted

    reconciler = Reconciler(
        ledger,
        lambda: server_clocks_ms(link),
        freeze_all=freezer.freeze,
        history=drainer.check_at_start,
        replay=replay,
    )
    return Upkeep(freezer, drainer, reconciler)


async def open_upkeep(
    stack: AsyncExitStack,
    *,
    link: RedisLink,
    ledger: RedisLedger,
    spool: PostSpool,
    worker: str,
    data_dir: str | Path,
    background: Background,
    report: Report = log_report,
) -> Upkeep:
    """Look at the store once, then look after it. A store that went back in time is frozen before the first request.

    Errors: Unavailable.
    """
    upkeep = make_upkeep(link, ledger, spool, data_dir)
    await WorkerLease(link, worker).take()
    for finding in (await look(link)).findings:
        if finding.level is not Level.NOTE:
            _log.warning("%s", finding)
    await upkeep.freezer.look()
    await upkeep.drainer.check_at_start()
    stack.callback(upkeep.drainer.release)
    stack.callback(spool.close)
    sweeps = [
        Sweep("spool", _SPOOL_EVERY_S, lambda: spool.replay(ledger)),
        Sweep(
            "holds",
            HOLD_SWEEP_EVERY_S,
            HoldSweep(ledger, lambda: server_clocks_ms(link)).once,
            Lease(link, "sweep:holds", worker),
        ),
        Sweep(
            "journal", DRAIN_EVERY_S, upkeep.drainer.once, Lease(link, "sweep:journal", worker), upkeep.drainer.release
        ),
    ]
    background.run("worker lease", WorkerLease(link, worker).run)
    background.run("freeze", upkeep.freezer.run)
    background.run("sweeps", lambda: run_sweeps(sweeps, report=report))
    return upkeep
