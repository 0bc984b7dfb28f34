"""The operator's policies in force: prices, limits, holds, challenges, in one frozen object that is replaced whole.

Pure data: reading them from files is `policy_files`. No policy can switch an invariant off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.core.approvals import ApprovalPolicy
from gateway.core.challenges import ChallengePolicy
from gateway.core.facts import RequestLimits
from gateway.core.plans import Plan
from gateway.core.prices import PriceBook
from gateway.core.refunds import RefundPolicy
from gateway.core.terms import HoldPolicy


@dataclass(frozen=True, slots=True)
class Policies:
    """Everything the policies say. `digest`: SHA-256 over the names and contents of all files."""

    price_book: PriceBook
    request_limits: RequestLimits
    hold: HoldPolicy
    challenge: ChallengePolicy
    refund: RefundPolicy
    digest: str
    margin_ppm: int
    files: tuple[str, ...] = ()
    approvals: ApprovalPolicy = field(default_factory=ApprovalPolicy)
    plans: Mapping[str, Plan] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The policies in force after a reload; `refused` says why they are still the old ones."""

    policies: Policies
    refused: tuple[str, ...] = ()
