"""The journal outside the store: segment files on disk, chained by hashes, and the high-water mark.

A segment is a sequence of batches, each a header line and the entries of one partition, one a line:

    <digest> <partition> <first number> <last number> <bytes of the body>

`digest` is SHA-256 over the digest of the batch before, the rest of the header and the body: nothing can be changed,
left out or put in without breaking the chain from there on. `marks.json` says per partition how far the journal was
written, with a digest of the last entry: a store that knows less, or something else, has gone back in time.

Invariants: a batch counts only when it is synced; a batch that was cut off at the end of the last file is cut away
at the next opening (it was never acknowledged); one writer a directory (file lock).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

# About 700,000 entries: small enough to copy and to check, large enough to have few.
SEGMENT_BYTES_MAX = 64 * 1024 * 1024
_GENESIS = "0" * 64
_LAST_ENTRY_DIGEST_CHARS = 16


class BrokenChain(Exception):
    """A segment is not what was written. `path` and `offset` say where."""

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(f"{path} at byte {offset}: {reason}")
        self.path = path
        self.offset = offset


class SegmentsInUse(Exception):
    """Another process writes to the directory."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a partition's journal is on disk: the last number and a digest of that entry."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one partition, numbered `first` and on, as the scripts wrote them."""

    partition: int
    first: int
    texts: tuple[str, ...]

    @property
    def last(self) -> int:
        return self.first + len(self.texts) - 1


def entry_digest(text: str) -> str:
    """The mark's digest of an entry."""
    return hashlib.sha256(text.encode()).hexdigest()[:_LAST_ENTRY_DIGEST_CHARS]


class Segments:
    """The writer of a directory. Made by `open`; `marks` is what is on disk."""

    def __init__(self, directory: Path, lock: int) -> None:
        self._directory = directory
        self._lock = lock
        self._file: BinaryIO | None = None
        self._digest = _GENESIS
        self.marks: dict[int, Mark] = {}

    @classmethod
    def open(cls, data_dir: str | Path) -> Self:
        """Lock the directory, check the last segment, cut off an unfinished batch.

        Errors: SegmentsInUse, BrokenChain, OSError.
        """
        directory = Path(data_dir) / "journal"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise SegmentsInUse(str(directory)) from error
        segments = cls(directory, lock)
        try:
            segments._recover()
        except BaseException:
            os.close(lock)
            raise
        return segments

    def _recover(self) -> None:
        self.marks = read_marks(self._directory)
        paths = segment_paths(self._directory)
        if paths and not _is_begun(paths[-1]):
            paths.pop().unlink()  # cut off while it was begun: nothing was in it
        if not paths:
            self._begin(1)
            return
        self._digest = _first_digest(paths[-1])
        end = len(_opening(self._digest))
        for digest, offset, batch in read_segment(paths[-1], self._digest):
            self._digest, end = digest, offset
            mark = self.marks.get(batch.partition)
            if mark is None or mark.number < batch.last:  # synced, but the marks were not written any more
                self.marks[batch.partition] = Mark(batch.last, entry_digest(batch.texts[-1]))
        self._file = paths[-1].open("r+b", buffering=0)
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, batches: list[Batch]) -> None:
        """Write batches and sync them, then the marks. Errors: OSError: nothing may be acknowledged then."""
        if not batches:
            return
        if self._file is None or self._file.tell() >= SEGMENT_BYTES_MAX:
            self._begin(_number_of(segment_paths(self._directory)[-1]) + 1)
        file = self._file
        assert file is not None
        start, digest = file.tell(), self._digest
        pieces: list[bytes] = []
        for batch in batches:
            digest, piece = _pack(digest, batch)
            pieces.append(piece)
        try:
            _write_all(file, b"".join(pieces))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            file.seek(start)
            raise
        self._digest = digest
        for batch in batches:
            self.marks[batch.partition] = Mark(batch.last, entry_digest(batch.texts[-1]))
        write_marks(self._directory, self.marks)

    def reset_mark(self, partition: int, mark: Mark | None) -> None:
        """After people have accepted that the store went back: go on from where it is, in a new segment. The last one
        tells at the next opening how far the journal was written, and would lift the mark again."""
        if self._file is not None and self._file.tell() > len(_opening(self._digest)):
            self._begin(_number_of(segment_paths(self._directory)[-1]) + 1)
        if mark is None:
            self.marks.pop(partition, None)
        else:
            self.marks[partition] = mark
        write_marks(self._directory, self.marks)

    def _begin(self, number: int) -> None:
        if self._file is not None:
            self._file.close()
        path = self._directory / f"segment-{number:06d}.log"
        self._file = path.open("xb", buffering=0)
        _write_all(self._file, _opening(self._digest))
        os.fsync(self._file.fileno())
        sync_directory(self._directory)

    def close(self) -> None:
        """Let another process write."""
        if self._file is not None:
            self._file.close()
        os.close(self._lock)


