"""How the claims and guards of a hold are written for `place`: their keys and arguments, in the order that place.lua
reads. What was written once for the same values is remembered: a worker places with the same claims again and again.
"""

from __future__ import annotations

from gateway.adapters.redis import keys
from gateway.core.holds import Guard, Measure, PlaceHold, ScopeClaim

# A few KB each.
_REMEMBERED_MOST = 4_096
_LETTERS = {
    Measure.MONEY: "m", Measure.USES: "u", Measure.OPEN: "o", Measure.SHARE: "s", Measure.USAGE: "y",
    Measure.QUOTE: "q",
}  # fmt: skip


class WrittenClaims:
    """Keys of the scopes, keys of the guards, arguments of both. `scope_keys` are those that the hold records."""

    __slots__ = ("args", "guard_keys", "guards", "scope_keys", "scopes", "tag")

    def __init__(self, of_tag: str, scopes: tuple[ScopeClaim, ...], guards: tuple[Guard, ...]) -> None:
        self.tag, self.scopes, self.guards = of_tag, scopes, guards
        self.scope_keys: list[str] = []
        self.guard_keys: list[str] = []
        self.args: list[bytes | str | int] = []
        for claim in scopes:
            self._claim(claim)
        for guard in guards:
            self.guard_keys.append(keys.version_key(of_tag, guard.name))
            self.args += ("g", str(guard.version), 0)

    def _claim(self, claim: ScopeClaim) -> None:
        letter = _LETTERS[claim.measure]
        self.scope_keys.append(keys.counter_key(self.tag, claim))
        if claim.measure in (Measure.USAGE, Measure.QUOTE):
            self.args += (f"{letter} {claim.detail}", "", claim.window_ends_at_ms or 0)
            return
        limit = "" if claim.limit is None else str(claim.limit)
        if claim.budget_id is not None and claim.limit is not None:
            limit += "+"
        if not limit or limit.endswith("+"):
            self.scope_keys.append(keys.budget_key(self.tag, claim.budget_id or ""))
        if claim.detail:
            letter += f" {claim.detail}"
            self.scope_keys.append(keys.outbox_key(self.tag))
        self.args += (letter, limit, claim.window_ends_at_ms or 0)


class ClaimWriter:
    """Writes claims, and remembers by identity what it wrote last for them."""

    def __init__(self) -> None:
        self._written: dict[tuple[int, int], WrittenClaims] = {}

    def write(self, of_tag: str, hold: PlaceHold) -> WrittenClaims:
        scopes, guards = hold.scopes, hold.guards
        identity = (id(scopes), id(guards))
        known = self._written.get(identity)
        # What is remembered keeps its values alive, so an identity is not given to others meanwhile.
        if known is not None and known.scopes is scopes and known.guards is guards and known.tag == of_tag:
            return known
        if len(self._written) >= _REMEMBERED_MOST:
            self._written.clear()
        written = self._written[identity] = WrittenClaims(of_tag, scopes, guards)
        return written
