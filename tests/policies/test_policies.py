"""The shipped policies load, a wrong file is told with its path, and a reload is whole or nothing."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.config import Config, config_from
from gateway.config_reader import ConfigError
from gateway.core.prices import cost_picousd
from gateway.core.usage import Usage
from gateway.policies import Policies
from gateway.policy_files import load_policies, policies_directory, reload_policies

SHIPPED = Path(__file__).resolve().parents[2] / "policies"
NOW_S = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
ENTRY = "from_date: 2026-01-01, source: s, checked: 2026-01-01"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "policies")
    return tmp_path / "policies"


def config_of(directory: Path) -> Config:
    return config_from({"policies_dir": str(directory)}, environ={})


def prices(directory: Path, text: str, name: str = "own") -> Path:
    file = directory / "prices" / f"{name}.yaml"
    file.write_text(text)
    return file


def problems_of(directory: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_policies(config_of(directory))
    return caught.value.problems


def test_the_shipped_policies_load_and_are_the_default() -> None:
    config = config_from({}, environ={})
    assert policies_directory(config) == SHIPPED
    policies = load_policies(config)
    assert policies.margin_ppm == 1_000_000
    priced = policies.request_limits.priced_tools
    assert priced >= {"web_search", "file_search", "google_search", "web_fetch", "code_execution", "code_interpreter"}
    assert "advisor" not in priced  # it calls another model, at that model's price
    assert policies.hold.first_step_tokens == 1_024
    assert policies.challenge.default_deposit_sats == 1_000
    assert {"limits.yaml", "prices/tools.yaml", "prices/ollama.yaml"} <= set(policies.files)


def test_the_book_has_prices_for_the_models_of_the_shipped_providers() -> None:
    book = load_policies(config_from({}, environ={})).price_book
    for provider, model in (
        ("openai", "gpt-4o-mini"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-flash"),
    ):
        assert book.card(provider, model, NOW_S) is not None, model


def test_limits_of_the_configuration_reach_the_challenges() -> None:
    config = config_from({"limits": {"challenges_per_minute": 7}, "lightning": {"service": "mine"}}, environ={})
    challenge = load_policies(config).challenge
    assert (challenge.challenges_per_minute, challenge.service) == (7, "mine")


def test_an_own_model_has_the_price_of_its_day_and_the_margin(directory: Path) -> None:
    prices(
        directory,
        f"""
provider: acme
models:
  - model: one
    prices:
      - {{{ENTRY}, input_usd_per_mtok: "1", output_usd_per_mtok: 2}}