def segment_paths(directory: Path) -> list[Path]:
    """The segments in their order."""
    return sorted(directory.glob("segment-*.log"))


def verify_chain(data_dir: str | Path) -> dict[int, int]:
    """Read every segment and check the chain; gives the last number of each partition. Errors: BrokenChain."""
    return {batch.partition: batch.last for batch in read_chain(data_dir)}


def read_chain(data_dir: str | Path) -> Iterator[Batch]:
    """Every batch of every segment, checked. Errors: BrokenChain, raised on the way."""
    previous = _GENESIS
    for path in segment_paths(Path(data_dir) / "journal"):
        if _first_digest(path) != previous:
            raise BrokenChain(path, 0, "it does not follow the segment before")
        for digest, _, batch in read_segment(path, previous):
            previous = digest
            yield batch


def read_segment(path: Path, previous: str) -> Iterator[tuple[str, int, Batch]]:
    """The batches of a segment, each with the digest and the offset after it. An unfinished one at the end is left out.

    Errors: BrokenChain, raised on the way.
    """
    with path.open("rb") as file:
        file.readline()
        while True:
            offset = file.tell()
            header = file.readline()
            if not header.endswith(b"\n"):
                return
            digest, _, rest = header[:-1].decode(errors="replace").partition(" ")
            try:
                partition, first, last, size = (int(word) for word in rest.split(" "))
            except ValueError:
                raise BrokenChain(path, offset, "no header of a batch") from None
            body = file.read(size)
            if len(body) < size:
                return
            if hashlib.sha256(f"{previous} {rest}\n".encode() + body).hexdigest() != digest:
                raise BrokenChain(path, offset, "the digest does not fit")
            texts = tuple(body.decode().split("\n")[:-1])
            if len(texts) != last - first + 1:
                raise BrokenChain(path, offset, "entries are missing")
            previous = digest
            yield digest, file.tell(), Batch(partition, first, texts)


def read_marks(directory: Path) -> dict[int, Mark]:
    """The high-water marks; empty where nothing was drained yet."""
    try:
        content = (directory / "marks.json").read_bytes()
    except FileNotFoundError:
        return {}
    return msgspec.json.decode(content, type=dict[int, Mark])


def write_marks(directory: Path, marks: dict[int, Mark]) -> None:
    """All or nothing: written beside, synced, renamed."""
    beside = directory / "marks.json.new"
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(marks))
        file.flush()
        os.fsync(file.fileno())
    beside.rename(directory / "marks.json")
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """A new name is on disk only when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack(previous: str, batch: Batch) -> tuple[str, bytes]:
    body = "".join(f"{text}\n" for text in batch.texts).encode()
    rest = f"{batch.partition} {batch.first} {batch.last} {len(body)}\n"
    digest = hashlib.sha256(f"{previous} {rest}".encode() + body).hexdigest()
    return digest, f"{digest} {rest}".encode() + body


def _opening(previous: str) -> bytes:
    return f"farebox journal, after {previous}\n".encode()


def _is_begun(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _first_digest(path: Path) -> str:
    with path.open("rb") as file:
        line = file.readline()
    opening, _, digest = line.decode(errors="replace").rstrip("\n").rpartition(" ")
    if opening != "farebox journal, after" or len(digest) != len(_GENESIS):
        raise BrokenChain(path, 0, "no beginning of a segment")
    return digest


def _number_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _write_all(file: BinaryIO, content: bytes) -> None:
    """An unbuffered write may take less than it is given."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
