"""Reads the operator's policies from one directory into one frozen object: `limits.yaml`, `approvals.yaml`,
`plans.yaml` and `prices/*.yaml`.

A reload reads everything anew and either gives a whole new object or keeps the old one and says why; nothing is ever
half new. No policy can switch an invariant off, and a file or key that nobody reads is refused.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from gateway.adapters.genai_book import BookUnreadable, default_book
from gateway.approval_files import APPROVALS, PLANS, ApprovalsFile, PlansFile
from gateway.config import Config
from gateway.config_reader import ConfigError, FieldProblem, load_yaml, read
from gateway.core.challenges import ChallengePolicy
from gateway.core.facts import RequestLimits
from gateway.core.price_entries import ProviderEntry, ppm_up
from gateway.core.prices import PriceBook
from gateway.core.refunds import RefundPolicy
from gateway.core.terms import HoldPolicy
from gateway.policies import Policies, Reloaded
from gateway.price_files import PriceFile, own_providers, rule_cards, tool_prices

# A hold must outlive several missed checkpoints, or a slow moment would expire work that is running.
_CHECKPOINTS_A_LIFETIME = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeKeys:
    """What of a challenge is policy; how many there may be is configuration (`limits`)."""

    default_deposit_sats: int = 1_000
    least_deposit_sats: int = 1
    greatest_deposit_sats: int = 1_000_000
    invoice_expiry_s: int = 600
    token_lifetime_s: int = 30 * 86_400
    retention_s: int = 90 * 86_400
    ignorable_caveats: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsFile:
    """`limits.yaml`."""

    margin: Decimal = Decimal(1)
    request: RequestLimits = field(default_factory=RequestLimits)
    hold: HoldPolicy = field(default_factory=HoldPolicy)
    challenges: ChallengeKeys = field(default_factory=ChallengeKeys)
    refunds: RefundPolicy = field(default_factory=RefundPolicy)

    def __post_init__(self) -> None:
        if not Decimal("0.01") <= self.margin <= 100:
            raise FieldProblem("margin", 'must be from "0.01" to "100"; "1.1" adds ten per cent')
        for name in ("request", "hold", "refunds"):
            record = getattr(self, name)
            for key in record.__dataclass_fields__:
                value = getattr(record, key)
                if isinstance(value, (int, float)) and value <= 0:
                    raise FieldProblem(f"{name}.{key}", "must be above zero")
        if self.hold.greatest_step_tokens < self.hold.first_step_tokens:
            raise FieldProblem("hold.greatest_step_tokens", "must not be below first_step_tokens")
        if self.hold.hold_lifetime_s < _CHECKPOINTS_A_LIFETIME * self.hold.checkpoint_interval_s:
            raise FieldProblem("hold.hold_lifetime_s", "must be at least three checkpoint intervals")
        if self.hold.hold_greatest_age_s < self.hold.hold_lifetime_s:
            raise FieldProblem("hold.hold_greatest_age_s", "must not be below hold_lifetime_s")


def policies_directory(config: Config) -> Path:
    """Where the policies lie: as configured, else those that are shipped.

    They lie beside the package in a checkout. An installation has them under its own prefix (`share/farebox/policies`).
    """
    if config.policies_dir:
        return Path(config.policies_dir)
    beside = Path(__file__).resolve().parent.parent / "policies"
    installed = Path(sysconfig.get_path("data")) / "share" / "farebox" / "policies"
    return beside if (beside / "limits.yaml").is_file() else installed


def load_policies(config: Config, *, default: tuple[ProviderEntry, ...] | None = None) -> Policies:
    """Read the policies of a configuration, over a default book that is known already or read now.

    Errors: ConfigError with every problem, each with file and path.
    """
    directory = policies_directory(config)
    texts = _texts(directory)
    problems: list[str] = []
    limits, approvals, plans = LimitsFile(), ApprovalsFile(), PlansFile()
    prices: dict[str, PriceFile] = {}
    for name, text in texts.items():
        try:
            data = load_yaml(text, source=name)
            if name == "limits.yaml":
                limits = read(LimitsFile, _without(data, "request", "priced_tools"))
            elif name == APPROVALS:
                approvals = read(ApprovalsFile, data)
            elif name == PLANS:
                plans = read(PlansFile, data)
            else:
                prices[name] = read(PriceFile, data)
        except ConfigError as error:
            problems += [each if each.startswith(name) else f"{name}: {each}" for each in error.problems]
    margin_ppm = ppm_up(limits.margin)
    own = own_providers(prices, problems)
    rules = rule_cards(prices, problems)
    challenges = _challenges(limits.challenges, config, problems)
    if problems or challenges is None:
        raise ConfigError(problems)
    tools = tool_prices(prices.values())
    if default is None:
        default = _default_book()
    return Policies(
        price_book=PriceBook(default, own, rules=rules, tools=tools, margin_ppm=margin_ppm),
        request_limits=replace(limits.request, priced_tools=frozenset(tools.names)),
        hold=limits.hold,
        challenge=challenges,
        refund=limits.refunds,
        margin_ppm=margin_ppm,
        digest=_digest(texts),
        files=tuple(texts),
        approvals=approvals.policy,
        plans=plans.by_name,
    )


def reload_policies(current: Policies, config: Config) -> Reloaded:
    """Read everything anew; keep what is in force if anything is wrong."""
    try:
        return Reloaded(load_policies(config, default=current.price_book.default))
    except ConfigError as error:
        return Reloaded(current, error.problems)
    except (OSError, UnicodeDecodeError) as error:
        return Reloaded(current, (str(error),))


def _default_book() -> tuple[ProviderEntry, ...]:
    try:
        return default_book()
    except BookUnreadable as error:
        raise ConfigError([str(error)]) from error


def _texts(directory: Path) -> dict[str, str]:
    """All files by their name below the directory, in a fixed order. A file that nobody reads is refused."""
    if not (directory / "limits.yaml").is_file():
        raise ConfigError([f"policies_dir: {directory} has no limits.yaml; name the directory that has it"])
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    read_names = [name for name in names if name in ("limits.yaml", APPROVALS, PLANS) or _is_price_file(name)]
    ignored = [name for name in names if name not in read_names and Path(name).suffix in (".yaml", ".yml")]
    if ignored:
        raise ConfigError([f"{name}: nobody reads this file; prices go into prices/*.yaml" for name in ignored])
    return {name: (directory / name).read_text(encoding="utf-8") for name in read_names}


def _is_price_file(name: str) -> bool:
    parent, _, last = name.rpartition("/")
    return parent == "prices" and last.endswith(".yaml")


def _digest(texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, text in texts.items():
        content = text.encode()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _without(data: Any, section: str, key: str) -> Any:
    """Refuse a key that the record has but the file must not set."""
    if isinstance(data, dict) and isinstance(data.get(section), dict) and key in data[section]:
        raise ConfigError([f"{section}.{key}: unknown key; tools get their prices in prices/*.yaml"])
    return data


def _challenges(keys: ChallengeKeys, config: Config, problems: list[str]) -> ChallengePolicy | None:
    try:
        return ChallengePolicy(
            service=config.lightning.service,
            default_deposit_sats=keys.default_deposit_sats,
            least_deposit_sats=keys.least_deposit_sats,
            greatest_deposit_sats=keys.greatest_deposit_sats,
            invoice_expiry_s=keys.invoice_expiry_s,
            token_lifetime_s=keys.token_lifetime_s,
            retention_s=keys.retention_s,
            ignorable_caveats=keys.ignorable_caveats,
            challenges_per_minute=config.limits.challenges_per_minute,
            unpaid_per_address=config.limits.open_invoices_per_address,
            open_per_prefix=config.limits.open_invoices_per_prefix,
            open_in_all=config.limits.open_invoices_most,
        )
    except ValueError as error:
        problems.append(f"limits.yaml: challenges: {error}")
        return None
