"""A Memphis broker: a NATS server with stations of its own, each a stream for each of its partitions.

A session registers as a producer with each station before it publishes there (see `memphis_stations`), which tells the
partitions, and the schema that payloads are to be checked against. What is published then is plain JetStream.

Source: `docs/memphis.md`, and the recorded conversations with a Memphis 1.4.4 broker that the tests replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from proxy.brokers import frames
from proxy.brokers import memphis_control as control
from proxy.brokers.connection import CLOSE_SECONDS, connect_as
from proxy.brokers.consumers import Group
from proxy.brokers.groups import Portion
from proxy.brokers.jetstream import JetStream
from proxy.brokers.memphis_connection import MemphisConnection
from proxy.brokers.memphis_consumers import Consumers
from proxy.brokers.memphis_stations import SETTLING_SECONDS, Stations
from proxy.brokers.partitions import partition_of, stream_of
from proxy.brokers.publishing import Delivery
from proxy.brokers.session import MayCreate, Names, Session
from proxy.brokers.waiting import Waiting
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import (
    AckTimeout,
    BrokerAway,
    BrokerRefused,
    Forbidden,
    GatewayError,
    Internal,
    RegistryOff,
    TooLarge,
    Unauthorized,
    let_go,
)
from proxy.messages import Message, Station, Wanted

PORT = 6666
DEFAULT_ACCOUNT = "1"
RETRY_SECONDS = 0.5
ENSURE_SECONDS = 1.0
MAX_NOTIFICATIONS = 10  # of one produce: each is a message to people

# The broker lets clients with such a name in without looking whether the user exists.
_LOGGER = "memphis http logger"
_LOG_USER = "$$memphis"  # an internal one, whose password is root's


class ItsOwn:
    """In place of a registry: such a broker keeps schemas itself."""

    def on_write(self, function: Callable[[str], None]) -> None:
        """Nothing is written."""

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        """Each of the registry's operations raises `RegistryOff`."""

        async def refuse(*args: Any) -> None:
            raise RegistryOff("a Memphis broker keeps schemas itself: change them there, in its dashboard")

        return refuse


class MemphisSession(Session):
    """One broker connection as one user."""

    id_name = "msg-id"

    def __init__(
        self,
        connection: MemphisConnection,
        config: Config,
        ask_limit: Callable[[], Awaitable[int]],
        may_create: MayCreate = lambda: True,
    ) -> None:
        super().__init__(connection, config, ask_limit, may_create)
        connection_id, _, user = connection.client_name.partition("::")
        self.client = control.Client(user, connection_id)
        self._broker = connection
        self.marks = self.client.marks()
        self._stations: Stations = Stations(connection, config, self.client, self.exists, may_create)
        self._consumers = Consumers(connection, config, self.client)
        self.demands: Any = self._stations
        self.registry: Any = ItsOwn()
        connection.on_end = self.demands.close

    # ---- publishing --------------------------------------------------------------------------------------------

    def begin(self, waiting: Waiting) -> None:
        """Has what waited for a session use this one; a delivery does once this has registered with its station."""
        if isinstance(waiting, Delivery) and self._stations.current(waiting.station) is None:
            self._tasks.do(self._begin(waiting))
        else:
            waiting.begin(self)

    async def _begin(self, delivery: Delivery) -> None:
        delivery.delayed(BrokerRefused(f"the broker has not answered yet for station {delivery.station.name}"))
        while self.alive and self._loop.time() < delivery.deadline:
            try:
                await self._stations.register(delivery.station)
            except (BrokerAway, BrokerRefused) as error:
                delivery.delayed(error)
                let_go(error)  # else it has this call, which has the messages, which have it
                await asyncio.sleep(RETRY_SECONDS)
            except GatewayError as error:
                delivery.refuse(error)
                let_go(error)  # it is remembered
                return
            except Exception as error:  # whoever waits must not wait to the end for a fault of ours
                self._broker.notice("unexpected", error=repr(error))
                delivery.refuse(Internal())
                return
            else:
                delivery.begin(self)
                return

    def publish(self, delivery: Delivery, indexes: list[int], grouped: bool) -> list[int]:
        """Sends messages, each to its partition and with an answer of its own; returns those that are too large."""
        station = delivery.station
        known = self._stations.found(station)
        partitions = known.partitions if known is not None else [1]
        portion, too_large = self._portion(delivery, indexes)
        for index, block in zip(portion.indexes, portion.blocks, strict=True):
            subject = _subject(station, partition_of(station, delivery.messages[index], partitions))
            self._gatherer.send_alone(subject, Portion(delivery, [index], [block]))
        return too_large

    def subject(self, station: Station) -> str:
        """The subject of the station's first partition."""
        known = self._stations.found(station)
        return _subject(station, known.partitions[0] if known is not None else 1)

    def settling(self, station: Station) -> bool:
        """Whether the broker may still be on its way to let this user use a station that it has just made."""
        known = self._stations.found(station)
        return known is not None and self._loop.time() - known.made_at < SETTLING_SECONDS

    async def stored(self, station: Station, message: Message, sequence: int) -> bytes | None:
        """The payload with that sequence in the partition of `message`; None when gone, or not to be read.

        Raises `BrokerAway` or `BrokerRefused` when it cannot be told now.
        """
        known = self._stations.found(station)
        partition = partition_of(station, message, known.partitions if known is not None else [1])
        try:
            return await self._payload(stream_of(station, partition), sequence)
        except Forbidden as error:
            let_go(error)  # else the question that failed with it has this call, and the message
            return None

    # ---- consuming ---------------------------------------------------------------------------------------------

    async def group(self, station: Station, wanted: Wanted) -> Group:
        """Where the group reads from: its consumer on each partition. Raises as on NATS, and `Unauthorized`."""
        known = self._consumers.known(station, wanted)
        if known is not None:
            if self._consumers.is_to_be_asked(station, wanted):
                self._tasks.do(self._ask_again(station, wanted))
            return known
        if not await self.exists(station):
            await self._stations.make(station)
        return await self._consumers.register(station, wanted)

    async def _ask_again(self, station: Station, wanted: Wanted) -> None:
        """Registers once more, beside what is read meanwhile; that makes no station, and what fails does so again."""
        if await self.exists(station):
            await self._consumers.register(station, wanted)

    def forget_group(self, station: Station, wanted: Wanted) -> None:
        """Registers again at the next call: the station was removed, or its group."""
        self._consumers.forget(station, wanted)

    # ---- stations ----------------------------------------------------------------------------------------------

    async def exists(self, station: Station) -> bool:
        """Whether the broker has a stream for the station; asks nobody's database."""
        for partition in (1, 0):
            try:
                body = {"subject": _subject(station, partition)}
                names: Names = await self._api.ask("STREAM.NAMES", body, Names)
            except Forbidden:
                return True  # the broker decides
            if names.streams:
                return True
        return False

    async def _ensure(self, station: Station) -> bool:
        """Nobody takes messages for the station: it is gone, has other partitions now, or has no leader."""
        known = self._stations.found(station)
        before = known.partitions if known is not None else []
        there = await self.exists(station)
        if there and known is not None and self._loop.time() - known.asked_at < ENSURE_SECONDS:
            return False
        return (await self._stations.register(station)).partitions != before or not there

    async def hears(self, other: Any) -> bool:
        """Nobody else reads for a user: what a station demands comes with the user's own registration."""
        return False

    async def dead_letter(self, station: Station, rejected: list[tuple[Message, str]]) -> list[GatewayError | None]:
        """Gives messages that the schema has refused, with the reasons, to the broker to keep; it answers nothing.

        Returns for each what kept it from being sent, or `AckTimeout` when the broker may have read it or not.
        """
        known = self._stations.current(station) or await self._stations.register(station)
        results: list[GatewayError | None] = [None] * len(rejected)
        for place, (message, reason) in enumerate(rejected):
            letter = msgspec.json.encode(control.dead_letter(self.client, station, message, reason))
            if len(letter) > self.connection.max_payload:
                results[place] = TooLarge("as a dead letter the message is larger than the broker takes")
                continue
            self._broker.emit(frames.publish_only(control.DEAD_LETTERS, letter))
        if known.notify:
            for message, reason in rejected[:MAX_NOTIFICATIONS]:
                self._notify(station, message, reason)
        try:
            await self._broker.settled()
        except BrokerAway:
            return [result or AckTimeout("the broker did not confirm in time") for result in results]
        return results

    def _notify(self, station: Station, message: Message, reason: str) -> None:
        news = msgspec.json.encode(control.notification(station, message, reason))
        if len(news) <= self.connection.max_payload:
            self._broker.emit(frames.publish_only(control.NOTIFICATIONS, news))

    async def close(self) -> None:
        """Takes back what it has registered, as far as the broker answers in half a second, and closes."""
        stations = self._stations.registered()
        self._stations.close()
        if self.alive and stations:
            asked = [self._destroy(station) for station in stations]
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), CLOSE_SECONDS)
        await super().close()

    async def _destroy(self, station: Station) -> None:
        body = control.producer_destruction(self.client, station)
        await self._broker.request(control.PRODUCER_DESTRUCTIONS, body, CLOSE_SECONDS)