""",
    )
    (directory / "limits.yaml").write_text((directory / "limits.yaml").read_text().replace('"1.0"', '"1.25"'))
    policies = load_policies(config_of(directory))
    card = policies.price_book.card("acme", "one", NOW_S)
    assert card is not None
    assert cost_picousd(card, Usage(input_tokens=1, output_tokens=1)) == 3_000_000
    assert (card.margin_ppm, policies.margin_ppm, card.source) == (1_250_000, 1_250_000, "s")


def test_entries_of_one_model_may_stand_in_several_files(directory: Path) -> None:
    prices(directory, f'{{provider: a, models: [{{model: m, prices: [{{{ENTRY}, usd_per_call: "1"}}]}}]}}', "2026")
    later = ENTRY.replace("2026-01-01,", "2026-02-01,", 1)
    prices(
        directory, f'{{provider: a, models: [{{model: m, prices: [{{{later}, usd_per_call: "2"}}]}}]}}', "2026-february"
    )
    card = load_policies(config_of(directory)).price_book.card("a", "m", NOW_S)
    assert card is not None and card.call == 2 * 10**12


WRONG = [
    ("{provider: a, models: [{model: m, prices: [{%s, input_usd_per_mtok: 0.15}]}]}",
     'prices/own.yaml: models[0].prices[0].input_usd_per_mtok: 0.15 is not an exact decimal number; write it quoted: "0.15"'),
    ('{provider: a, models: [{model: m, prices: [{%s, input_usd_per_token: "1"}]}]}',
     "prices/own.yaml: models[0].prices[0].input_usd_per_token: unknown key; did you mean input_usd_per_mtok?"),
    ("{provider: a, models: [{model: m, prices: [{%s}]}]}",
     "prices/own.yaml: models[0].prices[0].from_date: an entry needs a price: input_usd_per_mtok, cached_input"),
    ('{provider: a, models: [{model: m, prices: [{%s, usd_per_call: "-1"}]}]}',
     "prices/own.yaml: models[0].prices[0].usd_per_call: must be from 0 to 1000000"),
    ('{provider: a, models: [{model: m, prices: [{%s, usd_per_call: "1"}, {%s, usd_per_call: "2"}]}]}',
     "prices/own.yaml: models[0].prices: two entries begin on the same day; entries are never overwritten"),
    ('{models: [{model: m, prices: [{%s, usd_per_call: "1"}]}]}',
     "prices/own.yaml: provider: missing; models and margin belong to a provider"),
    ('{provider: a, models: [{model: m, prices: [{source: s, checked: 2026-01-01, usd_per_call: "1"}]}]}',
     "prices/own.yaml: models[0].prices[0].from_date: missing; it has no default"),
    ("{provider: a, models: [{model: m, prices: [{from_date: soon, source: s, checked: 2026-01-01, usd_per_call: 1}]}]}",
     "prices/own.yaml: models[0].prices[0].from_date: 'soon' is not a day (YYYY-MM-DD)"),
    ('{provider: a, margin: "1000"}', 'prices/own.yaml: margin: must be from "0.01" to "100"; "1.1" adds ten per cent'),
    ("{tools: {t: {usd_per_call: 0.5}}}",
     'prices/own.yaml: tools.t.usd_per_call: 0.5 is not an exact decimal number; write it quoted: "0.5"'),
    (("{provider: a, models: [{model: m, prices: [{%s, usd_per_call: 1, "
      "steps: [{above_input_tokens: 2, usd_per_call: 1}, {above_input_tokens: 2, usd_per_call: 1}]}]}]}"),
     "prices/own.yaml: models[0].prices[0].steps[1].above_input_tokens: must rise from step to step"),
    ("a: 1\na: 2", "prices/own.yaml: a: given twice (line 2); keep one"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=[problem.split(": ")[1] for _, problem in WRONG])
def test_a_wrong_price_is_refused_with_file_and_path(directory: Path, text: str, problem: str) -> None:
    prices(directory, text.replace("%s", ENTRY))
    assert any(each.startswith(problem) for each in problems_of(directory)), problems_of(directory)


def test_two_files_never_overwrite_each_other(directory: Path) -> None:
    same = f'{{provider: a, margin: "1", models: [{{model: m, prices: [{{{ENTRY}, usd_per_call: "1"}}]}}]}}'
    prices(directory, same, "one")
    prices(directory, same, "two")
    prices(directory, "{rules: {r: {usd_per_call: 1}}}", "three")
    prices(directory, "{rules: {r: {usd_per_call: 2}}}", "four")
    told = problems_of(directory)
    assert "prices/two.yaml: margin: a already has one in another file" in told
    assert any(
        each.startswith("prices/two.yaml: m: 2026-01-01 already has a price in prices/one.yaml") for each in told
    )
    assert "prices/three.yaml: rules.r: given twice; keep one" in told


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "floor_tokens: 16",
            "floor_token: 16",
            "limits.yaml: hold.floor_token: unknown key; did you mean floor_tokens?",
        ),
        ("floor_tokens: 16", "floor_tokens: 0", "limits.yaml: hold.floor_tokens: must be above zero"),
        (
            "hold_lifetime_s: 30.0",
            "hold_lifetime_s: 5",
            "limits.yaml: hold.hold_lifetime_s: must be at least three check",
        ),
        ("retention_s: 7776000", "retention_s: 60", "limits.yaml: challenges: retention_s must be longer"),
        ("media_tokens: 4096", "priced_tools: [a]", "limits.yaml: request.priced_tools: unknown key"),
        ('margin: "1.0"', "margin: 1.0", "limits.yaml: margin: 1.0 is not an exact decimal number"),
    ],
)
def test_a_wrong_limit_is_refused_with_its_path(directory: Path, old: str, new: str, problem: str) -> None:
    text = (directory / "limits.yaml").read_text()
    assert old in text
    (directory / "limits.yaml").write_text(text.replace(old, new))
    assert any(each.startswith(problem) for each in problems_of(directory)), problems_of(directory)


def test_a_file_that_nobody_reads_is_refused(directory: Path) -> None:
    (directory / "limts.yaml").write_text("{}")
    (directory / "prices" / "more.yml").write_text("{}")
    assert [each.split(":")[0] for each in problems_of(directory)] == ["limts.yaml", "prices/more.yml"]


def test_a_directory_without_policies_is_refused(tmp_path: Path) -> None:
    assert "has no limits.yaml" in problems_of(tmp_path)[0]


def test_the_digest_is_of_names_and_contents(directory: Path) -> None:
    first = load_policies(config_of(directory)).digest
    assert first == load_policies(config_of(directory)).digest
    file = prices(directory, "{}")
    second = load_policies(config_of(directory)).digest
    file.rename(file.with_name("other.yaml"))
    third = load_policies(config_of(directory)).digest
    assert len({first, second, third}) == 3


def test_a_reload_is_a_whole_new_object_or_the_old_one_and_why(directory: Path) -> None:
    config = config_of(directory)
    old: Policies = load_policies(config)
    prices(directory, "{rules: {search: {usd_per_call: 1}}}")
    renewed = reload_policies(old, config)
    assert renewed.refused == () and renewed.policies is not old
    assert renewed.policies.price_book.rule("search") is not None
    prices(directory, "{ruls: {}}")
    kept = reload_policies(renewed.policies, config)
    assert kept.policies is renewed.policies
    assert kept.refused == ("prices/own.yaml: ruls: unknown key; did you mean rules?",)
    (directory / "prices" / "own.yaml").write_bytes(b"\xff\xfe\xfa")
    assert reload_policies(renewed.policies, config).policies is renewed.policies
