"""Reads requests of Ollama's chat and generate.

They stream unless told not to. The limit is `options.num_predict`, where -1 and -2 mean none. Ollama's own parser takes
the names of members in any capitals, so another spelling of a name that matters is refused.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct

from gateway.core.dialects import reading
from gateway.core.dialects.reading import flag, given, limit_tokens, refuse
from gateway.core.dialects.reasoning import may_reason
from gateway.core.facts import RequestFacts, RequestLimits


class _Message(Struct):
    images: list[msgspec.Raw] | None = None


class _Options(Struct):
    num_predict: object = UNSET


class _Request(Struct):
    model: object = UNSET
    messages: list[_Message] | None = None
    images: list[msgspec.Raw] | None = None
    stream: object = UNSET
    options: _Options | None | msgspec.UnsetType = UNSET
    think: object = UNSET


_BEARING = {"model": "model", "stream": "stream", "options": "options", "think": "think", "num_predict": ""}
_NO_LIMIT = (-1, -2)
_DECODER = msgspec.json.Decoder(_Request)
_scan = reading.NameScan(_BEARING)


def read_ollama(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of a chat or generate request; InvalidRequest names the field."""
    request = reading.decode(_DECODER, body)
    _scan(body, request)
    model = reading.model_name(request.model, path_model)
    stream = True if not given(request.stream) else flag(request.stream, "stream")
    limit = None
    if isinstance(request.options, _Options) and request.options.num_predict not in (-1, -2):
        limit = limit_tokens(
            request.options.num_predict, "options.num_predict", greatest=limits.greatest_limit, least=0
        )
    images = len(request.images or ()) + sum(len(message.images or ()) for message in request.messages or ())
    bound = len(body) + limits.overhead_tokens + images * limits.media_tokens
    thinks = may_reason(model) if not given(request.think) else request.think is not False
    if given(request.think) and not isinstance(request.think, (bool, str)):
        refuse("think: true, false or a level", "think")
    return RequestFacts(model, stream, limit, 1, bound, shows_all=stream and not thinks)
