"""The default book names the models that the library names, and a start without it says why."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest
from genai_prices.data import providers as genai_providers

from gateway.adapters.genai_book import BookUnreadable, dashed_date, default_book, dotted_version
from gateway.config import config_from
from gateway.config_reader import ConfigError
from gateway.core.name_rules import AllOf, AnyOf, Contains, EndsWith, Equals, Fits, NameRule, StartsWith
from gateway.core.price_book import PriceBook
from gateway.policy_files import load_policies


def test_every_name_finds_the_model_that_the_library_finds() -> None:
    book = {entry.provider: entry for entry in default_book()}
    chance = random.Random(3)
    everywhere = [model.id for provider in genai_providers for model in provider.models]
    for provider in genai_providers:
        names = [model.id for model in provider.models] + chance.sample(everywhere, 60)
        for name in [*names, *(each.upper() for each in names[:10])]:
            theirs = next((model.id for model in provider.models if model.is_match(name.lower())), None)
            ours = next((entry.model for entry in book[provider.id].models if entry.matches(name)), None)
            assert ours == theirs, (provider.id, name)


def test_rules_of_names_compare_in_lower_case() -> None:
    rule = NameRule(
        AnyOf(
            (
                Equals("one"),
                AllOf((StartsWith("two-"), EndsWith("-x"))),
                AllOf((Contains("three"), Fits(re.compile(r"\d$")))),
            )
        )
    )
    for name in ("ONE", "two-a-x", "Two-X", "a-three-b-4"):
        assert rule(name)
    for name in ("one-", "two-a", "three", "", "a-x"):
        assert not rule(name)


@pytest.mark.parametrize(
    ("name", "dashed"),
    [
        ("gpt-5.2-20251211", "gpt-5.2-2025-12-11"),
        ("gpt-5.2-20251311", "gpt-5.2-20251311"),
        ("gpt-5.2-2025121", "gpt-5.2-2025121"),
        ("gpt-5.2-19991211", "gpt-5.2-19991211"),
        ("20251211", "20251211"),
    ],
)
def test_a_compact_date_is_read_as_a_date(name: str, dashed: str) -> None:
    assert dashed_date(name) == dashed


@pytest.mark.parametrize(
    ("name", "dotted"),
    [
        ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4.5"),
        ("anthropic/claude-3-5-sonnet", "anthropic/claude-3.5-sonnet"),
        ("anthropic/claude-opus-4-1:beta", "anthropic/claude-opus-4.1:beta"),
        ("openai/gpt-4o-2024-08-06", "openai/gpt-4o-2024-08-06"),
        ("meta-llama/llama-4-scout", "meta-llama/llama-4-scout"),
    ],
)
def test_a_version_with_a_dash_is_read_as_one_with_a_dot(name: str, dotted: str) -> None:
    assert dotted_version(name) == dotted


def test_a_model_of_the_book_is_found_by_the_books_own_name() -> None:
    book = PriceBook(default_book())
    for provider, name in (("fireworks", "glm-5p1"), ("aws", "regional.openai.gpt-5.6-sol")):
        assert book.canonical(provider, name) == name
    assert book.canonical("openrouter", "anthropic/claude-sonnet-4-5") == "anthropic/claude-sonnet-4.5"


@pytest.mark.parametrize(
    ("program", "why"), [("/bin/false", "could not be read: "), ("/not/there/python", "No such file")]
)
def test_a_start_without_the_book_says_why(monkeypatch: pytest.MonkeyPatch, program: str, why: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(BookUnreadable, match=why):
        default_book()
    with pytest.raises(ConfigError, match="genai-prices"):
        load_policies(config_from({}, environ={}))


def test_the_library_does_not_stay_in_the_process_that_reads_the_book() -> None:
    code = (
        "import sys; from gateway.policy_files import load_policies; from gateway.config import config_from;"
        "load_policies(config_from({}, environ={}));"
        "print([name for name in sys.modules if name.startswith(('genai_prices', 'pydantic'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
