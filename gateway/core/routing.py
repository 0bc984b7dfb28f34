"""Which upstream a path leads to, and what it asks there: one table, compiled at start.

Order: the operator's routes as they are listed, then the routes out of the box, then `/{upstream}/<path as the provider
has it>`. A path that none of them names has no match, so nothing passes unmetered. Where a path's routes differ by
`models`, the match is narrowed by `for_model` once the body has been read; all of them ask for the same operation, so
that it can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from gateway.core.endings import Asked, asked_by, gemini_call, is_safe
from gateway.core.operations import Dialect, Operation

AGENT, ACCOUNT = "agent", "account"
# POST paths out of the box, per dialect.
_DEFAULT_POSTS: Mapping[Dialect, tuple[tuple[str, Operation], ...]] = MappingProxyType(
    {
        Dialect.OPENAI: (
            ("/v1/chat/completions", Operation.CHAT),
            ("/v1/completions", Operation.COMPLETIONS),
            ("/v1/responses", Operation.RESPONSES),
            ("/v1/responses/compact", Operation.RESPONSES_COMPACT),
            ("/v1/responses/input_tokens", Operation.INPUT_TOKENS),
            ("/v1/embeddings", Operation.EMBEDDINGS),
            ("/v1/images/generations", Operation.IMAGES_GENERATIONS),
            ("/v1/images/edits", Operation.IMAGES_EDITS),
            ("/v1/audio/transcriptions", Operation.TRANSCRIPTIONS),
            ("/v1/audio/speech", Operation.SPEECH),
        ),
        Dialect.ANTHROPIC: (
            ("/v1/messages", Operation.MESSAGES),
            ("/v1/messages/count_tokens", Operation.INPUT_TOKENS),
        ),
        Dialect.OLLAMA: (
            ("/api/chat", Operation.OLLAMA_CHAT),
            ("/api/generate", Operation.OLLAMA_GENERATE),
        ),
    }
)
# Paths come from strangers: what is remembered of them is bounded, and simply forgotten when full.
REMEMBERED_MOST = 1_024
PATH_MOST_CHARACTERS = 2_048
_LISTING_DIALECTS = (Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.GEMINI)


@dataclass(frozen=True, slots=True)
class Upstream:
    """What routing knows of an upstream. `base_path` stands before every path that goes up."""

    name: str
    dialect: Dialect
    base_path: str = ""
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A path pattern bound to an upstream. `price`: None for the price book, picousd a call, or the name of a rule.
    `prefix`: what is taken off the path before it goes up."""

    path: str
    methods: tuple[str, ...]
    upstream: Upstream
    operation: Operation
    dialect: Dialect
    models: tuple[str, ...] = ()
    price: int | str | None = None
    payers: frozenset[str] = frozenset({AGENT, ACCOUNT})
    prefix: str = ""

    def takes(self, model: str) -> bool:
        """Whether one of the globs fits the model; without globs every model does."""
        return not self.models or any(fnmatchcase(model, glob) for glob in self.models)


@dataclass(frozen=True, slots=True)
class Match:
    """A request's route. `upstream_path` follows the upstream's base path. `others`: later routes of the same path."""

    route: Route
    upstream_name: str
    upstream_path: str
    operation: Operation
    dialect: Dialect
    path_model: str | None = None
    others: tuple[Match, ...] = field(default=(), repr=False)

    @property
    def provider(self) -> str | None:
        """Whose prices apply."""
        return self.route.upstream.provider

    def for_model(self, model: str) -> Match | None:
        """The first of the path's routes that takes this model; None when none does."""
        for each in (self, *self.others):
            if each.route.takes(model):
                return each
        return None

    def speaking(self, dialect: Dialect) -> Match:
        """Of the path's routes the first in this dialect (`GET /v1/models`); this one when there is none."""
        return next((each for each in (self, *self.others) if each.dialect is dialect), self)


@dataclass(frozen=True, slots=True)
class MethodMismatch:
    """The path is known, the method is not."""

    allowed: tuple[str, ...]


