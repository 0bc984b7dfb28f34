"""Usage as FOCUS (the FinOps cost and usage specification, 1.1) names it: cost tools read it beside their clouds.

What a plan includes was billed with the plan: it is part of `EffectiveCost`, not of `BilledCost`. Columns of our own
begin with `x_`, as the specification asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.money import usd_string

COLUMNS = (
    "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
    "BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "ConsumedQuantity", "ConsumedUnit",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "InvoiceIssuerName", "ServiceCategory",
    "ServiceName", "ResourceId", "ResourceName", "SkuId", "SubAccountId", "Tags", "x_Requests", "x_InputTokens",
    "x_CachedInputTokens", "x_OutputTokens", "x_IncludedCost", "x_PrepaidCost", "x_PostpaidCost",
)  # fmt: skip
_NAME = "Farebox"


@dataclass(frozen=True, slots=True)
class Account:
    """Whose usage it is; days are of its time zone."""

    account: str
    name: str
    time_zone: str


def focus_row(row: Mapping[str, Any], account: Account, *, first_day: str, last_day: str) -> dict[str, Any]:
    """One row of usage (figures are whole, money in nanousd). Grouped without days, it stands for all days from the
    first to the last."""
    day = row.get("day")
    start, end = (day, day) if day else (first_day, last_day)
    model, user, key = (str(row.get(name, "")) for name in ("model", "user", "key"))
    tags = {name: value for name, value in (("user", user), ("key", key)) if value}
    cost = usd_string(row["cost"])
    tokens = row["input_tokens"] + row["output_tokens"]
    month = date.fromisoformat(start).replace(day=1)
    return {
        "BillingAccountId": account.account,
        "BillingAccountName": account.name,
        "BillingCurrency": "USD",
        "BillingPeriodStart": _midnight(month, account.time_zone),
        "BillingPeriodEnd": _midnight(_next_month(date.fromisoformat(end)), account.time_zone),
        "ChargePeriodStart": _midnight(date.fromisoformat(start), account.time_zone),
        "ChargePeriodEnd": _midnight(date.fromisoformat(end) + timedelta(days=1), account.time_zone),
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": f"{row['requests']} requests" + (f" to {model}" if model else ""),
        "ChargeFrequency": "Usage-Based",
        "BilledCost": usd_string(row["prepaid"] + row["postpaid"]),
        "EffectiveCost": cost,
        "ListCost": cost,
        "ContractedCost": cost,
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "Tokens",
        "PricingQuantity": tokens,
        "PricingUnit": "Tokens",
        "ProviderName": _NAME,
        "PublisherName": _NAME,
        "InvoiceIssuerName": _NAME,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": _NAME,
        "ResourceId": model,
        "ResourceName": model,
        "SkuId": model,
        "SubAccountId": user,
        "Tags": msgspec.json.encode(tags).decode(),
        "x_Requests": row["requests"],
        "x_InputTokens": row["input_tokens"],
        "x_CachedInputTokens": row["cached_input_tokens"],
        "x_OutputTokens": row["output_tokens"],
        "x_IncludedCost": usd_string(row["included"]),
        "x_PrepaidCost": usd_string(row["prepaid"]),
        "x_PostpaidCost": usd_string(row["postpaid"]),
    }


def _midnight(day: date, time_zone: str) -> str:
    return datetime.combine(day, time(), ZoneInfo(time_zone)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _next_month(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)
