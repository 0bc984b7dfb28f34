"""Reads YAML into frozen dataclasses, strictly, by their type hints.

An operator must never meet a field that is silently ignored: unknown keys, doubled keys and wrong types are refused
with the path of the key and what would be right; all problems of a file are reported at once. Exact numbers (`Decimal`)
are read from quoted strings or integers, because a YAML float has already lost what was written.

A dataclass says what its fields may be by its hints; `__post_init__` checks what hints cannot, by raising
`FieldProblem`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


class ConfigError(Exception):
    """Everything that is wrong with a file, one line each: `path: what is wrong; what would be right`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class FieldProblem(ValueError):
    """Raised by a dataclass's `__post_init__`: the field's name (a path below the object) and what would be right."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class EnvText(str):
    """A value from the environment: always text, so it may be read as the number or list that its field wants."""

    __slots__ = ()


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - as PyYAML has it
    ) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError([f"{key}: given twice (line {line}); keep one"])
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str, *, source: str) -> Any:
    """Parse YAML. Errors: ConfigError naming `source` and the line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except ConfigError as error:
        raise ConfigError([f"{source}: {problem}" for problem in error.problems]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError([f"{source}: line {line}: {error.problem or 'not valid YAML'}"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{source}: not valid YAML: {str(error).splitlines()[0]}"]) from None


def read(kind: type[T], data: Any, *, path: str = "") -> T:
    """Build a `kind` (a dataclass) from parsed YAML. Errors: ConfigError with every problem found."""
    problems: list[str] = []
    value = _Reader(problems).value(kind, data, path)
    if problems:
        raise ConfigError(problems)
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Stands where a value could not be read; its problem is already noted."""


_WRONG = _Wrong()


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Resolved type hints of a dataclass."""
    return get_type_hints(kind)


class _Reader:
    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def wrong(self, path: str, message: str) -> Any:
        self.problems.append(f"{path or 'file'}: {message}")
        return _WRONG

    def value(self, hint: Any, data: Any, path: str) -> Any:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self.union(get_args(hint), data, path)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.record(hint, self.opened(data), path)
        if origin in (tuple, frozenset):
            return self.sequence(origin, get_args(hint)[0], self.opened(data), path)
        if origin in (dict, Mapping):
            return self.mapping(get_args(hint), self.opened(data), path)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return self.choice(hint, data, path)
        return self.scalar(hint, data, path)

    def opened(self, data: Any) -> Any:
        """Text from the environment where a list or a mapping is wanted is YAML."""
        return load_yaml(data, source="environment") if isinstance(data, EnvText) else data

    def union(self, options: tuple[Any, ...], data: Any, path: str) -> Any:
        if types.NoneType in options:
            if data is None or (isinstance(data, EnvText) and data == ""):
                return None
            options = tuple(option for option in options if option is not types.NoneType)
        wants_mapping = isinstance(data, dict)
        fitting = [option for option in options if is_dataclass(option) is wants_mapping] or list(options)
        return self.value(fitting[0], data, path)

    def record(self, kind: Any, data: Any, path: str) -> Any:
        if data is None:
            data = {}
        if not isinstance(data, dict):
            return self.wrong(path, f"{_shown(data)} is not a mapping; its keys are {', '.join(_names(kind))}")
        names = _names(kind)
        for key in data:
            if key not in names:
                self.wrong(_join(path, key), unknown_key(str(key), names))
        values: dict[str, Any] = {}
        for field in fields(kind):
            if field.name in data:
                values[field.name] = self.value(hints_of(kind)[field.name], data[field.name], _join(path, field.name))
            elif field.default is MISSING and field.default_factory is MISSING:
                values[field.name] = self.wrong(_join(path, field.name), "missing; it has no default")
        if any(value is _WRONG for value in values.values()):
            return _WRONG
        try:
            return kind(**values)
        except FieldProblem as problem:
            return self.wrong(_join(path, problem.name), problem.message)

    def sequence(self, origin: Callable[[Iterable[Any]], Any], item: Any, data: Any, path: str) -> Any:
        if not isinstance(data, list):
            return self.wrong(path, f"{_shown(data)} is not a list; write [{_shown(data)}] for a list of one")
        values = [self.value(item, entry, f"{path}[{index}]") for index, entry in enumerate(data)]
        return _WRONG if _WRONG in values else origin(values)

    def mapping(self, kinds: tuple[Any, Any], data: Any, path: str) -> Any:
        if data is None:
            data = {}
        if not isinstance(data, dict):
            return self.wrong(path, f"{_shown(data)} is not a mapping")
        values: dict[Any, Any] = {}
        for key, entry in data.items():
            # A number from the environment arrives as text; a name that YAML reads as a number is a name all the same.
            name = self.scalar(kinds[0], EnvText(key) if kinds[0] is int else str(key), _join(path, key))
            values[name] = self.value(kinds[1], entry, _join(path, key))
        wrong = any(part is _WRONG for pair in values.items() for part in pair)
        return _WRONG if wrong else types.MappingProxyType(values)

    def choice(self, kind: type[Enum], data: Any, path: str) -> Any:
        options = [str(member.value) for member in kind]
        text = str(data) if isinstance(data, str) else None
        if text in options:
            return kind(text)
        return self.wrong(path, f"{_shown(data)} is none of {', '.join(options)}{_meant(str(data), options)}")

    def scalar(self, kind: Any, data: Any, path: str) -> Any:
        if isinstance(data, EnvText) and kind is not str and kind is not Decimal:
            data = self.opened(data)
        read_one = _SCALARS.get(kind)
        if read_one is None:
            message = f"{path}: no reader for {kind!r}"
            raise TypeError(message)
        value, right = read_one(data), _RIGHT[kind]
        if value is _WRONG:
            hint = f'; write it quoted: "{data}"' if kind is Decimal and isinstance(data, float) else ""
            return self.wrong(path, f"{_shown(data)} is not {right}{hint}")
        return value


def _str(data: Any) -> Any:
    return str(data) if isinstance(data, str) else _WRONG


def _bool(data: Any) -> Any:
    return data if isinstance(data, bool) else _WRONG


def _int(data: Any) -> Any:
    return data if isinstance(data, int) and not isinstance(data, bool) else _WRONG


def _float(data: Any) -> Any:
    return float(data) if isinstance(data, (int, float)) and not isinstance(data, bool) else _WRONG


def _decimal(data: Any) -> Any:
    if isinstance(data, bool) or not isinstance(data, (str, int)):
        return _WRONG
    try:
        value = Decimal(data)
    except InvalidOperation:
        return _WRONG
    return value if value.is_finite() else _WRONG


def _date(data: Any) -> Any:
    if isinstance(data, date) and not isinstance(data, datetime):
        return data
    try:
        return date.fromisoformat(data) if isinstance(data, str) else _WRONG
    except ValueError:
        return _WRONG


_SCALARS: Mapping[Any, Callable[[Any], Any]] = types.MappingProxyType(
    {str: _str, bool: _bool, int: _int, float: _float, Decimal: _decimal, date: _date}
)
_RIGHT: Mapping[Any, str] = types.MappingProxyType(
    {
        str: "a string",
        bool: "true or false",
        int: "an integer",
        float: "a number",
        Decimal: "an exact decimal number",
        date: "a day (YYYY-MM-DD)",
    }
)


def unknown_key(key: str, names: Iterable[str]) -> str:
    """The message for a key that is not one of `names`."""
    names = list(names)
    return "unknown key" + (_meant(key, names) or f"; known are {', '.join(names)}")


def _meant(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _shown(data: Any) -> str:
    text = repr(str(data) if isinstance(data, EnvText) else data)
    return text if len(text) <= 40 else text[:37] + "..."
