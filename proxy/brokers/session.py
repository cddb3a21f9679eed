"""One user's session on NATS JetStream: a station is a stream that takes the station's subject.

Source: NATS ADR-1 (JetStream API and error codes), ADR-31 (reading stored messages).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from proxy.brokers import frames
from proxy.brokers.answers import ApiError
from proxy.brokers.api import Api, hears
from proxy.brokers.atomic import AtomicDelivery, cannot
from proxy.brokers.consumers import MAX_KNOWN_GROUPS, Group, find_group, internal
from proxy.brokers.demands import Demands
from proxy.brokers.groups import BATCHES_SINCE, OWN_GROUP, Gatherer, Portion
from proxy.brokers.kv import Bucket
from proxy.brokers.listening import ListeningConnection
from proxy.brokers.publishing import Delivery
from proxy.brokers.pulling import Source
from proxy.brokers.schemas import BUCKET, Registry
from proxy.brokers.tasks import Tasks
from proxy.brokers.tokens import tokens
from proxy.brokers.waiting import Waiting
from proxy.config import Config
from proxy.errors import BrokerAway, BrokerRefused, Forbidden, GatewayError, StationNotFound, TooManyStations, let_go
from proxy.messages import UNKNOWN, Demand, Message, Station, Unknown, Wanted

MayCreate = Callable[[], bool]

ATOMIC_SINCE = (2, 12)
LIMIT_MEMORY_SECONDS = 2.0
WINDOW_MEMORY_SECONDS = 60.0  # an operator may shorten it meanwhile
MAX_KNOWN_STATIONS = 10_000
NAME_IN_USE = 10058
NO_MESSAGE = 10037
SUBJECTS_OVERLAP = 10065


class Names(msgspec.Struct):
    """Answer to `STREAM.NAMES`."""

    streams: list[str] | None = None
    error: ApiError | None = None


class StreamConfig(msgspec.Struct):
    """The part of a stream's configuration that counts here; times in nanoseconds."""

    duplicate_window: int = 0


class StreamState(msgspec.Struct):
    """The part of a stream's state that counts here."""

    last_seq: int = 0


class Info(msgspec.Struct):
    """Answer to `STREAM.INFO` and `STREAM.CREATE`."""

    config: StreamConfig = msgspec.field(default_factory=StreamConfig)
    state: StreamState = msgspec.field(default_factory=StreamState)
    error: ApiError | None = None


class Stored(msgspec.Struct):
    """The message in an answer to `STREAM.MSG.GET`."""

    data: str = ""


class Got(msgspec.Struct):
    """Answer to `STREAM.MSG.GET`."""

    message: Stored = msgspec.field(default_factory=Stored)
    error: ApiError | None = None


