"""The ledger on Redis: every step is one script call, and this class only hands over keys and reads
answers.

Invariants: a step names every key that it touches, all of one partition; the keys of a hold's scopes are those the hold
recorded (remembered here for the holds of this worker, told by the script where they are not). The failure it prevents:
money moved by anything else than a script.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from gateway.adapters.redis import keys, replies
from gateway.adapters.redis.books import Link, RedisBooks
from gateway.adapters.redis.claims import ClaimWriter
from gateway.adapters.redis.scripts import Script, load
from gateway.core.accounts import (
    DEFAULT_TERMS,
    CreditCause,
    CreditMode,
    DebitCause,
    LedgerTerms,
    check_amount,
    check_hold,
    member,
    pocket_name,
)
from gateway.core.holds import (
    NO_TOKENS,
    Credited,
    Debited,
    Extended,
    Placed,
    PlaceHold,
    Posted,
    Refusal,
    Refused,
    Renewed,
    UsageTokens,
)
from gateway.core.money import Rate, Unit

# Scope keys are remembered for at most this many open holds; what is forgotten costs one more round trip, nothing else.
_REMEMBERED_HOLDS_MAX = 65_536
_REMEMBERED_ACCOUNTS_MAX = 8_192
_HOLD_MARK = 2  # the underscore of `ho_`


class RedisLedger(RedisBooks):
    """Implements `ports.Ledger`. `memory_is_short`, `is_frozen`: set by whoever watches for it; `place` refuses
    then."""

    def __init__(self, link: Link, *, worker: str, terms: LedgerTerms = DEFAULT_TERMS) -> None:
        super().__init__(link)
        self.memory_is_short = False
        self.is_frozen = False
        self._worker = worker
        self._writer = ClaimWriter()
        self._known: dict[str, tuple[str, list[str]]] = {}  # hold id -> account, keys of its scopes
        self._prefixes: dict[str, tuple[str, str, str, str, str]] = {}  # of the keys of an account's holds
        self._retention = str(terms.retention_ms)
        self._place_tail = (str(terms.most_shortfalls), str(terms.longest_hold_ms + terms.retention_ms))
        self._place, self._extend_to, self._shrink_to = load("place"), load("extend_to"), load("shrink_to")
        self._checkpoint, self._post, self._void = load("checkpoint"), load("post"), load("void")
        self._expire, self._credit, self._debit = load("expire"), load("credit"), load("debit")
        self._raise, self._renew, self._credit_limit = load("raise_hold"), load("renew_allowance"), load("credit_limit")

    async def place(self, hold: PlaceHold) -> Placed | Refused:
        """Reserve the most there is between floor and ceiling on the account and all scopes, or say what refuses."""
        if self.memory_is_short:
            return Refused(Refusal.MEMORY)
        if self.is_frozen:
            return Refused(Refusal.FROZEN)
        hold_id = hold.hold_id
        step_keys = self._four_keys(hold_id, hold.account)
        check_hold(hold)
        first = min(hold.ceiling, max(hold.floor, hold.first))
        args: list[bytes | str | int] = [
            hold_id, hold.account, hold.floor, first, hold.ceiling, hold.rate.microusd_per_btc, self._worker,
            hold.owner, hold.lifetime_ms, hold.greatest_age_ms, f"c:{hold.credit_id}" if hold.credit_id else "",
            f"r:{hold.token_id}" if hold.token_id else "", hold.labels, *self._place_tail,
        ]  # fmt: skip
        if hold.scopes or hold.guards:
            written = self._writer.write(keys.tag(hold_id), hold)
            scope_keys = written.scope_keys
            args += written.args
            reply = await self._link.script(self._place, step_keys + scope_keys + written.guard_keys, args)
        else:
            scope_keys = []
            reply = await self._link.script(self._place, step_keys, args)
        if reply[0] != b"placed":
            return replies.refused(reply, hold.scopes)
        self._remember(hold_id, hold.account, scope_keys)
        _, granted, available, state, replayed, shortfalls, ceiling = reply
        lowered = ceiling if ceiling < hold.ceiling else None
        return Placed(hold_id, granted, available, state.decode(), replayed == 1, shortfalls, lowered)

    async def extend_to(self, hold_id: str, total: int) -> Extended | Refused:
        """Reserve up to `total` in all (never above the hold's ceiling)."""
        return await self._resize(self._extend_to, hold_id, total)

    async def shrink_to(self, hold_id: str, total: int) -> Extended | Refused:
        """Give back what is reserved above `total` (never below what was earned)."""
        return await self._resize(self._shrink_to, hold_id, total)

    async def _resize(self, script: Script, hold_id: str, total: int) -> Extended | Refused:
        check_amount("total", total)
        of_tag = keys.tag(hold_id)
        account = await self._account_of(hold_id)
        if account is None:
            return Refused(Refusal.NOT_OPEN)
        step_keys = [f"{of_tag}a:{account}", f"{of_tag}h:{hold_id}", f"{of_tag}journal"]
        reply = await self._on_scopes(script, hold_id, account, step_keys, (hold_id, total))
        if reply[0] != b"extended":
            return replies.refused(reply)
        return Extended(*reply[1:])

    async def checkpoint(self, hold_id: str, earned: int, *, outcome: bytes = b"") -> Renewed | Refused:
        """Write down what was earned so far, and what for (b"": as it was), and renew the hold."""
        check_amount("earned", earned)
        of_tag = keys.tag(hold_id)
        step_keys = (f"{of_tag}h:{hold_id}", f"{of_tag}open")
        reply = await self._link.script(self._checkpoint, step_keys, (hold_id, earned, outcome))
        return Renewed(earned=reply[1]) if reply[0] == b"renewed" else replies.refused(reply)

    def post(
        self, hold_id: str, cost: int, *, account: str, outcome: bytes = b"", tokens: UsageTokens = NO_TOKENS
    ) -> Coroutine[Any, Any, Posted | Refused]:
        """Charge `cost` and end the hold. A hold that is forgotten (retention) counts as unknown: replay no older
        posts. `tokens` are for the day's usage, where the hold claims a line of it."""
        check_amount("cost", cost)
        step_keys = self._four_keys(hold_id, account)
        figures = (
            "" if tokens is NO_TOKENS
            else f"{tokens.input_tokens} {tokens.cached_input_tokens} {tokens.output_tokens}"
        )  # fmt: skip
        args = (hold_id, account, cost, outcome, self._retention, figures)
        return self._end(self._post, hold_id, account, step_keys, args)

    async def raise_hold(self, hold_id: str, ceiling: int, *, lifts: tuple[str, ...] = ()) -> Extended | Refused:
        """An open hold's ceiling becomes `ceiling` (never lowered); the budgets `lifts` no longer limit it."""
        check_amount("ceiling", ceiling)
        account = await self._account_of(hold_id)
        if account is None:
            return Refused(Refusal.NOT_OPEN)
        step_keys = [keys.account_key(account), keys.hold_key(hold_id)]
        reply = await self._link.script(self._raise, step_keys, (hold_id, ceiling, " ".join(lifts)))
        if reply[0] != b"extended":
            return replies.refused(reply)
        return Extended(granted=reply[1], available=reply[2])

    async def renew_allowance(
        self,
        account: str,
        period_id: str,
        amount: int,
        *,
        plan: str,
        ends_at_ms: int,
        follows: str = "",
        limit: int = 0,
    ) -> Credited | Refused:
        """Begin a plan's period, or end the plan (`plan` ""); the account is made where there is none. `ends_at_ms` 0:
        it has no end. `follows`: where another period runs, nothing changes. `limit`: how much the plan lets owe."""
        check_amount("amount", amount)
        check_amount("limit", limit)
        args = (account, period_id, amount, plan, ends_at_ms, follows, limit)
        return await self._adjust(self._renew, account, args)

    async def set_credit_limit(self, account: str, limit: int | None, *, change_id: str) -> Credited | Refused:
        """How much may be owed in the postpaid pocket: an operator's own limit, or the plan's again (None); the account
        is made where there is none."""
        if limit is not None:
            check_amount("limit", limit)
        return await self._adjust(self._credit_limit, account, (account, change_id, "plan" if limit is None else limit))

    async def _adjust(self, script: Script, account: str, args: tuple[str | int, ...]) -> Credited | Refused:
        of_tag = keys.tag(account)
        step_keys = (f"{of_tag}a:{account}", f"{of_tag}accounts", f"{of_tag}journal")
        reply = await self._link.script(script, step_keys, args)
        if reply[0] not in (b"applied", b"replayed"):
            return replies.refused(reply)
        return Credited(outcome=reply[0].decode(), available=reply[1])

    async def void(self, hold_id: str, *, account: str, outcome: bytes = b"") -> Posted | Refused:
        """End the hold at no charge; an unknown one can then never be placed."""
        step_keys = self._four_keys(hold_id, account)
        return await self._end(self._void, hold_id, account, step_keys, (hold_id, account, outcome, self._retention))

    async def expire(self, hold_id: str, *, lease_gone: bool = False) -> Posted | Refused:
        """Post a hold that was left behind at its checkpoint. `lease_gone`: the caller has seen that the worker's lease
        is."""
        account = await self._account_of(hold_id)
        if account is None:
            return Refused(Refusal.NOT_OPEN)
        step_keys = _ending_keys(keys.tag(hold_id), account, hold_id)
        return await self._end(self._expire, hold_id, account, step_keys, (hold_id, self._retention, int(lease_gone)))

    async def credit(
        self,
        credit_id: str,
        account: str,
        amount: int,
        *,
        unit: Unit,
        rate: Rate,
        source: str,
        cause: str = "payment",
        pocket: str | None = None,
        account_class: str | None = None,
    ) -> Credited | Refused:
        """Add money, once per id; the account is made by its first credit. `pocket`: for people, by default prepaid; a
        class `envelope` account and an agent's have one pocket."""
        check_amount("amount", amount, least=1)
        mode = member("cause", CreditCause, cause).mode
        one_pocket = unit is Unit.MSAT or account_class == "envelope"
        place = "" if one_pocket else pocket_name(pocket)
        of_tag = keys.tag(account)
        house = keys.house_account(unit.value, of_tag)
        step_keys = [f"{of_tag}a:{account}", f"{of_tag}accounts", f"{of_tag}journal"]
        if mode is CreditMode.HOUSE:
            step_keys.append(f"{of_tag}a:{house}")
        kind = account_class or ("agent" if unit is Unit.MSAT else "person")
        args = (
            account,
            credit_id,
            amount,
            unit.value,
            rate.microusd_per_btc,
            source,
            cause,
            mode.value,
            place,
            kind,
            house,
        )
        reply = await self._link.script(self._credit, step_keys, args)
        if reply[0] not in (b"applied", b"replayed"):
            return replies.refused(reply)
        return Credited(outcome=reply[0].decode(), available=reply[1], debt_paid=reply[2])

    async def debit(
        self, debit_id: str, account: str, amount: int, *, cause: str, pocket: str | None = None
    ) -> Debited | Refused:
        """Take money back, once per id: what is available, the rest becomes debt."""
        check_amount("amount", amount, least=1)
        member("cause", DebitCause, cause)
        of_tag = keys.tag(account)
        step_keys = (f"{of_tag}a:{account}", f"{of_tag}journal")
        args = (account, debit_id, amount, cause, pocket_name(pocket))
        reply = await self._link.script(self._debit, step_keys, args)
        if reply[0] != b"debited":
            return replies.refused(reply)
        return Debited(taken=reply[1], owed=reply[2], available=reply[3], replayed=reply[4] == 1)

    def _four_keys(self, hold_id: str, account: str) -> list[str]:
        """Account, hold, open holds and journal. Errors: ValueError where hold and account lie in two partitions."""
        known = self._prefixes.get(account)
        if known is None:
            of_tag = keys.tag(account)
            if len(self._prefixes) >= _REMEMBERED_ACCOUNTS_MAX:
                self._prefixes.clear()
            known = (of_tag[2:4], keys.account_key(account), f"{of_tag}h:", f"{of_tag}open", f"{of_tag}journal")
            self._prefixes[account] = known
        digits, account_key, hold_prefix, open_key, journal_key = known
        if hold_id[3:5] != digits or hold_id.rfind("_") != _HOLD_MARK:
            _tag_of(hold_id, account)
        return [account_key, hold_prefix + hold_id, open_key, journal_key]

    async def _end(
        self, script: Script, hold_id: str, account: str, step_keys: list[str], args: tuple[bytes | str | int, ...]
    ) -> Posted | Refused:
        known = self._known.get(hold_id)
        reply = await self._link.script(script, step_keys + known[1] if known else step_keys, args)
        if reply[0] == b"keys":
            reply = await self._with_told_keys(reply, script, hold_id, account, step_keys, args)
        self._known.pop(hold_id, None)
        return replies.ended(reply)

    async def _on_scopes(
        self, script: Script, hold_id: str, account: str, step_keys: list[str], args: tuple[bytes | str | int, ...]
    ) -> Any:
        """Call a step of a hold with its scopes' keys; a script that knows better tells them, and is asked again."""
        known = self._known.get(hold_id)
        reply = await self._link.script(script, step_keys + known[1] if known else step_keys, args)
        if reply[0] == b"keys":
            return await self._with_told_keys(reply, script, hold_id, account, step_keys, args)
        return reply

    async def _with_told_keys(
        self, reply: list[bytes], script: Script, hold_id: str, account: str, step_keys: list[str],
        args: tuple[bytes | str | int, ...],
    ) -> Any:  # fmt: skip
        told = [key.decode() for key in reply[1:]]
        self._remember(hold_id, account, told)
        return await self._link.script(script, step_keys + told, args)

    async def _account_of(self, hold_id: str) -> str | None:
        known = self._known.get(hold_id)
        if known:
            return known[0]
        record = await self.hold(hold_id)
        return record.account if record else None

    def _remember(self, hold_id: str, account: str, scope_keys: list[str]) -> None:
        if len(self._known) >= _REMEMBERED_HOLDS_MAX:
            del self._known[next(iter(self._known))]
        self._known[hold_id] = (account, scope_keys)


def _ending_keys(of_tag: str, account: str, hold_id: str) -> list[str]:
    return [f"{of_tag}a:{account}", f"{of_tag}h:{hold_id}", f"{of_tag}open", f"{of_tag}journal"]


def _tag_of(hold_id: str, account: str) -> str:
    """The partition of a step. Errors: ValueError where hold and account lie in two: no step could be atomic."""
    of_tag = keys.tag(hold_id)
    if keys.tag(account) != of_tag:
        message = f"the hold {hold_id[:40]!r} lies in another partition than its account"
        raise ValueError(message)
    return of_tag
