"""A golden corpus: prices in the policies' own format, usages, and what each costs, computed by hand.

Every sum is written out in picousd: tokens times picousd a token (1 USD a million tokens is 1,000,000 picousd a token).
"""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.config_reader import load_yaml, read
from gateway.core.prices import PriceBook
from gateway.core.usage import Usage
from gateway.price_files import PriceFile, own_providers, rule_cards, tool_prices

PRICES = """
provider: acme
margin: "1.1"
models:
  - model: plain
    aliases: ["plain-2*", "*/plain"]
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         input_usd_per_mtok: "2.5", output_usd_per_mtok: "10"}
  - model: cached
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         input_usd_per_mtok: "3", cached_input_usd_per_mtok: "0.3", cache_write_usd_per_mtok: "3.75",
         cache_write_1h_usd_per_mtok: "6", output_usd_per_mtok: "15", tools: {web_search: "0.01"}}
  - model: reasoning
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         input_usd_per_mtok: "2", output_usd_per_mtok: "8", reasoning_usd_per_mtok: "3"}
  - model: voice
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         input_usd_per_mtok: "4", cached_input_usd_per_mtok: "0.4", input_audio_usd_per_mtok: "32",
         cached_input_audio_usd_per_mtok: "0.5", output_usd_per_mtok: "16", output_audio_usd_per_mtok: "64"}
  - model: painter
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         input_usd_per_mtok: "5", cached_input_usd_per_mtok: "1.25", input_image_usd_per_mtok: "10",
         cached_input_image_usd_per_mtok: "2.5", output_usd_per_mtok: "10", output_image_usd_per_mtok: "40"}
  - model: long
    prices:
      - from_date: 2026-01-01
        source: test
        checked: 2026-01-01
        input_usd_per_mtok: "1.25"
        output_usd_per_mtok: "10"
        steps: [{above_input_tokens: 200000, input_usd_per_mtok: "2.5", output_usd_per_mtok: "15"}]
  - model: tiered
    prices:
      - from_date: 2026-01-01
        source: test
        checked: 2026-01-01
        input_usd_per_mtok: "2"
        output_usd_per_mtok: "8"
        service_tiers:
          priority: {input_usd_per_mtok: "3.5", output_usd_per_mtok: "14"}
          flex: {input_usd_per_mtok: "1", output_usd_per_mtok: "4"}
  - model: dated
    margin: "2"
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01, input_usd_per_mtok: "1", output_usd_per_mtok: "2"}
      - {from_date: 2026-06-01, source: test, checked: 2026-06-01, input_usd_per_mtok: "3", output_usd_per_mtok: "4"}
  - model: listener
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01, usd_per_second: "0.0001"}
  - model: speaker
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01, usd_per_mchar: "15"}
  - model: easel
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01, usd_per_image: "0.04"}
  - model: fee
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         usd_per_call: "0.012", input_usd_per_mtok: "1", output_usd_per_mtok: "1"}
  - model: odd
    prices:
      - {from_date: 2026-01-01, source: test, checked: 2026-01-01,
         input_usd_per_mtok: "0.0000015", output_usd_per_mtok: "0.0000001"}
tools:
  web_search: {usd_per_call: "0.02"}
  file_search: {usd_per_call: "0.0025"}
rules:
  search: {usd_per_call: "0.001"}
"""

MAY_S = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
JULY_S = datetime(2026, 7, 1, tzinfo=UTC).timestamp()


def corpus_book() -> PriceBook:
    """The book of `PRICES` alone."""
    files = {"acme.yaml": read(PriceFile, load_yaml(PRICES, source="acme.yaml"))}
    problems: list[str] = []
    own = own_providers(files, problems)
    rules = rule_cards(files, problems)
    assert problems == []
    return PriceBook((), own, rules=rules, tools=tool_prices(files.values()))


