"""Reads requests of OpenAI's chat and completions, as OpenAI and all who speak like it take them.

Output limits: `max_tokens`, `max_completion_tokens`; the larger counts. Fields that would make the upstream do or
charge something that no price here covers (other models to fall back to, other providers, unknown tiers, plug-ins) are
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import UNSET, Struct

from gateway.core.dialects import reading
from gateway.core.dialects.reading import count_of, flag, given, limit_tokens, refuse
from gateway.core.dialects.reasoning import may_reason
from gateway.core.dialects.tools import Tool, ToolFees, openai_tools
from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits

SERVICE_TIERS = frozenset({
    "auto", "default", "flex", "priority", "scale", "standard", "standard_only", "on_demand", "performance",
})  # fmt: skip
ORDINARY_TIERS = frozenset({"auto", "default", "standard", "standard_only", "on_demand"})

# A body with these reasons, whatever the model; each may also be set so that it does not.
_REASONING_OFF = ("none", "disabled")


class _Request(Struct):
    model: object = UNSET
    stream: object = UNSET
    max_tokens: object = UNSET
    max_completion_tokens: object = UNSET
    stream_options: object = UNSET
    n: object = UNSET
    best_of: object = UNSET
    prompt: object = UNSET
    tools: list[Tool] | None | msgspec.UnsetType = UNSET
    service_tier: object = UNSET
    background: object = UNSET
    deferred: object = UNSET
    reasoning: object = UNSET
    reasoning_effort: object = UNSET
    thinking: object = UNSET
    enable_thinking: object = UNSET
    include_reasoning: object = UNSET
    chat_template_kwargs: object = UNSET
    modalities: object = UNSET
    prediction: object = UNSET
    web_search_options: object = UNSET
    search_parameters: object = UNSET
    plugins: object = UNSET
    models: object = UNSET
    fallbacks: object = UNSET
    preset: object = UNSET
    provider: object = UNSET
    use_beam_search: object = UNSET


_RARE = (
    "background", "deferred", "web_search_options", "search_parameters", "plugins", "models", "fallbacks", "preset",
    "provider", "use_beam_search",
)  # fmt: skip
_REASONING_FIELDS = (
    "reasoning", "reasoning_effort", "thinking", "enable_thinking", "include_reasoning", "chat_template_kwargs",
)  # fmt: skip
_IMAGES = (b"image_url", b"input_image")
_DOCUMENTS = (b"file_id", b"file_url", b"file_data", b"document_url", b"video_url", b"audio_url")
_BEARING = {name: name for name in _Request.__struct_fields__}
_DECODER = msgspec.json.Decoder(_Request)
_scan = reading.NameScan(_BEARING, [name.decode() for name in (*_IMAGES, *_DOCUMENTS, b"input_audio")])
_COMMON = frozenset(
    name.encode()
    for name in ("model", "stream", "max_tokens", "max_completion_tokens", "stream_options", "tools", "prompt")
)


def read_chat(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of a chat or completions request; InvalidRequest names the field."""
    request = reading.decode(_DECODER, body)
    found = _scan(body, request)
    model = reading.model_name(request.model, path_model)
    stream = flag(request.stream, "stream")
    greatest = limits.greatest_limit
    limit = limit_tokens(request.max_tokens, "max_tokens", greatest=greatest)
    other = limit_tokens(request.max_completion_tokens, "max_completion_tokens", greatest=greatest)
    if other is not None and (limit is None or other > limit):
        limit = other
    asks_usage = True if not stream else _asks_usage(request.stream_options)
    bound = len(body) + limits.overhead_tokens
    if found.keys() <= _COMMON and request.tools is UNSET and type(request.prompt) is not list and not _searches(model):
        return RequestFacts(
            model,
            stream,
            limit,
            1,
            bound,
            shows_all=stream and not may_reason(model),
            all_visible=not may_reason(model),
            asks_usage=asks_usage,
        )
    return _read_rest(request, found, model, stream, limit, bound, asks_usage, limits)


