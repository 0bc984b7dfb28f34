"""The environment's part in the configuration: `${NAME}` in values, and `FAREBOX_A__B` over the file's `a.b`.

A variable that begins with `FAREBOX_` and names no key stops the start, like an unknown key of the file: a misspelt
secret must not be silently ignored. Variables that a value names with `${...}` are of the operator's own choosing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gateway.config_reader import ConfigError, EnvText, hints_of, unknown_key

ENV_PREFIX = "FAREBOX_"
# What the test suite reads, and the commands that speak to a gateway; one that is started beside them inherits it.
NOT_OURS = frozenset({"FAREBOX_RECORDINGS", "FAREBOX_TEST_STORE", "FAREBOX_KEY", "FAREBOX_URL"})


def with_environment(data: dict[Any, Any], kind: type, environ: Mapping[str, str]) -> dict[Any, Any]:
    """A copy of the file's data with the environment in it. Errors: ConfigError with every problem."""
    problems: list[str] = []
    named: set[str] = set()
    whole: dict[Any, Any] = _substituted(data, environ, "", problems, named)
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in named and name not in NOT_OURS:
            _overlay(whole, kind, name, environ[name], problems)
    if problems:
        raise ConfigError(problems)
    return whole


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _substituted(data: Any, environ: Mapping[str, str], path: str, problems: list[str], named: set[str]) -> Any:
    """A copy of the data with `${NAME}` replaced; a value that is nothing but one variable may become a number."""
    if isinstance(data, dict):
        return {
            key: _substituted(value, environ, f"{path}.{key}".lstrip("."), problems, named)
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [_substituted(value, environ, f"{path}[{index}]", problems, named) for index, value in enumerate(data)]
    if not isinstance(data, str) or "${" not in data:
        return data
    names = _VARIABLE.findall(data)
    named.update(names)
    missing = [name for name in names if name not in environ]
    if missing or not names:
        problems.append(
            f"{path}: {', '.join(missing) or data} is not set in the environment; write ${{NAME}} and set NAME"
        )
        return data
    text = _VARIABLE.sub(lambda found: environ[found[1]], data)
    return EnvText(text) if _VARIABLE.fullmatch(data) else text


def _overlay(data: dict[Any, Any], kind: Any, name: str, value: str, problems: list[str]) -> None:
    """Set one `FAREBOX_A__B` variable into the data, following the types of the configuration."""
    place = data
    parts = name[len(ENV_PREFIX) :].lower().split("__")
    for depth, part in enumerate(parts):
        if is_dataclass(kind) and isinstance(kind, type):
            names = [each.name for each in fields(kind)]
            if part not in names:
                flat = [f"{ENV_PREFIX}{each.upper()}" for each in names]
                problems.append(
                    f"environment {name}: {'.'.join(parts[: depth + 1])}: {unknown_key(part, names)}"
                    f" (two underscores a level, as in {flat[0]} or {ENV_PREFIX}REDIS__URL)"
                )
                return
            kind = hints_of(kind)[part]
        else:
            kind = (getattr(kind, "__args__", None) or (None, None))[-1]
        if depth == len(parts) - 1:
            place[part] = EnvText(value)
            return
        below = place.get(part)
        if not isinstance(below, dict):
            below = place[part] = {}
        place = below
