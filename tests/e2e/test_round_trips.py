"""What a request asks the store: once before its upstream is opened, once after; for agents and for people alike."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from e2e.outside import Store, running_store
from e2e.people import Org, make_org
from e2e.stack import CHAT, Parts, Stack, body, proof, start_stack, until

from gateway.core.ids import hold_of_request

REQUESTS = 40
CHECKPOINT_KEYS = "2"  # the hold and the open ones: the only step of a hold with so few


class Monitor:
    """Every command that clients send, not those that scripts make."""

    def __init__(self, port: int) -> None:
        self.lines: list[str] = []
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.sendall(b"MONITOR\r\n")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    if b" lua]" not in line:
                        self.lines.append(line.decode("utf-8", "replace"))
            except (OSError, ValueError):
                return

    def has_twice(self, hold: str) -> bool:
        return sum(f'"{hold}"' in line for line in list(self.lines)) >= 2

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@contextmanager
def monitored(store: Store) -> Iterator[Monitor]:
    monitor = Monitor(int(store.url.rpartition(":")[2].partition("/")[0]))
    time.sleep(0)
    store.ask(b"PING begin")
    try:
        yield monitor
    finally:
        monitor.close()


@pytest.fixture(scope="module")
def served(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Stack]]:
    directory: Path = tmp_path_factory.mktemp("round-trips")
    with running_store(directory / "store", durable=False) as store:
        with start_stack(directory / "gateway", parts, redis={"url": store.url}) as stack:
            yield store, stack


def asked_of_partition(monitor: Monitor, tag: str) -> list[str]:
    """The commands on keys of one partition, by name; sweeps of the worker among them."""
    return [line.split('"')[1].upper() for line in monitor.lines if tag in line]


def check(store: Store, stack: Stack, headers: dict[str, str], tag: str) -> None:
    for stream in (False, True):
        said = body("Hi", stream=stream, max_tokens=30)
        assert stack.http.post(CHAT, json=said, headers=headers).status_code == 200  # the worker has seen them now
        with monitored(store) as monitor:
            answers = [stack.http.post(CHAT, json=said, headers=headers) for _ in range(REQUESTS)]
            holds = [hold_of_request(answer.headers["farebox-request-id"]) for answer in answers]
            until(partial(monitor.has_twice, holds[-1]), what="the last posting")
        for hold in holds:
            steps = [line.split('"')[1:6:2] for line in monitor.lines if f'"{hold}"' in line]
            steps = [step for step in steps if step[2] != CHECKPOINT_KEYS]  # whoever meets the worker's tick has one
            assert [step[0].upper() for step in steps] == ["EVALSHA", "EVALSHA"], steps
        names = asked_of_partition(monitor, tag)
        assert len(names) < 2.5 * REQUESTS, "nothing else, but for what a worker looks after now and then"


def test_a_person_with_four_budgets_costs_two_round_trips(served: tuple[Store, Stack]) -> None:
    store, stack = served
    org: Org = make_org(stack)
    org.must("POST", "/api/persons", {"id": "alice"})
    for scope in ({}, {"user": "alice"}, {"user": "alice", "session": "s1"}, {"model": "gpt-4o-mini"}):
        org.budget("50.00", scope=scope, alerts_pct=[50, 80])
    check(store, stack, org.headers("alice", **{"farebox-session": "s1"}), f"{{p{org.org_id[4:6]}}}")


def test_an_agents_credit_costs_two_round_trips(served: tuple[Store, Stack]) -> None:
    store, stack = served
    credential = stack.buy(1_000)
    stack.http.post(CHAT, json=body(max_tokens=5), headers=proof(credential))
    with monitored(store) as monitor:
        stack.http.post(CHAT, json=body(max_tokens=5), headers=proof(credential))
    (line, *_) = [line for line in monitor.lines if "EVALSHA" in line.upper() and "}a:tk_" in line]
    check(store, stack, proof(credential), line[line.index("{p") : line.index("}") + 1])
