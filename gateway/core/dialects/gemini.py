"""Reads requests of Gemini's generateContent, streamGenerateContent, embedContent and batchEmbedContents.

The model stands in the path. Protobuf's JSON takes every name in two spellings (`generationConfig`,
`generation_config`), so both are read, and both together are refused: which of them an upstream would follow is its own
affair.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import UNSET, Struct, field

from gateway.core.dialects import reading
from gateway.core.dialects.reading import count_of, given, limit_tokens, refuse
from gateway.core.dialects.reasoning import may_reason
from gateway.core.dialects.tools import ToolFees, gemini_tools
from gateway.core.facts import RequestFacts, RequestLimits


class _Config(Struct):
    limit: object = field(default=UNSET, name="maxOutputTokens")
    limit_: object = field(default=UNSET, name="max_output_tokens")
    candidates: object = field(default=UNSET, name="candidateCount")
    candidates_: object = field(default=UNSET, name="candidate_count")
    thinking: Any = field(default=UNSET, name="thinkingConfig")
    thinking_: Any = field(default=UNSET, name="thinking_config")
    modalities: object = field(default=UNSET, name="responseModalities")
    modalities_: object = field(default=UNSET, name="response_modalities")


class _Request(Struct):
    model: object = UNSET
    config: _Config | None | msgspec.UnsetType = field(default=UNSET, name="generationConfig")
    config_: _Config | None | msgspec.UnsetType = field(default=UNSET, name="generation_config")
    tools: object = UNSET
    cached: object = field(default=UNSET, name="cachedContent")
    cached_: object = field(default=UNSET, name="cached_content")
    tier: object = field(default=UNSET, name="serviceTier")
    tier_: object = field(default=UNSET, name="service_tier")
    background: object = UNSET


SERVICE_TIERS = frozenset({"standard", "flex", "priority", "default", "auto", "unspecified"})
_NAMES = {
    "generationConfig": "config", "generation_config": "config_", "tools": "tools", "cachedContent": "cached",
    "cached_content": "cached_", "serviceTier": "tier", "service_tier": "tier_", "background": "background",
    "maxOutputTokens": "", "max_output_tokens": "", "candidateCount": "", "candidate_count": "", "thinkingConfig": "",
    "thinking_config": "", "responseModalities": "", "response_modalities": "",
}  # fmt: skip
_FILES = (b"filedata", b"file_data", b"fileuri", b"file_uri")
_INLINE = (b"inlinedata", b"inline_data")
_UNREADABLE = frozenset({b"fields", b"callback", b"upload_protocol", b"uploadType"})
_DECODER = msgspec.json.Decoder(_Request)
_scan = reading.NameScan(_NAMES, [name.decode() for name in (*_FILES[:2], *_INLINE)])
_COMMON = frozenset({b"generationconfig", b"maxoutputtokens"})


def read_generate(body: bytes, path_model: str | None, limits: RequestLimits, *, stream: bool = False) -> RequestFacts:
    """Facts of generateContent and streamGenerateContent; InvalidRequest names the field."""
    request = reading.decode(_DECODER, body)
    found = _scan(body, request)
    model = _model(request.model, path_model)
    config = _either(request.config, request.config_, "generationConfig")
    limit = None
    if isinstance(config, _Config):
        value = _either(config.limit, config.limit_, "generationConfig.maxOutputTokens")
        limit = limit_tokens(value, "generationConfig.maxOutputTokens", greatest=limits.greatest_limit)
    bound = len(body) + limits.overhead_tokens
    if found.keys() <= _COMMON and not _makes_media(model):
        return RequestFacts(model, stream, limit, 1, bound, shows_all=stream and not may_reason(model))
    fees = ToolFees(limits)
    gemini_tools(request.tools, fees)
    if reading.flag(request.background, "background"):
        refuse("background: answers that are fetched later cannot be metered; leave it out", "background")
    tier = _tier(_either(request.tier, request.tier_, "serviceTier"))
    media, audio_bound = _media(body, found, limits)
    bound += media
    if given(_either(request.cached, request.cached_, "cachedContent")):
        bound += limits.history_tokens
    tools = fees.bounded(None)
    settings = config if isinstance(config, _Config) else _Config()
    choices = count_of(
        _either(settings.candidates, settings.candidates_, "generationConfig.candidateCount"),
        "generationConfig.candidateCount",
    )
    audio, image = _modalities(
        _either(settings.modalities, settings.modalities_, "generationConfig.responseModalities")
    )
    image, audio = image or "image" in model, audio or "tts" in model or "audio" in model
    thinking = _either(settings.thinking, settings.thinking_, "generationConfig.thinkingConfig")
    shows_all = stream and choices == 1 and not (tools or audio or image or tier or _thinks(thinking, model))
    return RequestFacts(
        model, stream, limit, choices, fees.input_tokens(bound, tools), input_audio_bound_tokens=audio_bound,
        shows_all=shows_all, service_tier=tier, tools=tools, audio_output=audio, image_output=image,
    )  # fmt: skip


def check_query(query: bytes) -> None:
    """Refuses what would make the answer leave its usage out or come in a form that nobody reads: other formats, masks
    of fields, and the system parameters that Google's servers take under `$`."""
    for part in query.split(b"&") if query else ():
        name, _, value = (unquote_to_bytes(half) for half in part.partition(b"="))
        if name in (b"alt", b"$alt"):
            if value not in (b"sse", b"json"):
                refuse("alt: json or sse", "alt")
        elif name.startswith(b"$") or name in _UNREADABLE:
            refuse("this parameter changes the form of the answer; leave it out", name.decode("latin-1")[:40])