def _read_rest(
    request: _Request, found: Mapping[bytes, int], model: str, stream: bool, limit: int | None, bound: int,
    asks_usage: bool, limits: RequestLimits,
) -> RequestFacts:  # fmt: skip
    fees = ToolFees(limits)
    if request.tools is not UNSET:
        openai_tools(request.tools, fees)
    _refuse_unpriced(request, model, fees)
    choices = count_of(request.n, "n") * count_of(request.best_of, "best_of") * _prompts(request.prompt)
    tier = reading.one_of(request.service_tier, "service_tier", SERVICE_TIERS)
    audio = isinstance(request.modalities, list) and "audio" in request.modalities
    image = isinstance(request.modalities, list) and "image" in request.modalities
    bound += media_tokens(found, model, limits)
    tools = fees.bounded(None)
    all_visible = (
        not tools
        and not given(request.best_of)
        and not audio
        and not image
        and not given(request.prediction)
        and (tier is None or tier in ORDINARY_TIERS)
        and not _reasons(request, model)
    )
    return RequestFacts(
        model, stream, limit, choices, fees.input_tokens(bound, tools),
        input_audio_bound_tokens=bound if b"input_audio" in found or b"audio_url" in found else 0,
        shows_all=stream and choices == 1 and all_visible, all_visible=all_visible, asks_usage=asks_usage,
        service_tier=tier, tools=tools, audio_output=audio,
        image_output=image,
    )  # fmt: skip


def media_tokens(found: Mapping[bytes, int], model: str, limits: RequestLimits) -> int:
    """Tokens of the images and documents that a body carries or names: bytes do not bound them, for a picture of 1 KB
    can be billed like one of 1 MB. gpt-4o-mini bills pictures at up to 33 times the tokens of its larger sister."""
    images = sum(found.get(name, 0) for name in _IMAGES)
    documents = sum(found.get(name, 0) for name in _DOCUMENTS)
    if not images and not documents:
        return 0
    each = limits.media_tokens * 12 if "4o-mini" in model else limits.media_tokens
    return images * each + documents * limits.document_tokens


def _asks_usage(options: object) -> bool:
    if not given(options):
        return False
    if not isinstance(options, dict):
        refuse("stream_options: an object is needed", "stream_options")
    return flag(options.get("include_usage"), "stream_options.include_usage")


def _prompts(prompt: object) -> int:
    """How many prompts a completions request gives: each is answered and billed."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > reading.GREATEST_CHOICES:
            refuse(f"prompt: at most {reading.GREATEST_CHOICES} prompts", "prompt")
        return len(prompt)
    return 1


@lru_cache(maxsize=1_024)
def _searches(model: str) -> bool:
    """Models that search the web in every call, or run tools by themselves."""
    return "-search" in model or ":online" in model or "compound" in model


def _refuse_unpriced(request: _Request, model: str, fees: ToolFees) -> None:
    if "-search-preview" in model or "-search-api" in model or model.endswith(":online"):
        fees.add("web_search", "model", "web search of this model")
    elif "compound" in model:
        fees.add("web_search", "model", "web search of this model")
        fees.add("code_execution", "model", "code execution of this model")
    if all(getattr(request, name) is UNSET for name in _RARE):
        return
    if flag(request.background, "background") or flag(request.deferred, "deferred"):
        field = "background" if request.background is True else "deferred"
        refuse(f"{field}: answers that are fetched later cannot be metered; leave it out", field)
    if given(request.web_search_options):
        fees.add("web_search", "web_search_options", "web search")
    search = request.search_parameters
    if given(search) and not (isinstance(search, dict) and search.get("mode") == "off"):
        fees.add("web_search", "search_parameters", "live search")
    _plugins(request.plugins, fees)
    if given(request.models) and request.models not in ([], [model]):
        refuse("models: the price is that of one model; leave fallbacks out", "models")
    for field in ("fallbacks", "preset"):
        if getattr(request, field) not in (UNSET, None, [], ""):
            refuse(f"{field}: another model could serve the request; leave it out", field)
    flag(request.use_beam_search, "use_beam_search")
    if given(request.provider) and not isinstance(request.provider, dict):
        refuse("provider: an object is needed", "provider")


def _plugins(plugins: object, fees: ToolFees) -> None:
    if not given(plugins):
        return
    if not isinstance(plugins, list):
        refuse("plugins: an array is needed", "plugins")
    for index, plugin in enumerate(plugins):
        where = f"plugins[{index}].id"
        name = plugin.get("id") if isinstance(plugin, dict) else None
        if name == "web":
            fees.add("web_search", where, "web")
        elif name not in ("response-healing", "context-compression"):
            raise InvalidRequest(f"{where}: this plug-in has no price here", param=where)


def _reasons(request: _Request, model: str) -> bool:
    """Whether the answer may hold tokens that nobody sees: the model's family, or what the body asks."""
    if may_reason(model):
        return True
    for field in _REASONING_FIELDS:
        value = getattr(request, field)
        if not given(value) or value is False or value in _REASONING_OFF:
            continue
        if isinstance(value, dict) and (value.get("type") in _REASONING_OFF or value.get("effort") in _REASONING_OFF):
            continue
        return True
    return False