# (what, model, usage, picousd)
GOLDEN: list[tuple[str, str, Usage, int]] = [
    ("nothing", "plain", Usage(), 0),
    # 1,000 * 2,500,000 + 100 * 10,000,000
    ("input and output", "plain", Usage(input_tokens=1_000, output_tokens=100), 3_500_000_000),
    ("without a price of its own cached input is input", "plain",
     Usage(input_tokens=1_000, cached_input_tokens=600), 2_500_000_000),
    ("without a price of their own reasoning, audio and images are output", "plain",
     Usage(output_tokens=100, reasoning_tokens=30, output_audio_tokens=20, output_image_tokens=10), 1_000_000_000),
    # 400 * 3,000,000 + 600 * 300,000 + 50 * 15,000,000
    ("a cache read", "cached", Usage(input_tokens=1_000, cached_input_tokens=600, output_tokens=50), 2_130_000_000),
    # 100 * 3,000,000 + 900 * 3,750,000
    ("a cache write", "cached", Usage(input_tokens=1_000, cache_write_tokens=900), 3_675_000_000),
    # 100 * 3,000,000 + 500 * 3,750,000 + 400 * 6,000,000
    ("a write of which a part is for an hour", "cached",
     Usage(input_tokens=1_000, cache_write_tokens=900, cache_write_1h_tokens=400), 4_575_000_000),
    # 100 * 3,000,000 + 300 * 300,000 + 600 * 3,750,000
    ("a read and a write", "cached",
     Usage(input_tokens=1_000, cached_input_tokens=300, cache_write_tokens=600), 2_640_000_000),
    # 10 * 3,000,000 + 3 * 10,000,000,000 + 1 * 2,500,000,000
    ("tools: the model's own fee before the general one", "cached",
     Usage(input_tokens=10, tool_calls=(("web_search", 3), ("file_search", 1))), 32_530_000_000),
    ("a tool that nobody priced costs as much as the dearest", "plain",
     Usage(tool_calls=(("telepathy", 2),)), 40_000_000_000),
    # 60 * 8,000,000 + 40 * 3,000,000 + 10 * 2,000,000
    ("reasoning with a price of its own", "reasoning",
     Usage(input_tokens=10, output_tokens=100, reasoning_tokens=40), 620_000_000),
    # 400 * 4,000,000 + 600 * 32,000,000 + 50 * 16,000,000 + 150 * 64,000,000
    ("audio in and out", "voice",
     Usage(input_tokens=1_000, input_audio_tokens=600, output_tokens=200, output_audio_tokens=150), 31_200_000_000),
    # text 100 fresh, 300 cached; audio 200 fresh, 400 cached: 400,000,000 + 120,000,000 + 6,400,000,000 + 200,000,000
    ("audio of which a part is cached", "voice",
     Usage(input_tokens=1_000, cached_input_tokens=700, input_audio_tokens=600, cached_input_audio_tokens=400),
     7_120_000_000),
    # 100 * 5,000,000 + 900 * 10,000,000 + 4,000 * 40,000,000
    ("an image in and an image out", "painter",
     Usage(input_tokens=1_000, input_image_tokens=900, output_tokens=4_000, output_image_tokens=4_000),
     169_500_000_000),
    # all 1,000 are images, 800 of them in the cache: 200 * 10,000,000 + 800 * 2,500,000
    ("images in the cache", "painter",
     Usage(input_tokens=1_000, cached_input_tokens=800, input_image_tokens=1_000), 4_000_000_000),
    # 200,000 * 1,250,000 + 10 * 10,000,000
    ("at the step the short price", "long", Usage(input_tokens=200_000, output_tokens=10), 250_100_000_000),
    # 200,001 * 2,500,000 + 10 * 15,000,000
    ("over the step the long price for all tokens", "long",
     Usage(input_tokens=200_001, output_tokens=10), 500_152_500_000),
    ("the standard tier", "tiered", Usage(input_tokens=10, output_tokens=10, service_tier="default"), 100_000_000),
    ("the priority tier", "tiered", Usage(input_tokens=10, output_tokens=10, service_tier="priority"), 175_000_000),
    ("the flex tier", "tiered", Usage(input_tokens=10, output_tokens=10, service_tier="flex"), 50_000_000),
    ("an unknown tier is the standard one", "tiered",
     Usage(input_tokens=10, output_tokens=10, service_tier="on_demand"), 100_000_000),
    ("audio by the second", "listener", Usage(audio_ms=12_345), 1_234_500_000),
    ("a part of a picousd is a picousd", "listener", Usage(audio_ms=1), 100_000),
    ("speech by the character", "speaker", Usage(characters=1_000), 15_000_000_000),
    ("images by the piece", "easel", Usage(images=3), 120_000_000_000),
    # 12,000,000,000 + 10 * 1,000,000 + 10 * 1,000,000
    ("a fee for the call", "fee", Usage(input_tokens=10, output_tokens=10), 12_020_000_000),
    # 1.5 and 0.1 picousd a token, each rounded up
    ("a price that is no whole picousd is rounded up", "odd", Usage(input_tokens=10, output_tokens=10), 30),
    # seconds as 32 tokens each: ceil(1.5 * 32) * 32,000,000
    ("seconds without a price are audio tokens", "voice", Usage(audio_ms=1_500), 1_536_000_000),
    ("reported tokens stand before the time that describes them", "voice",
     Usage(input_tokens=10, input_audio_tokens=10, audio_ms=60_000), 320_000_000),
    # 8,192 * 40,000,000
    ("an image without a price is the most tokens it can be", "painter", Usage(images=1), 327_680_000_000),
    # 100 * (4,000,000 + 2 * 64,000,000)
    ("a character without a price is spoken tokens", "voice", Usage(characters=100), 13_200_000_000),
]  # fmt: skip