def _either(value: Any, other: Any, name: str) -> Any:
    """The value of a name in whichever spelling is given."""
    if other is UNSET:
        return value
    if value is not UNSET:
        refuse(f"{name}: given in two spellings", name)
    return other


def _model(value: object, path_model: str | None) -> str:
    if path_model is None:
        return reading.model_name(value, None)
    model = reading.model_name(path_model, None)
    if given(value) and (not isinstance(value, str) or value.rpartition("/")[2] != model.rpartition("/")[2]):
        refuse("model: another than the path names", "model")
    return model


def _tier(value: object) -> str | None:
    if isinstance(value, str):
        value = value.lower().removeprefix("service_tier_")
    tier = reading.one_of(value, "serviceTier", SERVICE_TIERS)
    return None if tier in ("standard", "default", "auto", "unspecified") else tier


def _makes_media(model: str) -> bool:
    return "image" in model or "tts" in model or "audio" in model


def _media(body: bytes, found: Any, limits: RequestLimits) -> tuple[int, int]:
    """Tokens of what the body carries or names, and how much of the input may be audio."""
    files = found.get(b"filedata", 0) + found.get(b"file_data", 0)
    inline = found.get(b"inlinedata", 0) + found.get(b"inline_data", 0)
    if not files and not inline:
        return 0, 0
    lowered = body.lower()
    moving = reading.escapes_letters(body) or b"video" in lowered or b"youtu" in lowered or b"audio" in lowered
    if moving and files:
        tokens = limits.history_tokens  # hours of it fit, up to the model's window
    elif moving or b"application/" in lowered or b"text/" in lowered or b"image/" not in lowered:
        tokens = (files + inline) * limits.document_tokens
    else:
        tokens = (files + inline) * limits.media_tokens
    return tokens, tokens + len(body) if b"audio" in lowered or b"video" in lowered or b"youtu" in lowered else 0


def _modalities(value: object) -> tuple[bool, bool]:
    if not given(value):
        return False, False
    if not isinstance(value, list):
        refuse("generationConfig.responseModalities: an array is needed", "generationConfig.responseModalities")
    words = {word.upper() if isinstance(word, str) else "?" for word in value}
    if words - {"TEXT", "AUDIO", "IMAGE", "MODALITY_UNSPECIFIED"}:
        refuse("generationConfig.responseModalities: TEXT, IMAGE or AUDIO", "generationConfig.responseModalities")
    return "AUDIO" in words, "IMAGE" in words


def _thinks(thinking: Any, model: str) -> bool:
    if not given(thinking):
        return may_reason(model)
    if not isinstance(thinking, dict):
        refuse("generationConfig.thinkingConfig: an object is needed", "generationConfig.thinkingConfig")
    budget = thinking.get("thinkingBudget", thinking.get("thinking_budget"))
    return not (budget == 0 and len(thinking) == 1)


class _EmbedOne(Struct):
    model: object = UNSET


class _Embed(Struct):
    model: object = UNSET
    requests: list[_EmbedOne] | None | msgspec.UnsetType = UNSET


_EMBED_DECODER = msgspec.json.Decoder(_Embed)
_scan_embed = reading.NameScan({"requests": "requests"}, [name.decode() for name in (*_FILES[:2], *_INLINE)])


def read_embed(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of embedContent and batchEmbedContents: input only."""
    request = reading.decode(_EMBED_DECODER, body)
    found = _scan_embed(body, request)
    model = _model(request.model, path_model)
    if isinstance(request.requests, list):
        for one in request.requests:
            _model(one.model, model)
    media, audio = _media(body, found, limits)
    bound = len(body) + limits.overhead_tokens + media
    return RequestFacts(model, False, 0, 1, bound, input_audio_bound_tokens=audio, limit_can_be_spliced=False)
