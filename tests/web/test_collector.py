"""What a request leaves behind goes with its last reference: nothing of it waits for the garbage collector, whose pauses
(80 ms after some thousands of requests) every other request would feel, and which keeps bodies meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from relay_server import served
from site_parts import Site, running_site

CHAT = "/v1/chat/completions"
ROUNDS = 5


@pytest.fixture
def garbage() -> Iterator[list[Any]]:
    """What the collector finds from here on; it is asked by hand."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("payer", ["app", "agent", "nobody"])
async def test_no_request_leaves_cycles(
    valkey_url: str, tmp_path: Path, garbage: list[Any], payer: str, stream: bool
) -> None:
    async with running_site(valkey_url, tmp_path) as site, served(_app(site)) as (host, port):
        proofs = {"app": f"Bearer {site.app_key}", "agent": f"L402 {await site.bought(1_000)}", "nobody": ""}
        headers = {"authorization": proofs[payer], "x-sim-output-tokens": "30"}
        asked = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", headers=headers) as http:
            for number in range(2 * ROUNDS):
                answer = await http.post(CHAT, json=asked | {"stream": stream})
                assert answer.status_code == (402 if payer == "nobody" else 200), answer.text
                if number == ROUNDS - 1:  # what a first request leaves is not what each one does
                    await asyncio.sleep(0)
                    gc.collect()
                    garbage.clear()
            gc.collect()
            found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in garbage)
    assert {name: count for name, count in found.items() if name.startswith("gateway.") and "simul" not in name} == {}


def _app(site: Site) -> Any:
    return cast(Any, site.http)._transport.app
