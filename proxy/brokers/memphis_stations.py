"""What a session knows of the stations of a Memphis broker: a producer is registered with each, and news are heard.

Registered means that the broker has answered a producer's creation, which tells partitions and schema. It is asked once
for each station and session, and again when anything hints that the answer is out of date: each asking costs the broker
queries to its database. Not everything is announced (removals, other versions of a schema), so answers age: those that
are used are asked for again in time, so that nobody has to wait for that, and the others are forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from proxy.brokers import memphis_control as control
from proxy.brokers.memphis_connection import MemphisConnection
from proxy.config import Config
from proxy.errors import (
    BrokerAway,
    BrokerRefused,
    Forbidden,
    GatewayError,
    StationNotFound,
    TooManyStations,
    Unauthorized,
)
from proxy.messages import Demand, Station

MAX_STATIONS = 10_000
REFRESH_SECONDS = 60.0  # of a station in use, in the background
BELIEF_SECONDS = 120.0
REFRESH_AGAIN_SECONDS = 5.0  # after one that has failed
SECOND_LOOK_SECONDS = 1.0
REFUSED_SECONDS = 1.0
CONTROL_SECONDS = 5.0  # until a request is sent again; a broker that makes hundreds of stations takes tens of them
CONTROL_TRIES = 4
RACE_TRIES = 6
RACE_SECONDS = 0.1
# A user of limited rights may use a station just made only once the broker has loaded its accounts anew (up to half a
# second, measured).
SETTLING_SECONDS = 2.0
SUBSCRIBE_SECONDS = 0.1

Exists = Callable[[Station], Awaitable[bool]]


class Known:
    """A station as this session knows it. `fresh` is false once there is a hint that it is not so any more.

    `newer` tells that the station may have been made after the connection.
    """

    __slots__ = (
        "again",
        "asked_at",
        "dead_letter",
        "demand",
        "fresh",
        "made_at",
        "newer",
        "news",
        "notify",
        "partitions",
        "sid",
        "station",
        "timer",
    )

    def __init__(self, station: Station, now: float) -> None:
        self.station = station
        self.partitions: list[int] = []
        self.demand: Demand | None = None
        self.dead_letter = self.notify = self.fresh = self.again = self.newer = False
        self.asked_at = now
        self.made_at = now - SETTLING_SECONDS
        self.sid: int | None = None
        self.timer: asyncio.TimerHandle | None = None  # ends the belief in the demand
        self.news: control.SchemaUpdate | None = None  # heard since the question that is under way was asked


class Stations:
    """The stations of one session; `exists` tells whether there is one. Also the session's `brokers.Demands`.

    `known` is looked up by other threads while the loop changes it. Each step of that is one operation of a `dict`,
    and what is in it is immutable: a thread finds what was true before a change, or after it.
    """

    def __init__(
        self,
        connection: MemphisConnection,
        config: Config,
        client: control.Client,
        exists: Exists,
        may_create: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_create = may_create
        self.known: dict[str, Demand | None] = {}
        self._connection, self._config, self._client, self._exists = connection, config, client, exists
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._known: dict[str, Known] = {}
        self._refusals: dict[str, tuple[float, GatewayError]] = {}
        self._registering: dict[str, asyncio.Task[Known]] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._hears = False

    async def read(self, station: Station) -> Demand | None:
        """What the station demands. Raises `Unauthorized`, `StationNotFound`, `BrokerAway`, `BrokerRefused`.

        Of a station that the user may not use nothing is known; who produces to it is told so. An absent one demands
        nothing, and is not made: who asks may only want to know.
        """
        if station.name in self.known:
            return self.known[station.name]
        try:
            if self._config.auto_create_stations and not await self._exists(station):
                return None
            return (await self.register(station)).demand
        except Forbidden:
            return None

    def changed(self, key: str) -> None:
        """Word that a key of a registry was changed, which there is none of here."""

    def found(self, station: Station) -> Known | None:
        """What is known of a station, if it was registered."""
        known = self._known.get(station.name)
        return known if known is not None and known.partitions else None

    def current(self, station: Station) -> Known | None:
        """What is known of a station, if it still holds; what has aged holds, and is asked for again meanwhile."""
        known = self._known.get(station.name)
        if known is None or not known.fresh:
            return None
        if self._loop.time() - known.asked_at > REFRESH_SECONDS:
            self.ask_again(known)
        return known

    async def register(self, station: Station) -> Known:
        """Registers with a station, which is made where the settings allow it. Those who ask at once share one answer.

        Raises `Forbidden`, `Unauthorized`, `StationNotFound`; `BrokerRefused` or `BrokerAway` when it cannot be told.
        """
        name = station.name
        self._raise_again(name)
        task = self._registering.get(name)
        if task is None:
            task = self._registering[name] = self._loop.create_task(self._register(station))
            task.add_done_callback(lambda task: _seen(self._registering.pop(name, task)))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # not who asks: the session has ended
                raise BrokerAway from None
            raise

    async def make(self, station: Station) -> None:
        """Makes a station. A creation of a producer or consumer would make one too, with the broker's own settings.

        Raises `StationNotFound` where none may be made, `TooManyStations`, `Forbidden`, `BrokerRefused`, `BrokerAway`.
        """
        if not self._config.auto_create_stations:
            raise StationNotFound(f"there is no station {station.name}")
        if not self._may_create():
            raise TooManyStations
        body = control.station_creation(self._client, station, self._config)
        text = control.read_answer(await self._request(control.STATION_CREATIONS, body))
        if text and not control.is_race(text):
            raise control.refusal(text)

    def ask_again(self, known: Known) -> None:
        """Asks the broker once more, in the background; until it answers, what is known holds."""
        name = known.station.name
        if name in self._refreshing:
            known.again = True  # what made us ask may be newer than the answer that is on its way
            return
        known.asked_at, known.again = self._loop.time(), False
        task = self._refreshing[name] = self._loop.create_task(self._refresh(known))
        task.add_done_callback(lambda task: self._refreshed(known, task))

    def close(self) -> None:
        """Stops asking, and forgets what nothing tells the changes of any more."""
        self.known.clear()
        for task in (*self._registering.values(), *self._refreshing.values()):
            task.cancel()
        for timer in (*self._timers.values(), *(known.timer for known in self._known.values())):
            if timer is not None:
                timer.cancel()

    def registered(self) -> list[Station]:
        """The stations with which this session has registered."""
        return [known.station for known in self._known.values() if known.partitions]

    def _raise_again(self, name: str) -> None:
        """Whoever asks again and again for what it may not have costs the broker a question a second."""
        when, error = self._refusals.get(name, (0.0, None))
        if error is not None and self._loop.time() - when < REFUSED_SECONDS:
            raise type(error)(error.message)

    def _refreshed(self, known: Known, task: asyncio.Task[None]) -> None:
        del self._refreshing[known.station.name]
        if not task.cancelled() and task.exception() is not None:
            known.asked_at = self._loop.time() - REFRESH_SECONDS + REFRESH_AGAIN_SECONDS
        if known.again and not task.cancelled():
            self.ask_again(known)

    # ---- asking ------------------------------------------------------------------------------------------------

    async def _register(self, station: Station) -> Known:
        if not self._hears:
            self._hears = True
            self._connection.listen(control.CLIENT_UPDATES, self._on_client_news)
        there = await self._exists(station)
        if not there:
            await self.make(station)
        known = self._known.get(station.name) or self._add(station)
        if not there:
            known.made_at = self._loop.time()
        known.newer = not there or self._loop.time() - self._opened_at > SETTLING_SECONDS
        try:
            return await self._ask(known)
        except (Forbidden, Unauthorized) as error:
            if len(self._refusals) >= MAX_STATIONS:
                self._refusals.clear()
            self._refusals[station.name] = self._loop.time(), error.with_traceback(None)
            raise
        finally:
            if not known.partitions:  # nothing was learnt
                self._drop(station.name)

    async def _refresh(self, known: Known) -> None:
        """Asks for the producer again, unless the station is gone: that would make it anew."""
        try:
            if await self._exists(known.station):
                await self._ask(known)
            else:
                self._spoil(known)
        except (Forbidden, Unauthorized):
            self._spoil(known)  # the next produce is told

    def _add(self, station: Station) -> Known:
        if len(self._known) >= MAX_STATIONS:
            self._drop(next(iter(self._known)))
        known = self._known[station.name] = Known(station, self._loop.time())
        return known

    def _drop(self, name: str) -> None:
        known = self._known.pop(name, None)
        self.known.pop(name, None)
        if known is not None and known.sid is not None:
            self._connection.unlisten(known.sid)
        if known is not None and known.timer is not None:
            known.timer.cancel()

    async def _ask(self, known: Known) -> Known:
        """Subscribes first: news that came between an answer and a subscription would be lost."""
        refusals, known.news = self._connection.refusals, None
        if known.sid is None:
            self._hear_of_schema(known)
        answer = await self._creation(known.station)
        if self._connection.refusals != refusals:
            known.made_at = self._loop.time()
            await self._subscribe_again(known)
            known.news = None
            answer = await self._creation(known.station)
        self._learn(known, answer)
        return known

    async def _creation(self, station: Station) -> control.ProducerAnswer:
        body = control.producer_creation(self._client, station)
        return await create(self._connection, station, control.PRODUCER_CREATIONS, body)

    async def _request(self, subject: str, body: dict[str, Any]) -> bytes:
        return await self._connection.request(subject, body, CONTROL_SECONDS, CONTROL_TRIES)

    def _learn(self, known: Known, answer: control.ProducerAnswer) -> None:
        """News that came while the answer was on its way are newer than it, or the same."""
        update = known.news or answer.schema_update
        known.dead_letter = answer.schemaverse_to_dls
        self._demand(known, update)
        known.notify = answer.send_notification
        known.partitions = answer.partitions_update.partitions_list or [0]
        known.asked_at, known.fresh = self._loop.time(), True
        if known.timer is not None:
            known.timer.cancel()
        known.timer = self._loop.call_later(BELIEF_SECONDS, self.known.pop, known.station.name, None)

    async def _subscribe_again(self, known: Known) -> None:
        """The broker refuses the subjects of a station that it has just made, for a moment.

        If it goes on to, the connection may have the rights of the time when it was opened, without the station: it is
        ended for another one, once. Raises `BrokerAway` then.
        """
        until = self._loop.time() + SETTLING_SECONDS
        while self._loop.time() < until:
            await asyncio.sleep(SUBSCRIBE_SECONDS)
            refusals = self._connection.refusals
            self._hear_of_schema(known)
            await self._connection.settled()
            if self._connection.refusals == refusals:
                return
        if known.newer:
            self._connection.end()
            raise BrokerAway("the broker has not let this user use the station yet")
        # For good, then: what changes is learnt by asking again after a while.

    # ---- news --------------------------------------------------------------------------------------------------

    def _hear_of_schema(self, known: Known) -> None:
        if known.sid is not None:
            self._connection.unlisten(known.sid)
        subject = control.SCHEMA_UPDATES + known.station.internal
        known.sid = self._connection.listen(subject, lambda data: self._on_schema(known, data))

    def _on_schema(self, known: Known, data: bytes) -> None:
        try:
            update = msgspec.json.decode(data, type=control.SchemaNews).init
        except msgspec.MsgspecError:
            self.ask_again(known)
            return
        known.news = update
        self._demand(known, update)

    def _demand(self, known: Known, update: control.SchemaUpdate) -> None:
        known.demand = self.known[known.station.name] = control.demand_of(update, known.dead_letter)

    def _spoil(self, known: Known) -> None:
        """It is asked for anew before the next message."""
        known.fresh = False
        self.known.pop(known.station.name, None)

    def _on_client_news(self, data: bytes) -> None:
        try:
            news = msgspec.json.decode(data, type=control.ClientNews)
        except msgspec.MsgspecError:
            return
        for known in list(self._known.values()):
            if news.station_name in ("", known.station.internal):
                self._on_news(known, news)

    def _on_news(self, known: Known, news: control.ClientNews) -> None:
        if news.type == "remove_station":
            self._spoil(known)
        elif news.type == "send_notification":
            known.notify = news.update is True
        elif news.type == "schemaverse_to_dls":
            # The value in it is the one before the change. So the broker is asked, and once more a little later: it may
            # have told us before it has stored the change.
            self.ask_again(known)
            self._later(SECOND_LOOK_SECONDS, known)

    def _later(self, seconds: float, known: Known) -> None:
        """Asks once more for all who want it in that time."""
        name = known.station.name

        def ask() -> None:
            del self._timers[name]
            self.ask_again(known)

        if name not in self._timers:
            self._timers[name] = self._loop.call_later(seconds, ask)


def _seen(task: asyncio.Task[Any]) -> None:
    """Takes note of how a task has ended: whoever waits for it is told by the task itself."""
    if not task.cancelled():
        task.exception()


async def create(
    connection: MemphisConnection, station: Station, subject: str, body: dict[str, Any]
) -> control.ProducerAnswer:
    """Registers a producer or a consumer; whoever makes its station at the same moment is waited for.

    Raises what the broker's refusal means, and `BrokerRefused` or `BrokerAway` when it cannot be told now.
    """
    for attempt in range(RACE_TRIES):
        answer = control.read_producer_answer(await connection.request(subject, body, CONTROL_SECONDS, CONTROL_TRIES))
        if not answer.error:
            return answer
        if not control.is_race(answer.error):
            raise control.refusal(answer.error)
        await asyncio.sleep(RACE_SECONDS * (attempt + 1))
    raise BrokerRefused(f"the broker cannot make station {station.name} now: {answer.error}")
