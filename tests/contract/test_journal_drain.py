"""The journal leaves the store complete, in order and chained; a store that has gone back in time is found out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.adapters.redis.journal import JournalDrain
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.segments import BrokenChain, Segments, SegmentsInUse, segment_paths, verify_chain
from gateway.core.holds import Placed, PlaceHold
from gateway.core.money import Rate, Unit

ACCOUNT = "tok_7f0000000000000001"
OTHER = "tok_210000000000000001"
RATE = Rate(60_000_000_000)


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
def ledger(link: RedisLink) -> RedisLedger:
    return RedisLedger(link, worker="w1")


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    segments = Segments.open(tmp_path)
    yield segments
    segments.close()


async def spend(ledger: RedisLedger, count: int, *, account: str = ACCOUNT, first: int = 0) -> None:
    """A credit, then holds that are posted: two entries each."""
    partition = account.partition("_")[2][:2]
    await ledger.credit("pay1", account, 1_000_000, unit=Unit.MSAT, rate=RATE, source="lightning")
    for number in range(first, first + count):
        hold = PlaceHold(f"ho_{partition}{number:06d}", account, floor=10, first=10, ceiling=10, rate=RATE)
        assert isinstance(await ledger.place(hold), Placed)
        await ledger.post(hold.hold_id, 7, account=account)


async def test_every_entry_is_on_disk_once_and_in_order(
    link: RedisLink, ledger: RedisLedger, segments: Segments, tmp_path: Path
) -> None:
    drain = JournalDrain(link, ledger, segments)
    await spend(ledger, 5)
    await spend(ledger, 3, account=OTHER)
    assert (await drain.once()).entries == 11 + 7
    assert (await drain.once()).entries == 0
    await spend(ledger, 2, first=5)
    assert (await drain.once()).entries == 4
    assert verify_chain(tmp_path) == {0x7F: 15, 0x21: 7}


async def test_what_is_drained_is_trimmed_and_the_books_still_fit(
    link: RedisLink, ledger: RedisLedger, segments: Segments
) -> None:
    drain = JournalDrain(link, ledger, segments)
    await spend(ledger, 300)
    done = await drain.once()
    assert (done.entries, done.trimmed) == (601, 1)
    assert [entry.kind for entry in await ledger.journal(0x7F, 0)] == ["opening"]
    through, totals = await ledger.opening(0x7F)
    balance = await ledger.balance(ACCOUNT)
    assert balance is not None
    assert (through, totals.available, totals.posted) == (601, balance.available, 2_100)
    assert (await drain.once()).entries == 1  # the opening itself
    assert not (await drain.once()).mismatches


async def test_a_store_that_was_emptied_is_found_out_and_stays_so_until_accepted(
    link: RedisLink, ledger: RedisLedger, segments: Segments
) -> None:
    drain = JournalDrain(link, ledger, segments)
    await spend(ledger, 4)
    await drain.once()
    await link.command("FLUSHALL", key="")
    found = await drain.check_history()
    assert [(history.partition, history.known, history.found) for history in found] == [(0x7F, 9, 0)]
    await spend(ledger, 1)
    assert (await drain.once()).mismatches  # three new entries do not make up for nine
    assert len(await drain.accept()) == 1
    assert not (await drain.once()).mismatches


async def test_what_was_accepted_stays_accepted_for_the_next_process(
    link: RedisLink, ledger: RedisLedger, tmp_path: Path
) -> None:
    await spend(ledger, 4)
    first = Segments.open(tmp_path)
    await JournalDrain(link, ledger, first).once()
    await link.command("FLUSHALL", key="")
    await spend(ledger, 1)
    assert len(await JournalDrain(link, ledger, first).accept()) == 1
    first.close()
    again = Segments.open(tmp_path)
    found = await JournalDrain(link, ledger, again).once()
    again.close()
    assert not found.mismatches
    verify_chain(tmp_path)


async def test_a_store_that_went_back_and_on_again_is_found_out_by_what_it_says(
    link: RedisLink, ledger: RedisLedger, segments: Segments
) -> None:
    drain = JournalDrain(link, ledger, segments)
    await spend(ledger, 4)
    await drain.once()
    await link.command("FLUSHALL", key="")
    await spend(ledger, 20, first=100)
    (found,) = await drain.check_history()
    assert (found.partition, found.known, found.found) == (0x7F, 9, 41)
    assert "another entry" in found.reason


async def test_a_gap_in_the_numbers_is_a_mismatch_and_nothing_is_written(
    link: RedisLink, ledger: RedisLedger, segments: Segments, tmp_path: Path
) -> None:
    drain = JournalDrain(link, ledger, segments)
    await spend(ledger, 4)
    await link.command("XDEL", "{p7f}journal", "0-5", key="{p7f}journal")
    done = await drain.once()
    assert [history.reason for history in done.mismatches] == ["numbers are missing"]
    assert verify_chain(tmp_path) == {}


async def test_another_process_goes_on_where_the_first_one_ended(
    link: RedisLink, ledger: RedisLedger, tmp_path: Path
) -> None:
    first = Segments.open(tmp_path)
    with pytest.raises(SegmentsInUse):
        Segments.open(tmp_path)
    await spend(ledger, 2)
    await JournalDrain(link, ledger, first).once()
    first.close()
    second = Segments.open(tmp_path)
    await spend(ledger, 2, first=2)
    assert (await JournalDrain(link, ledger, second).once()).entries == 4
    second.close()
    assert verify_chain(tmp_path) == {0x7F: 9}


@pytest.mark.parametrize("cut_bytes", [1, 7, 60, 150])
async def test_a_batch_that_was_cut_off_is_drained_again(
    link: RedisLink, ledger: RedisLedger, tmp_path: Path, cut_bytes: int
) -> None:
    segments = Segments.open(tmp_path)
    await spend(ledger, 2)
    await JournalDrain(link, ledger, segments).once()
    marks_before = (tmp_path / "journal" / "marks.json").read_bytes()
    await spend(ledger, 2, first=2)
    await JournalDrain(link, ledger, segments).once()
    segments.close()
    (tmp_path / "journal" / "marks.json").write_bytes(marks_before)  # the power went before the marks were written
    (path,) = segment_paths(tmp_path / "journal")
    os.truncate(path, path.stat().st_size - cut_bytes)
    segments = Segments.open(tmp_path)
    assert (await JournalDrain(link, ledger, segments).once()).entries == 4
    segments.close()
    assert verify_chain(tmp_path) == {0x7F: 9}


async def test_a_changed_byte_breaks_the_chain(
    link: RedisLink, ledger: RedisLedger, segments: Segments, tmp_path: Path
) -> None:
    await spend(ledger, 3)
    await JournalDrain(link, ledger, segments).once()
    (path,) = segment_paths(tmp_path / "journal")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenChain):
        verify_chain(tmp_path)


async def test_segments_are_rotated_and_the_chain_goes_on(
    link: RedisLink, ledger: RedisLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.adapters.redis.segments.SEGMENT_BYTES_MAX", 1_000)
    segments = Segments.open(tmp_path)
    for turn in range(5):
        await spend(ledger, 5, first=turn * 5)
        await JournalDrain(link, ledger, segments).once()
    segments.close()
    assert len(segment_paths(tmp_path / "journal")) > 2
    assert verify_chain(tmp_path) == {0x7F: 51}
    segment_paths(tmp_path / "journal")[1].unlink()
    with pytest.raises(BrokenChain, match="follow"):
        verify_chain(tmp_path)


async def test_a_busy_partition_is_drained_and_trimmed_in_one_turn(
    link: RedisLink, ledger: RedisLedger, segments: Segments, tmp_path: Path
) -> None:
    for start in range(0, 1_500, 500):
        await spend(ledger, 500, first=start)
    done = await JournalDrain(link, ledger, segments).once()
    assert done.entries == 3_001
    assert verify_chain(tmp_path) == {0x7F: 3_001}
    assert {entry.kind for entry in await ledger.journal(0x7F, 0)} == {"opening"}
    assert (await ledger.opening(0x7F))[0] >= 3_001
