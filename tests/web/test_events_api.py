"""Who may watch a request: its payer, from pages of our own origin."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from people_parts import Parts, running_people


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        yield running


@pytest.mark.parametrize(
    "origin", ["http://[", "http://[::1", "http://a]b", "//[x", "null", "https://elsewhere.example"]
)
async def test_a_foreign_origin_is_refused_also_where_it_cannot_be_read(parts: Parts, origin: str) -> None:
    work = await parts.place(user="alice")
    path = f"/api/requests/{work.request_id}/events"
    assert (await parts.refused("GET", path, origin=origin))[:2] == (403, "foreign_origin")


async def test_a_page_of_our_own_watches(parts: Parts) -> None:
    request_id = await parts.spend(100, user="alice")
    answer = await parts.ask("GET", f"/api/requests/{request_id}/events", origin="http://farebox")
    assert answer.status_code == 200 and '"state":"posted"' in answer.text
