"""NATS JetStream as a broker: a station is a stream that takes the station's subject.

Source: NATS ADR-1 (JetStream API and error codes), ADR-31 (reading stored messages).
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import secrets
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from proxy.brokers import Notice, frames
from proxy.brokers.connection import NO_RESPONDERS, Connection, Options, connect
from proxy.brokers.embedded import address
from proxy.brokers.publishing import ApiError, Delivery, tokens
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import (
    BadSetting,
    BrokerAway,
    BrokerRefused,
    Forbidden,
    GatewayError,
    OpenBroker,
    StationNotFound,
    Unauthorized,
)
from proxy.messages import Station

API_SECONDS = 2.0
LOG_ON_SECONDS = 5.0
MAX_KNOWN_SERVERS = 1000
MAX_KNOWN_STATIONS = 10_000
NAME_IN_USE = 10058
SUBJECTS_OVERLAP = 10065


class Names(msgspec.Struct):
    """Answer to `STREAM.NAMES`."""

    streams: list[str] | None = None
    error: ApiError | None = None


class StreamConfig(msgspec.Struct):
    """The part of a stream's configuration that counts here; times in nanoseconds."""

    duplicate_window: int = 0


class Info(msgspec.Struct):
    """Answer to `STREAM.INFO` and `STREAM.CREATE`."""

    config: StreamConfig = msgspec.field(default_factory=StreamConfig)
    error: ApiError | None = None


class Stored(msgspec.Struct):
    """The message in an answer to `STREAM.MSG.GET`."""

    data: str = ""


class Got(msgspec.Struct):
    """Answer to `STREAM.MSG.GET`."""

    message: Stored = msgspec.field(default_factory=Stored)
    error: ApiError | None = None


