"""The text of a request's input, for counting it where the upstream's own figure is missing.

Used when a stream was cut or a usage left out: the byte bound that sufficed for the hold would overcharge. What is not
text (images, files, audio) is not counted: the difference is in the payer's favour.
"""

from __future__ import annotations

from typing import Any

import msgspec

# Members whose strings are read by the model, in all dialects.
_TEXT_MEMBERS = frozenset(
    {
        "content",
        "text",
        "prompt",
        "input",
        "system",
        "instructions",
        "arguments",
        "output",
        "thinking",
        "refusal",
        "suffix",
    }
)
# Members that hold messages, or parts of them.
_NESTED_MEMBERS = frozenset(
    {"messages", "contents", "parts", "content", "input", "system", "systemInstruction", "system_instruction", "prompt",
     "tool_calls", "function", "functionCall", "functionResponse", "requests", "output", "instances"}
)  # fmt: skip
_MEDIA_TYPES = ("media_type", "mimeType", "mime_type")
_PICTURE_URLS = ("url", "image_url")
_DEFINITIONS = ("tools", "functions")
# Deeper than any request has reason to be.
_GREATEST_DEPTH = 24


def input_text(body: bytes) -> str:
    """All text that the model reads, joined by line feeds; "" when the body is not a JSON object."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if not isinstance(request, dict):
        return ""
    found: list[str] = []
    for name in _NESTED_MEMBERS | _TEXT_MEMBERS:
        if name in request:
            _collect(request[name], name, found, 0)
    for name in _DEFINITIONS:
        if request.get(name):
            found.append(msgspec.json.encode(request[name]).decode())
    return "\n".join(found)


def image_bytes(body: bytes) -> int:
    """Bytes of the body that are pictures in base64: the policy's figure for a picture stands for their tokens."""
    try:
        waiting: list[Any] = [msgspec.json.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    found = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            kind = next((value[name] for name in _MEDIA_TYPES if name in value), None)
            if isinstance(kind, str) and kind.startswith("image/") and isinstance(value.get("data"), str):
                found += len(value["data"])
            for name in _PICTURE_URLS:
                if isinstance(value.get(name), str) and value[name].startswith("data:image/"):
                    found += len(value[name])
            waiting.extend(value.values())
    return found


def _collect(value: Any, member: str, found: list[str], depth: int) -> None:
    if depth > _GREATEST_DEPTH:
        return
    if isinstance(value, str):
        if (member in _TEXT_MEMBERS or member in _NESTED_MEMBERS) and not value.startswith("data:"):
            found.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, member, found, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in _TEXT_MEMBERS or name in _NESTED_MEMBERS:
                _collect(item, name, found, depth + 1)
