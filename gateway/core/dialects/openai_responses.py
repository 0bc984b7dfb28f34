"""Reads requests of OpenAI's Responses (and of its compaction and token counting).

A Responses request can lean on what the body does not show: an earlier response, a conversation, a stored prompt, items
named by id. Each adds the policy's figure to the input's bound. Reasoning and server tools make the answer bill what no
stream shows, so those are held whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from gateway.core.dialects import reading
from gateway.core.dialects.openai_chat import ORDINARY_TIERS, SERVICE_TIERS, media_tokens
from gateway.core.dialects.reading import flag, given, limit_tokens, refuse
from gateway.core.dialects.reasoning import may_reason
from gateway.core.dialects.tools import GREATEST_TOOL_CALLS, Tool, ToolFees, openai_tools
from gateway.core.facts import RequestFacts, RequestLimits

_NOTHING = msgspec.Raw()


MODES = frozenset({"standard", "default", "pro"})
PRO_READINGS = 8


class _Item(Struct):
    type: object = UNSET
    id: object = UNSET
    content: msgspec.Raw = _NOTHING
    encrypted_content: object = UNSET
    tools: list[Tool] | None = None


class _Request(Struct):
    model: object = UNSET
    input: str | list[_Item] | None | msgspec.UnsetType = UNSET
    stream: object = UNSET
    max_output_tokens: object = UNSET
    max_tool_calls: object = UNSET
    tools: list[Tool] | None | msgspec.UnsetType = UNSET
    service_tier: object = UNSET
    background: object = UNSET
    reasoning: object = UNSET
    thinking: object = UNSET
    previous_response_id: object = UNSET
    conversation: object = UNSET
    prompt: object = UNSET
    context_management: object = UNSET
    modalities: object = UNSET
    plugins: object = UNSET
    models: object = UNSET
    fallbacks: object = UNSET
    preset: object = UNSET


# Items of earlier answers whose content stays with the upstream, and those that stand for more than they show.
_HIDDEN = frozenset({
    "compaction", "compaction_summary", "context_compaction", "web_search_call", "file_search_call",
    "code_interpreter_call", "image_generation_call", "computer_call",
})  # fmt: skip
_MEDIA = ("image_url", "input_image", "file_id", "file_url", "file_data", "document_url", "video_url", "audio_url")
_COMMON = frozenset({b"model", b"stream", b"max_output_tokens"})
_DECODER = msgspec.json.Decoder(_Request)
_scan = reading.NameScan(
    {name: name for name in _Request.__struct_fields__ if name != "input"}, (*_MEDIA, "input_audio")
)


def read_responses(
    body: bytes, path_model: str | None, limits: RequestLimits, *, has_limit: bool = True
) -> RequestFacts:
    """Facts of a Responses request; InvalidRequest names the field. `has_limit` is false for compaction, which takes
    none."""
    request = reading.decode(_DECODER, body)
    found = _scan(body, request)
    model = reading.model_name(request.model, path_model)
    stream = flag(request.stream, "stream")
    limit = limit_tokens(request.max_output_tokens, "max_output_tokens", greatest=limits.greatest_limit)
    bound = len(body) + limits.overhead_tokens
    if found.keys() <= _COMMON and not isinstance(request.input, list):
        return RequestFacts(
            model, stream, limit, 1, bound, shows_all=stream and not may_reason(model), limit_can_be_spliced=has_limit
        )
    facts = _read_rest(request, found, model, stream, limit, bound, limits)
    return facts if has_limit else replace(facts, limit_can_be_spliced=False)


def _read_rest(
    request: _Request, found: Mapping[bytes, int], model: str, stream: bool, limit: int | None, bound: int,
    limits: RequestLimits,
) -> RequestFacts:  # fmt: skip
    _refuse_unpriced(request, model)
    fees = ToolFees(limits)
    if request.tools is not UNSET:
        openai_tools(request.tools, fees)
    _plugins(request.plugins, fees)
    bound += media_tokens(found, model, limits)
    if isinstance(request.input, list):
        bound += _items(request.input, fees, limits)
    hidden = any(given(value) for value in (request.previous_response_id, request.conversation, request.prompt))
    if hidden:
        bound += limits.history_tokens
    most = limit_tokens(request.max_tool_calls, "max_tool_calls", greatest=GREATEST_TOOL_CALLS)
    tools = fees.bounded(most)
    compacts = given(request.context_management) and request.context_management != []
    tier = reading.one_of(request.service_tier, "service_tier", SERVICE_TIERS)
    audio = isinstance(request.modalities, list) and "audio" in request.modalities
    reasons = may_reason(model) or _asks_reasoning(request.reasoning) or _asks_reasoning(request.thinking)
    ordinary = tier is None or tier in ORDINARY_TIERS
    shows_all = stream and ordinary and not (tools or compacts or audio or reasons or given(request.prompt))
    bound = fees.input_tokens(bound, tools) if not hidden else bound
    if compacts:
        bound *= 2  # the conversation is read once more to be summed up
    bound *= _readings(request.reasoning)
    return RequestFacts(
        model, stream, limit, 1, bound,
        input_audio_bound_tokens=bound if b"input_audio" in found else 0,
        shows_all=shows_all, service_tier=tier, tools=tools, audio_output=audio,
    )  # fmt: skip


def _items(items: list[_Item], fees: ToolFees, limits: RequestLimits) -> int:
    """Tokens that the items of the input stand for beyond their own bytes."""
    extra = history = 0
    for index, item in enumerate(items):
        kind = item.type
        if item.tools:
            openai_tools(item.tools, fees, f"input[{index}].tools")
        if kind == "item_reference" or (not given(kind) and given(item.id) and not item.content):
            history = limits.history_tokens
        elif kind == "reasoning":
            extra += 0 if given(item.encrypted_content) else limits.item_tokens
        elif isinstance(kind, str) and kind in _HIDDEN:
            extra += limits.item_tokens if kind.startswith(("compaction", "context")) else limits.tool_result_tokens
    return extra + history


def _readings(reasoning: object) -> int:
    """How often the input may be read: `pro` answers several times and compares (a recorded call of 20 tokens of text
    was billed 1,549)."""
    mode = reasoning.get("mode") if isinstance(reasoning, dict) else None
    return PRO_READINGS if reading.one_of(mode, "reasoning.mode", MODES) == "pro" else 1


def _asks_reasoning(value: object) -> bool:
    if not given(value):
        return False
    return not (isinstance(value, dict) and (value.get("effort") == "none" or value.get("type") == "disabled"))


def _refuse_unpriced(request: _Request, model: str) -> None:
    if flag(request.background, "background"):
        refuse("background: answers that are fetched later cannot be metered; leave it out", "background")
    if given(request.models) and request.models not in ([], [model]):
        refuse("models: the price is that of one model; leave fallbacks out", "models")
    for field in ("fallbacks", "preset"):
        if getattr(request, field) not in (UNSET, None, [], ""):
            refuse(f"{field}: another model could serve the request; leave it out", field)


def _plugins(plugins: object, fees: ToolFees) -> None:
    if not given(plugins):
        return
    for index, plugin in enumerate(plugins if isinstance(plugins, list) else [plugins]):
        where = f"plugins[{index}].id"
        if not isinstance(plugin, dict) or plugin.get("id") != "web":
            refuse(f"{where}: this plug-in has no price here", where)
        fees.add("web_search", where, "web")
