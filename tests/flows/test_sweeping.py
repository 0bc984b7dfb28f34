"""The hold sweep: a hold that cannot be expired keeps no other from it."""

from __future__ import annotations

import pytest

from gateway.core.errors import Unavailable
from gateway.core.holds import Posted, Refusal, Refused
from gateway.flows.sweeping import HoldSweep

BROKEN, AWAY = "ho_000broken", "ho_000away"


class Holds:
    """All overdue holds lie in the first partition."""

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)
        self.expired: list[str] = []

    async def open_ids(self, partition: int, *, until_ms: int | None = None, most: int = 1_000) -> list[str]:
        return self.ids if partition == 0 else []

    async def expire(self, hold_id: str, *, lease_gone: bool = False) -> Posted | Refused:
        if hold_id == BROKEN:
            raise ValueError("corrupt: hold")
        if hold_id == AWAY:
            raise Unavailable("away")
        if hold_id.endswith("renewed"):
            return Refused(Refusal.RENEWED)
        self.expired.append(hold_id)
        return Posted("expired", 0, 0, 0)


async def sweeping(holds: Holds) -> HoldSweep:
    """One that knows the store's clock."""
    times_ms = [0]

    async def clocks() -> dict[str, int]:
        return {"store": times_ms[-1]}

    sweep = HoldSweep(holds, clocks, lifetime_ms=1_000, monotonic_s=lambda: times_ms[-1] / 1_000)
    while (await sweep.once()).waiting:
        times_ms.append(times_ms[-1] + 500)
    holds.expired.clear()
    return sweep


async def test_a_hold_that_cannot_be_expired_ends_the_turn_of_no_other(caplog: pytest.LogCaptureFixture) -> None:
    others = [f"ho_000{number}" for number in range(70)]
    holds = Holds()
    sweep = await sweeping(holds)
    holds.ids = [BROKEN, *others, "ho_000renewed"]
    swept = await sweep.once()
    assert holds.expired == others and (swept.expired, swept.left) == (70, 2)
    assert f"hold {BROKEN} cannot be expired" in caplog.text and "corrupt: hold" in caplog.text


async def test_a_store_that_is_away_ends_the_turn() -> None:
    holds = Holds()
    sweep = await sweeping(holds)
    holds.ids = [AWAY]
    with pytest.raises(Unavailable):
        await sweep.once()
