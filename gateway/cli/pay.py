"""`farebox pay URL`: curl with a wallet. The answer goes to standard output as it comes, everything else to standard
error.

Exit codes: 0 answered, 1 answered with an error status, 2 refused or could not be asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2

from gateway.client import Caps, HttpWallet, LndWallet, Payer, Payment, Refusal, Wallet
from gateway.client.purse import MSAT_PER_SAT

DEFAULT_MAX_SATS = 1_000
# Longer than any model thinks before its first word.
TIMEOUT_S = 600.0
_CLIENT_ERROR = 400
# One run pays at most once, so the cap of the call is the only one that is needed.
_NO_CAP_SATS = 2**40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox pay`."""
    parser.add_argument("url")
    parser.add_argument("-X", "--request", metavar="METHOD", help="GET, or POST where there is data")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="'Name: value'")
    parser.add_argument("-d", "--data", metavar="DATA", help="the body; @FILE reads a file, @- standard input")
    parser.add_argument("--max-sats", type=int, default=DEFAULT_MAX_SATS, help="pay at most so much (%(default)s)")
    parser.add_argument("--deposit", type=int, metavar="SATS", help="ask for a challenge of so much")
    parser.add_argument("--wallet", metavar="URL", help="a wallet that answers POST /pay")
    parser.add_argument("--lnd", metavar="HOST:PORT", help="an lnd node")
    parser.add_argument("--lnd-tls-cert", default="", metavar="FILE")
    parser.add_argument("--lnd-macaroon", default="", metavar="FILE")
    parser.add_argument("--purse", type=Path, metavar="FILE", help="keep tokens here, and use what is left on them")
    parser.add_argument("--allow-plain-http", action="store_true", help="also to other machines")
    parser.add_argument("--yes", action="store_true", help="do not ask before paying")
    parser.add_argument("--quiet", action="store_true", help="say nothing on standard error")


def run(args: argparse.Namespace) -> int:
    """Ask, pay if asked to, stream the answer."""
    say = _say_nothing if args.quiet else _say
    try:
        wallet = _wallet(args)
        headers, body = _headers(args.header), _body(args.data)
        payer = Payer(
            wallet,
            caps=Caps(args.max_sats, _NO_CAP_SATS, _NO_CAP_SATS),
            deposit_sats=args.deposit,
            purse_file=args.purse,
            allow_plain_http=args.allow_plain_http,
            observe=lambda notice: say(_told(notice)),
            confirm=None if args.yes or not sys.stdin.isatty() else _confirmed,
        )
    except (OSError, ValueError) as error:
        _say(f"farebox pay: {error}")
        return 2
    try:
        return _ask(args, payer, headers, body, say)
    except httpx2.HTTPError as error:
        _say(f"farebox pay: {args.url}: {error or type(error).__name__}")
        return 2
    finally:
        if isinstance(wallet, LndWallet):
            wallet.close()


def _ask(
    args: argparse.Namespace,
    payer: Payer,
    headers: list[tuple[str, str]],
    body: bytes | None,
    say: Callable[[str], None],
) -> int:
    method = args.request or ("GET" if body is None else "POST")
    refused = False
    with (
        httpx2.Client(auth=payer.httpx2_auth(), timeout=TIMEOUT_S) as client,
        client.stream(method, args.url, headers=headers, content=body) as answer,
    ):
        refused = "farebox-client-refusal" in answer.headers
        for piece in answer.iter_bytes():
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    for name in ("farebox-cost", "farebox-balance"):
        if name in answer.headers:
            say(f"{name.removeprefix('farebox-')}: {answer.headers[name]}")
    if refused:
        return 2
    if answer.status_code >= _CLIENT_ERROR:
        say(f"farebox pay: {answer.status_code} {answer.reason_phrase}")
        return 1
    return 0


def _wallet(args: argparse.Namespace) -> Wallet:
    if args.lnd and args.wallet:
        message = "--wallet or --lnd, not both"
        raise ValueError(message)
    if args.lnd:
        return LndWallet(args.lnd, tls_cert=args.lnd_tls_cert, macaroon=args.lnd_macaroon)
    if args.wallet:
        return HttpWallet(args.wallet)
    message = "name a wallet: --wallet URL, or --lnd HOST:PORT with --lnd-tls-cert and --lnd-macaroon"
    raise ValueError(message)


def _headers(lines: list[str]) -> list[tuple[str, str]]:
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            message = f"-H {line!r}: a header is written 'Name: value'"
            raise ValueError(message)
        headers.append((name.strip(), value.strip()))
    return headers


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "@-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        return Path(data[1:]).read_bytes()
    return data.encode()


def _told(notice: Payment | Refusal) -> str:
    if isinstance(notice, Refusal):
        return f"farebox pay: not paid: {notice.detail}"
    return f"price: {_sats(notice.amount_msat)} sats to {notice.origin}, payment {notice.payment_hash}"


def _confirmed(payment: Payment) -> bool:
    _say(f"price: {_sats(payment.amount_msat)} sats to {payment.origin}")
    sys.stderr.write("pay? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _sats(amount_msat: int) -> str:
    sats, rest = divmod(amount_msat, MSAT_PER_SAT)
    return f"{sats}.{rest:03d}" if rest else str(sats)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _say_nothing(_line: str) -> None:
    return
