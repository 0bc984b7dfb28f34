"""`farebox budgets`: limits, alerts, pauses. `farebox budgets set 50.00 --window month` is a monthly limit."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli.accounts import usd
from gateway.cli.api_client import ApiClient, add_api_arguments, api_command, show

COLUMNS = ("id", "scope", "window", "limit", "used", "held", "state", "on_exceed", "alerts_pct", "resets_at")
_SCOPE = ("key", "person", "session", "model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox budgets`."""
    commands = parser.add_subparsers(dest="action", required=True)
    listed = commands.add_parser("list", help="budgets with what is used and held")
    put = commands.add_parser("set", help="make a budget, or replace the one on the same scope and window")
    put.add_argument("limit", help="USD, e.g. 50.00")
    put.add_argument("--window", default="month", choices=("day", "week", "month", "total"))
    put.add_argument("--period", default="calendar", choices=("calendar", "anniversary"))
    put.add_argument(
        "--alert", type=int, action="append", default=[], help="tell at this share of it; may be given again"
    )
    put.add_argument("--forecast", action="store_true", help="tell when the forecast passes the limit")
    put.add_argument("--on-exceed", default="refuse", choices=("refuse", "pause", "ask"))
    put.add_argument("--until", help="an instant: a raise that ends by itself")
    for name in _SCOPE:
        put.add_argument(f"--{name}", help="'*': every person by themselves" if name == "person" else None)
    resume = commands.add_parser("resume", help="let a paused budget go on")
    resume.add_argument("id")
    delete = commands.add_parser("delete", help="take a budget out")
    delete.add_argument("id")
    for each in (listed, delete):
        add_api_arguments(each)
    for each in (put, resume):
        add_api_arguments(each, changes=True)


def run(args: argparse.Namespace) -> int:
    """Carry it out; the exit code."""
    return api_command(args, _act)


def _act(api: ApiClient, args: argparse.Namespace) -> None:
    if args.action == "list":
        show(args, api.pages("/api/budgets"), COLUMNS)
    elif args.action == "set":
        show(args, [api.put("/api/budgets", _wanted(args))], COLUMNS)
    elif args.action == "resume":
        show(args, [api.post(f"/api/budgets/{args.id}/resume")], COLUMNS)
    else:
        show(args, [api.delete(f"/api/budgets/{args.id}")], ("id", "deleted"))


def _wanted(args: argparse.Namespace) -> dict[str, Any]:
    scope = {"user" if name == "person" else name: getattr(args, name) for name in _SCOPE if getattr(args, name)}
    wanted: dict[str, Any] = {
        "limit": usd(args.limit),
        "window": args.window,
        "period": args.period,
        "on_exceed": args.on_exceed,
        "alerts_pct": args.alert,
        "forecast_alert": args.forecast,
    }
    if scope:
        wanted["scope"] = scope
    if args.until:
        wanted["until"] = args.until
    return wanted
