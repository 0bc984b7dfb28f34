"""Reads requests of Anthropic's messages and of its token counting.

The limit is `max_tokens`, which Anthropic requires and which thinking counts against. Thinking is shown as a summary at
best, so a request that asks for it is held whole. Fields that raise the price (`speed`, `inference_geo`) are refused.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, Struct

from gateway.core.dialects import reading
from gateway.core.dialects.openai_chat import ORDINARY_TIERS
from gateway.core.dialects.reading import flag, given, limit_tokens, refuse
from gateway.core.dialects.reasoning import may_reason
from gateway.core.dialects.tools import Tool, ToolFees, anthropic_tools
from gateway.core.facts import RequestFacts, RequestLimits

SERVICE_TIERS = frozenset({"auto", "standard_only", "standard", "priority"})
ORDINARY_SPEEDS = frozenset({"standard"})
ORDINARY_PLACES = frozenset({"global", "not_available"})


class _Request(Struct):
    model: object = UNSET
    stream: object = UNSET
    max_tokens: object = UNSET
    tools: list[Tool] | None | msgspec.UnsetType = UNSET
    thinking: object = UNSET
    service_tier: object = UNSET
    mcp_servers: object = UNSET
    container: object = UNSET
    context_management: object = UNSET
    speed: object = UNSET
    inference_geo: object = UNSET
    fallbacks: object = UNSET
    fallback_model: object = UNSET
    background: object = UNSET


_COMMON = frozenset({b"model", b"stream", b"max_tokens"})
_DECODER = msgspec.json.Decoder(_Request)
_scan = reading.NameScan({name: name for name in _Request.__struct_fields__}, ("source", "file_id", "tool"))
_DOCUMENT = re.compile(rb'"type"\s*+:\s*+"(?:document|container_upload)"')
# What a message may add to the tools in the middle of a conversation: one that `tools` names already.
_ADDED_TOOLS = ("tool_reference", "custom", None)


def read_messages(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of a messages request; InvalidRequest names the field."""
    request = reading.decode(_DECODER, body)
    found = _scan(body, request)
    model = reading.model_name(request.model, path_model)
    stream = flag(request.stream, "stream")
    limit = limit_tokens(request.max_tokens, "max_tokens", greatest=limits.greatest_limit)
    bound = len(body) + limits.overhead_tokens
    if found.keys() <= _COMMON:
        return RequestFacts(model, stream, limit, 1, bound, shows_all=stream and not may_reason(model))
    bound += _media(body, found.get(b"source", 0) + found.get(b"file_id", 0), limits)
    _refuse_unpriced(request)
    tier = reading.one_of(request.service_tier, "service_tier", SERVICE_TIERS)
    fees = _tools(request, limits)
    if b"tool" in found:
        _check_added_tools(body)
    tools = fees.bounded(None)
    bound = fees.input_tokens(bound, tools)
    if given(request.container):
        bound += limits.document_tokens
    edits = given(request.context_management) and b'"compact_' in body
    if edits:
        bound *= 2  # the conversation is read once more to be summed up
    shows_all = (
        stream
        and not tools
        and not edits
        and (tier is None or tier in ORDINARY_TIERS)
        and not _thinks(request.thinking)
        and not may_reason(model)
    )
    return RequestFacts(model, stream, limit, 1, bound, shows_all=shows_all, service_tier=tier, tools=tools)


def _media(body: bytes, things: int, limits: RequestLimits) -> int:
    if not things:
        return 0
    documents = things if reading.escapes_letters(body) else min(things, len(_DOCUMENT.findall(body)))
    return documents * limits.document_tokens + (things - documents) * limits.media_tokens


def _tools(request: _Request, limits: RequestLimits) -> ToolFees:
    fees = ToolFees(limits)
    listed = request.tools if isinstance(request.tools, list) else None
    anthropic_tools(listed, fees)
    if given(request.mcp_servers) and request.mcp_servers != []:
        fees.add("mcp", "mcp_servers", "MCP connector")
    return fees


def _check_added_tools(body: bytes) -> None:
    """Refuses a server tool that a message brings along; only references to those in `tools` may come so."""
    waiting = [msgspec.json.decode(body).get("messages")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            added = value.get("tool")
            if isinstance(added, dict) and added.get("type") not in _ADDED_TOOLS:
                refuse("messages: server tools are to be named in tools, not added in a message", "messages")
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _refuse_unpriced(request: _Request) -> None:
    if flag(request.background, "background"):
        refuse("background: answers that are fetched later cannot be metered; leave it out", "background")
    for field, ordinary in (("speed", ORDINARY_SPEEDS), ("inference_geo", ORDINARY_PLACES)):
        reading.one_of(getattr(request, field), field, ordinary)
    for field in ("fallbacks", "fallback_model"):
        if getattr(request, field) not in (UNSET, None, []):
            refuse(f"{field}: another model could serve the request; leave it out", field)


def _thinks(thinking: object) -> bool:
    return given(thinking) and not (isinstance(thinking, dict) and thinking.get("type") == "disabled")
