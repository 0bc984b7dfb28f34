"""What the store keeps, told in plain words: how it is persisted, and how many seconds of it can be lost by what.

Why: Redis acknowledges money that a power cut, a failover or an eviction can take back. Nobody finds that out from a
running system. Start-up and `farebox doctor` therefore read the servers' settings and say what can be lost before it
is.

A `FAULT` means that money will be lost in an event that must be expected; a `WARNING` that it can be; a `NOTE` informs.
Settings that a provider hides are told as not known, never taken for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.adapters.redis.address import Layout
from gateway.adapters.redis.connection import RedisReplyError

# EVALSHA flags (allow-oom), multi-part append-only files and `0-*` ids begin here.
_OLDEST_VERSION = (7, 0)
# fsync every second runs in the background and may be one second late.
_EVERYSEC_LOSS_S = 2
# Linux writes dirty pages after 30 s (vm.dirty_expire_centisecs).
_KERNEL_LOSS_S = 30
# The longest wait for a failover to begin that we find reasonable; Valkey's own default is 15 s.
_NODE_TIMEOUT_MS_MOST = 5_000
_MEMORY_FULL = 0.85
_SETTINGS = (
    "appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy", "min-replicas-to-write",
    "min-replicas-max-lag", "cluster-node-timeout", "aof-load-truncated",
)  # fmt: skip


class Level(StrEnum):
    """How bad it is."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that whoever runs the store should know. `remedy` is what to do, "" where nothing needs to be done."""

    level: Level
    server: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level.value}: {self.server}: {self.text}" + (f" -> {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Loss:
    """What an event can take, in seconds of movements. None: everything."""

    event: str
    seconds: int | None

    def __str__(self) -> str:
        match self.seconds:
            case None:
                return f"{self.event}: everything can be lost"
            case 0:
                return f"{self.event}: nothing is lost"
            case seconds:
                return f"{self.event}: up to {seconds} s of movements can be lost"

    def amount(self, spend_per_s: int) -> int | None:
        """The same in money. None: everything."""
        return None if self.seconds is None else self.seconds * spend_per_s


@dataclass(frozen=True, slots=True)
class DurabilityReport:
    """What was found on all servers."""

    layout: Layout
    servers: tuple[str, ...]
    losses: tuple[Loss, ...]
    findings: tuple[Finding, ...]
    memory_share: float

    @property
    def sound(self) -> bool:
        """No fault."""
        return all(finding.level is not Level.FAULT for finding in self.findings)

    def lines(self) -> list[str]:
        """For start-up and `farebox doctor`."""
        return [
            f"store: {self.layout.value}, {', '.join(self.servers)}, memory {self.memory_share:.0%} used",
            *(str(loss) for loss in self.losses),
            *(str(finding) for finding in self.findings),
        ]


class Servers(Protocol):
    """What is asked; `link.RedisLink` answers."""

    @property
    def layout(self) -> Layout: ...
    async def each_server(self, *args: bytes | str | int) -> dict[str, object]: ...


async def look(link: Servers) -> DurabilityReport:
    """Read every primary's settings and state. Errors: Unavailable."""
    infos = {server: parse_info(reply) for server, reply in (await link.each_server("INFO")).items()}
    configs = await link.each_server("CONFIG", "GET", *_SETTINGS)
    losses: list[Loss] = []
    findings: list[Finding] = []
    share = 0.0
    for server, info in infos.items():
        config = parse_config(configs.get(server))
        share = max(share, memory_share(info))
        findings += _state_findings(server, info)
        if config is None:
            findings.append(
                Finding(
                    Level.WARNING, server, "CONFIG is not allowed: durability is not known", "ask the provider for it"
                )
            )
            continue
        losses += _losses(link.layout, info, config)
        findings += _persistence_findings(server, config)
        findings += _memory_findings(server, config)
        findings += _replication_findings(link.layout, server, info, config)
    return DurabilityReport(link.layout, tuple(infos), _worst(losses), tuple(findings), share)


def parse_info(reply: object) -> dict[str, str]:
    """INFO as fields; empty when the server refuses it."""
    if not isinstance(reply, bytes):
        return {}
    pairs = (line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, value in pairs}  # noqa: C416 - `dict` takes no lists


def parse_config(reply: object) -> dict[str, str] | None:
    """CONFIG GET as settings; None when the server refuses it."""
    if isinstance(reply, RedisReplyError) or not isinstance(reply, list):
        return None
    return {name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2], strict=True)}


def memory_share(info: Mapping[str, str]) -> float:
    """Used memory as a share of the limit, or of the machine where there is no limit. 0 when not known."""
    limit = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    return int(info.get("used_memory", 0)) / limit if limit else 0.0


def is_memory_full(share: float) -> bool:
    """Above this share no hold is placed: what runs must still be able to end."""
    return share >= _MEMORY_FULL


