"""Tests named `test_real_*` need a real pair of nodes: without lnd they are not collected; one line says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from lnd.nodes import RealPair, built
from lnd.worlds import RealWorld, adapter

from gateway.adapters.lnd import LndNode

collect_ignore_glob = [] if built() else ["test_real_*.py"]


@pytest.fixture
def real_world(real_pair: RealPair) -> RealWorld:
    """The seller's and the payer's node, with ways to kill, freeze and bring back the seller."""
    return RealWorld(real_pair)


@pytest.fixture
async def real_seller(real_world: RealWorld) -> AsyncIterator[LndNode]:
    """The adapter at the seller's node, as the gateway has it."""
    node = adapter(real_world.seller)
    yield node
    await node.close()


@pytest.fixture
async def real_payer(real_world: RealWorld) -> AsyncIterator[LndNode]:
    """The adapter at the payer's node: the agent's wallet."""
    node = adapter(real_world.payer)
    yield node
    await node.close()
