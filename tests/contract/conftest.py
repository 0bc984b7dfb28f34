"""The nodes of the Lightning contract: tests that take `world`, `seller` or `payer` run over each kind there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lnd.nodes import built
from lnd.worlds import RealWorld, SimulatedWorld, World, adapter

from gateway.adapters.lnd import LndNode

# Without binaries the real pair is left out; tests/lnd/nodes.py says so in one line.
KINDS = ["simulated", *(["real"] if built() else [])]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "real":
        yield RealWorld(request.getfixturevalue("real_pair"))
        return
    simulated = SimulatedWorld(tmp_path)
    await simulated.start()
    yield simulated
    await simulated.stop()


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[SimulatedWorld]:
    """For what real nodes cannot be told to do."""
    one = SimulatedWorld(tmp_path)
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def seller(world: World) -> AsyncIterator[LndNode]:
    node = adapter(world.seller)
    yield node
    await node.close()


@pytest.fixture
async def payer(world: World) -> AsyncIterator[LndNode]:
    node = adapter(world.payer)
    yield node
    await node.close()
