"""No key is silently ignored, every wrong one is named with its path, and the example documents them all."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
import yaml

from gateway.approval_files import ApprovalsFile, PlansFile
from gateway.config import RESERVED_NAMES, Config, config_from, load_config
from gateway.config_reader import ConfigError, hints_of, load_yaml, read
from gateway.core.operations import Dialect, Operation
from gateway.policy_files import LimitsFile

TOP = Path(__file__).resolve().parents[2]
KEYS = {"OPENAI_API_KEY": "sk-a", "ANTHROPIC_API_KEY": "sk-b", "GEMINI_API_KEY": "g-c"}
OPENAI = {"dialect": "openai", "base_url": "https://api.openai.com"}


def problems_of(text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config_from(load_yaml(text, source="file.yaml"), environ=environ)
    return caught.value.problems


def keys_of(hint: Any, path: str = "") -> Iterator[str]:
    """Every key that a type hint admits; `*` stands for a name, `[]` for an item."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            yield from keys_of(option, path)
    elif isinstance(hint, type) and is_dataclass(hint):
        for each in fields(hint):
            below = f"{path}.{each.name}".lstrip(".")
            yield below
            yield from keys_of(hints_of(hint)[each.name], below)
    elif origin is tuple:
        yield from keys_of(arguments[0], f"{path}[]")
    elif origin is Mapping and isinstance(arguments[1], type) and is_dataclass(arguments[1]):
        yield from keys_of(arguments[1], f"{path}.*")


def documented(data: Any, known: set[str], path: str = "") -> Iterator[str]:
    """Every key that a document names, with names as `*` where the schema has them."""
    if isinstance(data, list):
        for entry in data:
            yield from documented(entry, known, f"{path}[]")
    elif isinstance(data, dict):
        named = any(key.startswith(f"{path}.*.") for key in known)
        for key, entry in data.items():
            below = f"{path}.{'*' if named else key}".lstrip(".")
            if not named and (path == "" or any(each.startswith(f"{path}.") for each in known)):
                yield below
            yield from documented(entry, known, below)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("config.example.yaml", Config),
        ("policies/limits.yaml", LimitsFile),
        ("policies/plans.yaml", PlansFile),
    ],
)
def test_every_key_is_documented_and_every_documented_key_exists(name: str, kind: type) -> None:
    known = set(keys_of(kind)) - {"request.priced_tools"}
    shown = set(documented(yaml.safe_load((TOP / name).read_text()), known))
    assert shown == known


def test_the_example_loads_and_says_the_defaults() -> None:
    config = load_config(TOP / "config.example.yaml", environ=KEYS)
    assert config.upstreams["openai"].api_key == "sk-a"
    plain = config_from({}, environ={})
    for name in ("listen", "workers", "public_url", "data_dir", "policies_dir", "default_routes", "trusted_proxies",
                 "redis", "lightning", "limits", "secrets", "webhooks"):  # fmt: skip
        assert getattr(config, name) == getattr(plain, name), name
    shown, default = config.upstreams["openai"], config_from({"upstreams": {"a": OPENAI}}, environ={}).upstreams["a"]
    for each in fields(shown):
        if each.name not in ("api_key", "provider"):
            assert getattr(shown, each.name) == getattr(default, each.name), each.name


def test_the_shipped_approvals_say_the_defaults_and_name_every_key() -> None:
    text = (TOP / "policies/approvals.yaml").read_text()
    assert read(ApprovalsFile, yaml.safe_load(text)) == ApprovalsFile()
    assert all(f"{each.name}:" in text for each in fields(ApprovalsFile))


def test_the_example_of_limits_says_the_defaults() -> None:

    assert read(LimitsFile, yaml.safe_load((TOP / "policies/limits.yaml").read_text())) == LimitsFile()


WRONG = [
    ("upstreams: {openai: {dialect: openai, bas_url: x, base_url: 'https://a'}}",
     "upstreams.openai.bas_url: unknown key; did you mean base_url?"),
    ("upstreams: {openai: {dialect: openai}}", "upstreams.openai.base_url: missing; it has no default"),
    ("upstreams: {openai: {dialect: opnai, base_url: 'https://a'}}",
     "upstreams.openai.dialect: 'opnai' is none of openai, anthropic, gemini, ollama, raw; did you mean openai?"),
    ("upstreams: {openai: {dialect: openai, base_url: 'api.openai.com'}}",
     "upstreams.openai.base_url: must be http://host[:port][/path] or https://..., without query"),
    ("upstreams: {openai: {dialect: openai, base_url: 'https://u:p@a'}}",
     "upstreams.openai.base_url: must carry no user or password; give api_key instead"),
    ("upstreams: {openai: {dialect: openai, base_url: 'https://a', drain_on_disconnect: 1}}",
     "upstreams.openai.drain_on_disconnect: 1 is not true or false"),
    ("workers: two", "workers: 'two' is not an integer"),
    ("workers: 0", "workers: must be from 1 to 256"),
    ("workers: true", "workers: True is not an integer"),
    ("listen: 8402", "listen: 8402 is not a string"),
    ("listen: localhost", 'listen: must be "address:port", e.g. "127.0.0.1:8402" or "[::]:8402"'),
    ("rates: {spread: 0.01}", 'rates.spread: 0.01 is not an exact decimal number; write it quoted: "0.01"'),
    ("rates: {fixed_usd_per_btc: '-1'}", "rates.fixed_usd_per_btc: must be above zero, at most 1000000000"),
    ("rates: {fixed_usd_per_btc: nan}", "rates.fixed_usd_per_btc: 'nan' is not an exact decimal number"),
    ("rates: {feeds: {url: a}}", "rates.feeds: {'url': 'a'} is not a list; write [{'url': 'a'}] for a list of one"),
    ("rates: {feeds: [{url: a}]}", "rates.feeds[0].path: missing; it has no default"),
    ("redis: redis://x", "redis: 'redis://x' is not a mapping; its keys are url"),
    ("routes: [{path: /a, upstream: nobody}]", "routes[0].upstream: no upstream is named 'nobody'; there are none"),
    ("routes: [{path: a, upstream: u}]", "routes[0].path: must begin with /"),
    ("routes: [{path: /admin/x, upstream: u}]",
     "routes[0].path: /admin is served by Farebox itself; choose another first segment"),
    ("routes: [{path: /a, upstream: u, methods: [post]}]", "routes[0].methods: must be upper-case HTTP methods, at least one"),
    ("routes: [{path: /a, upstream: u, payers: []}]", "routes[0].payers: must name agent, account or both"),
    ("routes: [{path: /a, upstream: u, price: {usd_per_call: 0.1}}]",
     'routes[0].price.usd_per_call: 0.1 is not an exact decimal number; write it quoted: "0.1"'),
    ("limits: {body_most_bytes: 0}", "limits.body_most_bytes: must be above zero"),
    ("trusted_proxies: ['10.0.0.1/8']",
     'trusted_proxies[0]: 10.0.0.1/8 has host bits set; write an address or a network, e.g. "10.0.0.0/8"'),
    ("lightning: {service: 'a b'}", "lightning.service: must be 1 to 32 of a-z 0-9 _ -"),
    ("lightning: {lnd: {address: 'a:1'}}", "lightning.lnd.macaroon: missing; an address needs a macaroon"),
    ("secrets: {macaroon_master: {1: abc}}", "secrets.macaroon_master.1: must be 64 hex digits (32 random bytes)"),
    ("secrets: {macaroon_master: {x: abc}}", "secrets.macaroon_master.x: 'x' is not an integer"),
    ("upstreams: {openai: {dialect: openai, base_url: 'https://a', api_key: '${NOT_SET}'}}",
     "upstreams.openai.api_key: NOT_SET is not set in the environment; write ${NAME} and set NAME"),
    ("[]", "file: must be a mapping of keys"),
    ("workers: 1\nworkers: 2", "file.yaml: workers: given twice (line 2); keep one"),
    ("redis: {url: a, url: b}", "file.yaml: url: given twice (line 1); keep one"),
    ("a: [", "file.yaml: line 1: expected the node content, but found '<stream end>'"),
    ("a: \x00", "file.yaml: not valid YAML: unacceptable character #x0000: special characters are not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=[problem.split(":")[0] for _, problem in WRONG])
def test_a_wrong_key_is_refused_with_its_path_and_what_would_be_right(text: str, problem: str) -> None:
    assert problem in problems_of(text)


def test_all_problems_are_told_at_once() -> None:
    told = problems_of("workers: x\nredis: {ur: a}\nrates: {stale_s: y}")
    assert [each.split(":")[0] for each in told] == ["workers", "redis.ur", "rates.stale_s"]


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_no_upstream_has_the_name_of_a_path_of_our_own(name: str) -> None:
    text = yaml.safe_dump({"upstreams": {name: OPENAI}})
    assert problems_of(text) == (f"upstreams.{name}: this name is a path of Farebox's own; choose another",)


@pytest.mark.parametrize("name", ["v1", "v1beta", "Upper", "a/b", "", "a" * 33, "-a"])
def test_a_name_that_cannot_be_addressed_is_refused(name: str) -> None:
    assert "a name is" in problems_of(yaml.safe_dump({"upstreams": {name: OPENAI}}))[0]


def test_the_environment_stands_before_the_file() -> None:
    text = "redis: {url: redis://file}\nworkers: 1\nupstreams: {openai: {dialect: openai, base_url: 'https://a'}}"
    config = config_from(
        load_yaml(text, source="f"),
        environ={
            "FAREBOX_REDIS__URL": "redis://env",
            "FAREBOX_WORKERS": "3",
            "FAREBOX_UPSTREAMS__OPENAI__API_KEY": "12345",
            "FAREBOX_UPSTREAMS__LOCAL__DIALECT": "ollama",
            "FAREBOX_UPSTREAMS__LOCAL__BASE_URL": "http://localhost:11434",
            "FAREBOX_TRUSTED_PROXIES": '["10.0.0.0/8"]',
            "FAREBOX_RATES__FIXED_USD_PER_BTC": "100000.5",
            "FAREBOX_LIMITS__GRACE_S": "2.5",
            "FAREBOX_SECRETS__MACAROON_MASTER__2": "ab" * 32,
            "HOME": "/somewhere",
        },
    )
    assert (config.redis.url, config.workers, config.trusted_proxies) == ("redis://env", 3, ("10.0.0.0/8",))
    assert (config.upstreams["openai"].api_key, config.upstreams["local"].dialect) == ("12345", Dialect.OLLAMA)
    assert config.rates.fixed_usd_per_btc == Decimal("100000.5")
    assert config.rates.fixed_microusd_per_btc == 100_000_500_000
    assert (config.limits.grace_s, dict(config.secrets.macaroon_master)) == (2.5, {2: "ab" * 32})


def test_a_variable_that_names_no_key_stops_the_start() -> None:
    (problem,) = problems_of("{}", FAREBOX_REDIS_URL="redis://x")
    assert problem.startswith("environment FAREBOX_REDIS_URL: redis_url: unknown key; did you mean redis?")
    assert "two underscores a level" in problem
    (problem,) = problems_of("{}", FAREBOX_REDIS__URI="redis://x")
    assert problem.startswith("environment FAREBOX_REDIS__URI: redis.uri: unknown key; did you mean url?")
    assert problems_of("{}", FAREBOX_WORKERS="many") == ("workers: 'many' is not an integer",)


def test_a_variable_that_a_value_names_is_of_the_operators_own_choosing() -> None:
    text = "upstreams: {a: {dialect: openai, base_url: 'http://${HOST_OF_A}:${FAREBOX_PORT_OF_A}/v1'}}\nworkers: ${N}"
    environ = {"HOST_OF_A": "h", "FAREBOX_PORT_OF_A": "81", "N": "2"}
    config = config_from(load_yaml(text, source="f"), environ=environ)
    assert (config.upstreams["a"].base_url, config.workers) == ("http://h:81/v1", 2)


def test_secrets_never_appear_in_a_repr() -> None:
    config = config_from(
        {
            "redis": {"url": "redis://:secret-a@h"},
            "upstreams": {"a": {**OPENAI, "api_key": "secret-b", "headers": {"authorization": "secret-c"}}},
            "lightning": {"lnd": {"address": "h:1", "macaroon": "secret-d"}},
            "secrets": {"macaroon_master": {"1": "5ec2e7" + "0" * 58}},
        },
        environ={},
    )
    assert "secret-" not in repr(config)
    assert "5ec2e7" not in repr(config)


def test_the_configuration_cannot_be_changed() -> None:
    config = config_from({"upstreams": {"a": OPENAI}}, environ={})
    with pytest.raises(AttributeError):
        config.workers = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.upstreams["b"] = config.upstreams["a"]  # type: ignore[index]


def test_addresses_are_split_and_routes_typed() -> None:
    config = config_from(
        {
            "listen": "[::1]:80",
            "upstreams": {"a": OPENAI},
            "routes": [{"path": "/q", "upstream": "a", "operation": "chat", "price": "rule"}],
        },
        environ={},
    )
    assert (config.host, config.port) == ("::1", 80)
    assert (config.routes[0].operation, config.routes[0].price) == (Operation.CHAT, "rule")


def test_variables_of_the_test_suite_and_of_the_commands_are_no_keys() -> None:
    theirs = {"FAREBOX_RECORDINGS": "/recordings", "FAREBOX_TEST_STORE": "redis-server"}
    config = config_from({}, environ=theirs | {"FAREBOX_KEY": "fb_live_x", "FAREBOX_URL": "http://127.0.0.1:8402"})
    assert config == config_from({}, environ={})