def _subject(station: Station, partition: int) -> str:
    return f"{stream_of(station, partition)}.final"


class Memphis(JetStream):
    """The Memphis brokers that `BROKER_URL` or `MEMPHIS_HOST` names."""

    session: Any = MemphisSession
    keeps_letters = True

    def _urls(self) -> list[str]:
        """TLS is what certificates in the settings ask for, or the broker itself."""
        scheme = "tls" if self._config.root_ca_path or self._config.client_cert_path else "nats"
        urls = (url.partition("://")[2] for url in super()._urls())
        return [f"{scheme}://{host if re.search(r':[0-9]+$', host) else f'{host}:{PORT}'}" for host in urls]

    async def _open(self, url: str, credentials: Credentials) -> MemphisConnection:
        """Logs on as Memphis' own clients do: with the account first, then, if that is not taken, without."""
        user = re.sub(r"\$[0-9]+\Z", "", credentials.user)
        if not user or "::" in user or _LOGGER in user.lower():
            raise Unauthorized
        by_token = not self._config.user_pass_based_auth
        options = self._options._replace(name=f"{uuid.uuid4()}::{user}", by_token=by_token)
        if not by_token:
            named = Credentials(f"{user}${credentials.account or DEFAULT_ACCOUNT}", credentials.secret)
            with contextlib.suppress(Unauthorized):
                return await connect_as(MemphisConnection, url, named, options, self._seconds)
        return await connect_as(MemphisConnection, url, Credentials(user, credentials.secret), options, self._seconds)

    def _creator(self, credentials: Credentials) -> str:
        return f"{credentials.account}/{super()._creator(credentials)}"

    async def open_log(self) -> MemphisConnection:
        """A connection for log lines, made as Memphis' own gateway makes it. Raises as `connect` does."""
        config, error = self._config, BrokerAway()
        by_token = not config.user_pass_based_auth
        options = self._options._replace(name=_LOGGER.upper(), by_token=by_token)
        secret = f"{config.root_user}::{config.root_secret}" if by_token else config.root_secret
        for url in self._urls():
            with contextlib.suppress(BrokerAway):
                credentials = Credentials(_LOG_USER, secret)
                return await connect_as(MemphisConnection, url, credentials, options, self._seconds)
        raise error
