"""Caveats only ever restrict."""

from __future__ import annotations

import hmac
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.caveats import Ignored, Unreadable, ValidUntil, parse_caveat
from gateway.core.holds import Measure
from gateway.core.restrictions import (
    Allowed,
    Denied,
    RequestContext,
    Restrictions,
    judge,
    restrictions_of,
)

NOW_S = 1_790_000_000
PREIMAGE = bytes(32)
PAYMENT_HASH = sha256(PREIMAGE).digest()
OWN = [b"services=farebox:0", b"farebox_valid_until=%d" % (NOW_S + 1_000)]
HERE = RequestContext(
    now_s=NOW_S, service="farebox", method="POST", path="/v1/chat/completions", route="chat", names=("openai",)
)


def read(*added: bytes, own: list[bytes] = OWN, ignorable: frozenset[str] = frozenset()) -> Restrictions | Denied:
    signature, links = b"root", []
    for caveat in [*own, *added]:
        signature = hmac.digest(signature, caveat, "sha256")
        links.append((caveat, signature))
    return restrictions_of(links, payment_hash=PAYMENT_HASH, own=len(OWN), ignorable=ignorable)


def outcome(*added: bytes, context: RequestContext = HERE) -> Allowed | Denied:
    return judge(read(*added), context)


ALLOWED = [
    [],
    [b"services=farebox:0"],
    [b"farebox_capabilities=chat,embeddings"],
    [b"farebox_capabilities=openai"],
    [b"farebox_valid_until=%d" % (NOW_S + 1)],
    [b"valid_until=%d" % (NOW_S + 1)],
    [b"valid_until=%d" % (NOW_S * 1_000 + 1_000)],
    [b"preimage=" + PREIMAGE.hex().encode()],
    [b"method=POST"],
    [b"method=get,post"],
    [b"path_prefix=/v1"],
    [b"path_prefix=/v1/"],
    [b"path_prefix=/v1/chat/completions"],
    [b"path_prefix=/"],
    [b"path_prefix=/v1", b"path_prefix=/v1/chat"],
    [b"n_uses=5", b"n_uses=5", b"max_sats=10"],
]
FORBIDDEN = [
    [b"services=other:0"],
    [b"services=farebox:0,other:0"],
    [b"services="],
    [b"services=farebox:x"],
    [b"farebox_capabilities=embeddings"],
    [b"farebox_capabilities="],
    [b"farebox_capabilities=chat", b"farebox_capabilities=chat,embeddings"],
    [b"farebox_valid_until=%d" % (NOW_S + 2_000)],
    [b"farebox_valid_until=soon"],
    [b"farebox_valid_until=-1"],
    [b"valid_until=1e12"],
    [b"valid_until=%d" % (NOW_S + 10), b"valid_until=%d" % (NOW_S + 11)],
    [b"preimage=" + b"11" * 32],
    [b"preimage=zz"],
    [b"method=GET"],
    [b"method="],
    [b"method=GET", b"method=GET,POST"],
    [b"path_prefix=/v2"],
    [b"path_prefix=/v1/chat/comp"],
    [b"path_prefix=v1"],
    [b"path_prefix=/v1/../v1"],
    [b"path_prefix=//v1"],
    [b"path_prefix=/v1\\chat"],
    [b"path_prefix="],
    [b"path_prefix=/v1/chat", b"path_prefix=/v1"],
    [b"n_uses=0"],
    [b"n_uses=-1"],
    [b"n_uses=0x10"],
    [b"n_uses=5", b"n_uses=6"],
    [b"max_sats=4294967296"],
    [b"max_sats=5", b"max_sats=6"],
    [b"other_valid_until=%d" % (NOW_S + 10)],
    [b"other_capabilities=chat"],
    [b"model=gpt-5"],
    [b"no value"],
    [b""],
    [b"\xff\xfe=1"],
    [b"Method=POST"],
    [b" method=POST"],
]


@pytest.mark.parametrize("added", ALLOWED)
def test_a_caveat_that_is_met_lets_the_request_through(added: list[bytes]) -> None:
    assert isinstance(outcome(*added), Allowed)


@pytest.mark.parametrize("added", FORBIDDEN)
def test_a_caveat_that_is_not_met_or_not_known_denies_without_a_challenge(added: list[bytes]) -> None:
    judged = outcome(*added)
    assert isinstance(judged, Denied)
    assert not judged.expired


@pytest.mark.parametrize(
    "added",
    [
        [b"farebox_valid_until=%d" % NOW_S],
        [b"valid_until=%d" % (NOW_S - 1)],
        [b"valid_until=%d" % (NOW_S * 1_000)],
        [b"valid_until=0"],
    ],
)
def test_time_alone_is_an_expiry(added: list[bytes]) -> None:
    assert outcome(*added) == Denied("the token has expired", expired=True)


