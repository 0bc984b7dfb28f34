"""`farebox usage`: what was used and what it cost, by day, model, person and key."""

from __future__ import annotations

import argparse

from gateway.cli.api_client import ApiClient, add_api_arguments, api_command, show

_FIGURES = ("requests", "input_tokens", "output_tokens", "cost", "included", "prepaid", "postpaid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox usage`."""
    parser.add_argument("--group-by", default="day,model,user", help="some of day,model,user,key")
    parser.add_argument("--from", dest="first", help="a date; thirty days before the last by default")
    parser.add_argument("--to", dest="last", help="a date; today by default")
    parser.add_argument("--format", choices=("table", "csv", "focus"), default="table")
    add_api_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry it out; the exit code."""
    return api_command(args, _act)


def _act(api: ApiClient, args: argparse.Namespace) -> None:
    query = {"group_by": args.group_by, "from": args.first, "to": args.last}
    if args.format == "table":
        show(args, api.get("/api/usage", **query)["data"], (*args.group_by.split(","), *_FIGURES))
    else:
        print(api.text("/api/usage", **query, format=args.format), end="")
