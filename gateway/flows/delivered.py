"""What a running stream has delivered: what its upstream has told of it, and what only the upstream's last word can
tell."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from gateway.core.facts import RequestFacts
from gateway.core.metering import StreamReader
from gateway.core.usage import Basis, Usage


class Delivered:
    """`count_input` counts the request's text; `has_unseen_input`: more than the body shows is read as input."""

    def __init__(self, reader: StreamReader, *, count_input: Callable[[], int], has_unseen_input: bool) -> None:
        self._reader = reader
        self._count_input = count_input
        self._has_unseen_input = has_unseen_input

    def usage(self, facts: RequestFacts, held: bytes | None) -> tuple[Usage, Basis]:
        """What was used so far: reported where the upstream has said so, else counted. `held`: a piece that waits for
        money, and that nobody has seen."""
        reported = self._reader.reported
        known_input = reported is not None and reported.input_tokens > 0
        bound = facts.input_bound_tokens
        usage, basis = self._reader.usage(input_bound_tokens=bound if known_input else min(bound, self._count_input()))
        if held is not None:
            usage = replace(usage, output_tokens=min(usage.output_tokens, self._reader.count_without(held)))
        return usage, basis

    def owes_unseen(self, facts: RequestFacts) -> bool:
        """Whether tokens are owed that only the upstream's last word tells: hidden reasoning, an earlier conversation,
        pictures. Who hangs up before that word would have them for nothing."""
        if self._reader.usage(input_bound_tokens=0)[1] is Basis.REPORTED:
            return False
        reported = self._reader.reported
        unseen_input = self._has_unseen_input and (reported is None or not reported.input_tokens)
        return unseen_input or not facts.shows_all
