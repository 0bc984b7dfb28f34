"""For agents: pays L402 challenges in ordinary HTTP calls, under caps, and keeps what it bought."""

from gateway.client.auth import Httpx2Auth, HttpxAuth, Payer
from gateway.client.credential import NotBought, credential
from gateway.client.purse import Caps, Payment, Refusal
from gateway.client.wallets import HttpWallet, LndWallet, Wallet

__all__ = [
    "Caps",
    "HttpWallet",
    "Httpx2Auth",
    "HttpxAuth",
    "LndWallet",
    "NotBought",
    "Payer",
    "Payment",
    "Refusal",
    "Wallet",
    "credential",
]