class RouteTable:
    """The compiled table. Immutable but for what it remembers of paths that patterns had to tell."""

    def __init__(self, routes: Iterable[Route], upstreams: Iterable[Upstream]) -> None:
        self.routes = tuple(routes)
        self.upstreams = {each.name: each for each in upstreams}
        self._patterns = [(route, _pattern(route.path)) for route in self.routes]
        self._unlike = [(route, pattern) for route, pattern in self._patterns if _has_pattern(route.path)]
        self._remembered: dict[tuple[str, str], Match] = {}
        self._literal = {
            path: self._compiled(path) for path in {r.path for r in self.routes if not _has_pattern(r.path)}
        }

    def match(self, method: str, path: str) -> Match | MethodMismatch | None:
        """The route of a request by its raw path, without query."""
        literal = self._literal.get(path)
        if literal is not None:
            return literal.get(method) or MethodMismatch(tuple(sorted(literal)))
        known = self._remembered.get((method, path))
        if known is not None:
            return known
        if len(path) > PATH_MOST_CHARACTERS or not is_safe(path):
            return None
        found = self._by_pattern(method, path)
        if found is None:
            found = self._addressed(method, path)
        if isinstance(found, Match):
            if len(self._remembered) >= REMEMBERED_MOST:
                self._remembered.clear()
            self._remembered[method, path] = found
        return found

    def _compiled(self, path: str) -> dict[str, Match]:
        """All methods of a literal path, each with its routes in order."""
        by_method: dict[str, list[Route]] = {}
        for route, pattern in self._patterns:
            if pattern.match(path):
                for method in route.methods:
                    by_method.setdefault(method, []).append(route)
        return {method: _chained(routes, path) for method, routes in by_method.items()}

    def _by_pattern(self, method: str, path: str) -> Match | MethodMismatch | None:
        named = [route for route, pattern in self._unlike if pattern.match(path) and _fits(route, path)]
        routes = [route for route in named if method in route.methods]
        if routes:
            return _chained(routes, path)
        return MethodMismatch(tuple(sorted({each for route in named for each in route.methods}))) if named else None

    def _addressed(self, method: str, path: str) -> Match | MethodMismatch | None:
        """`/{upstream}/<path as the provider has it>`."""
        name, slash, rest = path[1:].partition("/")
        upstream = self.upstreams.get(name)
        if upstream is None or not slash:
            return None
        own_path = f"/{rest}"
        asked = asked_by(method, own_path, upstream.dialect)
        if asked is None:
            allowed = tuple(each for each in ("GET", "POST") if asked_by(each, own_path, upstream.dialect))
            return MethodMismatch(allowed) if allowed else None
        route = Route(f"/{name}/*", (method,), upstream, asked.operation, asked.dialect, prefix=f"/{name}")
        return _matched(route, path, asked)


def default_routes(upstreams: Iterable[Upstream]) -> list[Route]:
    """The routes out of the box. Upstreams of one dialect share its paths, in the order of the configuration: a model
    goes to the first whose prices know it."""
    upstreams = tuple(upstreams)
    first: dict[Dialect, Upstream] = {}
    for upstream in upstreams:
        first.setdefault(upstream.dialect, upstream)
    routes = [
        Route(path, ("POST",), upstream, operation, upstream.dialect)
        for upstream in upstreams
        for path, operation in _DEFAULT_POSTS.get(upstream.dialect, ())
    ]
    if Dialect.OPENAI in first:
        routes.append(Route("/v1/realtime", ("GET",), first[Dialect.OPENAI], Operation.REALTIME, Dialect.OPENAI))
    listing = [first[dialect] for dialect in _LISTING_DIALECTS if dialect in first]
    for upstream in listing:
        for path in ("/v1/models", "/v1/models/*"):
            routes.append(Route(path, ("GET",), upstream, Operation.LISTING, upstream.dialect))
    if Dialect.GEMINI in first:
        gemini = first[Dialect.GEMINI]
        for path in ("/v1beta/models", "/v1beta/models/*"):
            routes.append(Route(path, ("GET",), gemini, Operation.LISTING, Dialect.GEMINI))
        for upstream in (each for each in upstreams if each.dialect is Dialect.GEMINI):
            for path in ("/v1/models/*", "/v1beta/models/*"):
                routes.append(Route(path, ("POST",), upstream, Operation.GENERATE, Dialect.GEMINI))
    return routes


def without_overlap(base_path: str, path: str) -> str:
    """The path to put after `base_path`: operators give a base with or without its last words (`.../v1`), and the
    longest end of the base that the path repeats is taken off it."""
    base = base_path.rstrip("/")
    start = base.find("/")
    while start != -1:
        tail = base[start:]
        if path == tail or path.startswith(tail + "/"):
            return path[len(tail) :]
        start = base.find("/", start + 1)
    return path


def _chained(routes: list[Route], path: str) -> Match:
    matches = [_matched(route, path, gemini_call(path)) for route in routes]
    return replace(matches[0], others=tuple(matches[1:]))


def _matched(route: Route, path: str, asked: Asked | None) -> Match:
    own_path = path.removeprefix(route.prefix) if route.prefix else path
    operation, model = route.operation, None
    if asked is not None and route.dialect is Dialect.GEMINI and route.operation is not Operation.LISTING:
        operation, model = asked.operation, asked.model
    upstream_path = without_overlap(route.upstream.base_path, own_path)
    return Match(route, route.upstream.name, upstream_path, operation, route.dialect, model)


def _fits(route: Route, path: str) -> bool:
    """A Gemini route out of the box takes calls of models only; a listing takes no call."""
    if route.operation is Operation.LISTING:
        return gemini_call(path) is None
    if route.dialect is Dialect.GEMINI:
        return gemini_call(path) is not None
    return True


def _has_pattern(path: str) -> bool:
    return "{" in path or path.endswith("*")


def _pattern(path: str) -> re.Pattern[str]:
    """`{name}` is one segment, a last `*` is the rest."""
    open_end = path.endswith("*")
    parts = re.split(r"\{[A-Za-z_]\w*\}", path[:-1] if open_end else path)
    return re.compile("[^/]+".join(map(re.escape, parts)) + (".+" if open_end else "") + r"\Z")
