"""The command `farebox`: hands its first word to a module of `gateway.cli`, importing no other."""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib.util import find_spec

COMMANDS = {
    "serve": ("gateway.cli.serve", "run the gateway"),
    "demo": ("gateway.cli.demo", "run everything on simulated parts and show an agent's conversation"),
    "check": ("gateway.cli.check", "validate configuration and policies, print routes and prices"),
    "pay": ("gateway.cli.pay", "call a URL and pay its 402 from a wallet"),
    "keys": ("gateway.cli.keys", "make, list, rotate and revoke keys"),
    "accounts": ("gateway.cli.accounts", "make accounts, credit and correct them"),
    "budgets": ("gateway.cli.budgets", "limits, alerts and pauses"),
    "approvals": ("gateway.cli.approvals", "what waits for an answer, and the answers"),
    "usage": ("gateway.cli.usage", "what was used and what it cost"),
    "reconcile": ("gateway.cli.reconcile", "compare ledger, journal and rails, resolve what is left open"),
    "doctor": ("gateway.cli.doctor", "tell what can be lost, and what to change"),
    "bench": ("gateway.cli.bench", "measure against a direct connection and other gateways"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    there = {name: command for name, command in COMMANDS.items() if find_spec(command[0]) is not None}
    parser = argparse.ArgumentParser(
        prog="farebox", description="A reverse proxy in front of AI APIs that takes the fare."
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (module_name, text) in there.items():
        command = commands.add_parser(name, help=text, description=text)
        if given and given[0] == name:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(given)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
