"""`farebox reconcile`: bring the books to rest, check them, and freeze what does not fit.

Exit code 0: in order; 1: something does not fit, a line each; 2: it could not be looked at. `--accept` is for people
who have looked at what an earlier run found: it goes on from where the store stands and lifts what was frozen; what
still does not fit is frozen again. It repairs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway.adapters.redis.audit import NOTHING_DRAINED, RedisAudit, drained_digests
from gateway.adapters.redis.segments import BrokenChain, SegmentsInUse, verify_chain
from gateway.agents_assembly import make_crediting, open_node
from gateway.cli.store import OpenStore, explain, open_for_command
from gateway.config import Config, load_config
from gateway.config_reader import ConfigError
from gateway.core.errors import Problem, Unavailable
from gateway.core.holds import PARTITIONS
from gateway.flows.reconcile import LEASE_WAIT_S
from gateway.policy_files import load_policies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox reconcile`."""
    parser.add_argument("--config", type=Path, required=True, help="the YAML file; every key is in config.example.yaml")
    parser.add_argument("--accept", action="store_true", help="go on from where the store stands, lift the freeze")
    parser.add_argument("--files", action="store_true", help="read all drained journal files and check their chain")


def run(args: argparse.Namespace) -> int:
    """Reconcile, and print the report."""
    try:
        return asyncio.run(reconcile(load_config(args.config), accept=args.accept, files=args.files))
    except (ConfigError, Problem, OSError) as error:
        print(f"farebox: {explain(error)}", file=sys.stderr)
        return 2


async def reconcile(config: Config, *, accept: bool = False, files: bool = False) -> int:
    """The exit code. Errors: Problem, OSError."""
    async with open_for_command(config) as store:
        if accept and not await _accept(store):
            return 2
        print(f"waiting up to {LEASE_WAIT_S:g} s for workers to show that they live", flush=True)
        report = await store.upkeep.reconciler.run()
        print("\n".join(report.lines()))
        paid = await _recover_payments(config, store)
        reason = await store.upkeep.freezer.look()
        if reason is not None:
            print(f"no hold is placed: {reason}\nlook into it, then run: farebox reconcile --accept")
        drained = _drained(config) if files else {}
        audited = await _audit_holds(store, drained or {})
        return 0 if report.clean and paid and reason is None and drained is not None and audited else 1


async def _audit_holds(store: OpenStore, drained: Mapping[int, Mapping[int, str]]) -> bool:
    """Whether the audit log of every partition is whole, and is what the journal and its files say of it."""
    audit = RedisAudit(store.link)
    broken = [
        why
        for partition in range(PARTITIONS)
        if (why := await audit.verify(partition, drained.get(partition, NOTHING_DRAINED))) is not None
    ]
    print("\n".join(broken) if broken else "the audit log's chains hold")
    return not broken


async def _recover_payments(config: Config, store: OpenStore) -> bool:
    """Credit what the node was paid and the store does not know. False when the node cannot be asked."""
    if not config.lightning.lnd.address:
        return True
    node = open_node(config)
    try:
        policy = load_policies(config).challenge
        missing = await make_crediting(config, node, store.link, store.ledger, policy).recover()
    except Unavailable as error:
        print(f"the Lightning node cannot be asked what it was paid: {error.detail}")
        return False
    finally:
        await node.close()
    print(f"payments that the node knows and the store did not: {missing}" + (", now credited" if missing else ""))
    return True


async def _accept(store: OpenStore) -> bool:
    try:
        for history in await store.upkeep.drainer.accept():
            print(f"accepted: {history}")
    except SegmentsInUse:
        print("a gateway on this machine drains the journal: stop it first", file=sys.stderr)
        return False
    except BrokenChain as error:
        print(f"not accepted, the journal's files were changed: {error}", file=sys.stderr)
        return False
    await store.upkeep.freezer.thaw()
    for partition in range(PARTITIONS):
        for account in await store.ledger.accounts(partition):
            if account.frozen:
                # What still does not fit is frozen again by the run that follows.
                await store.ledger.unfreeze(account.account)
                print(f"no longer frozen: {account.account}")
    return True


def _drained(config: Config) -> dict[int, dict[int, str]] | None:
    """What the journal's files say of the audit log; None where their chain does not hold."""
    try:
        last = verify_chain(config.data_dir)
        found = drained_digests(config.data_dir)
    except BrokenChain as error:
        print(f"the journal's files were changed: {error}")
        return None
    print(f"the chain of the journal's files holds: {sum(last.values())} entries in {len(last)} partitions")
    return found
