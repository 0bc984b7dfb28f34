"""Each threshold of a budget is told once a window, by one id, whatever happens in between: hundreds of calls at once on
two workers, a receiver that fails, `kill -9` and a restart. So is a forecast."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from e2e.crowd import Ask, ask_all
from e2e.people import Org, make_org, usd
from e2e.receiver import Receiver, running_receiver
from e2e.stack import Parts, Stack, ended, kill_process, start_stack, until, workers_of

SHARES = [10, 50, 80, 100]
CALL_USD = Decimal("0.001")  # of the flat route
CALLS = 300


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def gateway(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("alerts")
    with start_stack(directory, parts, workers=2, webhooks={"allow_private_addresses": True}) as stack:
        yield stack
        stack.check_books()


def kill_all(gateway: Stack) -> None:
    """SIGKILL to the supervisor and its workers."""
    workers = workers_of(gateway.process)
    gateway.process.kill()
    for pid in workers:
        with suppress(ProcessLookupError):
            kill_process(pid)
    gateway.process.wait()


class Crowd(threading.Thread):
    """Hundreds of calls at once, until they end, however they end."""

    def __init__(self, org: Org, calls: int) -> None:
        super().__init__(daemon=True)
        self._port = org.stack.port
        self._asks = [Ask("/raw/x", org.headers(f"user-{number % 7}"), method="GET") for number in range(calls)]
        self.start()

    def run(self) -> None:
        with suppress(OSError, IndexError, ValueError, ExceptionGroup):  # the gateway was killed
            asyncio.run(ask_all(self._port, self._asks))


def used(org: Org) -> Decimal:
    (budget,) = org.must("GET", "/api/budgets")["data"]
    return Decimal(budget["used"]["amount"])


def used_after(org: Org, calls: int) -> Decimal:
    Crowd(org, calls).join(60)
    return used(org)


def test_every_threshold_is_told_once_through_crowds_kills_and_a_receiver_that_fails(
    gateway: Stack, receiver: Receiver
) -> None:
    org = make_org(gateway)
    secret = org.must("PUT", "/api/webhooks", {"url": receiver.url})["secret"]
    limit = CALLS * CALL_USD
    budget = org.budget(str(limit), window="month", alerts_pct=SHARES)
    crowd = Crowd(org, 60)
    crowd.join(60)
    until(lambda: receiver.got, what="the first alert")
    receiver.status = 503
    crowd = Crowd(org, 200)
    until(lambda: used(org) > limit / 3, what="calls under way")
    kill_all(gateway)
    crowd.join(60)
    gateway.restart()
    crowd = Crowd(org, 100)
    crowd.join(60)
    receiver.status = 200
    # What was in flight at the kill is void once it expires; then the rest of the budget is had.
    until(lambda: used_after(org, 10) == limit, seconds=60, what="the end of the budget")
    assert org.stack.http.get("/raw/x", headers=org.headers("user-1")).status_code == 402
    until(lambda: len(receiver.data("budget.alert")) == len(SHARES), seconds=60, what="every alert")
    kill_all(gateway)
    gateway.restart()
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: "webhook.test" in receiver.types(), seconds=40, what="what comes after them")
    told = receiver.data("budget.alert")
    assert [each["pct"] for each in told] == SHARES, "each of them once, in order"
    assert {each["budget_id"] for each in told} == {budget["id"]}
    assert [Decimal(each["used"]["amount"]) >= limit * each["pct"] / 100 for each in told] == [True] * len(SHARES)
    assert receiver.types()[-1] == "webhook.test"
    receiver.must_be_signed(secret)
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert ids == sorted(ids, key=lambda each: [int(part) for part in each[6:].split("-")]), "again, but never back"
    (shown,) = org.must("GET", "/api/budgets")["data"]
    assert shown["alerted_pct"] == SHARES


def test_a_forecast_is_told_once_a_window_whoever_looks_and_however_often_they_start(
    gateway: Stack, receiver: Receiver
) -> None:
    # A look comes with every start. Where it is midday now, a day has a forecast.
    hours_to_noon = 12 - datetime.now(UTC).hour
    org = make_org(gateway, time_zone=f"Etc/GMT{-hours_to_noon:+d}" if hours_to_noon else "Etc/GMT")
    org.must("PUT", "/api/webhooks", {"url": receiver.url, "events": ["budget.forecast"]})
    budget = org.budget("0.004", window="day", scope={"user": "*"}, forecast_alert=True)
    for user in ("ann", "bob", "bob", "bob"):
        assert gateway.http.get("/raw/x", headers=org.headers(user)).status_code == 200
    for start in range(2):
        gateway.process.terminate()
        ended(gateway.process)
        gateway.restart()
        until(lambda: receiver.got, seconds=30, what="the forecast")
        org.must("PUT", "/api/webhooks", {"url": receiver.url})
        org.must("POST", "/api/webhooks/test", {})
        until(lambda: receiver.types().count("webhook.test") == start + 1, what="what comes after it")  # noqa: B023
    (told,) = receiver.data("budget.forecast")
    assert (told["budget_id"], told["user"], told["window"]) == (budget["id"], "bob", "day")
    assert Decimal(told["forecast"]["amount"]) > Decimal(told["limit"]["amount"]) == Decimal("0.004")
    assert told["resets_at"] == budget["resets_at"] and told["used"] == usd("0.003")
