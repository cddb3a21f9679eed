"""Consuming through the sessions of a pool: find the group's consumers, read, and tell the broker what became of it.

Reading takes no place among the messages that are produced; it has a bound of its own above the bridge. Everything here
runs on the loop.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from proxy.brokers import Notice, Reply, Session
from proxy.brokers.acking import Acking
from proxy.brokers.consumers import Group
from proxy.brokers.links import Link
from proxy.brokers.pulling import BACK, CROWDED, Fetch, Gone, Room, Source, Stock
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, BrokerRefused, Forbidden, GatewayError, Overloaded, Stopping
from proxy.messages import Delivered, Station, Wanted

ACK = b"+ACK"
LEAST_SECONDS = 2.0  # for a session, the group's consumers and what is there, however short the wait
TROUBLE_SECONDS = 5.0  # for which reading may fail before its caller is told
RETRY_SECONDS = 0.25
ACK_SECONDS = 3.0
DENIED_SECONDS = 60.0
MAX_DENIED = 1000

Answer = Callable[[Reply, Coroutine[Any, Any, Any]], None]


class Haul(NamedTuple):
    """What was read. It is its reader's for `ack_seconds` from now on; then the broker gives it to others."""

    messages: list[Delivered]
    ack_seconds: float


class Stay:
    """A read that is under way: it keeps its user's session in the pool, and ends when the pool does."""

    def __init__(self, leaving: Callable[[], bool], gone: Callable[[], bool]) -> None:
        self.ends = leaving()
        self.fetch: Fetch | None = None
        self._leaving, self._gone = leaving, gone

    def begin(self, session: Session) -> None:
        """The read asks for the session itself."""

    def tick(self, now: float) -> None:
        """Ends the waiting when the worker is about to stop, or when nobody is there for whom to wait."""
        if not self.ends and (self._leaving() or self._gone()):
            self.refuse(Stopping())

    def delayed(self, error: GatewayError) -> None:
        """The read is told so where it asks for the session."""

    def refuse(self, error: GatewayError) -> None:
        """No session will be had any more."""
        self.ends = True
        if self.fetch is not None:
            self.fetch.finish()


class Sessions(NamedTuple):
    """What consuming needs of the pool: a user's session until a time, the user's place, and how jobs answer."""

    get: Callable[[Credentials, float], Awaitable[Session]]
    link: Callable[[Credentials], Link]
    answer: Answer


