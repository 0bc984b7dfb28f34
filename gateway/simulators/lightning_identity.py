"""Who a simulated node is: its key, its self-signed TLS certificate and its macaroons.

Kept in the data directory if there is one, for they must outlive the process: a restarted node with another
certificate or macaroon would lock its gateway out.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coincurve import PrivateKey
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymacaroons import MACAROON_V2, Macaroon

# As lnd's own: a little over a year.
_CERTIFICATE_DAYS = 425
_READS = frozenset(
    {"GetInfo", "WalletBalance", "ChannelBalance", "LookupInvoice", "ListInvoices", "SubscribeInvoices", "DecodePayReq"}
    | {"TrackPaymentV2"}
)
_INVOICE = frozenset(
    {
        "AddInvoice",
        "LookupInvoice",
        "ListInvoices",
        "SubscribeInvoices",
        "CancelInvoice",
        "AddHoldInvoice",
        "SettleInvoice",
    }
)
_ADMIN = _READS | _INVOICE | {"SendPaymentV2"}
PERMISSIONS: Mapping[str, frozenset[str]] = {"admin": _ADMIN, "invoice": _INVOICE, "readonly": _READS}


@dataclass(frozen=True, slots=True)
class Identity:
    """`macaroons`: by name (admin, invoice, readonly), as hex."""

    key: PrivateKey
    tls_cert_pem: bytes
    tls_key_pem: bytes
    macaroons: Mapping[str, str]

    @property
    def public_key(self) -> str:
        """The node's public key as hex."""
        return self.key.public_key.format().hex()


def identity_of(directory: Path | None) -> Identity:
    """The identity that lies in the directory, made there at the first time; a fresh one without a directory."""
    if directory is None:
        return _new_identity()
    names = ["node.key", "tls.cert", "tls.key", *(f"{name}.macaroon" for name in PERMISSIONS)]
    if not all((directory / name).is_file() for name in names):
        _write(directory, _new_identity())
    return Identity(
        key=PrivateKey((directory / "node.key").read_bytes()),
        tls_cert_pem=(directory / "tls.cert").read_bytes(),
        tls_key_pem=(directory / "tls.key").read_bytes(),
        macaroons={name: (directory / f"{name}.macaroon").read_bytes().hex() for name in PERMISSIONS},
    )


def _new_identity() -> Identity:
    cert, key = _certificate()
    macaroon_key = secrets.token_bytes(32)
    macaroons = {name: _macaroon(macaroon_key, name, allowed) for name, allowed in PERMISSIONS.items()}
    return Identity(PrivateKey(), cert, key, macaroons)


def _write(directory: Path, identity: Identity) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        "node.key": identity.key.secret,
        "tls.cert": identity.tls_cert_pem,
        "tls.key": identity.tls_key_pem,
        **{f"{name}.macaroon": bytes.fromhex(text) for name, text in identity.macaroons.items()},
    }
    for name, content in files.items():
        path = directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def _macaroon(key: bytes, name: str, allowed: frozenset[str]) -> str:
    """A real macaroon in lnd's binary format; what it allows stands in its identifier."""
    identifier = f"{name}:{secrets.token_hex(16)}:{','.join(sorted(allowed))}"
    macaroon = Macaroon(location="lnd", identifier=identifier, key=key, version=MACAROON_V2)
    return _binary(macaroon).hex()


def _binary(macaroon: Macaroon) -> bytes:
    text = macaroon.serialize()
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "simulated lnd"),
            x509.NameAttribute(NameOID.COMMON_NAME, "localhost"),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    hosts = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
