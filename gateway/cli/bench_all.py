"""Every subject of the benchmark by its name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.cli.bench_people import people
from gateway.cli.bench_subjects import Stage, direct, farebox, hardcap, nginx

RELAY, METERED, ALWAYS = "farebox, relay only", "farebox, metered", "farebox, metered, always"
ONE, FOUR = "farebox, person, 1 budget", "farebox, person, 4 budgets"
SUBJECTS: dict[str, Callable[[Stage], Any]] = {
    "direct": direct,
    "nginx": nginx,
    RELAY: farebox(RELAY, metered=False),
    METERED: farebox(METERED),
    ALWAYS: farebox(ALWAYS, always=True),
    ONE: people(ONE, 1),
    FOUR: people(FOUR, 4),
    "hardcap": hardcap,
}
