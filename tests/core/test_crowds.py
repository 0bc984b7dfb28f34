"""Where a challenge counts."""

from __future__ import annotations

import pytest

from gateway.core.crowds import place_of, place_of_top_up


@pytest.mark.parametrize(
    ("address", "full", "prefix"),
    [
        ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
        ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:3::4", "2001:db8:1::"),
        ("fe80::1%eth0", "fe80::1", "fe80::"),
        ("", "unknown", "unknown"),
        ("/run/socket", "unknown", "unknown"),
    ],
)
def test_an_address_counts_for_itself_and_its_network(address: str, full: str, prefix: str) -> None:
    place = place_of(address, nonce=b"n", life_ms=1)
    assert (place.address, place.prefix) == (full, prefix)


def test_a_top_up_counts_for_its_token_alone() -> None:
    place = place_of_top_up(b"\x01", nonce=b"n", life_ms=1)
    assert (place.address, place.prefix) == ("token-01", None)
