"""`approvals.yaml` and `plans.yaml`: which approval a request takes, and what plans include; read into frozen objects.

Both files may be absent: then the defaults hold, and there are no plans.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from gateway.config_reader import FieldProblem
from gateway.core.accounts import GREATEST_ARGUMENT
from gateway.core.approvals import ApprovalPolicy
from gateway.core.money import NANOUSD_PER_USD
from gateway.core.plans import Plan
from gateway.core.windows import PERIODS

APPROVALS, PLANS = "approvals.yaml", "plans.yaml"
_PLAN_WINDOWS = ("month", "week", "day")
_METHODS = ("password", "otp", "passkey")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalsFile:
    """`approvals.yaml`, key by key."""

    auto_up_to_usd: Decimal = Decimal(1)
    least_auto_tokens: int = 1_024
    explicit_up_to_usd: Decimal = Decimal(20)
    step_up_methods: tuple[str, ...] = _METHODS
    two_persons_above_usd: Decimal | None = None
    notify_above_usd: Decimal | None = None
    automatic_within_usd: Decimal = Decimal(20)
    automatic_within_s: int = 3_600
    app_may_approve: bool = True
    quote_lifetime_s: int = 900
    mid_stream: str = "ask"
    answer_within_s: int = 60
    ask_margin_tokens: int = 64
    expected_output_share: Decimal = Decimal("0.25")
    expected_confidence: Decimal = Decimal("0.50")

    def __post_init__(self) -> None:
        if self.explicit_up_to_usd < self.auto_up_to_usd:
            raise FieldProblem("explicit_up_to_usd", "must not be below auto_up_to_usd")
        for name in ("least_auto_tokens", "automatic_within_s", "quote_lifetime_s", "answer_within_s"):
            if getattr(self, name) <= 0:
                raise FieldProblem(name, "must be above zero")
        if self.ask_margin_tokens < 0:
            raise FieldProblem("ask_margin_tokens", "must not be negative")
        if self.mid_stream not in ("ask", "cut"):
            raise FieldProblem("mid_stream", "must be ask or cut")
        unknown = [method for method in self.step_up_methods if method not in _METHODS]
        if unknown or not self.step_up_methods:
            raise FieldProblem("step_up_methods", f"must be some of {', '.join(_METHODS)}")
        for name in ("expected_output_share", "expected_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise FieldProblem(name, 'must be a share from "0" to "1"')
        nanousd("automatic_within_usd", self.automatic_within_usd)
        nanousd("auto_up_to_usd", self.auto_up_to_usd)
        nanousd("explicit_up_to_usd", self.explicit_up_to_usd)
        nanousd("two_persons_above_usd", self.two_persons_above_usd or Decimal(0))
        nanousd("notify_above_usd", self.notify_above_usd or Decimal(0))

    @property
    def policy(self) -> ApprovalPolicy:
        """The policy in nanousd."""
        two, notify = self.two_persons_above_usd, self.notify_above_usd
        return ApprovalPolicy(
            auto_most=nanousd("auto_up_to_usd", self.auto_up_to_usd),
            explicit_most=nanousd("explicit_up_to_usd", self.explicit_up_to_usd),
            two_persons_above=None if two is None else nanousd("two_persons_above_usd", two),
            cumulative_most=nanousd("automatic_within_usd", self.automatic_within_usd),
            cumulative_window_s=self.automatic_within_s,
            least_auto_tokens=self.least_auto_tokens,
            notify_above=None if notify is None else nanousd("notify_above_usd", notify),
            app_may_approve=self.app_may_approve,
            step_up_methods=self.step_up_methods,
            quote_lifetime_s=self.quote_lifetime_s,
            mid_stream=self.mid_stream,
            answer_within_s=self.answer_within_s,
            ask_margin_tokens=self.ask_margin_tokens,
            expected_output_ppm=int(self.expected_output_share * 1_000_000),
            prior_confidence=float(self.expected_confidence),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKeys:
    """One plan of `plans.yaml`."""

    included_usd: Decimal = Decimal(0)
    credit_limit_usd: Decimal = Decimal(0)
    window: str = "month"
    period: str = "calendar"
    app_may_give: bool = False

    def __post_init__(self) -> None:
        if self.window not in _PLAN_WINDOWS:
            raise FieldProblem("window", f"must be one of {', '.join(_PLAN_WINDOWS)}")
        if self.period not in PERIODS:
            raise FieldProblem("period", f"must be one of {', '.join(PERIODS)}")
        nanousd("included_usd", self.included_usd)
        nanousd("credit_limit_usd", self.credit_limit_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlansFile:
    """`plans.yaml`."""

    plans: Mapping[str, PlanKeys] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name in self.plans:
            if not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
                raise FieldProblem(f"plans.{name}", "a name is 1 to 32 of a-z 0-9 _ -")

    @property
    def by_name(self) -> Mapping[str, Plan]:
        """The plans in nanousd."""
        return MappingProxyType(
            {
                name: Plan(
                    name=name,
                    included=nanousd(f"plans.{name}.included_usd", each.included_usd),
                    credit_limit=nanousd(f"plans.{name}.credit_limit_usd", each.credit_limit_usd),
                    window=each.window,
                    period=each.period,
                    app_may_give=each.app_may_give,
                )
                for name, each in self.plans.items()
            }
        )


def nanousd(name: str, usd: Decimal) -> int:
    """Errors: FieldProblem where the amount is negative, too large, or finer than a nanodollar."""
    amount = usd * NANOUSD_PER_USD
    if not 0 <= amount <= GREATEST_ARGUMENT or amount != int(amount):
        raise FieldProblem(name, 'must be USD from "0" to "999999", with at most 9 decimals')
    return int(amount)
