"""Which names of models a book's entry is meant by: plain rules, so that they can be kept, compared and sent.

Names are compared in lower case; the texts of rules are in lower case already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equals:
    text: str

    def fits(self, name: str) -> bool:
        return name == self.text


@dataclass(frozen=True, slots=True)
class StartsWith:
    text: str

    def fits(self, name: str) -> bool:
        return name.startswith(self.text)


@dataclass(frozen=True, slots=True)
class EndsWith:
    text: str

    def fits(self, name: str) -> bool:
        return name.endswith(self.text)


@dataclass(frozen=True, slots=True)
class Contains:
    text: str

    def fits(self, name: str) -> bool:
        return self.text in name


@dataclass(frozen=True, slots=True)
class Fits:
    """A regular expression that is found anywhere in the name."""

    pattern: re.Pattern[str]

    def fits(self, name: str) -> bool:
        return self.pattern.search(name) is not None


@dataclass(frozen=True, slots=True)
class AnyOf:
    rules: tuple[Rule, ...]

    def fits(self, name: str) -> bool:
        return any(rule.fits(name) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class AllOf:
    rules: tuple[Rule, ...]

    def fits(self, name: str) -> bool:
        return all(rule.fits(name) for rule in self.rules)


Rule = Equals | StartsWith | EndsWith | Contains | Fits | AnyOf | AllOf


@dataclass(frozen=True, slots=True)
class NameRule:
    """A rule as the function that a model's entry wants."""

    rule: Rule

    def __call__(self, name: str) -> bool:
        return self.rule.fits(name.lower())
