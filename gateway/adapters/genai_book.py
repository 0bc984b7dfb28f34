"""The default price book: the data of genai-prices as Farebox's own records.

The library prices a request in 290 us and takes 17 MB; so its data are read once, in a process of their own
(`genai_export`), and only the records stay. A reload of the policies keeps them: they change with the installed package
only.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from datetime import date

from gateway.core.price_entries import ProviderEntry

# Far above the half second that it takes, so that a loaded machine does not fail to start.
EXPORT_TIMEOUT_S = 60
_COMPACT_DATE_CHARACTERS = 8  # YYYYMMDD


_VERSION = re.compile(r"(?<=-\d)-(?=\d(?:$|[-:]))")


class BookUnreadable(Exception):
    """The default price book could not be read; the message says why."""


def default_book() -> tuple[ProviderEntry, ...]:
    """Every provider of the library's data. Errors: BookUnreadable."""
    command = [sys.executable, "-m", "gateway.adapters.genai_export"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=EXPORT_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        last_line = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        message = f"the default price book (genai-prices) could not be read: {last_line}"
        raise BookUnreadable(message) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"the default price book (genai-prices) could not be read: {error}"
        raise BookUnreadable(message) from error
    book: tuple[ProviderEntry, ...] = pickle.loads(done.stdout)  # noqa: S301 - written by our own module a moment ago
    return book


def dashed_date(name: str) -> str:
    """`gpt-5.2-20251211` as `gpt-5.2-2025-12-11`: some callers write dated names so."""
    head, dash, tail = name.rpartition("-")
    if not dash or len(tail) != _COMPACT_DATE_CHARACTERS or not tail.isdigit() or not tail.startswith("20"):
        return name
    try:
        day = date(int(tail[:4]), int(tail[4:6]), int(tail[6:]))
    except ValueError:
        return name
    return f"{head}-{day.isoformat()}"


def dotted_version(name: str) -> str:
    """`anthropic/claude-sonnet-4-5` as `anthropic/claude-sonnet-4.5`: a router takes versions in both spellings."""
    return _VERSION.sub(".", name)