class Consuming:
    """Reads and acks as the users that callers name."""

    def __init__(self, sessions: Sessions, notice: Notice, most_bytes: int) -> None:
        self.leaving: Callable[[], bool] = lambda: False
        self._sessions, self._notice, self._stock = sessions, notice, Stock(most_bytes)
        self._denied: OrderedDict[tuple[Any, Any], tuple[float, Forbidden]] = OrderedDict()

    def consume(
        self, reply: Reply, credentials: Credentials, station: Station, wanted: Wanted, gone: Callable[[], bool]
    ) -> None:
        """A job of the bridge: answers with a `Haul` once there is enough, the wait is over, or the reader is `gone`.

        Fails with `Forbidden`, `StationNotFound`, `Conflict`, `BrokerAway`, `BrokerRefused`, `Overloaded`, and as
        `Pool.publish`. What was read when nobody waits for the answer any more goes back to the broker.
        """
        self._sessions.answer(reply, self._consume(credentials, station, wanted, Stay(self.leaving, gone)))

    def settle(self, reply: Reply, credentials: Credentials, station: Station, acks: list[str], taken: bool) -> None:
        """A job: acks messages that have reached their reader (`taken`), or gives them back, to be delivered again.

        Answers nothing. An ack that the broker does not take is told to the log: the messages come again.
        """
        self._sessions.answer(reply, self._settle(credentials, station, acks, taken))

    def confirm(self, reply: Reply, credentials: Credentials, words: list[tuple[str, bytes]]) -> None:
        """A job: sends words about deliveries (ack subject, payload); answers with an error or None for each."""
        self._sessions.answer(reply, self._confirm(credentials, words))

    # ---- reading -----------------------------------------------------------------------------------------------

    async def _consume(self, credentials: Credentials, station: Station, wanted: Wanted, stay: Stay) -> Haul:
        loop = asyncio.get_running_loop()
        until = loop.time() + wanted.seconds
        deadline = max(until, loop.time() + LEAST_SECONDS)
        troubled = 0.0
        while True:
            began = loop.time()
            try:
                return await self._read(credentials, station, wanted, stay, until, deadline)
            except (BrokerAway, BrokerRefused) as error:
                now = loop.time()
                if not troubled or now - began > TROUBLE_SECONDS:  # it was well for a while
                    troubled = now
                if stay.ends or now + RETRY_SECONDS >= deadline or now - troubled >= TROUBLE_SECONDS:
                    raise
                # Right away, if all there is to do is to look for the group again.
                await asyncio.sleep(0 if isinstance(error, Gone) and troubled == now else RETRY_SECONDS)

    async def _read(
        self, credentials: Credentials, station: Station, wanted: Wanted, stay: Stay, until: float, deadline: float
    ) -> Haul:
        session = await self._sessions.get(
            credentials, min(deadline, asyncio.get_running_loop().time() + TROUBLE_SECONDS)
        )
        link = self._sessions.link(credentials)
        link.deliveries[stay] = None
        try:
            group = await self._group(session, station, wanted, deadline)
            self._raise_denied(credentials, group)
            if self._stock.full:
                raise Overloaded(CROWDED)
            fetch = stay.fetch = self._fetch(session, group, wanted, link)
            try:
                await fetch.run(0.0 if stay.ends else until)
            except asyncio.CancelledError:
                fetch.give_back()
                raise
            except Gone:
                session.forget_group(station, wanted)
                raise
            return Haul(fetch.taken, group.ack_seconds - fetch.held)
        finally:
            stay.fetch = None
            link.deliveries.pop(stay, None)

    async def _group(self, session: Session, station: Station, wanted: Wanted, deadline: float) -> Group:
        seconds = max(deadline - asyncio.get_running_loop().time(), RETRY_SECONDS)
        try:
            return await asyncio.wait_for(session.group(station, wanted), seconds)
        except asyncio.TimeoutError:
            raise BrokerAway("the broker does not answer") from None

    def _fetch(self, session: Session, group: Group, wanted: Wanted, link: Link) -> Fetch:
        first = random.randrange(len(group.sources))  # noqa: S311 - so that no partition is always the last
        sources = group.sources[first:] + group.sources[:first]

        def hand_on(source: Source, message: Delivered) -> bool:
            waiting = (stay.fetch for stay in link.deliveries if isinstance(stay, Stay))
            return any(fetch is not None and fetch.takes_over(source, message) for fetch in waiting)

        room = Room(wanted.messages, wanted.bytes)
        return Fetch(session.connection, sources, room, group.ack_seconds / 2, self._stock, hand_on)

    # ---- acks --------------------------------------------------------------------------------------------------

    async def _settle(self, credentials: Credentials, station: Station, acks: list[str], taken: bool) -> None:
        """All go out in order, and the last one of each consumer is confirmed: it has taken the others by then."""
        word, consumers = ACK if taken else BACK, list(map(_consumer_of, acks))
        last = dict(zip(consumers, acks, strict=True))
        try:
            session = await self._sessions.get(credentials, asyncio.get_running_loop().time() + ACK_SECONDS)
            if not taken:
                self._end_waits_of_nobody(credentials)
            for consumer, subject in zip(consumers, acks, strict=True):
                if subject != last[consumer]:
                    session.connection.tell(subject, word)
            results = await Acking(session.connection, [(subject, word) for subject in last.values()]).run()
        except GatewayError as error:
            results = [error for _ in last]
        for consumer, failure in zip(last, results, strict=True):
            if failure is not None:
                count = consumers.count(consumer)
                self._notice("ack_failed", station=station.name, count=count, taken=taken, error=failure.message)
            if isinstance(failure, Forbidden):
                self._deny(credentials, consumer, failure)

    def _end_waits_of_nobody(self, credentials: Credentials) -> None:
        """Readers go together, as a program ends: what comes back from one must not go to the next that is gone.

        Each delivery counts, and after some the broker delivers no more.
        """
        now = asyncio.get_running_loop().time()
        for waiting in list(self._sessions.link(credentials).deliveries):
            if isinstance(waiting, Stay):
                waiting.tick(now)

    async def _confirm(self, credentials: Credentials, words: list[tuple[str, bytes]]) -> list[GatewayError | None]:
        session = await self._sessions.get(credentials, asyncio.get_running_loop().time() + ACK_SECONDS)
        return await Acking(session.connection, words).run()

    def _deny(self, credentials: Credentials, consumer: tuple[str, str], error: Forbidden) -> None:
        """Who may not ack would be given the same messages again and again: it is told so instead."""
        if len(self._denied) >= MAX_DENIED:
            self._denied.popitem(last=False)
        until = asyncio.get_running_loop().time() + DENIED_SECONDS
        self._denied[credentials.identity, consumer] = until, error

    def _raise_denied(self, credentials: Credentials, group: Group) -> None:
        for source in group.sources:
            until, error = self._denied.get((credentials.identity, source), (0.0, None))
            if error is not None and asyncio.get_running_loop().time() < until:
                raise Forbidden(f"{error.message}, so that messages would come again and again")


def _consumer_of(subject: str) -> tuple[str, str]:
    """Stream and consumer of an ack: in the fourth and third place, or behind the domain and the account's hash."""
    parts = subject.split(".")
    return (parts[2], parts[3]) if len(parts) == 9 else (parts[4], parts[5])
