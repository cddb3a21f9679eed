"""The producer: starting and stopping, its limits, and what its errors tell."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy import brokers
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, OpenBroker, Stopping
from proxy.messages import station_named
from proxy.producer import Producer
from tests.brokers.fakes import FakeServer
from tests.brokers.tools import ROOT, USERS, Operator, facts, failure, outcomes, settings, unread
from tests.servers import NatsServer, eventually, free_port

ORDERS = station_named("orders")

Producers = Callable[[Config], Producer]
Submit = Callable[..., "Future[Any]"]


@pytest.fixture
def server(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A server with the user `root` and the station `orders`."""
    server = nats_server(users=USERS)
    Operator(server).add("orders")
    return server


@pytest.fixture
def submit() -> Iterator[Submit]:
    """Runs functions in threads; they have ended when the test has."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


@pytest.fixture
def away() -> str:
    """The address of a server that is not there."""
    return f"nats://127.0.0.1:{free_port()}"


# ---- start and stop ----------------------------------------------------------------------------------------------


def test_making_a_producer_starts_nothing(away: str) -> None:
    """It may be made before the fork: threads and connections come after it."""
    before = threading.active_count()
    Producer(settings(away)).stop()
    assert threading.active_count() == before


def test_starting_again_does_nothing(server: NatsServer, producer: Producers) -> None:
    """The thread and the sessions stay."""
    started = producer(settings(server.url))
    started.single(ROOT, ORDERS, b"1", ())
    started.start()
    assert started.single(ROOT, ORDERS, b"2", ()).sequence == 2


def test_the_first_use_starts_it(server: NatsServer, submit: Submit) -> None:
    """Flask's development server tells nobody when to start; many requests may be the first."""
    producer = Producer(settings(server.url))
    try:
        results = [submit(producer.single, ROOT, ORDERS, b"x", ()) for _ in range(16)]
        assert {result.result(10).sequence for result in results} == set(range(1, 17))
    finally:
        producer.stop()


def test_a_broker_that_is_away_does_not_hold_up_the_start(away: str, producer: Producers) -> None:
    """Readiness tells; the gateway waits for it."""
    before = time.monotonic()
    with pytest.raises(BrokerAway):
        producer(settings(away)).check()
    assert time.monotonic() - before < 1


def test_after_the_stop_nothing_is_taken(server: NatsServer, producer: Producers) -> None:
    """Nor is it started again by the next use, or stopped twice."""
    started = producer(settings(server.url))
    started.stop()
    started.stop()
    started.start()
    for act in (
        lambda: started.single(ROOT, ORDERS, b"x", ()),
        lambda: started.batch(ROOT, ORDERS, [b"x"], ()),
        lambda: started.log_on(ROOT),
    ):
        with pytest.raises(Stopping):
            act()


def test_stopping_before_the_start_is_for_good(away: str) -> None:
    """A worker that is told to end while it boots does not start."""
    producer = Producer(settings(away))
    producer.stop()
    with pytest.raises(Stopping):
        producer.single(ROOT, ORDERS, b"x", ())


@pytest.mark.parametrize("ever_started", [True, False])
def test_a_producer_that_has_stopped_tells_the_key_to_repeat_with(
    server: NatsServer, producer: Producers, ever_started: bool
) -> None:
    """As every 503 does; a sender with a key of its own is told none."""
    stopped = producer(settings(server.url)) if ever_started else Producer(settings(server.url))
    stopped.stop()
    for produce in (
        lambda key: stopped.single(ROOT, ORDERS, b"x", (), key),
        lambda key: stopped.batch(ROOT, ORDERS, [b"x"], (), key),
    ):
        assert failure(produce, "").fields["idempotency_key"]
        assert not failure(produce, "mine").fields


def test_a_batch_without_messages_is_refused(server: NatsServer, producer: Producers) -> None:
    """In words, also where a program hands it over and no body was judged before."""
    error = failure(producer(settings(server.url)).batch, ROOT, ORDERS, [], ())
    assert (error.status, error.message) == (400, "the batch has no messages")


def test_stopping_says_how_many_messages_it_left(server: NatsServer, producer: Producers, submit: Submit) -> None:
    """In the log; senders are told that these may be stored."""
    started = producer(settings(server.url))
    started.log_on(ROOT)
    server.pause()
    result = submit(failure, started.batch, ROOT, ORDERS, [b"1", b"2", b"3"], ())
    eventually(lambda: unread(server) > 0)
    with capture_logs() as lines:
        started.stop(0.1)
    server.resume()
    assert {"event": "stopped_with_messages_under_way", "count": 3, "log_level": "warning"} in lines
    assert outcomes(result.result(5)) == [(n, 504, "unknown") for n in range(3)]


def test_what_the_broker_side_notices_is_logged(away: str, producer: Producers) -> None:
    """By the callers' threads, with address and cause."""
    with capture_logs() as lines:
        started = producer(settings(away))
        failure(started.check)
    (line,) = [line for line in lines if line["event"] == "broker_away"]
    assert line["url"] == away
    assert line["error"]


# ---- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"MAX_PENDING_MESSAGES": 5}, {"MAX_PENDING_BYTES": 5000}], ids=["messages", "bytes"])
def test_no_more_is_under_way_than_allowed(
    server: NatsServer, producer: Producers, submit: Submit, limit: dict[str, int]
) -> None:
    """What is above is turned away at once; nothing of it is stored."""
    started = producer(settings(server.url, **limit))
    started.log_on(ROOT)
    server.pause()
    first = submit(started.batch, ROOT, ORDERS, [b"x" * 1000] * 4, ())
    eventually(lambda: unread(server) > 0)
    error = failure(started.batch, ROOT, ORDERS, [b"y" * 1000] * 2, ())
    assert outcomes(error) == [(0, 503, "no"), (1, 503, "no")]
    server.resume()
    assert len(first.result(5)) == 4
    assert len(started.batch(ROOT, ORDERS, [b"z" * 1000] * 2, ())) == 2
    assert Operator(server).payloads("orders") == [b"x" * 1000] * 4 + [b"z" * 1000] * 2


def test_one_batch_may_be_larger_than_the_limits(server: NatsServer, producer: Producers) -> None:
    """It has to be possible when nothing else is under way."""
    started = producer(settings(server.url, MAX_PENDING_MESSAGES=5, MAX_PENDING_BYTES=100))
    assert len(started.batch(ROOT, ORDERS, [b"x" * 1000] * 20, ())) == 20


# ---- keys in errors ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_error_that_a_repeat_may_mend_tells_the_key_for_it(away: str, producer: Producers) -> None:
    """Of a single message and of a batch, where the sender has given none."""
    started = producer(settings(away, PRODUCE_TIMEOUT_SECONDS="1"))
    single = failure(started.single, ROOT, ORDERS, b"x", ())
    batch = failure(started.batch, ROOT, ORDERS, [b"x"], ())
    keys = [error.fields["idempotency_key"] for error in (single, batch)]
    assert [len(key) for key in keys] == [9, 10]
    assert keys[0] != keys[1][1:]


def test_an_error_tells_no_key_to_who_has_one(server: NatsServer, producer: Producers) -> None:
    """Nor where repeating does not help."""
    Operator(server).add("full", max_msgs=1, discard="new")
    started, full = producer(settings(server.url)), station_named("full")
    started.single(ROOT, full, b"x", ())
    errors = [
        failure(lambda: started.single(ROOT, full, b"x", (), key="k")),
        failure(lambda: started.batch(ROOT, full, [b"x"], (), key="k")),
        failure(lambda: started.single(ROOT, station_named("absent"), b"x", ())),
        failure(lambda: started.batch(ROOT, station_named("absent"), [b"x"], ())),
    ]
    assert [error.status for error in errors] == [503, 503, 404, 404]
    assert not any("idempotency_key" in error.fields for error in errors)


