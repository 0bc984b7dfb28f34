"""Postings that the store could not take are on disk at once, and paid once, later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.adapters.redis import spool as spool_module
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.spool import PostSpool
from gateway.core.errors import Unavailable
from gateway.core.holds import NO_TOKENS, Measure, Placed, PlaceHold, Posted, Refused, ScopeClaim, UsageTokens
from gateway.core.money import Rate, Unit
from gateway.core.request_record import outcome_json
from gateway.core.usage import Basis, Usage

ACCOUNT = "tok_7f0000000000000001"
RATE = Rate(60_000_000_000)

DYING = """
import os, signal, sys
from gateway.adapters.redis.spool import PostSpool
spool = PostSpool.open(sys.argv[1])
for number in range(3):
    spool.put(f"ho_7f{number}", sys.argv[2], 40, b'{"a":1}')
print("put", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
async def ledger(valkey_url: str) -> AsyncIterator[RedisLedger]:
    link = await RedisLink.open(valkey_url)
    ledger = RedisLedger(link, worker="w1")
    await ledger.credit("pay1", ACCOUNT, 1_000, unit=Unit.MSAT, rate=RATE, source="lightning")
    for number in range(3):
        assert isinstance(await ledger.place(PlaceHold(f"ho_7f{number}", ACCOUNT, 100, 100, 100, RATE)), Placed)
    yield ledger
    await link.close()


async def posted(ledger: RedisLedger) -> int:
    balance = await ledger.balance(ACCOUNT)
    assert balance is not None
    return balance.posted


class Away:
    """A ledger whose store is away from the second posting on."""

    def __init__(self, ledger: RedisLedger) -> None:
        self.ledger = ledger
        self.calls = 0

    async def post(
        self, hold_id: str, cost: int, *, account: str, outcome: bytes = b"", tokens: UsageTokens = NO_TOKENS
    ) -> Posted | Refused:
        self.calls += 1
        if self.calls > 1:
            raise Unavailable("away")
        return await self.ledger.post(hold_id, cost, account=account, outcome=outcome, tokens=tokens)


async def test_what_was_put_is_posted_once_and_the_file_is_emptied(ledger: RedisLedger, tmp_path: Path) -> None:
    spool = PostSpool.open(tmp_path)
    for number in range(3):
        spool.put(f"ho_7f{number}", ACCOUNT, 40, b"{}")
    (file,) = (tmp_path / "spool").glob("*.spool")
    assert file.stat().st_size > 0
    done = await spool.replay(ledger)
    assert (done.posted, done.left, await posted(ledger)) == (3, 0, 120)
    assert file.stat().st_size == 0
    assert (await spool.replay(ledger)).posted == 0
    spool.close()
    assert not list((tmp_path / "spool").glob("*.spool"))


async def test_a_store_that_is_still_away_leaves_the_rest_waiting(ledger: RedisLedger, tmp_path: Path) -> None:
    spool = PostSpool.open(tmp_path)
    for number in range(3):
        spool.put(f"ho_7f{number}", ACCOUNT, 40, b"{}")
    done = await spool.replay(Away(ledger))
    assert (done.posted, done.left, spool.waiting_count) == (1, 2, 2)
    assert (await spool.replay(ledger)).posted == 2
    assert await posted(ledger) == 120
    spool.close()


async def test_what_a_killed_process_left_is_taken_over(ledger: RedisLedger, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path), ACCOUNT], check=False, stdout=subprocess.DEVNULL)
    (left,) = (tmp_path / "spool").glob("*.spool")
    with left.open("ab") as file:
        file.write(b"0123 half a li")  # and it died in the middle of the fourth
    spool = PostSpool.open(tmp_path)
    assert (await spool.replay(ledger)).posted == 3
    assert await posted(ledger) == 120
    assert not left.exists()
    record = await ledger.hold("ho_7f1")
    assert record is not None and record.outcome == b'{"a":1}'
    spool.close()


async def test_the_file_of_a_living_process_is_left_alone(ledger: RedisLedger, tmp_path: Path) -> None:
    living, other = PostSpool.open(tmp_path), PostSpool.open(tmp_path)
    living.put("ho_7f0", ACCOUNT, 40, b"{}")
    assert (await other.replay(ledger)).posted == 0
    assert (await living.replay(ledger)).posted == 1
    living.close()
    other.close()


async def test_a_posting_replayed_after_a_crash_in_between_is_paid_once(ledger: RedisLedger, tmp_path: Path) -> None:
    spool = PostSpool.open(tmp_path)
    spool.put("ho_7f0", ACCOUNT, 40, b"{}")
    await ledger.post("ho_7f0", 40, account=ACCOUNT, outcome=b"{}")
    assert (await spool.replay(ledger)).posted == 1
    assert await posted(ledger) == 40
    spool.close()


async def test_a_posting_older_than_the_ledger_remembers_is_set_aside(
    ledger: RedisLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = PostSpool.open(tmp_path)
    spool.put("ho_7f0", ACCOUNT, 40, b"{}")
    monkeypatch.setattr(spool_module, "OLDEST_S", -1)
    done = await spool.replay(ledger)
    assert (done.posted, done.stale, await posted(ledger)) == (0, ["ho_7f0"], 0)
    line = (tmp_path / "spool" / "stale.log").read_bytes()
    assert msgspec.json.decode(line.split(b" ", 1)[1])["cost"] == 40
    spool.close()


def test_a_full_spool_drops_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = PostSpool.open(tmp_path, entries_max=2)
    for number in range(3):
        spool.put(f"ho_7f{number}", ACCOUNT, 40, b"{}")
    assert (spool.waiting_count, spool.dropped_count) == (2, 1)
    assert "ho_7f2" in caplog.text
    assert os.listdir(tmp_path / "spool")
    spool.close()


async def test_a_late_posting_counts_its_tokens_in_the_days_usage(ledger: RedisLedger, tmp_path: Path) -> None:
    line = ScopeClaim(ACCOUNT, "2026-11-28", Measure.USAGE, detail="m|alice|ak_7f")
    hold = PlaceHold("ho_7f9", ACCOUNT, 100, 100, 100, RATE, scopes=(line,))
    assert isinstance(await ledger.place(hold), Placed)
    spool = PostSpool.open(tmp_path)
    usage = Usage(input_tokens=30, cached_input_tokens=10, output_tokens=7)
    spool.put("ho_7f9", ACCOUNT, 40, outcome_json(usage, Basis.REPORTED))
    assert (await spool.replay(ledger)).posted == 1
    counted = await ledger._link.command("HGET", f"{{p7f}}y:2026-11-28|{ACCOUNT}", line.detail, key="{p7f}")
    assert counted is not None and counted.split()[:5] == [b"1", b"30", b"10", b"7", b"40"]
    spool.close()
