"""What one request asks of the simulated upstream: the body's wishes, and those of the `x-sim-*` headers.

Everything derives from the request (a seed of path and body), so the same request gets the same bytes, and an answer
that a fault ends early is a prefix of the whole one. Input tokens are the words of the text, separated by white space:
never more than a real vocabulary finds, so a bound that is sound for real providers is sound here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

DEFAULT_OUTPUT_TOKENS = 64
DEFAULT_DELAY_S = 5.0  # `slow-headers` without `x-sim-delay-ms`
MEDIA_TOKENS = 16  # an image, file or audio part of the input
FAULTS_AT = frozenset({"stall", "close"})
FAULTS = frozenset({"no-usage", "usage-x2", "status-500", "slow-headers"})
_TEXT = (
    "messages input prompt instructions system contents systemInstruction system_instruction content requests parts "
    "text arguments output generateContentRequest"
)
_MEDIA = "image_url input_audio inlineData inline_data fileData file_data source file images file_id"
TEXT_FIELDS = frozenset(_TEXT.split())
MEDIA_FIELDS = frozenset(_MEDIA.split())

# One piece of an answer, and how many output tokens it delivers.
Piece = tuple[bytes, int]


class BadOrder(ValueError):
    """A request or an `x-sim-*` header that the simulator cannot read; becomes a 400 in the dialect."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The `x-sim-*` headers. `fault_at` counts output tokens."""

    output_tokens: int | None = None
    interval_s: float = 0.0
    burst: bool = False
    chunk_bytes: int = 0
    fault: str | None = None
    fault_at: int = 0
    delay_s: float = 0.0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool: bool = False


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in: where, and what. `model` is the one of the path, where the dialect has it there."""

    path: str
    model: str
    query: str
    content_type: str
    body: bytes
    payload: Mapping[str, Any]
    wish: Wish
    seed: bytes

    def with_payload(self, payload: Mapping[str, Any]) -> Asked:
        """The same request, of which something else was read."""
        return replace(self, payload=payload)


@dataclass(frozen=True, slots=True)
class Ready:
    """A whole answer as the two messages that carry it."""

    start: dict[str, Any]
    body: dict[str, Any]
    length: int
    digest: str


@dataclass(slots=True)
class Answer:
    """What goes back. `whole`: one body with a Content-Length; else a stream, written piece by piece."""

    pieces: Iterable[Piece]
    whole: bool = True
    status: int = 200
    media_type: bytes = b"application/json"
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ready: Ready | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A generation, worked out. `output_tokens` is of one choice and includes `reasoning_tokens`, which do not show."""

    model: str
    stream: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cut: bool  # the request's output limit ended it
    choices: int
    tool: str | None
    seed: bytes
    wish: Wish

    @property
    def visible_tokens(self) -> int:
        return self.output_tokens - self.reasoning_tokens

    @property
    def all_output_tokens(self) -> int:
        return self.output_tokens * self.choices

    @property
    def identity(self) -> str:
        return self.seed.hex()[:29]

    @property
    def created_s(self) -> int:
        """A time in 2023-2025 that depends on the request alone."""
        return 1_690_000_000 + int.from_bytes(self.seed[:4], "big") % 60_000_000

    @property
    def reports_usage(self) -> bool:
        return self.wish.fault != "no-usage"

    def told(self, tokens: int) -> int:
        """A figure as the usage object tells it: doubled under the fault `usage-x2`."""
        return tokens * 2 if self.wish.fault == "usage-x2" else tokens


def read_wish(headers: Mapping[str, str]) -> Wish:
    """The `x-sim-*` headers, lower-case names without the prefix. Errors: BadOrder names the header."""
    if not headers:
        return NO_WISH
    fault, fault_at = _fault(headers.get("fault"))
    delay_s = _number(headers, "delay-ms") / 1_000
    return Wish(
        output_tokens=_number(headers, "output-tokens") if "output-tokens" in headers else None,
        interval_s=_number(headers, "interval-ms") / 1_000,
        burst=headers.get("burst") == "1",
        chunk_bytes=_number(headers, "chunk-bytes"),
        fault=fault,
        fault_at=fault_at,
        delay_s=delay_s or (DEFAULT_DELAY_S if fault == "slow-headers" else 0.0),
        cached_tokens=_number(headers, "cached-tokens"),
        reasoning_tokens=_number(headers, "reasoning-tokens"),
        tool=headers.get("tool") == "1",
    )


def _fault(value: str | None) -> tuple[str | None, int]:
    if value is None or value in FAULTS:
        return value, 0
    name, _, at = value.partition("@")
    if name in FAULTS_AT and at.isdecimal():
        return name, int(at)
    message = f"x-sim-fault: {value!r} is none of stall@N, close@N, {', '.join(sorted(FAULTS))}"
    raise BadOrder(message)


def _number(headers: Mapping[str, str], name: str) -> int:
    value = headers.get(name, "0")
    if not value.isdecimal() or len(value) > 9:
        message = f"x-sim-{name}: a whole number of at most nine digits is wanted"
        raise BadOrder(message)
    return int(value)


def order_of(
    asked: Asked,
    *,
    limits: Iterable[Any] = (),
    choices: Any = 1,
    stream: bool | None = None,
    tools: Any = None,
) -> Order:
    """Work out a generation. `limits`: the values of every output limit field of the dialect; the least one counts.

    Errors: BadOrder for a limit or a number of choices that is no whole number."""
    wish = asked.wish
    wanted = DEFAULT_OUTPUT_TOKENS if wish.output_tokens is None else wish.output_tokens
    known = [_whole(limit) for limit in limits if limit is not None]
    output = min([wanted, *known])
    input_tokens = max(1, input_words(asked.payload))
    return Order(
        model=model_of(asked),
        stream=bool(asked.payload.get("stream", False)) if stream is None else stream,
        input_tokens=input_tokens,
        output_tokens=output,
        cached_tokens=min(wish.cached_tokens, input_tokens),
        reasoning_tokens=min(wish.reasoning_tokens, output),
        cut=output < wanted,
        choices=_whole(choices),
        tool=_tool_name(tools) if wish.tool and tools else None,
        seed=asked.seed,
        wish=wish,
    )


def model_of(asked: Asked) -> str:
    """The model of the path, else of the body. Errors: BadOrder without one."""
    model = asked.model or asked.payload.get("model")
    if not isinstance(model, str) or not model:
        message = "you must provide a model parameter"
        raise BadOrder(message)
    return model


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = "a whole number was expected"
        raise BadOrder(message)
    return value


def _tool_name(tools: Any) -> str:
    """The name of the first tool, in any dialect's shape."""
    first = tools[0] if isinstance(tools, list) and tools else {}
    if not isinstance(first, dict):
        return "tool"
    declared = first.get("functionDeclarations") or first.get("function_declarations") or [{}]
    inner = first.get("function") or (declared[0] if isinstance(declared, list) and declared else {})
    return str(first.get("name") or inner.get("name") or "tool")


def input_words(value: Any) -> int:
    """Words in the text of a body (token ids count as one each, media as `MEDIA_TOKENS`)."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(1 if isinstance(item, int) else input_words(item) for item in value)
    if not isinstance(value, dict):
        return 0
    found = sum(input_words(item) for key, item in value.items() if key in TEXT_FIELDS)
    return found + MEDIA_TOKENS * sum(1 for key in value if key in MEDIA_FIELDS)