def test_a_key_is_the_users_whatever_account_is_named(server: NatsServer, producer: Producers) -> None:
    """NATS knows none, so a repeat by one who logged on with another is one."""
    started = producer(settings(server.url))
    named = [("root", ""), ("root$7", "7"), ("root", "7")]
    callers = [Credentials(user, "memphis", account, tenants=False) for user, account in named]
    acks = [started.single(caller, ORDERS, b"x", (), key="k") for caller in callers]
    assert [(ack.sequence, ack.duplicate) for ack in acks] == [(1, False), (1, True), (1, True)]


def test_who_asks_a_moment_later_is_told_no_key_of_others(nats_server: Callable[..., NatsServer]) -> None:
    """What the first one was told is remembered for a second: without the key to repeat the first message with."""
    asked = Producer(settings(nats_server().url))
    errors = [
        failure(lambda: asked.single(ROOT, ORDERS, b"x", ())),
        failure(lambda: asked.single(ROOT, ORDERS, b"y", (), key="k")),
        failure(asked.check),
    ]
    assert {type(error) for error in errors} == {OpenBroker}
    assert [list(error.fields) for error in errors] == [["idempotency_key"], [], []]


# ---- a loop that stands still ------------------------------------------------------------------------------------


class Blocked:
    """A kind of broker that holds up the loop when it is asked for a session."""

    begun = threading.Event()
    release = threading.Event()

    def __init__(self, config: Config, notice: brokers.Notice) -> None:
        pass

    async def connect(self, credentials: object) -> brokers.Session:
        """Stops the loop until the test lets it go."""
        self.begun.set()
        self.release.wait(10)
        raise BrokerAway

    async def check(self) -> None:
        """Is fine."""


@pytest.mark.slow
def test_callers_do_not_wait_for_a_loop_that_stands_still(
    monkeypatch: pytest.MonkeyPatch, producer: Producers, submit: Submit
) -> None:
    """They know whether the loop had begun with their message: else nothing is stored."""
    monkeypatch.setitem(brokers.BROKERS, "nats", f"{__name__}:Blocked")
    started = producer(settings("nats://127.0.0.1:1", PRODUCE_TIMEOUT_SECONDS="1"))
    first = submit(failure, started.single, ROOT, ORDERS, b"x", ())
    assert Blocked.begun.wait(5)
    before = time.monotonic()
    second = submit(failure, started.single, ROOT, ORDERS, b"x", ())
    try:
        assert facts(first.result(5)) == ("AckTimeout", "unknown", "with-key")
        assert facts(second.result(5)) == ("Overloaded", "no", "safe")
        assert time.monotonic() - before < 2.5
    finally:
        Blocked.release.set()


# ---- the check -----------------------------------------------------------------------------------------------------


def test_those_who_ask_at_once_whether_it_is_ready_cost_one_connection(
    producer: Producers, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says nothing; all get the answer that the first one waits for."""
    monkeypatch.setattr(sys.modules["proxy.producer"], "CHECK_SECONDS", 0.3)
    with contextlib.closing(FakeServer()) as silent:
        started = producer(settings(silent.url))
        started._checked = (0.0, None)
        before = silent.accepted
        errors = [submit(failure, started.check) for _ in range(8)]
        assert {type(error.result(5)) for error in errors} == {BrokerAway}
        assert silent.accepted == before + 1


def test_the_brokers_module_is_imported_by_whoever_starts(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the loop's thread, which must not take the locks that imports take."""
    threads: list[int] = []

    def opened(config: Config, notice: object) -> object:
        threads.append(threading.get_ident())
        raise BrokerAway

    monkeypatch.setattr(sys.modules["proxy.producer"], "open_broker", opened)
    with pytest.raises(BrokerAway):
        Producer(settings(away)).start()
    assert threads == [threading.get_ident()]
