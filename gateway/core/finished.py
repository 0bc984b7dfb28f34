"""One finished request as metrics and the access log see it: what happened, and what it cost.

It holds names, numbers and ids only. No header, query, body or credential can be put into it by mistake: there is no
field.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.core.usage import NO_USAGE, Usage


class Finished(Struct, gc=False):
    """`reason`: the code it was refused with, or why its answer broke off ("" when all went well). Amounts are in
    `unit`."""

    request_id: str
    method: str = ""
    route: str = ""  # the pattern, never the path as it came: it may carry ids
    upstream: str = ""
    dialect: str = ""
    operation: str = ""
    model: str = ""
    status: int = 0
    reason: str = ""
    account: str = ""
    hold: str = ""
    state: str = ""  # of the hold: posted, voided, expired, spooled; "" where there was none
    unit: str = ""
    amount: int = 0
    held: int = 0
    shortfall: int = 0
    basis: str = ""
    cut: str | None = None
    usage: Usage = NO_USAGE
    policy: str = ""  # digest of the policies in force
    duration_s: float = 0.0
    upstream_s: float = 0.0  # until the upstream's head; 0 where none was asked
    first_byte_s: float = 0.0
    acknowledged: bool = True
    org: str = ""  # of an account's request: whose it is, by which key (its id, never its text), for which person
    key_id: str = ""
    user: str = ""
