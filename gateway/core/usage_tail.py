"""Usage of a JSON answer too large to be read whole: found in its last bytes while it streams through.

Every dialect writes its usage behind the data that make an answer large (images, embeddings), so the tail is enough.
"""

from __future__ import annotations

import json

# Far more than the usage object and what follows it.
TAIL_BYTES = 64 * 1024
_NAMES = ("usageMetadata", "usage")


class UsageTail:
    """Keeps the last bytes of an answer; `as_answer` is a small answer with just the usage, for the ordinary reader."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.total_bytes = 0

    def feed(self, data: bytes) -> None:
        """Remember a piece, forget what lies before the tail."""
        self.total_bytes += len(data)
        self._parts.append(data[-TAIL_BYTES:])
        self._size += len(self._parts[-1])
        if self._size > 4 * TAIL_BYTES:
            tail = b"".join(self._parts)[-TAIL_BYTES:]
            self._parts, self._size = [tail], len(tail)

    def as_answer(self) -> bytes | None:
        """`{"usage": {...}}` (or usageMetadata) as the answer's tail has it, None when it has none."""
        tail = b"".join(self._parts)[-TAIL_BYTES:].decode("utf-8", "replace")
        for name in _NAMES:
            at = tail.rfind(f'"{name}"')
            brace = tail.find("{", at) if at >= 0 else -1
            if brace < 0:
                continue
            try:
                found, _ = json.JSONDecoder().raw_decode(tail, brace)
            except ValueError:
                continue
            return json.dumps({name: found}).encode()
        return None
