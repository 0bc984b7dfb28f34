"""The names of the ledger's keys. Every one carries its partition as hash tag, so that a step's keys lie on one server.

`{p7f}a:<account>` account   `{p7f}h:<hold>` hold   `{p7f}open` open holds by the time they are renewed until
`{p7f}c:<window>|<scope>` counter of money, `{p7f}u:...` of uses, `{p7f}o:...` of open holds, `{p7f}s:...` of a share
`{p7f}b:<budget>` budget record   `{p7f}y:<day>|<account>` usage   `{p7f}q:<quote>` quote   `{p7f}v:<part>` version of a
part of the directory   `{p7f}outbox` what is told
`{p7f}accounts` index   `{p7f}journal` stream   `{p7f}opening` totals of what was trimmed

The failure this prevents: a key built twice, in two ways, that then is two counters.
"""

from __future__ import annotations

from gateway.core.holds import PARTITIONS, Measure, ScopeClaim

_TAGS = {f"{partition:02x}": f"{{p{partition:02x}}}" for partition in range(PARTITIONS)}
_TAG_LENGTH = len("{p00}")
_PREFIXES = {
    Measure.MONEY: "c:", Measure.USES: "u:", Measure.OPEN: "o:", Measure.SHARE: "s:", Measure.USAGE: "y:",
}  # fmt: skip
_MEASURES = {prefix[0]: measure for measure, prefix in _PREFIXES.items()}


def tag(identifier: str) -> str:
    """The hash tag of an id of ours.

    Errors: ValueError when the id carries no partition.
    """
    found = _TAGS.get(identifier.rpartition("_")[2][:2])
    if found is None:
        message = f"no id of ours (two hex digits after the last underscore): {identifier[:40]!r}"
        raise ValueError(message)
    return found


def partition_tag(partition: int) -> str:
    """The hash tag of a partition by its number."""
    return _TAGS[f"{partition:02x}"]


def account_key(account: str) -> str:
    return f"{tag(account)}a:{account}"


def hold_key(hold_id: str) -> str:
    return f"{tag(hold_id)}h:{hold_id}"


def house_account(unit: str, of_tag: str) -> str:
    """The house's own account of a unit in the partition with this tag."""
    return f"house-{unit}_{of_tag[2:4]}"


def counter_key(of_tag: str, claim: ScopeClaim) -> str:
    if claim.measure is Measure.QUOTE:
        return quote_key(of_tag, claim.scope)
    return f"{of_tag}{_PREFIXES[claim.measure]}{claim.window}|{claim.scope}"


def budget_key(of_tag: str, budget_id: str) -> str:
    return f"{of_tag}b:{budget_id}"


def quote_key(of_tag: str, quote_id: str) -> str:
    return f"{of_tag}q:{quote_id}"


def version_key(of_tag: str, part: str) -> str:
    return f"{of_tag}v:{part}"


def owners_key(of_tag: str) -> str:
    return f"{of_tag}owners"


def outbox_key(of_tag: str) -> str:
    return f"{of_tag}outbox"


def claim_of(counter: str, budget: str, limit: int, ends_at_ms: int, detail: str = "") -> ScopeClaim:
    """The claim that stands behind the keys which a hold recorded."""
    name = counter[_TAG_LENGTH + 2 :]
    if counter[_TAG_LENGTH] == "q":
        return ScopeClaim(scope=name, window="", measure=Measure.QUOTE, detail=detail)
    window, _, scope = name.partition("|")
    return ScopeClaim(
        scope=scope,
        window=window,
        measure=_MEASURES[counter[_TAG_LENGTH]],
        limit=None if limit < 0 else limit,
        budget_id=budget[_TAG_LENGTH + 2 :] or None,
        window_ends_at_ms=ends_at_ms or None,
        detail=detail,
    )
