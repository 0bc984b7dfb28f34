"""Who shows what: the credential of a request, read once from its raw headers and query.

All forms of the HTTP contract end in one value, so that nobody further in reads a header again, and the digest that the
verifier remembers is of what was decoded: every spelling of one credential is one credential. A key that has no form
of ours counts as none (SDKs insist on sending something). Whatever can carry a credential is named here too, so that
what is parsed and what is withheld from upstreams cannot drift apart.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import unquote_to_bytes

from gateway.core.errors import AmbiguousCredential

# A token of ours is 250 bytes; with thirty caveats of a client it stays below 4 KiB, in base64 below 6.
GREATEST_CREDENTIAL_BYTES = 8_192
GREATEST_MACAROONS = 4
PREIMAGE_BYTES = 32
# Lines of 400 bytes that were read before: what is forgotten costs 10 us.
REMEMBERED_LINES = 8_192
# Every macaroon we mint is of version 2, whose first byte is 2.
MACAROON_V2 = 2

_KEY_HEADERS = frozenset((b"x-api-key", b"x-goog-api-key", b"api-key"))
_MACAROON_HEADERS = frozenset((b"macaroon", b"grpc-metadata-macaroon"))
CREDENTIAL_HEADERS = _KEY_HEADERS | _MACAROON_HEADERS | {b"authorization", b"proxy-authorization"}

_SCHEME = re.compile(rb"(?:^|(?<=[\s,]))(?:L402|LSAT)[ \t]+", re.IGNORECASE)
_PARAMETER = re.compile(rb"""([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))""")
_AS_PARAMETERS = re.compile(
    rb"(?:version|macaroon|token|invoice|preimage)\s*=\s*(?:\"|[^\s=,])", re.IGNORECASE
)  # fmt: skip
# `{"` in base64: how every JWT begins, and nothing else that we know. What begins so and is none is a bad token, not no
# token: a person who spoils theirs must not be taken for nobody.
_JWT_BEGINS = b"eyJ"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class NoCredential:
    """Nothing that we know."""


@dataclass(frozen=True, slots=True)
class AppKey:
    """A key `fb_...`; whether it exists is not known yet. `identity`: the token of an identity provider beside it."""

    key: str
    identity: str = ""


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """A token (JWT) of an identity provider; whether it is good is not known yet."""

    token: str


@dataclass(frozen=True, slots=True)
class L402Credential:
    """Macaroons and preimage as shown; nothing is verified yet. `preimage` None where only a caveat may carry it.
    `digest` is of the decoded bytes, and the same for every spelling."""

    macaroons: tuple[bytes, ...]
    preimage: bytes | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """An L402 credential that cannot be read. Answered with a fresh challenge."""

    reason: str


Credential = NoCredential | AppKey | IdentityToken | L402Credential | Malformed
NO_CREDENTIAL = NoCredential()
# What a good proof proves: the same value for every spelling of one token; None for what is not a good proof of ours.
# Only asked where several are shown.
Proved = Callable[[L402Credential], Hashable | None]


def as_shown(credential: L402Credential) -> Hashable | None:
    """Where nobody can verify: every credential stands for itself."""
    return credential.digest


def parse_credential(
    headers: Iterable[tuple[bytes, bytes]], query: bytes = b"", proved: Proved = as_shown
) -> Credential:
    """The one credential of a request; header names in lower case, as ASGI has them. What another service sold, or
    somebody forged, stands beside a good proof as if it were not there.

    Errors: AmbiguousCredential when two different ones that we know are shown.
    """
    found: list[Credential] = []
    for name, value in headers:
        if name in CREDENTIAL_HEADERS:
            if name == b"authorization":
                found += _of_authorization(value)
            elif name in _MACAROON_HEADERS:
                found.append(_of_hex(value))
            elif name != b"proxy-authorization":
                found.append(_of_key(value))
    if b"=" in query:
        found += [_of_key(value) for name, value in _query_pairs(query) if name == b"key"]
    return _one_of(found, proved)


class CredentialReader:
    """`parse_credential`, which remembers what it read: a client shows the same line again and again. What is
    remembered is only how the line reads; whether it is good is looked at on every request."""

    def __init__(self, proved: Proved = as_shown) -> None:
        self._proved = proved
        self._known: dict[bytes, L402Credential | AppKey] = {}

    def __call__(self, headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> Credential:
        """The one credential of a request. Errors: AmbiguousCredential."""
        line: bytes | None = None
        for name, value in headers:
            if name in CREDENTIAL_HEADERS:
                if line is not None or name != b"authorization":
                    return parse_credential(headers, query, self._proved)
                line = value
        if line is None or b"=" in query:
            return parse_credential(headers, query, self._proved)
        known = self._known.get(line)
        if known is not None:
            return known
        credential = parse_credential(headers, b"", self._proved)
        if isinstance(credential, L402Credential | AppKey):
            if len(self._known) >= REMEMBERED_LINES:
                self._known.clear()
            self._known[line] = credential
        return credential


def strip_query(query: bytes) -> bytes:
    """The query without `key`, however its name is spelled; the rest byte for byte."""
    if b"key" not in query and b"%" not in query:
        return query
    return b"&".join(part for part in query.split(b"&") if unquote_to_bytes(part.partition(b"=")[0]) != b"key")


def _one_of(found: list[Credential], proved: Proved) -> Credential:
    """The single known credential, else what was malformed, else none."""
    if len(found) == 1:
        return found[0]
    malformed = next((each for each in found if isinstance(each, Malformed)), NO_CREDENTIAL)
    identities = {each for each in found if isinstance(each, IdentityToken)}
    keys = {each for each in found if isinstance(each, AppKey)}
    shown = _good_ones({each.digest: each for each in found if isinstance(each, L402Credential)}, proved)
    known: list[Credential] = [*keys, *shown]
    if len(identities) == len(keys) == 1:
        # A key says which app it is, an identity provider's token for whom: they go together.
        known = [AppKey(keys.pop().key, identities.pop().token), *shown]
    elif not shown:
        known += identities
    if len(known) > 1:
        raise AmbiguousCredential("The request shows two different credentials; send one.")
    return known[0] if known else malformed


def _good_ones(shown: Mapping[bytes, L402Credential], proved: Proved) -> list[L402Credential]:
    """Of several, the good proofs, one for each thing that they prove; the first where none is good."""
    if len(shown) < 2:
        return list(shown.values())
    good: dict[Hashable, L402Credential] = {}
    for each in shown.values():
        what = proved(each)
        if what is not None:
            good.setdefault(what, each)
    return list(good.values()) or [next(iter(shown.values()))]


def _of_authorization(value: bytes) -> list[Credential]:
    """Everything in one Authorization line: a bearer key, or one or more L402 credentials."""
    value = value.strip()
    scheme, _, rest = value.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        rest = rest.strip()
        return [_of_key(rest)] if not _SCHEME.match(rest) else _of_l402(rest)
    if scheme not in (b"l402", b"lsat"):
        return []
    # The common line holds one credential in one word; looking for more in it costs three times as much.
    if rest and b" " not in rest and b"," not in rest and len(rest) <= GREATEST_CREDENTIAL_BYTES:
        return [_of_part(rest)]
    return _of_l402(value)


def _of_l402(value: bytes) -> list[Credential]:
    """The credentials of a line that begins with a scheme; a doubled scheme leaves an empty part, which is skipped."""
    if len(value) > GREATEST_CREDENTIAL_BYTES:
        return [Malformed("the credential is too long")]
    parts = [stripped for part in _SCHEME.split(value) if (stripped := part.strip(b" \t,"))]
    return [_of_part(part) for part in parts] or [Malformed("the credential is empty")]


def _of_part(part: bytes) -> Credential:
    """`<macaroon>[,<macaroon>]:<preimage>`, or the auth-params form of early descriptions."""
    if _AS_PARAMETERS.match(part):
        parameters = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(part)}
        macaroon = parameters.get(b"macaroon") or parameters.get(b"token") or b""
        return _credential(macaroon, parameters.get(b"preimage", b""))
    macaroons, _, preimage = part.partition(b":")
    return _credential(macaroons.rstrip(), preimage.lstrip())


def _credential(macaroons: bytes, preimage_hex: bytes) -> Credential:
    """Decode both halves."""
    preimage: bytes | None = None
    if preimage_hex:
        preimage = _preimage(preimage_hex)
        if preimage is None:
            return Malformed("the preimage is not 64 hexadecimal digits")
    texts = macaroons.split(b",") if b"," in macaroons else (macaroons,)
    if len(texts) > GREATEST_MACAROONS:
        return Malformed("too many macaroons")
    decoded: list[bytes] = []
    for text in texts:
        macaroon = _base64(text.strip())
        if not macaroon:
            return Malformed("the macaroon is not base64")
        decoded.append(macaroon)
    return _shown(tuple(decoded), preimage)


def _of_hex(value: bytes) -> Credential:
    """A `Macaroon` header: hexadecimal, its preimage in a caveat."""
    value = value.strip()
    if len(value) > 2 * GREATEST_CREDENTIAL_BYTES:
        return Malformed("the macaroon is too long")
    try:
        macaroon = bytes.fromhex(value.decode("ascii"))
    except ValueError:
        return Malformed("the macaroon is not hexadecimal")
    return _shown((macaroon,), None) if macaroon else NO_CREDENTIAL


def _of_key(value: bytes) -> Credential:
    """A key as SDKs send it: ours, a credential in disguise, or none."""
    value = value.strip()
    if value.startswith(b"fb_"):
        return AppKey(value.decode("latin-1"))
    if value.startswith(_JWT_BEGINS):
        return IdentityToken(value.decode("latin-1"))
    if b" " in value and _SCHEME.match(value):
        found = _of_l402(value)
        return found[0] if len(found) == 1 else Malformed("a key holds one credential")
    macaroons, _, preimage_hex = value.rpartition(b":")
    if not macaroons or len(value) > GREATEST_CREDENTIAL_BYTES:
        return NO_CREDENTIAL
    credential = _credential(macaroons, preimage_hex) if preimage_hex else NO_CREDENTIAL
    if isinstance(credential, L402Credential) and credential.macaroons[0][0] == MACAROON_V2:
        return credential
    return NO_CREDENTIAL


def _shown(macaroons: tuple[bytes, ...], preimage: bytes | None) -> L402Credential:
    """A credential with its digest; lengths go in, so that two lists of macaroons never read the same."""
    parts = [b"%d:%b" % (len(macaroon), macaroon) for macaroon in macaroons]
    return L402Credential(macaroons, preimage, sha256(b"".join((preimage or b"", *parts))).digest())


def _preimage(text: bytes) -> bytes | None:
    if len(text) != 2 * PREIMAGE_BYTES:
        return None
    try:
        preimage = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None
    return preimage if len(preimage) == PREIMAGE_BYTES else None


def _base64(text: bytes) -> bytes | None:
    """Standard or URL-safe, padded or not."""
    text = text.rstrip(b"=").translate(_URL_SAFE)
    try:
        return a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except (Base64Error, ValueError):
        return None


def _query_pairs(query: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values of a query, percent-decoded. A plus stays a plus: it is a letter of base64."""
    pairs: list[tuple[bytes, bytes]] = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"key" or b"%" in name:
            pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs
