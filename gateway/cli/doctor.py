"""`farebox doctor`: how the store keeps money, what can be lost by what, in seconds and in money, and what to change.

Exit code 0: no fault; 1: a fault, each on a line of its own; 2: it could not be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from gateway.adapters.redis.clock import server_clocks_ms
from gateway.adapters.redis.durability import Loss, look
from gateway.cli.store import explain, open_for_command
from gateway.config import Config, load_config
from gateway.config_reader import ConfigError
from gateway.core.errors import Problem
from gateway.core.money import Unit
from gateway.flows.doctor import WINDOW_S, present_spend_per_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox doctor`."""
    parser.add_argument("--config", type=Path, required=True, help="the YAML file; every key is in config.example.yaml")


def run(args: argparse.Namespace) -> int:
    """Look at the store, and print what was found."""
    try:
        return asyncio.run(doctor(load_config(args.config)))
    except (ConfigError, Problem, OSError) as error:
        print(f"farebox: {explain(error)}", file=sys.stderr)
        return 2


async def doctor(config: Config) -> int:
    """The exit code. Errors: Problem, OSError."""
    async with open_for_command(config) as store:
        report = await look(store.link)
        clocks = await server_clocks_ms(store.link)
        spend = await present_spend_per_s(store.ledger, now_ms=max(clocks.values()))
        reason = await store.upkeep.freezer.look()
        history = await store.upkeep.drainer.check_at_start()
    print("\n".join(report.lines()))
    for line in (line for loss in report.losses for line in _in_money(loss, spend)):
        print(line)
    for found in history:
        print(f"fault: {found}")
    if reason is not None:
        print(f"fault: no hold is placed: {reason} -> look into it, then run farebox reconcile --accept")
    sound = report.sound and not history and reason is None
    print("no faults" if sound else "there are faults")
    return 0 if sound else 1


def _in_money(loss: Loss, spend: dict[Unit, int]) -> list[str]:
    """At what was spent a second in the last minute."""
    if not loss.seconds:
        return []
    return [
        f"{loss.event}: up to {loss.amount(per_s)} {unit.value} (at the last {WINDOW_S} s' rate)"
        for unit, per_s in spend.items()
    ]