def _losses(layout: Layout, info: Mapping[str, str], config: Mapping[str, str]) -> list[Loss]:
    killed, power = _disk_losses(config)
    losses = [Loss("the server's process is killed", killed), Loss("the machine loses power", power)]
    if int(info.get("connected_slaves", 0)) or layout is not Layout.SINGLE:
        lag = int(config.get("min-replicas-max-lag", 0) or 0)
        bounded = int(config.get("min-replicas-to-write", 0) or 0) > 0 and lag > 0
        losses.append(Loss("a replica takes over", lag if bounded else None))
    else:
        losses.append(Loss("the disk is lost (there is no replica)", None))
    return losses


def _disk_losses(config: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Seconds lost when the process is killed, and when power is lost."""
    if config.get("appendonly") == "yes":
        power = {"always": 0, "everysec": _EVERYSEC_LOSS_S}.get(config.get("appendfsync", ""), _KERNEL_LOSS_S)
        return 0, power
    rules = config.get("save", "").split()
    slowest = max((int(seconds) for seconds in rules[::2]), default=None)
    return slowest, slowest


def _worst(losses: list[Loss]) -> tuple[Loss, ...]:
    """One line an event: the worst of the servers."""
    worst: dict[str, Loss] = {}
    for loss in losses:
        known = worst.get(loss.event)
        if known is None or (known.seconds is not None and (loss.seconds is None or loss.seconds > known.seconds)):
            worst[loss.event] = loss
    return tuple(worst.values())


def _state_findings(server: str, info: Mapping[str, str]) -> list[Finding]:
    version_text = info.get("redis_version", "0.0")
    version = tuple(int(part) for part in version_text.split(".")[:2] if part.isdigit())
    name = "Valkey" if "valkey_version" in info else "Redis"
    findings = [Finding(Level.NOTE, server, f"{name} {info.get('valkey_version', version_text)}")]
    if version < _OLDEST_VERSION:
        findings.append(
            Finding(Level.FAULT, server, f"version {version_text} is too old", "use Redis 7, Valkey 7.2 or later")
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        findings.append(
            Finding(Level.FAULT, server, "the append-only file cannot be written", "look at disk and permissions")
        )
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        findings.append(
            Finding(Level.WARNING, server, "the last rewrite of the append-only file failed", "look at the disk")
        )
    share = memory_share(info)
    if is_memory_full(share):
        findings.append(
            Finding(Level.FAULT, server, f"memory is {share:.0%} used: no hold is placed", "give it more memory")
        )
    return findings


def _persistence_findings(server: str, config: Mapping[str, str]) -> list[Finding]:
    if config.get("appendonly") != "yes":
        text = "there is no append-only file: a restart forgets money"
        return [Finding(Level.FAULT, server, text, "set appendonly yes and appendfsync always (or everysec)")]
    fsync = config.get("appendfsync")
    if fsync == "always":
        return [Finding(Level.NOTE, server, "every movement is on disk before it is acknowledged (appendfsync always)")]
    text = f"movements are acknowledged before they are on disk (appendfsync {fsync})"
    return [Finding(Level.WARNING, server, text, "set appendfsync always: under load it costs next to nothing")]


def _memory_findings(server: str, config: Mapping[str, str]) -> list[Finding]:
    findings = []
    policy = config.get("maxmemory-policy")
    if policy != "noeviction":
        text = f"maxmemory-policy {policy} throws balances away when memory is short"
        findings.append(Finding(Level.FAULT, server, text, "set maxmemory-policy noeviction"))
    if config.get("maxmemory") == "0":
        text = "there is no maxmemory: the kernel may kill the server when memory is short"
        findings.append(Finding(Level.WARNING, server, text, "set maxmemory to at most half of the machine's memory"))
    return findings


def _replication_findings(
    layout: Layout, server: str, info: Mapping[str, str], config: Mapping[str, str]
) -> list[Finding]:
    findings = []
    replicas = int(info.get("connected_slaves", 0))
    if layout is not Layout.SINGLE and not replicas:
        findings.append(Finding(Level.WARNING, server, "it has no replica: nothing can take over", "add a replica"))
    if (replicas or layout is not Layout.SINGLE) and int(config.get("min-replicas-to-write", 0) or 0) < 1:
        text = "a primary that is cut off goes on taking spends which the failover then forgets"
        remedy = "set min-replicas-to-write 1 and min-replicas-max-lag 3"
        findings.append(Finding(Level.FAULT if replicas else Level.WARNING, server, text, remedy))
    timeout_ms = int(config.get("cluster-node-timeout", 0) or 0)
    if layout is Layout.CLUSTER and timeout_ms > _NODE_TIMEOUT_MS_MOST:
        text = f"a dead node is noticed after {timeout_ms / 1000:g} s"
        findings.append(Finding(Level.WARNING, server, text, f"set cluster-node-timeout {_NODE_TIMEOUT_MS_MOST}"))
    return findings
