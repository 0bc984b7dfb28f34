"""Keeps a purse in a file, so that paid tokens outlive the process and nothing is paid twice after a crash.

The file is readable by its owner alone. It is written before a payment and after it; what other processes wrote
meanwhile is merged under a lock, never overwritten.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.client.purse import Payment, PaymentState, Purse

_VERSION = 1


class PurseFile:
    """A JSON file, mode 0600."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def load_into(self, purse: Purse) -> None:
        """Errors: ValueError when the file is none of ours, PermissionError when others can read it."""
        purse.merge(self._read())

    def save(self, purse: Purse) -> None:
        """Merge with what is there, and replace it in one step, on disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.load_into(purse)
            body = {"version": _VERSION, "payments": [asdict(payment) for payment in purse.payments()]}
            draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(body, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)

    def _read(self) -> Iterator[Payment]:
        if not self._path.exists():
            return
        if self._path.stat().st_mode & 0o077:
            message = f"{self._path} holds money and can be read by others; make it mode 0600"
            raise PermissionError(message)
        try:
            body = json.loads(self._path.read_text(encoding="utf-8"))
            payments = [_payment(members) for members in body["payments"]]
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self._path} is not a purse: {error}"
            raise ValueError(message) from error
        yield from payments

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._path.with_name(f".{self._path.name}.lock")
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _payment(members: dict[str, Any]) -> Payment:
    return Payment(**(members | {"state": PaymentState(members["state"])}))
