"""Every form in which a credential may be shown, and what each becomes."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.credentials import (
    CREDENTIAL_HEADERS,
    AppKey,
    L402Credential,
    Malformed,
    NoCredential,
    parse_credential,
    strip_query,
)
from gateway.core.errors import AmbiguousCredential
from gateway.core.headers import headers_up

# Bytes that give both plus and slash in base64, and a padding.
MACAROON = b"\x02\x02\x42" + bytes(range(200)) + b"\xfb\xef\xbe\xff\xff"
OTHER = b"\x02" + b"other" * 20
PREIMAGE = bytes(range(32))
STD = b64encode(MACAROON)
URL = urlsafe_b64encode(MACAROON)
HEX = PREIMAGE.hex().encode()
AUTH = b"authorization"

FORMS: dict[str, list[tuple[bytes, bytes]]] = {
    "plain": [(AUTH, b"L402 " + STD + b":" + HEX)],
    "lsat": [(AUTH, b"LSAT " + STD + b":" + HEX)],
    "lower case": [(AUTH, b"l402 " + STD + b":" + HEX)],
    "mixed case": [(AUTH, b"LsAt " + STD + b":" + HEX)],
    "doubled scheme": [(AUTH, b"L402 L402 " + STD + b":" + HEX)],
    "two schemes": [(AUTH, b"LSAT L402 " + STD + b":" + HEX)],
    "upper case preimage": [(AUTH, b"L402 " + STD + b":" + HEX.upper())],
    "unpadded": [(AUTH, b"L402 " + STD.rstrip(b"=") + b":" + HEX)],
    "url-safe": [(AUTH, b"L402 " + URL + b":" + HEX)],
    "url-safe unpadded": [(AUTH, b"L402 " + URL.rstrip(b"=") + b":" + HEX)],
    "spaces": [(AUTH, b"  L402   " + STD + b" : " + HEX + b"  ")],
    "two lines": [(AUTH, b"LSAT " + STD + b":" + HEX), (AUTH, b"L402 " + URL + b":" + HEX)],
    "both in one line": [(AUTH, b"LSAT " + STD + b":" + HEX + b", L402 " + STD + b":" + HEX)],
    "auth-params with a comma": [(AUTH, b'L402 macaroon="' + STD + b'", preimage="' + HEX + b'"')],
    "auth-params without": [(AUTH, b'L402 macaroon="' + STD + b'" preimage="' + HEX + b'"')],
    "auth-params, token": [(AUTH, b'LSAT token="' + URL + b'", preimage=' + HEX)],
    "auth-params turned round": [(AUTH, b'L402 preimage="' + HEX + b'", macaroon="' + STD + b'"')],
    "bearer": [(AUTH, b"Bearer " + STD + b":" + HEX)],
    "bearer lower case": [(AUTH, b"bearer " + URL.rstrip(b"=") + b":" + HEX)],
    "bearer with scheme": [(AUTH, b"Bearer L402 " + STD + b":" + HEX)],
    "x-api-key": [(b"x-api-key", STD + b":" + HEX)],
    "x-goog-api-key": [(b"x-goog-api-key", URL + b":" + HEX)],
    "key and dummy": [(AUTH, b"Bearer dummy"), (b"x-api-key", STD + b":" + HEX)],
    "shown twice": [(AUTH, b"Bearer " + STD + b":" + HEX), (b"x-api-key", STD + b":" + HEX)],
    "beside something malformed": [(AUTH, b"L402 !!!"), (b"x-api-key", STD + b":" + HEX)],
}


@pytest.mark.parametrize("headers", FORMS.values(), ids=FORMS.keys())
def test_every_spelling_is_the_same_credential(headers: list[tuple[bytes, bytes]]) -> None:
    parsed = parse_credential([(b"host", b"x"), *headers])
    assert isinstance(parsed, L402Credential)
    assert parsed.macaroons == (MACAROON,)
    assert parsed.preimage == PREIMAGE
    assert parsed == parse_credential(FORMS["plain"])


@pytest.mark.parametrize("name", [b"macaroon", b"grpc-metadata-macaroon"])
def test_a_hexadecimal_macaroon_carries_its_preimage_in_a_caveat(name: bytes) -> None:
    parsed = parse_credential([(name, MACAROON.hex().upper().encode())])
    assert isinstance(parsed, L402Credential)
    assert (parsed.macaroons, parsed.preimage) == ((MACAROON,), None)


def test_a_query_key_is_read_with_a_plus_as_a_plus() -> None:
    for value in (STD, URL, STD.replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D")):
        query = b"alt=sse&key=" + value + b":" + HEX
        assert parse_credential([], query) == parse_credential(FORMS["plain"])
    assert parse_credential([], b"%6bey=" + STD + b"%3A" + HEX) == parse_credential(FORMS["plain"])


def test_several_macaroons_share_one_preimage() -> None:
    parsed = parse_credential([(AUTH, b"L402 " + STD + b"," + b64encode(OTHER) + b":" + HEX)])
    assert isinstance(parsed, L402Credential)
    assert parsed.macaroons == (MACAROON, OTHER)


def test_another_list_of_macaroons_has_another_digest() -> None:
    one = parse_credential([(AUTH, b"L402 " + b64encode(MACAROON + OTHER) + b":" + HEX)])
    two = parse_credential([(AUTH, b"L402 " + STD + b"," + b64encode(OTHER) + b":" + HEX)])
    assert isinstance(one, L402Credential)
    assert isinstance(two, L402Credential)
    assert one.digest != two.digest


@pytest.mark.parametrize(
    "headers",
    [
        [(AUTH, b"Bearer fb_live_7f00abc")],
        [(b"x-api-key", b"fb_live_7f00abc")],
        [(b"x-goog-api-key", b"fb_live_7f00abc")],
        [(AUTH, b"Bearer fb_live_7f00abc"), (b"x-api-key", b"dummy")],
        [(AUTH, b"Bearer fb_live_7f00abc"), (b"x-api-key", b"fb_live_7f00abc")],
    ],
)
def test_app_keys_are_told_from_everything_else(headers: list[tuple[bytes, bytes]]) -> None:
    assert parse_credential(headers) == AppKey("fb_live_7f00abc")
    assert parse_credential([], b"key=fb_live_7f00abc") == AppKey("fb_live_7f00abc")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(AUTH, b"Bearer sk-anything")],
        [(AUTH, b"Bearer not:base64!:" + HEX)],
        [(AUTH, b"Bearer " + b64encode(b"\x01no macaroon") + b":" + HEX)],
        [(AUTH, b"Bearer " + STD + b":abc")],
        [(AUTH, b"Basic dXNlcjpwYXNz")],
        [(AUTH, b"")],
        [(AUTH, b"Bearer")],
        [(b"x-api-key", b"")],
        [(b"macaroon", b"")],
        [(b"proxy-authorization", b"L402 " + STD + b":" + HEX)],
        [(b"x-api-key", b"unused"), (b"x-goog-api-key", b"unused too")],
    ],
)
def test_any_other_key_counts_as_none(headers: list[tuple[bytes, bytes]]) -> None:
    assert isinstance(parse_credential(headers), NoCredential)


@pytest.mark.parametrize(
    "value",
    [
        b"L402 ",
        b"L402",
        b"L402 ,",
        b"L402 !!!:" + HEX,
        b"L402 " + STD + b":",
        b"L402 :" + HEX,
        b"L402 " + STD + b":" + HEX[:-2],
        b"L402 " + STD + b":" + b"z" * 64,
        b"L402 " + STD + b":" + b" " * 64,
        b"L402 " + STD + b"," * 9 + STD + b":" + HEX,
        b"L402 " + b"A" * 10_000 + b":" + HEX,
        b'L402 macaroon="" preimage="' + HEX + b'"',
        b'L402 macaroon="' + STD + b'" preimage="short"',
    ],
)
def test_what_cannot_be_read_is_malformed_or_without_preimage(value: bytes) -> None:
    parsed = parse_credential([(AUTH, value)])
    assert isinstance(parsed, Malformed) or (isinstance(parsed, L402Credential) and parsed.preimage is None)


@pytest.mark.parametrize("value", [b"zz", b"abc", b"ab" * 10_000, "\u00e9".encode()])
def test_a_hexadecimal_header_that_is_none_is_malformed(value: bytes) -> None:
    assert isinstance(parse_credential([(b"macaroon", value)]), Malformed)


def test_a_key_may_name_its_scheme_but_holds_one_credential() -> None:
    assert parse_credential([(b"x-api-key", b"L402 " + STD + b":" + HEX)]) == parse_credential(FORMS["plain"])
    two = b"L402 " + STD + b":" + HEX + b", L402 " + STD + b":" + HEX
    assert isinstance(parse_credential([(b"x-api-key", two)]), Malformed)


@pytest.mark.parametrize(
    "headers",
    [
        [(AUTH, b"L402 " + STD + b":" + HEX), (b"x-api-key", b"fb_live_7f00abc")],
        [(AUTH, b"L402 " + STD + b":" + HEX), (AUTH, b"L402 " + b64encode(OTHER) + b":" + HEX)],
        [(AUTH, b"L402 " + STD + b":" + HEX + b", L402 " + STD + b":" + HEX[::-1])],
        [(b"x-api-key", b"fb_live_7f00abc"), (b"x-goog-api-key", b"fb_live_7f00abd")],
    ],
)
def test_two_different_credentials_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(AmbiguousCredential):
        parse_credential(headers)


@given(st.lists(st.tuples(st.sampled_from([AUTH, b"x-api-key", b"macaroon", b"host"]), st.binary(max_size=80))))
def test_no_header_makes_the_parser_stumble(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        parse_credential(headers, b"key=%ff&key")
    except AmbiguousCredential:
        assert len(headers) > 1


def test_whatever_may_carry_a_credential_is_withheld() -> None:
    carriers = {name for form in FORMS.values() for name, _ in form} | {b"macaroon", b"grpc-metadata-macaroon"}
    assert carriers <= CREDENTIAL_HEADERS
    kept = [(b"content-type", b"application/json"), (b"anthropic-version", b"x")]
    assert headers_up([*((name, b"x") for name in carriers), *kept]) == kept


def test_query_keys_are_withheld_and_the_rest_stays_byte_for_byte() -> None:
    assert strip_query(b"alt=sse&key=abc&x=%20+") == b"alt=sse&x=%20+"
    assert strip_query(b"%6Bey=abc") == b""
    assert strip_query(b"monkey=1&keys=2") == b"monkey=1&keys=2"
    assert strip_query(b"") == b""
