"""Postings that the store could not take, kept on this machine's disk until it can.

What was delivered while the store was away must still be paid. A posting goes into a file of this process, synced
before `put` returns, and is replayed by its hold's id: replaying twice changes nothing. The file of a process that
died is taken over by the next one that replays (a file lock tells dead from living).

Bounded: `ENTRIES_MAX` postings. What does not fit, or cannot be written, is logged and counted; its hold then
expires at its checkpoint, to the payer's favour. A posting older than the ledger remembers holds is never replayed
(it would be taken for an orphan and charged twice): it is set aside in `stale.log` and told.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, Self

import msgspec

from gateway.core.errors import Unavailable
from gateway.core.holds import Posted, Refused, UsageTokens
from gateway.core.request_record import tokens_of

_log = logging.getLogger(__name__)

# Two seconds of the most that one server carries; an entry is some 300 bytes.
ENTRIES_MAX = 10_000
# The ledger remembers an ended hold for a day (LedgerTerms.retention_ms); an hour is for clocks and replaying.
OLDEST_S = 23 * 3600
_SUFFIX = ".spool"


class SpooledPost(msgspec.Struct, frozen=True):
    """One posting that waits."""

    hold_id: str
    account: str
    cost: int
    outcome: bytes
    at_s: int


class PostLedger(Protocol):
    """What replay needs of the ledger."""

    async def post(
        self, hold_id: str, cost: int, *, account: str, outcome: bytes = b"", tokens: UsageTokens = ...
    ) -> Posted | Refused: ...


@dataclass(slots=True)
class Replay:
    """What a replay did. `left` wait for the next one."""

    posted: int = 0
    refused: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    left: int = 0


class PostSpool:
    """Implements `ports.Spool`. Made by `open`."""

    def __init__(self, directory: Path, path: Path, file: BinaryIO, entries_max: int) -> None:
        self._directory = directory
        self._path = path
        self._file = file
        self._entries_max = entries_max
        self._waiting: OrderedDict[str, SpooledPost] = OrderedDict()
        self._replaying = False
        self.dropped_count = 0

    @classmethod
    def open(cls, data_dir: str | Path, *, entries_max: int = ENTRIES_MAX) -> Self:
        """Make this process's own file. Errors: OSError."""
        directory = Path(data_dir) / "spool"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        unnamed = path.with_suffix(".new")  # nobody takes it over before it is locked
        file = unnamed.open("xb", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        unnamed.rename(path)
        _sync_directory(directory)
        return cls(directory, path, file, entries_max)

    @property
    def waiting_count(self) -> int:
        """Postings of this process that wait."""
        return len(self._waiting)

    def put(self, hold_id: str, account: str, cost: int, outcome: bytes) -> None:
        """Keep a posting. On disk when this returns."""
        entry = SpooledPost(hold_id, account, cost, outcome, int(time.time()))
        if len(self._waiting) >= self._entries_max:
            self._drop(entry, "the spool is full")
            return
        end = self._file.tell()
        try:
            self._file.write(_line(entry))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)  # half a line would take the next one with it
            self._file.seek(end)
            self._drop(entry, str(error))
            return
        self._waiting[hold_id] = entry

    def _drop(self, entry: SpooledPost, reason: str) -> None:
        self.dropped_count += 1
        _log.error("posting of hold %s (%d) cannot be kept: %s", entry.hold_id, entry.cost, reason)

    async def replay(self, ledger: PostLedger) -> Replay:
        """Post what waits here and what dead processes left. Stops at the first sign that the store is away."""
        done = Replay()
        if self._replaying:
            done.left = len(self._waiting)
            return done
        self._replaying = True
        try:
            self._take_over()
            for entry in list(self._waiting.values()):
                if not await self._replay_one(ledger, entry, done):
                    break
                del self._waiting[entry.hold_id]
            if not self._waiting:
                self._file.truncate(0)
                self._file.seek(0)
                os.fsync(self._file.fileno())
        finally:
            self._replaying = False
        done.left = len(self._waiting)
        return done

    async def _replay_one(self, ledger: PostLedger, entry: SpooledPost, done: Replay) -> bool:
        if time.time() - entry.at_s > OLDEST_S:
            _append_synced(self._directory / "stale.log", _line(entry))
            done.stale.append(entry.hold_id)
            _log.error("posting of hold %s (%d) is too old to be replayed: see stale.log", entry.hold_id, entry.cost)
            return True
        try:
            answer = await ledger.post(
                entry.hold_id, entry.cost, account=entry.account, outcome=entry.outcome, tokens=tokens_of(entry.outcome)
            )
        except Unavailable:
            return False
        if isinstance(answer, Refused):
            done.refused.append(entry.hold_id)
            _log.error("posting of hold %s (%d) was refused: %s", entry.hold_id, entry.cost, answer.reason.value)
        else:
            done.posted += 1
        return True

    def _take_over(self) -> None:
        """Move the entries of dead processes into our own file, then remove theirs."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            if path == self._path:
                continue
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its process lives
                entries = _entries(file.read(), path)
                self._file.write(b"".join(_line(entry) for entry in entries))
                os.fsync(self._file.fileno())
                for entry in entries:
                    self._waiting[entry.hold_id] = entry
                path.unlink(missing_ok=True)
        _sync_directory(self._directory)

    def close(self) -> None:
        """Leave the file if something waits in it: the next process takes it over."""
        if not self._waiting:
            self._path.unlink(missing_ok=True)
        self._file.close()


def _line(entry: SpooledPost) -> bytes:
    body = msgspec.json.encode(entry)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _entries(content: bytes, path: Path) -> list[SpooledPost]:
    """The entries of a file. A last line that was cut off was never acknowledged; any other broken one is told."""
    entries = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        checksum, _, body = line.partition(b" ")
        try:
            if int(checksum, 16) != zlib.crc32(body):
                raise ValueError("checksum")  # noqa: TRY301 - one place says that a line is broken
            entries.append(msgspec.json.decode(body, type=SpooledPost))
        except (ValueError, msgspec.DecodeError):
            _log.exception("line %d of %s is broken and cannot be replayed", number, path)
    return entries


def _append_synced(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """A new name is on disk only when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
