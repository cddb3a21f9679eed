"""What the broker tests share: settings, the user they log on as, and an operator who looks into the server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import nats
import uvloop
from nats.aio.client import Client

from proxy.brokers import Notice
from proxy.brokers.connection import Connection, Options, connect
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import GatewayError
from proxy.producer import Producer
from tests.servers import NatsServer

ROOT = Credentials("root", "memphis")
USERS = {"root": "memphis"}
MONITOR = "http: '127.0.0.1:-1'"  # on a free port, which the server's log tells
_T = TypeVar("_T")


def settings(*urls: str, **env: Any) -> Config:
    """The settings of a gateway for the servers at these addresses; `env` are further variables."""
    required = {"BROKER_URL": ",".join(urls), "JWT_SECRET": "s" * 32}
    return Config.from_environ({**required, **{name: str(value) for name, value in env.items()}})


def run(work: Awaitable[_T]) -> _T:
    """Runs a coroutine on a loop of the kind that the gateway uses."""

    async def wait() -> _T:
        return await work

    return uvloop.run(wait())


async def eventually_on_loop(condition: Callable[[], object], within: float = 5.0) -> None:
    """Asks in turn after turn of the loop until the answer is true; fails after `within` seconds."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.005)


def options(prefix: str = "_INBOX", notice: Notice = lambda event, **fields: None) -> Options:
    """How a connection is made."""
    return Options(ssl.create_default_context(), prefix, "test", notice)


def failure(function: Callable[..., Any], *args: Any) -> GatewayError:
    """The error that the function ends with."""
    try:
        result = function(*args)
    except GatewayError as error:
        return error
    raise AssertionError(f"no error, but {result!r}")


def facts(error: GatewayError) -> tuple[str, str, str]:
    """What an answer tells of a message that failed: the situation, whether it is stored, whether to repeat it."""
    return type(error).__name__, error.stored, error.repeat


def outcomes(error: GatewayError) -> list[tuple[int, int, str]]:
    """Index, status and `stored` of each message of a batch that failed."""
    return [(entry["index"], entry["status"], entry["stored"]) for entry in error.fields["failed"]]


@contextlib.asynccontextmanager
async def connected(url: str, **how: Any) -> AsyncIterator[Connection]:
    """A connection of `root`, made with these `options`, that is closed at the end."""
    connection = await connect(url, ROOT, options(**how), 5)
    try:
        yield connection
    finally:
        await connection.close()


class Stored(NamedTuple):
    """A message as the stream has it."""

    payload: bytes
    headers: dict[str, str]


class HasUrl(Protocol):
    """A server that runs somewhere."""

    @property
    def url(self) -> str:
        """Its address."""


@contextlib.asynccontextmanager
async def client(server: NatsServer) -> AsyncIterator[Client]:
    """A plain connection of `root`, for what the gateway does not do."""
    connection = await nats.connect(
        server.url, user="root", password="memphis", allow_reconnect=False, error_cb=_ignore
    )
    try:
        yield connection
    finally:
        await connection.close()


async def flushed(client: Client) -> None:
    """Waits until the server has taken all that was sent; nats-py's first PING may overtake it, its second cannot."""
    for _ in range(2):
        await client.flush()


async def _ignore(error: Exception) -> None:
    """Takes nats-py's report of an error."""


class Operator:
    """A user who may do everything, on a connection of its own for each question."""

    def __init__(self, server: HasUrl, user: str = "root", password: str = "memphis", **options: Any) -> None:
        self._url, self._options = server.url, {"user": user, "password": password, **options}

    def ask(self, question: Callable[[Client], Awaitable[_T]]) -> _T:
        """Connects, asks, and closes the connection."""

        async def connected() -> _T:
            client = await nats.connect(self._url, allow_reconnect=False, **self._options)
            try:
                return await question(client)
            finally:
                await client.close()

        return asyncio.run(connected())

    def api(self, verb: str, **body: Any) -> dict[str, Any]:
        """Asks the JetStream API."""
        answer = self.ask(lambda client: client.request(f"$JS.API.{verb}", json.dumps(body).encode()))
        content: dict[str, Any] = json.loads(answer.data)
        assert "error" not in content, content["error"]
        return content

    def add(self, station: str, **config: Any) -> None:
        """Makes the stream of a station."""
        self.api(f"STREAM.CREATE.{station}", **{"name": station, "subjects": [f"{station}.final"], **config})

    def config(self, station: str) -> dict[str, Any]:
        """The configuration of a station's stream."""
        config: dict[str, Any] = self.api(f"STREAM.INFO.{station}")["config"]
        return config

    def streams(self) -> list[str]:
        """The names of all streams."""
        return self.api("STREAM.NAMES")["streams"] or []

    def count(self, station: str) -> int:
        """How many messages the station has."""
        return int(self.api(f"STREAM.INFO.{station}")["state"]["messages"])

    def stored(self, station: str) -> list[Stored]:
        """All messages of the station, in order."""

        async def read(client: Client) -> list[Stored]:
            stream = client.jetstream()
            count = (await stream.stream_info(station)).state.messages
            subscription = await stream.subscribe("", stream=station, ordered_consumer=True)
            messages = [await subscription.next_msg(timeout=10) for _ in range(count)]
            return [Stored(message.data, dict(message.headers or {})) for message in messages]

        return self.ask(read)

    def payloads(self, station: str) -> list[bytes]:
        """The payloads of all messages of the station, in order."""
        return [message.payload for message in self.stored(station)]


def monitor(server: NatsServer, path: str) -> dict[str, Any]:
    """What a server with `MONITOR` in its configuration tells of itself."""
    ports = re.findall(r"Starting http monitor on 127\.0\.0\.1:(\d+)", server.log())
    client = http.client.HTTPConnection("127.0.0.1", int(ports[-1]), timeout=5)
    try:
        client.request("GET", path, headers={"Connection": "close"})
        found: dict[str, Any] = json.loads(client.getresponse().read())
    finally:
        client.close()
    return found


def connections(server: NatsServer) -> list[dict[str, Any]]:
    """The connections that a server with `MONITOR` in its configuration has; `authorized_user` tells whose."""
    found: list[dict[str, Any]] = monitor(server, "/connz?auth=1")["connections"]
    return found


def sessions(server: NatsServer, user: str = "root") -> int:
    """How many connections that user has."""
    return sum(connection.get("authorized_user") == user for connection in connections(server))


def unread(server: NatsServer) -> int:
    """How many connections have bytes that the server has not read; it is not asked."""
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        count += local == f"0100007F:{server.port:04X}" and not queues.endswith(":00000000")
    return count


def has_no_session(producer: Producer) -> bool:
    """Whether the gateway has seen that the server has closed its connections.

    What is sent before that is under way, for all that is known: it is sent again, and whether it is a duplicate is not
    told then.
    """
    return not any(link.session for link in list(producer._pool._links.values()))