def test_the_earliest_expiry_counts() -> None:
    assert isinstance(outcome(context=replace(HERE, now_s=NOW_S + 999)), Allowed)
    assert outcome(context=replace(HERE, now_s=NOW_S + 1_000)) == Denied("the token has expired", expired=True)


def test_a_token_without_services_or_expiry_is_refused() -> None:
    assert isinstance(read(own=[]), Denied)
    assert isinstance(read(own=[OWN[1]]), Denied)
    assert isinstance(read(own=[OWN[0]]), Denied)


def test_another_service_is_forbidden_and_what_all_share_is_not() -> None:
    assert isinstance(outcome(context=replace(HERE, service="other")), Denied)
    assert isinstance(outcome(context=replace(HERE, service=None)), Allowed)


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/%2e%2e/admin", "/v10", "/V1/x", "v1", "/v1\\..\\x", ""])
def test_a_path_that_could_mean_another_is_not_under_a_prefix(path: str) -> None:
    assert isinstance(outcome(b"path_prefix=/v1", context=replace(HERE, path=path)), Denied)


def test_counters_are_named_by_the_signature_after_their_caveat() -> None:
    alone, followed = read(b"n_uses=5"), read(b"n_uses=5", b"n_uses=5", b"max_sats=7")
    assert isinstance(alone, Restrictions)
    assert isinstance(followed, Restrictions)
    assert alone.claims == followed.claims[:1]
    first, again, sats = followed.claims
    assert first.scope != again.scope
    assert (first.measure, first.limit, first.window) == (Measure.USES, 5, "total")
    assert (sats.measure, sats.limit) == (Measure.MONEY, 7_000)


def test_only_restrictions_of_a_client_attenuate() -> None:
    plain, sent, narrowed = read(), read(b"preimage=" + PREIMAGE.hex().encode()), read(b"method=POST")
    assert isinstance(plain, Restrictions)
    assert isinstance(sent, Restrictions)
    assert isinstance(narrowed, Restrictions)
    assert (plain.attenuated, sent.attenuated, narrowed.attenuated) == (False, False, True)
    assert sent.preimage == PREIMAGE


def test_the_policy_may_pass_over_a_key_and_nothing_else() -> None:
    assert isinstance(read(b"nonce=1", ignorable=frozenset({"nonce"})), Restrictions)
    assert isinstance(read(b"nonce=1", b"mode=1", ignorable=frozenset({"nonce"})), Denied)
    assert parse_caveat(b"nonce", services=(), ignorable=("nonce",)) == Ignored("nonce")


def test_a_value_may_hold_equals_signs() -> None:
    assert isinstance(
        parse_caveat(b"path_prefix=/a=b", services=()), type(parse_caveat(b"path_prefix=/a", services=()))
    )
    assert parse_caveat(b"x_valid_until=5", services=("x",)) == ValidUntil("x", 5)
    assert isinstance(parse_caveat(b"x_valid_until=5", services=("y",)), Unreadable)


CAVEATS = st.one_of(
    st.sampled_from([caveat for group in [*ALLOWED, *FORBIDDEN] for caveat in group]),
    st.builds(lambda n: b"valid_until=%d" % (NOW_S + n), st.integers(-3, 3)),
    st.builds(lambda n: b"n_uses=%d" % n, st.integers(0, 4)),
    st.builds(lambda n: b"max_sats=%d" % n, st.integers(0, 4)),
    st.sampled_from([b"method=GET", b"method=POST", b"path_prefix=/v1/chat", b"path_prefix=/v1", b"services=farebox"]),
    st.binary(max_size=12),
)
CONTEXTS = st.builds(
    RequestContext,
    now_s=st.integers(NOW_S - 3, NOW_S + 1_001),
    service=st.sampled_from(["farebox", "other", None]),
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from(["/v1/chat", "/v1", "/v2", "/v1/../v2"]),
    route=st.sampled_from(["chat", "embeddings"]),
)


@settings(max_examples=400)
@given(st.lists(CAVEATS, max_size=5), CAVEATS, CONTEXTS)
def test_adding_a_caveat_never_widens(before: list[bytes], added: bytes, context: RequestContext) -> None:
    narrow, wide = outcome(*before, added, context=context), outcome(*before, context=context)
    if isinstance(narrow, Allowed):
        assert isinstance(wide, Allowed)
        assert set(wide.counters) <= set(narrow.counters)
        reread, was = read(*before, added), read(*before)
        assert isinstance(reread, Restrictions)
        assert isinstance(was, Restrictions)
        assert reread.expires_at_s <= was.expires_at_s
        assert reread.attenuated >= was.attenuated
