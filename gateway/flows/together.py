"""Many callers, one piece of work: whoever asks for what is already under way waits for the same answer.

A thousand requests that show one credential for the first time look its invoice up once. A caller that goes away
takes nothing from the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")


class Together(Generic[Answer]):
    """Work by key; nothing is remembered once it has ended."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Answer]] = {}

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The answer of the work under this key, begun if nobody has. Errors: those of the work, to every caller."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda ended: self._ended(key, ended))
        return await asyncio.shield(task)

    def _ended(self, key: Hashable, task: asyncio.Task[Answer]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone
