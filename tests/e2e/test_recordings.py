"""Recorded exchanges with the real services, sent through a running gateway to a server that answers as they did.

Every answer comes back byte for byte; its usage is what an independent reader finds, and its price that reader's,
rounded up to a msat. Where not, `REASONS` says why; an exchange for which it has no reason fails.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from e2e.independent import Reading, knows, reading_of
from e2e.replay import ID_HEADER, Recorded, Replay, running_replay
from e2e.stack import Parts, Stack, proof, start_stack
from recordings import provider_of, recordings

SHIPPED_POLICIES = Path(__file__).parents[2] / "policies"
# 100,000 USD a BTC: a msat is a millionth of a USD.
MSAT_PER_USD = 1_000_000
CREDIT_SATS = 1_000_000
SERVED_ENDINGS = ("/chat/completions", "/completions", "/responses", "/responses/compact", "/embeddings", "/messages",
                  ":generateContent", ":streamGenerateContent", ":embedContent", ":batchEmbedContents")  # fmt: skip
FREE_ENDINGS = ("/input_tokens", "/count_tokens", ":countTokens")
REFUSALS_OF_OUR_KEY = (401, 402, 407)
REASONS = {
    "unknown_route": "no route serves the path: it is no call that can be metered",
    "unknown_model": "the price book has no price for the model at this provider",
    "background": "an answer that is fetched later cannot be metered or cut",
    "advisor": "the advisor tool calls another model, at that model's price",
    "key": "the upstream refused the key or account that it was called with, which is the gateway's own",
    "no usage": "the answer reports no usage: it is counted",
    "num_cached_tokens": "Mistral's older name for cached tokens, which genai-prices does not read: they are not billed as fresh",
    "read and written": "tokens that a router reports as read and written at once are billed as read; genai-prices refuses them",
}

Exchange = dict[str, Any]


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    return recordings()


@pytest.fixture(scope="module")
def replay(exchanges: list[Exchange]) -> Iterator[Replay]:
    answers = {
        each["id"]: Recorded(each["status"], each["content_type"] or "application/json", each["response"].encode())
        for each in exchanges
    }
    with running_replay(answers) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    exchanges: list[Exchange], replay: Replay, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One upstream for every host, with the provider whose prices apply there."""
    spoken: defaultdict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    for each in exchanges:
        spoken[each["host"], provider_of(each["host"], each["path"])][each["dialect"]] += 1
    upstreams = {
        upstream_of(host, provider): {"dialect": dialects.most_common(1)[0][0], "base_url": replay.url}
        | ({"provider": provider} if provider else {"provider": "unknown"})
        for (host, provider), dialects in spoken.items()
    } or {"openai": {"dialect": "openai", "base_url": replay.url}}
    with start_stack(
        tmp_path_factory.mktemp("recordings"),
        parts,
        policies_dir=str(SHIPPED_POLICIES),
        upstreams=upstreams,
        routes=[],
    ) as running:
        yield running


def upstream_of(host: str, provider: str | None) -> str:
    """A name for the host, with the provider where a host has several."""
    return f"{crc32(f'{host} {provider}'.encode()):x}-{host.partition(':')[0]}"[:32].strip(".-_")


def asked_model(exchange: Exchange) -> str:
    """The model that a request names, in its path or its body."""
    name, colon, _ = exchange["path"].rpartition("/")[2].rpartition(":")
    return name if colon else str(exchange["request"].get("model", ""))


def sent(stack: Stack, exchange: Exchange, credential: str) -> tuple[int, Mapping[str, str], bytes]:
    """The exchange's request through the gateway."""
    path = f"/{upstream_of(exchange['host'], provider_of(exchange['host'], exchange['path']))}{exchange['path']}"
    query = f"?{exchange['query']}" if exchange["query"] else ""
    headers = {**proof(credential), ID_HEADER: exchange["id"], "content-type": "application/json"}
    answer = stack.http.post(path + query, content=json.dumps(exchange["request"]), headers=headers)
    return answer.status_code, answer.headers, answer.content


def expected_refusal(exchange: Exchange, status: int, body: bytes) -> str | None:
    """The reason of a refusal, judged by what the request is; None where there is none."""
    problem = json.loads(body)
    path, param = exchange["path"], str(problem.get("param") or problem.get("error", {}).get("param"))
    code = problem.get("code")
    if status == 404 and code == "unknown_route" and not path.endswith((*SERVED_ENDINGS, *FREE_ENDINGS)):
        return "unknown_route"
    if status == 404 and code == "unknown_model":
        return None if knows(asked_model(exchange), provider_of(exchange["host"], path)) else "unknown_model"
    if status == 422 and param == "background" and exchange["request"].get("background"):
        return "background"
    if status == 422 and "advisor" in json.dumps(exchange["request"].get("tools")) and param.startswith("tools"):
        return "advisor"
    return None


def without_edits(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request without the members that the gateway may set: the wish for usage, and the output limit."""
    names = {"stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens"}
    kept = {name: value for name, value in request.items() if name not in names}
    config = dict(request.get("generationConfig") or request.get("generation_config") or {})
    config.pop("maxOutputTokens", config.pop("max_output_tokens", None))
    return {**kept, "generationConfig": config}


def without_ours(data: bytes) -> bytes:
    """A stream without the comment of the gateway."""
    return b"".join(block for block in data.splitlines(keepends=True) if not block.startswith(b": farebox "))


def as_sent_down(exchange: Exchange) -> bytes:
    """The recorded bytes, less the usage chunk of a client that had not asked for it."""
    recorded: bytes = exchange["response"].encode()
    options = exchange["request"].get("stream_options") or {}
    if not exchange["path"].endswith("/completions") or not is_stream(exchange) or options.get("include_usage"):
        return recorded
    kept = []
    for event in recorded.split(b"\n\n"):
        data = event.strip().removeprefix(b"data: ")
        chunk = json.loads(data) if data.startswith(b"{") else {}
        if chunk.get("choices") != [] or not isinstance(chunk.get("usage"), dict):
            kept.append(event)
    return b"\n\n".join(kept)


def is_stream(exchange: Exchange) -> bool:
    return "event-stream" in (exchange["content_type"] or "")


def figures(usage: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(usage.get(name) or 0) for name in (
        "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "input_audio_tokens",
        "output_audio_tokens",
    ))  # fmt: skip


def found_figures(reading: Reading) -> tuple[int, ...]:
    usage = reading.usage
    assert usage is not None
    return tuple(int(value or 0) for value in (
        usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens,
        usage.input_audio_tokens, usage.output_audio_tokens,
    ))  # fmt: skip


def test_recorded_exchanges_come_back_byte_for_byte_and_cost_what_an_independent_reader_finds(
    exchanges: list[Exchange], replay: Replay, gateway: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    credential = gateway.buy(CREDIT_SATS)
    spent_msat = 0
    outcomes: Counter[str] = Counter()
    listed: list[str] = []
    wrong: list[str] = []
    for exchange in exchanges:
        spent_msat += judged(exchange, replay, gateway, credential, outcomes, listed, wrong)
    with capsys.disabled():
        if exchanges:
            print("\n" + "\n".join([*(f"{count:4} {what}" for what, count in outcomes.most_common()), *listed]))
    assert not wrong, "\n".join(wrong)
    assert gateway.settled(credential)["posted"] == spent_msat


def judged(
    exchange: Exchange,
    replay: Replay,
    gateway: Stack,
    credential: str,
    outcomes: Counter[str],
    listed: list[str],
    wrong: list[str],
) -> int:
    """Send one exchange and judge what came; gives its cost in msat."""
    identifier = exchange["id"]
    name = f"{identifier} {exchange['host']} {exchange['path'][-60:]} {asked_model(exchange)}"
    status, headers, body = sent(gateway, exchange, credential)
    if identifier not in replay.came:
        reason = expected_refusal(exchange, status, body)
        if reason is None:
            wrong.append(f"{name}: {status} {body[:300]!r}")
        else:
            outcomes[f"refused: {REASONS[reason]}"] += 1
            listed.append(f"{reason}: {name}")
        return 0
    target = exchange["path"] + (f"?{exchange['query']}" if exchange["query"] else "")
    came = replay.came[identifier]
    if came.target != target or without_edits(json.loads(came.body)) != without_edits(exchange["request"]):
        wrong.append(f"{name}: went up as {came.target} {came.body[:300]!r}")
    if exchange["status"] in REFUSALS_OF_OUR_KEY:
        outcomes[f"answered {status}: {REASONS['key']}"] += 1
        if not 500 <= status < 600:
            wrong.append(f"{name}: a refusal of our own key came back as {status}")
        return 0
    if status != exchange["status"] or without_ours(body) != as_sent_down(exchange):
        wrong.append(f"{name}: other bytes came back, status {status}: {body[:200]!r}")
    if exchange["path"].endswith(FREE_ENDINGS):
        outcomes["token counts, at no cost"] += 1
        return 0
    record = gateway.record(headers["farebox-request-id"], credential)
    cost_msat = int(record["cost"]["amount_msat"])
    if status != 200:
        outcomes["errors, at no cost"] += 1
        if record["state"] != "voided" or cost_msat:
            wrong.append(f"{name}: an error is {record}")
        return cost_msat
    reading = reading_of(
        exchange["response"], path=exchange["path"], provider=provider_of(exchange["host"], exchange["path"]),
        asked=asked_model(exchange), streams=is_stream(exchange),
    )  # fmt: skip
    wrong += [f"{name}: {problem}" for problem in priced_otherwise(reading, record, outcomes)]
    return cost_msat


def priced_otherwise(reading: Reading, record: Mapping[str, Any], outcomes: Counter[str]) -> Iterator[str]:
    """What of a served request differs from the independent reading, and has no reason."""
    if reading.usage is None:
        outcomes[f"served: {REASONS['no usage']}"] += 1
        if record["basis"] == "reported" and figures(record["usage"]) != (0,) * 6:
            yield f"usage {record['usage']} out of nothing"
        return
    if record["basis"] != "reported":
        yield f"basis {record['basis']}"
    found, cost_msat = found_figures(reading), record["cost"]["amount_msat"]
    cached = reading.reported.get("num_cached_tokens")
    if cached and found[1] == 0:
        outcomes[f"served: {REASONS['num_cached_tokens']}"] += 1
        if figures(record["usage"]) != (found[0], cached, *found[2:]):
            yield f"usage {record['usage']}, not {found} with {cached} cached"
        return
    if figures(record["usage"]) != found:
        yield f"usage {record['usage']}, not {found} as in {reading.reported}"
    if reading.usd is None and found[1] + found[2] > found[0]:
        outcomes[f"served: {REASONS['read and written']}"] += 1
        return
    if reading.usd is None:
        yield f"the independent reader has no price for {reading.model}; {record}: {reading.reported}"
        return
    due_msat = int((reading.usd * MSAT_PER_USD).to_integral_value(ROUND_CEILING))
    if cost_msat - due_msat in (0, 1):
        outcomes["served: usage and price as the independent reader finds them"] += 1
    else:
        yield f"{cost_msat} msat, not {due_msat}: {record['usage']} of {reading.reported}"
