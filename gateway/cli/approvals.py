"""`farebox approvals`: what waits for an answer, and the answers."""

from __future__ import annotations

import argparse
import getpass

from gateway.cli.accounts import usd
from gateway.cli.api_client import ApiClient, add_api_arguments, api_command, show

COLUMNS = ("quote_id", "overage_id", "user", "model", "tier", "reason", "expected", "max", "state", "expires_at")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox approvals`."""
    commands = parser.add_subparsers(dest="action", required=True)
    listed = commands.add_parser("list", help="what waits, and for whom")
    one = commands.add_parser("show", help="one quote")
    approve = commands.add_parser("approve", help="say yes, up to a maximum")
    refuse = commands.add_parser("refuse", help="say no")
    approve.add_argument("--max", help="USD; the quote's own maximum by default")
    approve.add_argument("--otp", help="a one-time code")
    approve.add_argument("--password", action="store_true", help="ask for the person's password")
    for each in (one, approve, refuse):
        each.add_argument("id")
    for each in (listed, one):
        add_api_arguments(each)
    for each in (approve, refuse):
        add_api_arguments(each, changes=True)


def run(args: argparse.Namespace) -> int:
    """Carry it out; the exit code."""
    return api_command(args, _act)


def _act(api: ApiClient, args: argparse.Namespace) -> None:
    if args.action == "list":
        show(args, api.pages("/api/approvals"), (*COLUMNS, "waits_for"))
        return
    if args.action == "show":
        show(args, [api.get(f"/api/quotes/{args.id}")], COLUMNS)
        return
    body: dict[str, object] = {}
    if args.action == "approve":
        body |= {"approved_max": usd(args.max)} if args.max else {}
        body |= {"otp": args.otp} if args.otp else {}
        body |= {"password": getpass.getpass("Password: ")} if args.password else {}
    answered = api.post(f"/api/quotes/{args.id}/{args.action}", body)
    show(args, [answered], ("quote_id", "status", "approved_max", "approved_by"))
