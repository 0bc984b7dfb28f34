"""Buys a token once, to be used as the API key of any SDK.

key = credential("https://gateway", HttpWallet("http://127.0.0.1:9737"), sats=1_000)
client = OpenAI(base_url="https://gateway/v1", api_key=key)
"""

from __future__ import annotations

from pathlib import Path

import httpx2

from gateway.client.auth import DEPOSIT_HEADER, REFUSAL_HEADER, Payer, origin_of
from gateway.client.purse import Caps
from gateway.client.wallets import Wallet

# Costs nothing, and yet asks for a credential.
LISTING_PATH = "/v1/models"
_FEE_SHARE = 100  # one sat of routing fee in a hundred, as the purse allows


class NotBought(Exception):
    """No token was bought; the message says why."""


def credential(
    base_url: str,
    wallet: Wallet,
    sats: int,
    *,
    path: str = LISTING_PATH,
    purse_file: Path | str | None = None,
    allow_plain_http: bool = False,
) -> str:
    """`<macaroon>:<preimage>` of a token worth `sats`. With a purse file, a token that is still good is given again.

    Errors: NotBought, httpx2.HTTPError.
    """
    most_sats = sats + max(5, sats // _FEE_SHARE)
    payer = Payer(
        wallet,
        caps=Caps(most_sats, 2**40, 2**40),
        purse_file=purse_file,
        allow_plain_http=allow_plain_http,
    )
    url = httpx2.URL(base_url).copy_with(path=path)
    with httpx2.Client(auth=payer.httpx2_auth(), headers={DEPOSIT_HEADER: str(sats)}) as client:
        answer = client.get(url)
    token = payer.purse.token(origin_of(url))
    if token is None:
        reason = answer.headers.get(REFUSAL_HEADER) or f"{url} answered {answer.status_code} without a challenge"
        raise NotBought(reason)
    return token.credential
