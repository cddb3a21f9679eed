"""What the pool does with sessions that end, or fail, at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from proxy.brokers import Broker
from proxy.brokers.connection import Connection
from proxy.brokers.pool import Pool
from proxy.errors import BrokerAway, OpenBroker, Stopping
from proxy.messages import Message, station_named
from tests.brokers.tools import ROOT, eventually_on_loop, options, run, settings

ORDERS = station_named("orders")


class StubSession:
    """A session that takes messages and never answers."""

    max_payload, proved_at = 1 << 20, 0.0

    def __init__(self) -> None:
        self.alive, self.closed, self.published = True, False, 0
        self.window: Callable[[Any], float] = lambda station: 120.0

    def on_end(self, function: Callable[[], None]) -> None:
        """Nothing ends by itself."""

    def begin(self, waiting: Any) -> None:
        """At once."""
        waiting.begin(self)

    def publish(self, delivery: Any, indexes: Iterable[int], grouped: bool) -> list[int]:
        """Takes messages."""
        self.published += len(list(indexes))
        return []

    def forget(self, token: int) -> None:
        """Nothing is waited for."""

    def check(self) -> None:
        """No sign of life."""

    async def close(self) -> None:
        """Ends."""
        self.closed, self.alive = True, False


class StubBroker:
    """A broker whose log-ons end when the test says so."""

    def __init__(self) -> None:
        self.logons: list[asyncio.Future[Any]] = []

    async def connect(self, credentials: Any) -> Any:
        """Waits for the test."""
        self.logons.append(asyncio.get_running_loop().create_future())
        return await self.logons[-1]


class Answer:
    """Where a delivery leaves its results."""

    hears_parts = False
    on_abandon: Any = None
    value: Any = None
    error: Any = None

    def set(self, value: Any) -> None:
        """Answered."""
        self.value = value

    def fail(self, error: BaseException) -> None:
        """Failed."""
        self.error = error


async def opened(**env: Any) -> tuple[Pool, StubBroker]:
    """A pool on such a broker."""
    broker = StubBroker()
    pool = Pool(cast(Broker, broker), settings("nats://127.0.0.1:1", **env))
    await pool.open()
    return pool, broker


async def produced(pool: Pool, seconds: float = 10.0) -> Answer:
    """A message handed to the pool."""
    answer = Answer()
    pool.publish(answer, ROOT, ORDERS, [Message(b"x", (), "id")], seconds)
    await asyncio.sleep(0)
    return answer


def test_a_session_that_ended_before_it_was_there_is_replaced() -> None:
    """The connection went away between log-on and hand-over: another one is opened, and takes the messages."""

    async def ended() -> int:
        pool, broker = await opened()
        await produced(pool)
        dead, good = StubSession(), StubSession()
        dead.alive = False
        broker.logons[0].set_result(dead)
        await eventually_on_loop(lambda: len(broker.logons) == 2)
        broker.logons[1].set_result(good)
        await eventually_on_loop(lambda: good.published)
        await pool.close()
        return dead.published

    assert run(ended()) == 0


def test_each_of_many_refused_messages_has_an_error_of_its_own() -> None:
    """One log-on fails for all that wait for it; what is added to one answer is in no other."""

    async def refused() -> list[Any]:
        pool, broker = await opened()
        waiting = [await produced(pool), await produced(pool)]
        broker.logons[0].set_exception(OpenBroker())
        await eventually_on_loop(lambda: all(answer.value for answer in waiting))
        await pool.close()
        return [answer.value[0] for answer in waiting]

    first, second = run(refused())
    assert type(first) is type(second) is OpenBroker
    first.fields["idempotency_key"] = "first"
    assert not second.fields


def test_each_who_asks_for_a_demand_in_vain_has_an_error_of_its_own() -> None:
    """The key that one answer tells must not be in another: who repeated with it would repeat another message."""

    async def asked() -> list[Any]:
        pool, broker = await opened()
        asking = [Answer(), Answer()]
        for answer in asking:
            pool.demand(answer, ROOT, ORDERS, 10)
        await eventually_on_loop(lambda: broker.logons)
        broker.logons[0].set_exception(OpenBroker())
        await eventually_on_loop(lambda: all(answer.error for answer in asking))
        await pool.close()
        return [answer.error for answer in asking]

    first, second = run(asked())
    assert type(first) is type(second) is OpenBroker
    first.fields["idempotency_key"] = "first"
    assert not second.fields


def test_what_may_be_stored_is_not_repeated_when_its_id_is_about_to_be_forgotten() -> None:
    """A repeat that leaves within the station's window might arrive after it, and be stored again."""

    async def may_repeat(window: float) -> bool:
        pool, broker = await opened()
        await produced(pool)
        session = StubSession()
        broker.logons[0].set_result(session)
        await eventually_on_loop(lambda: session.published)
        (link,) = pool._links.values()
        (delivery,) = link.deliveries
        session.window = lambda station: window
        answer = delivery._may_repeat()
        await pool.close()
        return answer

    assert run(may_repeat(5))
    assert not run(may_repeat(0.9))


class Clock:
    """A loop whose clock can be put forward."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.later = 0.0

    def time(self) -> float:
        """What the clock shows."""
        return self._loop.time() + self.later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_a_broker_that_was_away_long_ago_is_waited_for_when_it_is_away_again() -> None:
    """What nobody asked for in between does not count: it has been away for a moment."""

    async def waited() -> bool:
        pool, broker = await opened()
        clock = Clock(asyncio.get_running_loop())
        pool._loop = cast(asyncio.AbstractEventLoop, clock)
        first = await produced(pool)
        broker.logons[0].set_exception(BrokerAway())
        await eventually_on_loop(lambda: pool._away_seen)
        seen, clock.later = pool._away_seen, 3600.0
        await eventually_on_loop(lambda: first.value and len(broker.logons) == 2)
        broker.logons[1].set_exception(BrokerAway())
        await eventually_on_loop(lambda: pool._away_seen > seen)
        second = await produced(pool)  # raises, if the broker is taken to have been away all the time
        await pool.close()
        return isinstance(second.value[0], Stopping)

    assert run(waited())


class Gone:
    """A client whose connection ended while it was being made ready."""

    is_connected = False
    _id = 1

    async def subscribe(self, subject: str) -> Gone:
        """Sent; the subscription has a number."""
        return self

    async def flush(self, timeout: int) -> None:
        """The server has still answered."""


def test_a_connection_that_ended_while_it_was_made_is_none() -> None:
    """It is not taken for a live one."""

    async def made() -> None:
        connection = Connection(cast(Any, Gone()), options())
        try:
            await connection.open()
        except BrokerAway:
            return
        raise AssertionError("it is alive")

    run(made())