class Session:
    """One broker connection as one user: publishes, and knows what it has learnt about stations.

    `ask_limit` tells how large a message the server takes by now; `may_create` counts a station that is about to be
    created, and says whether it may be.
    """

    id_name = "Nats-Msg-Id"
    marks: tuple[tuple[str, str], ...] = ()  # headers of ours that every message has

    def __init__(
        self,
        connection: ListeningConnection,
        config: Config,
        ask_limit: Callable[[], Awaitable[int]],
        may_create: MayCreate = lambda: True,
    ) -> None:
        self.connection = connection
        self.max_payload = connection.max_payload
        self._ask_limit, self._may_create = ask_limit, may_create
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._limit_asked_at = self._loop.time()
        self._windows: dict[str, tuple[float | None, float]] = {}
        self._groups: dict[tuple[str, str], Group] = {}
        self._ensuring: dict[str, asyncio.Task[bool]] = {}
        self._tasks = Tasks()
        self._api = Api(connection)
        self._gatherer = Gatherer(connection, config.produce_timeout_seconds)
        bucket = Bucket(self._api, BUCKET, config.station_replicas)
        self.registry, self.demands = Registry(bucket), Demands(connection, bucket)
        connection.on_end = self.demands.close

    @property
    def alive(self) -> bool:
        """Whether messages can be sent."""
        return self.connection.alive

    @property
    def proved_at(self) -> float:
        """When the broker last gave a sign of life that was asked for."""
        return self.connection.proved_at

    def on_end(self, function: Callable[[], None]) -> None:
        """Has `function` called once when the connection has ended."""

        def ended() -> None:
            self.demands.close()
            function()

        self.connection.on_end = ended

    def forget(self, token: int) -> None:
        """Waits for the answer to a message no longer."""
        self.connection.forget(token)

    def check(self) -> None:
        """Asks the broker for a sign of life; the session ends when none comes."""
        self.connection.check()

    def begin(self, waiting: Waiting) -> None:
        """Has what waited for a session use this one."""
        waiting.begin(self)

    def settling(self, station: Station) -> bool:
        """Whether the user's permissions for this station may still be on their way."""
        return False

    def subject(self, station: Station) -> str:
        """The subject on which the station takes messages."""
        return self._config.subject_template.replace("{station}", station.internal)

    def publish(self, delivery: Delivery, indexes: list[int], grouped: bool) -> list[int]:
        """Sends messages, if `grouped` together with others of this turn; returns those that are too large."""
        subject = self.subject(delivery.station)
        grouped = grouped and self._gatherer.takes(subject)
        if grouped and (whole := self._whole(delivery, indexes)) is not None:
            self._gatherer.add(subject, Portion(delivery, indexes, [], whole))
            return []
        portion, too_large = self._portion(delivery, indexes)
        if grouped and portion.indexes:
            self._gatherer.add(subject, portion)
        else:
            self._gatherer.send_alone(subject, portion)
        return too_large

    def _whole(self, delivery: Delivery, indexes: list[int]) -> frames.Whole | None:
        """The messages as one piece, if they are a whole batch that is large enough, and none of it too large."""
        if len(indexes) < OWN_GROUP:
            return None
        whole = frames.whole(self.id_name, self.marks, delivery.messages, len(indexes))
        return whole if whole is not None and whole.largest() <= self.max_payload else None

    def _portion(self, delivery: Delivery, indexes: list[int]) -> tuple[Portion, list[int]]:
        """The messages as they are sent, and which of them are too large."""
        blocks = frames.blocks(self.id_name, self.marks, delivery.messages, indexes)
        if max([len(data) for _, data in blocks], default=0) <= self.max_payload:
            return Portion(delivery, indexes, blocks), []
        self._doubt_limit()
        judged = [
            (index, block, len(block[1]) <= self.max_payload) for index, block in zip(indexes, blocks, strict=True)
        ]
        fit = [(index, block) for index, block, fits in judged if fits]
        portion = Portion(delivery, [index for index, _ in fit], [block for _, block in fit])
        return portion, [index for index, _, fits in judged if not fits]

    def publish_atomic(self, delivery: AtomicDelivery) -> int | None:
        """Sends the messages of an atomic batch; the index of one that is too large, in which case nothing is sent.

        Raises `BadRequest` where the broker knows no atomic batches.
        """
        if self.connection.server_version < ATOMIC_SINCE:
            raise cannot()  # such a server would store the messages one by one
        subject, connection = self.subject(delivery.station), self.connection
        reply, batch = connection.reply_subject(delivery.token), f"{connection.name}-{tokens.take(1):x}"
        pieces, last = [], len(delivery.messages)
        for number, message in enumerate(delivery.messages, 1):
            head = frames.headers(self.id_name, message.key, message.headers)
            head = frames.atomic(head, batch, number, number == last)
            block = len(head), head + message.payload
            if len(block[1]) > self.max_payload:
                self._doubt_limit()
                return number - 1
            pieces.append(frames.publish(subject, reply, block))
        connection.send(delivery, 0, delivery.token, subject, b"".join(pieces), last)
        return None

    def window(self, station: Station) -> float | None:
        """Seconds for which the station knows an id; None while that is being asked.

        Where the user may not look, the setting is believed.
        """
        seconds, asked_at = self._windows.get(station.name, (None, -WINDOW_MEMORY_SECONDS))
        if self._loop.time() - asked_at < WINDOW_MEMORY_SECONDS:
            return seconds
        if len(self._windows) >= MAX_KNOWN_STATIONS:
            self._windows.clear()
        self._windows[station.name] = (None, self._loop.time())
        self._tasks.do(self._ask_window(station))
        return None

    def demand(self, station: Station) -> Demand | Unknown | None:
        """What the station demands, if it is known; nobody is asked."""
        return self.demands.known.get(station.name, UNKNOWN)

    async def hears(self, other: Session) -> bool:
        """Whether a message of that session arrives here, as it does when both belong to one account."""
        return await hears(self.connection, other.connection)

    async def ensure(self, station: Station) -> bool:
        """Sees that the station exists: true when it was created for this, false when it was there.

        Raises `StationNotFound`, `Forbidden` or `TooManyStations` when it is absent and the user may not create it,
        and `BrokerRefused` or `BrokerAway` when it cannot be told now. Callers that ask for the same station share one
        answer.
        """
        task = self._ensuring.get(station.name)
        if task is None:
            task = self._ensuring[station.name] = self._tasks.do(self._ensure(station))
            task.add_done_callback(lambda _: self._ensuring.pop(station.name, None))
        return await asyncio.shield(task)

    async def stored(self, station: Station, message: Message, sequence: int) -> bytes | None:
        """The payload with that sequence where `message` belongs; None when it is gone, or the user may not read it.

        Raises `BrokerAway` or `BrokerRefused` when it cannot be told now.
        """
        try:
            return await self._payload(await self._stream(station), sequence)
        except (Forbidden, StationNotFound) as error:
            let_go(error)  # else the question that failed with it has this call, and the message
            return None

    async def _payload(self, stream: str, sequence: int) -> bytes | None:
        """Only a stream that is that far can say that the message is gone; one whose leader is new may not be yet."""
        for _ in range(2):
            got: Got = await self._api.ask(f"STREAM.MSG.GET.{stream}", {"seq": sequence}, Got)
            if got.error is None:
                return base64.b64decode(got.message.data)
            if got.error.err_code != NO_MESSAGE:
                raise BrokerRefused(f"the broker cannot tell its messages: {got.error.description}")
            info: Info = await self._api.ask(f"STREAM.INFO.{stream}", {}, Info)
            if info.error is not None or info.state.last_seq < sequence:
                raise BrokerRefused("the station's leader does not have all its messages yet")
        return None

    async def dead_letter(self, station: Station, rejected: list[tuple[Message, str]]) -> list[GatewayError | None]:
        """NATS keeps none, and says so; the gateway does."""
        return [BrokerRefused("this broker keeps no dead letters itself") for _ in rejected]

    async def group(self, station: Station, wanted: Wanted) -> Group:
        """Where the group reads from; its consumer is made if it is absent, and so is the station, as by a produce.

        Raises `Forbidden`, `StationNotFound`, `TooManyStations`, `Conflict`, `BrokerAway`, `BrokerRefused`.
        """
        key = station.name, wanted.group
        if key not in self._groups:
            source = Source(await self._stream_to_read(station), internal(wanted.group))
            group = await find_group(self._api, self._config, station, self.subject(station), source)
            if len(self._groups) >= MAX_KNOWN_GROUPS:
                self._groups.clear()
            self._groups[key] = group
        return self._groups[key]

    def forget_group(self, station: Station, wanted: Wanted) -> None:
        """Looks for the group again, as its consumer does not answer."""
        self._groups.pop((station.name, wanted.group), None)

    async def _stream_to_read(self, station: Station) -> str:
        try:
            return await self._stream(station)
        except Forbidden:
            return station.internal  # as streams are named that we make
        except StationNotFound:
            await self.ensure(station)
            return await self._stream(station)

    async def close(self) -> None:
        """Closes the connection."""
        self._tasks.cancel()
        await self.connection.close()

    def _doubt_limit(self) -> None:
        """Asks whether the server takes more by now, which it does not tell its clients; every two seconds at most."""
        if self._loop.time() - self._limit_asked_at >= LIMIT_MEMORY_SECONDS:
            self._limit_asked_at = self._loop.time()
            self._tasks.do(self._learn_limit())

    async def _learn_limit(self) -> None:
        self.max_payload = await self._ask_limit()

    async def _ask_window(self, station: Station) -> None:
        seconds = self._config.duplicate_window_seconds
        try:
            stream = await self._stream(station)
            info: Info = await self._api.ask(f"STREAM.INFO.{stream}", {}, Info)
            if info.error is None:
                seconds = info.config.duplicate_window / 1e9
        except (BrokerAway, BrokerRefused):
            self._windows.pop(station.name, None)  # ask again
            return
        except GatewayError:
            pass
        self._windows[station.name] = (seconds, self._loop.time())

    async def _ensure(self, station: Station) -> bool:
        try:
            await self._stream(station)
        except Forbidden:
            raise BrokerRefused(f"no stream takes {self.subject(station)}, and this user may not look why") from None
        except StationNotFound:
            if not self._config.auto_create_stations:
                raise
            if not self._may_create():
                raise TooManyStations from None
            await self._create(station)
            return True
        return False

    async def _stream(self, station: Station) -> str:
        """The name of the stream that takes the station's subject. Raises `StationNotFound` when the broker says so."""
        names: Names = await self._api.ask("STREAM.NAMES", {"subject": self.subject(station)}, Names)
        if names.error is not None:
            raise BrokerRefused(f"the broker cannot tell its streams: {names.error.description}")
        if not names.streams:
            raise StationNotFound(f"there is no station {station.name}")
        return names.streams[0]

    async def _create(self, station: Station) -> None:
        info: Info = await self._api.ask(f"STREAM.CREATE.{station.internal}", self._stream_config(station), Info)
        if info.error is None:
            return
        if info.error.err_code not in (NAME_IN_USE, SUBJECTS_OVERLAP):
            raise BrokerRefused(f"the broker did not create station {station.name}: {info.error.description}")
        try:
            await self._stream(station)  # others may have been faster
        except StationNotFound:
            in_place = f"stream {station.internal} is in its place, and does not take {self.subject(station)}"
            raise StationNotFound(f"there is no station {station.name}: {in_place}") from None

    def _stream_config(self, station: Station) -> dict[str, Any]:
        config = self._config
        window = config.duplicate_window_seconds
        if config.station_max_age_seconds:  # a stream cannot know ids for longer than it keeps messages
            window = min(window, config.station_max_age_seconds)
        stream: dict[str, Any] = {
            "name": station.internal,
            "subjects": [self.subject(station)],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_age": int(config.station_max_age_seconds * 1e9),
            "max_bytes": config.station_max_bytes or -1,
            "num_replicas": config.station_replicas,
            "duplicate_window": int(window * 1e9),
            "allow_direct": True,
        }
        if self.connection.server_version >= BATCHES_SINCE:
            stream["allow_batched"] = True
        if self.connection.server_version >= ATOMIC_SINCE:
            stream["allow_atomic"] = True
        return stream
