"""`farebox accounts`: what operators do with accounts, and what an app sees of its own."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from gateway.cli.api_client import ApiClient, ApiError, add_api_arguments, api_command, show

COLUMNS = ("id", "user", "name", "state", "plan", "time_zone", "available", "held", "debt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox accounts`."""
    commands = parser.add_subparsers(dest="action", required=True)
    listed = commands.add_parser("list", help="every account (operator key)")
    create = commands.add_parser("create", help="make an account (operator key)")
    create.add_argument("name")
    create.add_argument("--time-zone", default="UTC", help="where its days and months begin, e.g. Europe/Berlin")
    create.add_argument("--plan", default="")
    one = commands.add_parser("show", help="pockets and balances of the account or person whose key it is")
    credit = commands.add_parser("credit", help="add money (operator key)")
    credit.add_argument("id")
    credit.add_argument("amount", help="USD, e.g. 25.00")
    credit.add_argument("--cause", default="payment", choices=("payment", "promotion", "goodwill"))
    credit.add_argument("--source", default="operator", help="where a payment came from")
    debit = commands.add_parser("debit", help="take money back (operator key)")
    debit.add_argument("id")
    debit.add_argument("amount")
    debit.add_argument("--cause", default="correction")
    limit = commands.add_parser("credit-limit", help="how much may be owed (operator key)")
    limit.add_argument("id")
    limit.add_argument("amount", help="no plan touches it then; `plan`: what the plan says, again")
    plan = commands.add_parser("plan", help="give it, or with --user a person of it, a plan (operator key)")
    plan.add_argument("id")
    plan.add_argument("name", nargs="?", help="left out: take the plan off")
    audit = commands.add_parser("audit", help="who changed what (operator key)")
    audit.add_argument("id", nargs="?", help="left out: which policies came into force")
    for action, text in (
        ("suspend", "refuse its requests, or with --user those of a person of it (operator key)"),
        ("resume", "let it, or with --user a person of it, go on (operator key)"),
        ("reset-credentials", "take away what the person of --user has lost, so that they set it anew (operator key)"),
    ):
        add_api_arguments(_with_id(commands.add_parser(action, help=text)), changes=action != "reset-credentials")
    for each in (listed, one, audit):
        add_api_arguments(each)
    for each in (create, credit, debit, limit, plan):
        add_api_arguments(each, changes=True)


def _with_id(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("id")
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry it out; the exit code."""
    return api_command(args, _act)


def usd(amount: str) -> dict[str, str]:
    """Money as the API takes it."""
    return {"amount": amount, "currency": "USD"}


def _act(api: ApiClient, args: argparse.Namespace) -> None:
    base = "/admin/api/accounts"
    match args.action:
        case "list":
            show(args, api.pages(base), COLUMNS)
        case "create":
            wanted = {"name": args.name, "time_zone": args.time_zone}
            show(args, [api.post(base, wanted | ({"plan": args.plan} if args.plan else {}))], COLUMNS)
        case "show":
            shown = api.get("/api/account")
            allowance = ("pockets.allowance.left", "pockets.postpaid.limit")
            show(args, [shown], ("account", "plan", "available", "held", "debt", *allowance, "overage"))
        case "credit":
            body = {"amount": usd(args.amount), "cause": args.cause, "source": args.source, "id": api.command_id}
            columns = ("id", "account", "outcome", "amount", "debt_paid", "available")
            show(args, [api.post(f"{base}/{args.id}/credits", body)], columns)
        case "debit":
            body = {"amount": usd(args.amount), "cause": args.cause, "id": api.command_id}
            debited = api.post(f"{base}/{args.id}/debits", body)
            show(args, [debited], ("id", "account", "taken", "owed", "available"))
        case "credit-limit":
            limit = api.put(
                f"{base}/{args.id}/credit-limit", {"limit": None if args.amount == "plan" else usd(args.amount)}
            )
            show(args, [limit], ("account", "limit", "available"))
        case "audit":
            rows = api.pages("/admin/api/audit", account=args.id or args.account or None)
            show(args, rows, ("number", "at", "actor", "authenticated", "action", "subject"))
        case "reset-credentials":
            if not args.user:
                raise ApiError("credentials are a person's: name them with --user")
            reset = api.delete(f"{_subject(args)}/credentials")
            show(args, [reset], ("id", "deleted"))
        case "plan":
            show(args, [api.patch(_subject(args), {"plan": args.name})], COLUMNS)
        case _:
            show(args, [api.patch(_subject(args), {"suspended": args.action == "suspend"})], COLUMNS)


def _subject(args: argparse.Namespace) -> str:
    """The path of an account, or of a person of it."""
    return f"/admin/api/accounts/{args.id}" + (f"/persons/{quote(args.user, safe='')}" if args.user else "")