class Question:
    """A request to the JetStream API that waits for its answer."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """The API's answer, or word that nobody serves it."""
        if status == NO_RESPONDERS and not data:
            self._fail(BrokerRefused("JetStream does not answer: it is off for this account, or has no leader now"))
        elif not self.answer.done():
            self.answer.set_result(data)

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The user may not ask this."""
        self._fail(Forbidden(f"the broker does not allow this user to publish to {self.subject}"))

    def lost(self, index: int) -> None:
        """The connection ended."""
        self._fail(BrokerAway())

    def _fail(self, error: GatewayError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Session:
    """One broker connection as one user: publishes, and knows what it has learnt about stations."""

    id_name = "Nats-Msg-Id"

    def __init__(self, connection: Connection, config: Config) -> None:
        self.connection = connection
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._windows: dict[str, float | None] = {}
        self._ensuring: dict[str, asyncio.Task[bool]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def alive(self) -> bool:
        """Whether messages can be sent."""
        return self.connection.alive

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload that the broker takes in a message."""
        return self.connection.max_payload

    @property
    def proved_at(self) -> float:
        """When the broker last gave a sign of life that was asked for."""
        return self.connection.proved_at

    def on_end(self, function: Callable[[], None]) -> None:
        """Has `function` called once when the connection has ended."""
        self.connection.on_end = function

    def forget(self, token: int) -> None:
        """Waits for the answer to a message no longer."""
        self.connection.forget(token)

    def check(self) -> None:
        """Asks the broker for a sign of life; the session ends when none comes."""
        self.connection.check()

    def subject(self, station: Station) -> str:
        """The subject on which the station takes messages."""
        return self._config.subject_template.replace("{station}", station.internal)

    def publish(self, delivery: Delivery, index: int, token: int) -> bool:
        """Sends one message; false when the broker takes none of that size."""
        message, connection = delivery.messages[index], self.connection
        head = frames.headers(self.id_name, message.key, message.headers)
        if len(head) + len(message.payload) > connection.max_payload:
            return False
        subject = self.subject(delivery.station)
        frame = frames.publish(subject, connection.reply_subject(token), head, message.payload)
        connection.send(delivery, index, token, subject, frame)
        return True

    def window(self, station: Station) -> float | None:
        """Seconds for which the station knows an id; None while that is being asked.

        Where the user may not look, the setting is believed.
        """
        if station.name not in self._windows:
            if len(self._windows) >= MAX_KNOWN_STATIONS:
                self._windows.clear()
            self._windows[station.name] = None
            self._do(self._ask_window(station))
        return self._windows[station.name]

    async def ensure(self, station: Station) -> bool:
        """Sees that the station exists: true when it was created for this, false when it was there.

        Raises `StationNotFound`, `Forbidden` when it is absent and the user may not create it, and `BrokerRefused` or
        `BrokerAway` when it cannot be told now. Callers that ask for the same station share one answer.
        """
        task = self._ensuring.get(station.name)
        if task is None:
            task = self._ensuring[station.name] = self._do(self._ensure(station))
            task.add_done_callback(lambda _: self._ensuring.pop(station.name, None))
        return await asyncio.shield(task)

    async def stored(self, station: Station, sequence: int) -> bytes | None:
        """The payload with that sequence; None when it is gone, or the user may not read it."""
        try:
            stream = await self._stream(station)
            got: Got = await self._ask(f"STREAM.MSG.GET.{stream}", {"seq": sequence}, Got)
        except GatewayError:
            return None
        return None if got.error else base64.b64decode(got.message.data)

    async def close(self) -> None:
        """Closes the connection."""
        for task in self._tasks:
            task.cancel()
        await self.connection.close()

    async def _ask_window(self, station: Station) -> None:
        seconds = self._config.duplicate_window_seconds
        try:
            stream = await self._stream(station)
            info: Info = await self._ask(f"STREAM.INFO.{stream}", {}, Info)
            if info.error is None:
                seconds = info.config.duplicate_window / 1e9
        except (BrokerAway, BrokerRefused):
            self._windows.pop(station.name, None)  # ask again
            return
        except GatewayError:
            pass
        self._windows[station.name] = seconds

    async def _ensure(self, station: Station) -> bool:
        try:
            await self._stream(station)
        except Forbidden:
            raise BrokerRefused(f"no stream takes {self.subject(station)}, and this user may not look why") from None
        except StationNotFound:
            if not self._config.auto_create_stations:
                raise
            await self._create(station)
            return True
        return False

    async def _stream(self, station: Station) -> str:
        """The name of the stream that takes the station's subject. Raises `StationNotFound` when the broker says so."""
        names: Names = await self._ask("STREAM.NAMES", {"subject": self.subject(station)}, Names)
        if names.error is not None:
            raise BrokerRefused(f"the broker cannot tell its streams: {names.error.description}")
        if not names.streams:
            raise StationNotFound(f"there is no station {station.name}")
        return names.streams[0]

    async def _create(self, station: Station) -> None:
        info: Info = await self._ask(f"STREAM.CREATE.{station.internal}", self._stream_config(station), Info)
        if info.error is not None and info.error.err_code not in (NAME_IN_USE, SUBJECTS_OVERLAP):
            raise BrokerRefused(f"the broker did not create station {station.name}: {info.error.description}")

    def _stream_config(self, station: Station) -> dict[str, Any]:
        config = self._config
        stream: dict[str, Any] = {
            "name": station.internal,
            "subjects": [self.subject(station)],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_age": int(config.station_max_age_seconds * 1e9),
            "max_bytes": config.station_max_bytes or -1,
            "num_replicas": config.station_replicas,
            "duplicate_window": int(config.duplicate_window_seconds * 1e9),
            "allow_direct": True,
        }
        if self.connection.server_version >= (2, 14):
            stream["allow_batched"] = True
        return stream

    async def _ask(self, verb: str, body: dict[str, Any], shape: type[Any]) -> Any:
        """One request to the JetStream API, and its answer in that shape."""
        question = Question(f"$JS.API.{verb}")
        token = tokens.take(1)
        frame = frames.request(question.subject, self.connection.reply_subject(token), msgspec.json.encode(body))
        self.connection.send(question, 0, token, question.subject, frame)
        try:
            return msgspec.json.decode(await asyncio.wait_for(question.answer, API_SECONDS), type=shape)
        except asyncio.TimeoutError:
            self.check()
            raise BrokerAway("the broker does not answer") from None
        except msgspec.MsgspecError:
            raise BrokerRefused("the broker's answer cannot be understood") from None
        finally:
            self.connection.forget(token)

    def _do(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, so that one nobody waits for any more is not reported


class JetStream:
    """The NATS servers that `BROKER_URL` names, or the embedded one."""

    session = Session

    def __init__(self, config: Config, notice: Notice) -> None:
        self._config = config
        self._options = Options(_tls(config), config.broker_inbox_prefix, "stations", notice)
        self._closed_servers: set[str] = set()

    async def connect(self, credentials: Credentials) -> Session:
        """Logs on to one of the servers. Raises `Unauthorized`, `Forbidden`, `BrokerAway`, `BrokerRefused`,
        `OpenBroker`.
        """
        error: GatewayError = BrokerAway()
        for url in self._urls():
            try:
                connection = await connect(url, self._user(credentials), self._options, LOG_ON_SECONDS)
            except (BrokerAway, BrokerRefused) as failure:
                error = failure
                continue
            try:
                await self._prove_closed(url, connection.server_id)
            except BaseException:
                await connection.close()
                raise
            return self.session(connection, self._config)
        raise error

    async def check(self) -> None:
        """Sees that a server answers, and lets not everyone in. Raises `BrokerAway`, `BrokerRefused`, `OpenBroker`."""
        error: GatewayError = BrokerAway()
        for url in self._urls():
            try:
                await self._refuses_anyone(url)
            except (BrokerAway, BrokerRefused) as failure:
                error = failure
                continue
            return
        raise error

    def _urls(self) -> list[str]:
        """The servers in an order of chance, so that sessions spread over them."""
        if self._config.embedded:
            return [address(self._config.data_dir)]
        urls = list(self._config.broker_url)
        random.shuffle(urls)
        return urls

    def _user(self, credentials: Credentials) -> Credentials:
        """`user$<digits>` is Memphis' way to name the account; plain NATS knows users without it."""
        name = re.sub(r"\$\d+$", "", credentials.user)
        return credentials if name == credentials.user else Credentials(name, credentials.secret)

    async def _prove_closed(self, url: str, server_id: str) -> None:
        """At the first connection to each server: it must refuse a user that does not exist."""
        if self._config.allow_open_broker or server_id in self._closed_servers:
            return
        await self._refuses_anyone(url)
        if len(self._closed_servers) >= MAX_KNOWN_SERVERS:
            self._closed_servers.clear()
        self._closed_servers.add(server_id)

    async def _refuses_anyone(self, url: str) -> None:
        stranger = Credentials(f"stranger-{secrets.token_hex(8)}", secrets.token_hex(16))
        try:
            connection = await connect(url, stranger, self._options, LOG_ON_SECONDS)
        except Unauthorized:
            return
        except Forbidden:
            pass  # let in, though without the right to receive anything
        else:
            await connection.close()
        if not self._config.allow_open_broker:
            raise OpenBroker


def _tls(config: Config) -> ssl.SSLContext:
    """Certificates as the settings say. Raises `BadSetting` for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=config.root_ca_path or None)
    except OSError:
        raise BadSetting("ROOT_CA_PATH", "a file of CA certificates in PEM form") from None
    if config.client_cert_path:
        try:
            context.load_cert_chain(config.client_cert_path, config.client_key_path)
        except OSError:
            raise BadSetting("CLIENT_CERT_PATH", "a certificate in PEM form, CLIENT_KEY_PATH its key") from None
    return context
