"""Server tools: work that an upstream does by itself, for a fee, while it answers.

A tool that the caller runs costs nothing but its tokens and passes. A tool that the upstream runs needs a price in the
policies under the canonical name given here (a price of 0 says that it is free); without one, and for every type that
nobody here knows, the request is refused before it could cost anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import UNSET, Struct

from gateway.core.dialects.reading import given, refuse
from gateway.core.facts import RequestLimits

_DATE = re.compile(r"[_-]\d{4}[_-]?\d\d[_-]?\d\d$")
GREATEST_TOOL_CALLS = 1_000  # a maximum named above it is no bound


class Tool(Struct):
    """The members of a tool that bear cost."""

    type: object = UNSET
    function: object = UNSET  # Mistral's clients leave the type out
    name: object = UNSET
    max_uses: object = UNSET
    tools: object = UNSET  # the tools of a namespace
    environment: object = UNSET
    parameters: object = UNSET


OPENAI_FREE = frozenset({
    "function", "custom", "namespace", "tool_search", "apply_patch", "local_shell", "computer",
    "computer_use_preview", "computer-preview",
})  # fmt: skip
OPENAI_SERVER = {
    "web_search": "web_search",
    "web_search_preview": "web_search",
    "openrouter:web_search": "web_search",
    "openrouter:web_fetch": "web_fetch",
    "browser_search": "web_search",
    "file_search": "file_search",
    "code_interpreter": "code_interpreter",
    "image_generation": "image_generation",
    "mcp": "mcp",
    "shell": "shell",
}
# Types of Anthropic's tools end in a date; these are the words before it.
ANTHROPIC_FREE = frozenset({
    "custom", "bash", "text_editor", "computer", "memory", "tool_search_tool_bm25", "tool_search_tool_regex",
})  # fmt: skip
ANTHROPIC_SERVER = {
    "web_search": "web_search",
    "web_fetch": "web_fetch",
    "code_execution": "code_execution",
    "mcp_toolset": "mcp",
    "advisor": "advisor",
}
GEMINI_FREE = frozenset({"functionDeclarations", "computerUse"})
GEMINI_SERVER = {
    "googleSearch": "google_search",
    "googleSearchRetrieval": "google_search",
    "enterpriseWebSearch": "google_search",
    "googleMaps": "google_maps",
    "codeExecution": "code_execution",
    "urlContext": "url_context",
    "fileSearch": "file_search",
    "retrieval": "file_search",
    "mcpServers": "mcp",
}


class ToolFees:
    """The server tools of one request, each with the greatest number of its calls."""

    __slots__ = ("_calls", "_limits")

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._calls: dict[str, int] = {}

    def add(self, name: str, param: str, shown: str, most: int | None = None) -> None:
        """A use of server tool `name`; 422 naming `param` where the policies give it no price."""
        if name not in self._limits.priced_tools:
            refuse(f"{param}: the server tool {shown} ({name}) has no price here", param)
        calls = self._limits.tool_calls_each if most is None else most
        self._calls[name] = max(calls, self._calls.get(name, 0))

    def bounded(self, most_in_all: int | None) -> tuple[tuple[str, int], ...]:
        """The tools with their greatest numbers of calls, none above what the request allows in all."""
        return tuple(
            (name, calls if most_in_all is None else min(calls, most_in_all)) for name, calls in self._calls.items()
        )

    def input_tokens(self, input_bound_tokens: int, tools: tuple[tuple[str, int], ...]) -> int:
        """The input's bound with tools: results come in, and the upstream reads its input again after them."""
        if not tools:
            return input_bound_tokens
        calls = sum(count for _, count in tools)
        return 2 * input_bound_tokens + calls * self._limits.tool_result_tokens


def openai_tools(tools: Iterable[Tool] | None, fees: ToolFees, param: str = "tools") -> None:
    """Refuses types that nobody knows, and adds up the server tools, of chat and Responses."""
    for index, tool in enumerate(tools or ()):
        kind = tool.type
        if kind == "function":
            continue
        where = f"{param}[{index}].type"
        if not given(kind) and given(tool.function):
            continue
        if type(kind) is not str:
            refuse(f"{where}: a string is needed", where)
        if kind == "shell" and _is_local(tool.environment):
            continue
        if kind == "namespace":
            _namespace(tool, f"{param}[{index}].tools")
        elif kind not in OPENAI_FREE:
            name = OPENAI_SERVER.get(kind) or OPENAI_SERVER.get(_without_date(kind))
            if name is None:
                refuse(f"{where}: this type of tool is not known here", where)
            fees.add(name, where, kind, _max_uses(tool, f"{param}[{index}]"))


def _namespace(tool: Tool, param: str) -> None:
    if not isinstance(tool.tools, list):
        refuse(f"{param}: an array is needed", param)
    for index, inner in enumerate(tool.tools):
        kind = inner.get("type") if isinstance(inner, dict) else None
        if kind not in ("function", "custom"):
            refuse(f"{param}[{index}].type: function or custom", f"{param}[{index}].type")


def _is_local(environment: object) -> bool:
    return isinstance(environment, dict) and environment.get("type") == "local"


def _without_date(kind: str) -> str:
    return _DATE.sub("", kind)


def _max_uses(tool: Tool, param: str) -> int | None:
    value = tool.max_uses
    if not given(value) and isinstance(tool.parameters, dict):
        value = tool.parameters.get("max_uses")
    if not given(value):
        return None
    if type(value) is not int or not 1 <= value <= GREATEST_TOOL_CALLS:
        refuse(f"{param}.max_uses: an integer from 1 to {GREATEST_TOOL_CALLS}", f"{param}.max_uses")
    return value


def anthropic_tools(tools: Iterable[Tool] | None, fees: ToolFees) -> None:
    """The same for Anthropic's messages, where a tool without type is the caller's own."""
    for index, tool in enumerate(tools or ()):
        kind = tool.type
        if not given(kind) or kind == "custom":
            continue
        where = f"tools[{index}].type"
        if type(kind) is not str:
            refuse(f"{where}: a string is needed", where)
        word = _without_date(kind)
        if word in ANTHROPIC_FREE:
            continue
        name = ANTHROPIC_SERVER.get(word)
        if name is None:
            refuse(f"{where}: this type of tool is not known here", where)
        fees.add(name, where, kind, _max_uses(tool, f"tools[{index}]"))


def gemini_tools(tools: object, fees: ToolFees) -> None:
    """The same for Gemini, where each member of a tool is one; protobuf's other spelling of the names counts too."""
    if not given(tools):
        return
    listed = tools if isinstance(tools, list) else [tools]
    for index, tool in enumerate(listed):
        if not isinstance(tool, dict):
            refuse(f"tools[{index}]: an object is needed", f"tools[{index}]")
        for spelled, value in tool.items():
            kind = camel(spelled)
            if kind in GEMINI_FREE or value is None:
                continue
            where = f"tools[{index}].{spelled}"
            name = GEMINI_SERVER.get(kind)
            if name is None:
                refuse(f"{where}: this tool is not known here", where)
            fees.add(name, where, kind)


def camel(name: str) -> str:
    """Protobuf's JSON name of a field that may be written in either spelling."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)
