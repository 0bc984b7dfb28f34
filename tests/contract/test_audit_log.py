"""The audit log is found out where it is not the one that was written, by `farebox reconcile`: also when it is whole in
itself, when its end was cut off, and when the journal that knew of it was drained and trimmed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.adapters.redis import keys
from gateway.adapters.redis.audit import RedisAudit, drained_digests
from gateway.adapters.redis.journal import JournalDrain
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.segments import Segments
from gateway.cli.reconcile import reconcile
from gateway.config import Config, RedisConfig
from gateway.core.directory import AuditEntry

ORG, COUNT = "org_7f00000000000000000000", 6
PARTITION, LOG = 0x7F, "{p7f}audit"
Entry = tuple[bytes, bytes]  # text, digest
Change = Callable[[list[Entry]], list[Entry]]


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    segments = Segments.open(tmp_path)
    yield segments
    segments.close()


@pytest.fixture
def config(valkey_url: str, tmp_path: Path) -> Config:
    return Config(redis=RedisConfig(url=valkey_url), data_dir=str(tmp_path))


def entry(number: int) -> AuditEntry:
    return AuditEntry(number, ORG, "key ak_7f", "key", "key.create", f"ak_7f{number}", b"null", b'{"name":"n"}')


async def write(link: RedisLink, count: int = COUNT, first: int = 1) -> None:
    for number in range(first, first + count):
        await RedisAudit(link).append(entry(number))


async def rewrite(link: RedisLink, change: Change) -> None:
    """Put another log in its place, as somebody who has the store can."""
    rows = await link.command("XRANGE", LOG, "-", "+", key=LOG)
    before = [(fields[1], fields[3]) for _, fields in rows]
    numbers = {entry: int(entry_id.split(b"-")[1]) for entry, (entry_id, _) in zip(before, rows, strict=True)}
    after = change(before)
    # What was taken out leaves a gap; what was put elsewhere, or changed, gets the number of its place.
    kept = [numbers.get(each, place) for place, each in enumerate(after, 1)]
    if sorted(kept) != kept:
        kept = list(range(1, len(after) + 1))
    await link.command("DEL", LOG, key=LOG)
    for number, (text, digest) in zip(kept, after, strict=True):
        await link.command("XADD", LOG, f"0-{number}", "e", text, "d", digest, key=LOG)


def changed_body(log: list[Entry]) -> list[Entry]:
    text, digest = log[2]
    return [*log[:2], (text.replace(b"ak_7f3", b"ak_7f9"), digest), *log[3:]]


def removed_middle(log: list[Entry]) -> list[Entry]:
    return log[:2] + log[3:]


def swapped_pair(log: list[Entry]) -> list[Entry]:
    return [*log[:2], log[3], log[2], *log[4:]]


def cut_tail(log: list[Entry]) -> list[Entry]:
    return log[:-2]


def written_anew(log: list[Entry]) -> list[Entry]:
    """A changed body, and every digest from there on recomputed: the log is whole in itself."""
    anew, before = list[Entry](), b""
    for number, (text, _) in enumerate(log, 1):
        at, _, body = text.replace(b"ak_7f3", b"ak_7f9").partition(b" ")
        digest = hashlib.sha1(b" ".join((before, str(number).encode(), at, body)), usedforsecurity=False).hexdigest()
        before = digest.encode()
        anew.append((at + b" " + body, before))
    return anew


def cut_and_written_anew(log: list[Entry]) -> list[Entry]:
    return written_anew(log)[:-2]


def all_of_it(log: list[Entry]) -> list[Entry]:
    return []


CHANGES = [changed_body, removed_middle, swapped_pair, cut_tail, written_anew, cut_and_written_anew, all_of_it]


async def reconciled(config: Config, capsys: pytest.CaptureFixture[str], *, files: bool = False) -> tuple[int, str]:
    code = await reconcile(config, files=files)
    return code, capsys.readouterr().out


async def test_a_log_as_it_was_written_is_in_order(
    link: RedisLink, config: Config, segments: Segments, capsys: pytest.CaptureFixture[str]
) -> None:
    await write(link)
    assert await reconciled(config, capsys) == (0, _in_order(COUNT))
    await JournalDrain(link, RedisAudit(link)._books, segments).once()
    await write(link, first=COUNT + 1)
    code, text = await reconciled(config, capsys, files=True)
    assert code == 0 and "the audit log's chains hold" in text, text


def _in_order(entries: int) -> str:
    return (
        "waiting up to 11 s for workers to show that they live\n"
        f"0 accounts, 0 open holds, {entries} journal entries looked at\n"
        "0 holds of workers that are gone expired, 0 postings replayed\n"
        "the books are in order\n"
        "the audit log's chains hold\n"
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_another_log_is_found(
    link: RedisLink, config: Config, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    await write(link)
    await rewrite(link, change)
    code, text = await reconciled(config, capsys)
    assert code == 1 and "audit log of partition 7f: entry" in text, text


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_another_log_is_found_by_the_journals_files_once_the_store_knows_nothing_of_it(
    link: RedisLink, config: Config, segments: Segments, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    await write(link)
    await _drain_and_trim(link, segments)
    # Whoever cuts the log cuts the trace of it in the store, too; the files are out of their reach.
    await link.command("HDEL", "{p7f}opening", "audit", "audit_digest", key=LOG)
    await rewrite(link, change)
    code, text = await reconciled(config, capsys, files=True)
    assert code == 1 and "audit log of partition 7f: entry" in text, text


@pytest.mark.parametrize("change", [cut_tail, written_anew, cut_and_written_anew, all_of_it], ids=lambda c: c.__name__)
async def test_another_log_is_found_without_files_once_the_journal_was_trimmed(
    link: RedisLink, config: Config, segments: Segments, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    await write(link)
    await _drain_and_trim(link, segments)
    await rewrite(link, change)
    code, text = await reconciled(config, capsys)
    assert code == 1 and f"entry {COUNT} is" in text, text


async def _drain_and_trim(link: RedisLink, segments: Segments) -> None:
    """As the upkeep does it: out of the store, onto disk, then forgotten."""
    books = RedisAudit(link)._books
    drain = JournalDrain(link, books, segments)
    drain._trim_due_s = {PARTITION: 0.0}
    await drain.once()
    assert [entry.kind for entry in await books.journal(PARTITION, 0)] == ["opening"]
    await drain.once()  # the opening itself


async def test_what_was_lost_with_the_store_and_accepted_is_no_mismatch(
    link: RedisLink, config: Config, segments: Segments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await write(link)
    drain = JournalDrain(link, RedisAudit(link)._books, segments)
    await drain.once()
    # The store goes back to where it was two entries ago.
    for key, last in ((LOG, COUNT - 2), ("{p7f}journal", COUNT - 2)):
        rows = await link.command("XRANGE", key, "-", "+", key=key)
        await link.command("DEL", key, key=key)
        for entry_id, fields in rows[:last]:
            await link.command("XADD", key, entry_id, *fields, key=key)
    assert [history.found for history in await drain.accept()] == [COUNT - 2]
    assert len(drained_digests(tmp_path)[PARTITION]) == COUNT - 2
    code, text = await reconciled(config, capsys, files=True)
    assert code == 0, text
    await write(link, count=3, first=20)
    await drain.once()
    assert len(drained_digests(tmp_path)[PARTITION]) == COUNT + 1, "the later ones count"
    code, text = await reconciled(config, capsys, files=True)
    assert code == 0, text


async def test_an_entry_under_an_id_of_its_own_is_written_once_until_it_is_forgotten(link: RedisLink) -> None:
    log = RedisAudit(link)
    for _ in range(3):
        await log.append(entry(1), once="credit|1")
    await log.append(entry(2), once="credit|2")
    for _ in range(2):
        await log.append(entry(3), once="event", forget_at_ms=1)  # long ago
    subjects = [found.subject for found in await log.read(ORG, after=0, most=9)]
    assert subjects == ["ak_7f1", "ak_7f2", "ak_7f3", "ak_7f3"]
    forever = await link.command("TTL", keys.version_key("{p7f}", f"{ORG}|once|credit|1"), key=LOG)
    assert forever == -1


# Pauses of the ledger's own.


async def test_a_budget_that_a_posting_pauses_is_in_the_log_once(valkey_url: str) -> None:
    async with running_people(valkey_url) as parts:
        parts.change_approvals(auto_most=100 * USD, cumulative_most=1_000 * USD)
        made = await parts.must(
            "PUT", "/api/budgets", {"limit": usd("0.0001"), "window": "month", "on_exceed": "pause"}
        )
        work = await parts.place(tokens=50)
        await parts.ledger.post(work.hold_id, 100_000, account=work.account)
        (live,) = await parts.people.store.live_budgets(parts.org_id, [made["id"]])
        assert live is not None and live.state == "paused"
        for _ in range(2):
            await _witness(parts)
        (logged,) = [entry for entry in await parts.audited() if entry.action == "budget.pause"]
        assert (logged.actor, logged.authenticated, logged.subject) == ("ledger", "ledger", made["id"])
        assert msgspec.json.decode(logged.after)["used"] == "100000"
        resumed = await parts.must("POST", f"/api/budgets/{made['id']}/resume", {})
        assert resumed["state"] == "active"
        await parts.must("POST", f"/api/budgets/{made['id']}/resume", {})
        resumes = [entry for entry in await parts.audited() if entry.action == "budget.resume"]
        assert [(entry.before, entry.after) for entry in resumes] == [(b'{"state":"paused"}', b'{"state":"active"}')]


async def _witness(parts: Parts) -> None:
    fresh, _ = await parts.people.outbox.look(int(parts.org_id[4:6], 16), 0)
    assert [event.kind for event in fresh].count("budget.paused") == 1
    for event in fresh:
        await parts.people.auditing.witness(event)
