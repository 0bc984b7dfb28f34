"""Caps on what is open and held at once: whose they are."""

from __future__ import annotations

from gateway.core.budgets import holding_claims
from gateway.core.directory import Org
from gateway.core.holds import Measure

ORG = Org("org_7f00", most_open_holds=5, share_ppm=300_000)


def caps(person_id: str) -> set[tuple[Measure, str]]:
    return {(claim.measure, claim.scope) for claim in holding_claims(ORG, "ac_1", "ak_1", person_id)}


def test_a_request_counts_on_the_caps_of_whom_it_names_else_on_the_keys() -> None:
    alice = "org_7f00&user=alice"
    assert caps("alice") == {(Measure.OPEN, alice), (Measure.SHARE, f"{alice}&account=ac_1")}
    key = "org_7f00&key=ak_1"
    assert caps("") == {(Measure.OPEN, key), (Measure.SHARE, f"{key}&account=ac_1")}


def test_a_whole_share_is_no_cap() -> None:
    assert holding_claims(Org("org_7f00", most_open_holds=0), "ac_1", "ak_1", "alice") == ()
