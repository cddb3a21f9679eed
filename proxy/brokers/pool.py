"""Sessions by identity: each user has one, kept while it is used, replaced when it is lost.

Everything here runs on the loop. A session that ends leaves its deliveries waiting; the pool opens another one and
hands them over, until their deadlines.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from proxy.brokers import Broker, Notice, Reply, Session
from proxy.brokers.atomic import AtomicDelivery
from proxy.brokers.consuming import Consuming, Sessions
from proxy.brokers.links import Link, Refusals
from proxy.brokers.publishing import Delivery
from proxy.brokers.readers import Identity, Readers
from proxy.brokers.revocations import Heard, Revocations
from proxy.brokers.syslog import Syslog
from proxy.brokers.waiting import Waiting, Wish
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import (
    AckTimeout,
    BrokerAway,
    BrokerRefused,
    Forbidden,
    GatewayError,
    Internal,
    Overloaded,
    RegistryOff,
    Stopping,
    Unauthorized,
)
from proxy.messages import UNKNOWN, Demand, Manner, Message, Station, Unknown

TICK_SECONDS = 0.25
RETRY_SECONDS = 0.5
REFUSAL_SECONDS = 0.51  # half a second at least: the loop's clock counts in milliseconds
AWAY_MEMORY_SECONDS = 15.0


class Pool:
    """The sessions of a worker, at most `MAX_SESSIONS`; idle ones give way to new ones.

    `revoked` is told of families of tokens that were revoked, see `revocations`.
    """

    def __init__(
        self,
        broker: Broker,
        config: Config,
        notice: Notice = lambda event, **fields: None,
        revoked: Heard = lambda ends: None,
    ) -> None:
        self.revocations = Revocations(broker, config, revoked, notice)
        self._broker, self._config, self._notice = broker, config, notice
        self._links: OrderedDict[Identity, Link] = OrderedDict()
        self._refused = Refusals(config.max_sessions)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._logons = 0
        self._away_since: float | None = None
        self._away_seen = 0.0
        self._closed = False
        self._readers = Readers(broker, config, notice)
        open_log = getattr(broker, "open_log", None)
        self.syslog = Syslog(open_log) if open_log is not None and config.syslogs_to_broker else None
        self._demand_nothing = not config.schema_registry
        self.consuming = Consuming(Sessions(self._session, self._link, self._answer), notice, config.max_pending_bytes)

    async def open(self) -> None:
        """Starts the clock; call it on the loop before anything else."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        await self.revocations.open()

    async def close(self) -> None:
        """Ends what is left, and closes all sessions."""
        self._closed = True
        self._timer.cancel()
        for link in self._links.values():
            for delivery in list(link.deliveries):
                delivery.refuse(Stopping())
        sessions = [link.session for link in self._links.values() if link.session]
        self._links.clear()
        for task in list(self._tasks):
            task.cancel()
        closing = [session.close() for session in sessions]
        if self.syslog is not None:
            closing.append(self.syslog.close())
        closing += [self._readers.close(), self.revocations.close()]
        await asyncio.gather(*closing, *self._tasks, return_exceptions=True)

    def publish(
        self,
        reply: Reply,
        credentials: Credentials,
        station: Station,
        messages: list[Message],
        seconds: float,
        manner: Manner = "apart",
    ) -> None:
        """A job of the bridge: answers with an `Ack` or a `GatewayError` for each message, within `seconds`.

        Raises `Overloaded` when all sessions are in use, `BrokerAway` when the broker has been away for long.
        """
        link = self._link(credentials)
        now = link.used = self._loop.time()
        if link.session is None:
            self._open_soon(link)
            if self._is_away(now):
                raise BrokerAway
        make = AtomicDelivery if manner == "atomic" else Delivery
        delivery = make(reply, station, messages, now + seconds, link.deliveries.pop, manner == "together")
        link.deliveries[delivery] = None
        if link.session is not None:
            self._begin(delivery, link.session)

    async def log_on(self, credentials: Credentials) -> None:
        """Proves the credentials by a fresh connection, which is kept if the user has none.

        Raises `Unauthorized` (half a second after the call, whatever was wrong), `Forbidden`, `Overloaded`,
        `BrokerAway`, `BrokerRefused`, `OpenBroker`.
        """
        started = self._loop.time()
        try:
            session = await self._prove(credentials)
        except Unauthorized:
            await asyncio.sleep(started + REFUSAL_SECONDS - self._loop.time())
            raise
        self._refused.forget(credentials.identity)
        link = self._links.get(credentials.identity) or self._try_link(credentials)
        if link is None or link.session is not None or self._closed:
            self._do(session.close())
        else:
            self._adopt(link, session)

    # ---- schemas -----------------------------------------------------------------------------------------------

    def known_demand(self, credentials: Credentials, station: Station) -> Demand | Unknown | None:
        """What the station demands, `UNKNOWN` when `demand` has to be asked. For any thread: two look-ups, no waiting.

        While nothing changes it is the same object each time, so `is` tells whether what was proved earlier holds. The
        loop changes the tables meanwhile, harmlessly: see `Demands`.
        """
        if self._demand_nothing:
            return None
        table = self._readers.known.get(credentials.identity)
        return UNKNOWN if table is None else table.get(station.name, UNKNOWN)

    def demand(self, reply: Reply, credentials: Credentials, station: Station, seconds: float) -> None:
        """A job of the bridge: answers with what the station demands, None for nothing, within `seconds`.

        Fails with `Forbidden`, which names the missing right, `BadRegistry` when what is registered cannot be used,
        `BrokerAway` or `BrokerRefused` when it cannot be told now; and as `publish` raises. It is known then.
        """
        found = self.known_demand(credentials, station)
        if isinstance(found, Unknown):
            self._answer(reply, self._find_demand(credentials, station, self._loop.time() + seconds))
        else:
            self._link(credentials).used = self._loop.time()
            reply.set(found)

    async def registry(self, credentials: Credentials, operation: str, *args: Any) -> Any:
        """Calls that method of the user's `brokers.Registry`; what it changes counts here when this has ended.

        Raises what it raises, `RegistryOff`, and as `publish` does.
        """
        if self._demand_nothing:
            raise RegistryOff
        session = await self._session(credentials, self._loop.time() + self._config.produce_timeout_seconds)
        session.registry.on_write(self._changed)
        return await getattr(session.registry, operation)(*args)

    @property
    def keeps_letters(self) -> bool:
        """Whether the broker keeps what schemas have refused, so that it is for `dead_letter`. For any thread."""
        return self._broker.keeps_letters

    async def dead_letter(
        self, credentials: Credentials, station: Station, rejected: list[tuple[Message, str]], seconds: float
    ) -> list[GatewayError | None]:
        """Gives messages that the schema has refused, with the reasons, to a broker that `keeps_letters`.

        Returns for each what kept it from being sent. Raises as `publish` does when none could be.
        """
        session = await self._session(credentials, self._loop.time() + seconds)
        try:
            return await asyncio.wait_for(session.dead_letter(station, rejected), seconds)
        except asyncio.TimeoutError:
            raise AckTimeout("the broker did not confirm in time") from None

    async def _find_demand(self, credentials: Credentials, station: Station, deadline: float) -> Demand | None:
        error: GatewayError = BrokerAway()
        while (now := self._loop.time()) < deadline:
            session = await self._session(credentials, deadline)
            work = self._readers.demand(credentials.identity, session, station)
            try:
                return await asyncio.wait_for(work, deadline - now)
            except (BrokerAway, BrokerRefused) as failure:
                error = failure
                await asyncio.sleep(TICK_SECONDS)
            except asyncio.TimeoutError:
                break
        raise error

    async def _session(self, credentials: Credentials, deadline: float) -> Session:
        """The user's session, waited for until `deadline`. Raises why there is none."""
        link = self._link(credentials)
        now = link.used = self._loop.time()
        if link.session is not None:
            return link.session
        self._open_soon(link)
        if self._is_away(now):
            raise BrokerAway
        wish = Wish(deadline)
        link.deliveries[wish] = None
        try:
            return await wish.session
        finally:
            link.deliveries.pop(wish, None)

    def _changed(self, key: str) -> None:
        """A key of some account's registry was changed here: nobody believes what was read from such a key before."""
        for link in self._links.values():
            if link.session is not None:
                link.session.demands.changed(key)
        self._readers.changed(key)

    def _answer(self, reply: Reply, work: Coroutine[Any, Any, Any]) -> None:
        """Answers with what comes of the work, which ends when nobody waits for it any more."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        reply.on_abandon = task.cancel

        def answer(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            error = Stopping() if task.cancelled() else task.exception()
            if error is None:
                reply.set(task.result())
            else:
                reply.fail(error.anew() if isinstance(error, GatewayError) else error)

        task.add_done_callback(answer)

    async def check(self) -> None:
        """Sees that the broker can be used: as `ROOT_USER` where one is set. Raises what is wrong."""
        if not self._config.root_user:
            await self._broker.check()
            return
        session = await self._broker.connect(Credentials(self._config.root_user, self._config.root_secret))
        self._do(session.close())
        await self.revocations.check()

    async def _prove(self, credentials: Credentials) -> Session:
        if self._logons >= self._config.max_logons:
            raise Overloaded("too many log-ons at once; try again shortly")
        self._logons += 1
        try:
            return await self._broker.connect(credentials)
        finally:
            self._logons -= 1

    # ---- links -------------------------------------------------------------------------------------------------

    def _link(self, credentials: Credentials) -> Link:
        link = self._links.get(credentials.identity)
        if link is None:
            self._refused.check(credentials.identity, self._loop.time())
            link = self._try_link(credentials)
            if link is None:
                raise Overloaded("all broker sessions of this worker are in use (MAX_SESSIONS); try again shortly")
        self._links.move_to_end(credentials.identity)
        return link

    def _try_link(self, credentials: Credentials) -> Link | None:
        """A new place in the pool; the one unused longest gives way when there is none."""
        if len(self._links) >= self._config.max_sessions:
            idle = next((i for i, link in self._links.items() if not link.deliveries and not link.opening), None)
            if idle is None:
                return None
            self._drop(idle)
        link = self._links[credentials.identity] = Link(credentials)
        link.used = self._loop.time()
        return link

    def _drop(self, identity: Identity) -> None:
        link = self._links.pop(identity)
        if link.session is not None:
            self._do(link.session.close())

    def _open_soon(self, link: Link) -> None:
        if not link.opening and self._loop.time() >= link.retry_at:
            link.opening = True
            self._do(self._open_session(link))

    async def _open_session(self, link: Link) -> None:
        try:
            session = await self._broker.connect(link.credentials)
        except BrokerAway as error:
            if self._loop.time() - self._away_seen > AWAY_MEMORY_SECONDS:
                self._away_since = None  # what was in between nobody knows
            self._away_seen = self._loop.time()
            self._away_since = self._away_since or self._away_seen
            self._delay(link, error)
        except BrokerRefused as error:  # for this user: others may be let in
            self._delay(link, error)
        except GatewayError as error:
            self._refuse(link, error)
        else:
            self._adopt(link, session)
        finally:
            link.opening = False

    def _delay(self, link: Link, error: GatewayError) -> None:
        """No session can be had now; those who wait for it are told why if none can be had in their time."""
        link.retry_at = self._loop.time() + RETRY_SECONDS
        for delivery in link.deliveries:
            delivery.delayed(error)

    def _is_away(self, now: float) -> bool:
        """Whether the broker has been seen away lately, and for longer than a produce may wait."""
        if self._away_since is None or now - self._away_seen > AWAY_MEMORY_SECONDS:
            return False
        return now - self._away_since > self._config.produce_timeout_seconds

    def _adopt(self, link: Link, session: Session) -> None:
        self._away_since = None
        if link.session is not None or not session.alive:  # a log-on has brought one; or it has ended on the way here
            self._do(session.close())
            return
        link.session = session
        session.on_end(lambda: self._on_end(link, session))
        for delivery in list(link.deliveries):
            self._begin(delivery, session)

    def _begin(self, delivery: Waiting, session: Session) -> None:
        """Sends a delivery's messages. What cannot be sent at all must not keep others from being sent."""
        try:
            session.begin(delivery)
        except Exception as error:
            self._notice("unexpected", error=repr(error))
            delivery.refuse(Internal())

    def _refuse(self, link: Link, error: GatewayError) -> None:
        """The broker does not take this user: so is told to everyone who waits for the session."""
        if link.session is not None:  # a log-on has brought one meanwhile
            return
        identity = link.credentials.identity
        self._links.pop(identity, None)
        if isinstance(error, Unauthorized | Forbidden):
            self._refused.remember(identity, error, self._loop.time())
        for delivery in list(link.deliveries):
            delivery.refuse(error)

    def _on_end(self, link: Link, session: Session) -> None:
        if link.session is not session:
            return
        link.session = None
        self._readers.ended(link.credentials.identity)
        if link.deliveries and not self._closed:
            self._open_soon(link)

    # ---- the clock ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Four times a second: deliveries repeat and give up, links without use go."""
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        now = self._loop.time()
        if self.syslog is not None:
            self.syslog.tick(now)
        for identity, link in list(self._links.items()):
            if link.deliveries:
                self._tend(link, now)
            elif link.opening:
                continue  # a place that is dropped now could not close what is about to come
            elif link.session is None:
                del self._links[identity]
            elif now - link.used > self._config.session_idle_seconds:
                self._drop(identity)

    def _tend(self, link: Link, now: float) -> None:
        if link.session is None:
            self._open_soon(link)
        for delivery in list(link.deliveries):
            delivery.tick(now)

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatewayError):
            self._notice("unexpected", error=repr(error))
