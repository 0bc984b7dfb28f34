"""Vocabularies: OpenAI's are exact, others are estimated, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.adapters.tokens import Vocabularies, count_characters, vocabulary_of
from gateway.core.answers.visible import VisibleText


@pytest.mark.parametrize(
    ("model", "provider", "vocabulary"),
    [
        ("gpt-4o-2024-08-06", "openai", "o200k_base"),
        ("gpt-4.1-mini", "openai", "o200k_base"),
        ("gpt-5.4-nano", None, "o200k_base"),
        ("o3", "azure", "o200k_base"),
        ("openai/gpt-oss-20b", "openrouter", "o200k_base"),
        ("ft:gpt-4o-mini:acme::1", "openai", "o200k_base"),
        ("gpt-4-0613", "openai", "cl100k_base"),
        ("gpt-3.5-turbo", "openai", "cl100k_base"),
        ("text-embedding-3-small", "openai", "cl100k_base"),
        ("claude-sonnet-4-5", "anthropic", None),
        ("gpt-4o", "someone-else", None),
        ("llama3.2", None, None),
        ("", None, None),
    ],
)
def test_a_model_has_its_vocabulary(model: str, provider: str | None, vocabulary: str | None) -> None:
    assert vocabulary_of(model, provider) == vocabulary
    assert Vocabularies().is_exact(model, provider) == (vocabulary is not None)


def test_known_texts_have_their_known_counts() -> None:
    vocabularies = Vocabularies()
    new = vocabularies.counter_for("gpt-4o", "openai")
    old = vocabularies.counter_for("gpt-4", "openai")
    # Counts published with the vocabularies' reference implementation.
    assert (new("hello world"), old("hello world")) == (2, 2)
    assert (new("お誕生日おめでとう"), old("お誕生日おめでとう")) == (8, 9)
    assert (new("antidisestablishmentarianism"), old("antidisestablishmentarianism")) == (6, 6)
    assert new("") == 0


def test_half_of_a_surrogate_pair_is_counted() -> None:
    assert Vocabularies().counter_for("gpt-4o", "openai")("a\ud83d") >= 1
    assert count_characters("a\ud83d") == 2


def test_characters_are_four_a_token_or_one_each() -> None:
    assert count_characters("") == 0
    assert count_characters("abcd") == 1
    assert count_characters("abcde") == 2
    assert count_characters("日本") == 2


def test_a_text_counted_in_pieces_has_the_count_of_the_whole() -> None:
    words = [
        "Hello",
        ",",
        " world",
        "!",
        " It's",
        " 12345",
        " tokens",
        "\n\n",
        "  indented",
        "。",
        "漢字",
        " café",
        "(x)",
    ]
    text = "".join(words * 60)
    for model in ("gpt-4o", "gpt-4"):
        counter = Vocabularies().counter_for(model, "openai")
        visible = VisibleText(counter)
        for start in range(0, len(text), 7):
            visible.add(0, text[start : start + 7])
            if start % 5 == 0:
                visible.count()
        assert visible.count() == counter(text)


def test_nothing_is_loaded_before_the_first_text() -> None:
    script = (
        "import sys\n"
        "from gateway.adapters.tokens import Vocabularies\n"
        "Vocabularies().counter_for('gpt-4o', 'openai')\n"
        "assert 'bpe_openai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
