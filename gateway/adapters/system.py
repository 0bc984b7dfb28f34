"""This machine's clock and randomness, behind the port that flows use."""

from __future__ import annotations

import secrets
import time


class Machine:
    """The real clock, the real randomness."""

    def now_s(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def token_hex(self, n_bytes: int) -> str:
        """Random bytes as lower-case hex digits."""
        return secrets.token_hex(n_bytes)
