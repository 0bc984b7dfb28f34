"""`farebox keys`: make, list, rotate and revoke keys; with `--operator` those of operators, straight in the store."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from gateway.cli.api_client import ApiClient, add_api_arguments, api_command, show
from gateway.cli.operator_key import make_operator_key, revoke_operator_key
from gateway.cli.store import explain
from gateway.config import load_config
from gateway.config_reader import ConfigError
from gateway.core.errors import Problem

COLUMNS = ("id", "name", "state", "permissions", "models", "expires_at")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox keys`."""
    commands = parser.add_subparsers(dest="action", required=True)
    listed = commands.add_parser("list", help="every key of the account")
    create = commands.add_parser("create", help="make a key; its text is shown once")
    create.add_argument("--operator", action="store_true", help="an operator key, straight in the store (--config)")
    create.add_argument("--config", type=Path, help="the gateway's configuration, for --operator")
    create.add_argument("--name", default="")
    create.add_argument(
        "--permission", action="append", default=[], help="relay, read, manage, approve; all by default"
    )
    create.add_argument("--model", action="append", default=[], help="a glob; may be given again")
    create.add_argument("--route", action="append", default=[], help="a glob; may be given again")
    create.add_argument("--address", action="append", default=[], help="a network; may be given again")
    create.add_argument("--expires-at", help="an RFC 3339 instant")
    rotate = commands.add_parser("rotate", help="a new secret under the same id")
    rotate.add_argument("id")
    rotate.add_argument("--grace-s", type=int, default=3_600, help="how long the old secret serves (default an hour)")
    revoke = commands.add_parser("revoke", help="good for nothing from now on")
    revoke.add_argument("id", help="its id; of an operator key its text will do")
    revoke.add_argument("--operator", action="store_true", help="an operator key, straight in the store (--config)")
    revoke.add_argument("--config", type=Path, help="the gateway's configuration, for --operator")
    for each in (listed, revoke):
        add_api_arguments(each)
    for each in (create, rotate):
        add_api_arguments(each, changes=True)


def run(args: argparse.Namespace) -> int:
    """Carry it out; the exit code."""
    if args.action in ("create", "revoke") and args.operator:
        return _operator(args)
    return api_command(args, _act)


def _operator(args: argparse.Namespace) -> int:
    if args.config is None:
        print("farebox: --operator needs --config, the gateway's own configuration", file=sys.stderr)
        return 2
    try:
        config = load_config(args.config)
        if args.action == "create":
            print(asyncio.run(make_operator_key(config, args.name)))
        elif revoked := asyncio.run(revoke_operator_key(config, args.id)):
            print(f"{revoked} is revoked")
        else:
            print("farebox: there is no such operator key", file=sys.stderr)
            return 1
    except (ConfigError, Problem, OSError) as error:
        print(f"farebox: {explain(error)}", file=sys.stderr)
        return 2
    return 0


def _act(api: ApiClient, args: argparse.Namespace) -> None:
    if args.action == "list":
        show(args, api.pages("/api/keys"), COLUMNS)
    elif args.action == "create":
        wanted = {
            "name": args.name, "permissions": args.permission, "models": args.model, "routes": args.route,
            "addresses": args.address, "expires_at": args.expires_at,
        }  # fmt: skip
        path = f"/admin/api/accounts/{args.account}/keys" if args.account else "/api/keys"
        made = api.post(path, {name: value for name, value in wanted.items() if value})
        show(args, [made], ("id", "name", "key"))
    elif args.action == "rotate":
        show(
            args, [api.post(f"/api/keys/{args.id}/rotate", {"grace_s": args.grace_s})], ("id", "rotating_until", "key")
        )
    else:
        show(args, [api.delete(f"/api/keys/{args.id}")], COLUMNS)
