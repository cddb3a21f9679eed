"""What a Memphis broker looks like from outside: a relay in front of a real nats-server, and a control plane.

It replays what a Memphis 1.4.4 broker answered when it was recorded (`memphis_recorded.json`) and invents nothing: the
names of stations and users are put into the texts, that is all. Streams, acks and duplicates are nats-server's own. The
relay changes what differs on the wire: who is let in, the version, the header of the de-duplication id, and
refusals that name no subject.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.brokers.memphis_wire import to_client, with_nats_id
from tests.brokers.tools import Operator, Stored
from tests.servers import NatsServer

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("memphis_recorded.json").read_text())
SLOW_SECONDS = 0.6
LATE_SECONDS = 0.4  # until the broker lets users of limited rights use a station just made; measured: 0.001 to 0.488
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,126}[a-z0-9])?", re.IGNORECASE)
# What the names of a station's subjects have besides its own; of the JetStream API's, those that name a stream.
_STATIONS_OWN = re.compile(
    r"^\$memphis_schema_updates_|^\$JS\.API\.STREAM\.(?:INFO|MSG\.GET)\.|(?:\$\d+)?(?:\.final)?$"
)
_SERVER = {"user": "standin", "pass": "standin"}
_T = TypeVar("_T")


class User(NamedTuple):
    """A user of the broker; `write` are patterns of the stations it may produce to, none: everything is allowed."""

    secret: str
    write: tuple[str, ...] = ()


class Asked(NamedTuple):
    """What came on a subject of the control plane."""

    subject: str
    body: Any


class Standin:
    """A Memphis broker as clients see it, at `url`; `asked` is all that its control plane was sent, in order.

    With `by_token` it is in connection-token mode: one token for all, the user's name stands in the client's name.
    """

    def __init__(self, directory: Path, users: dict[str, User] | None = None, *, token: str = "") -> None:
        self.users = users or {"root": User("memphis")}
        self.token = token
        self.server = NatsServer(directory, "max_payload: 8388608", users={_SERVER["user"]: _SERVER["pass"]}).start()
        self.asked: list[Asked] = []
        self.names: list[str] = []  # of clients that were let in
        self.connects: list[dict[str, Any]] = []  # all CONNECTs that came
        self.lines: list[str] = []  # all SUBs, and subjects of publishes
        self.silent: set[str] = set()  # subjects whose requests are heard and not answered
        self.slow: set[str] = set()  # subjects of messages that take the broker a while
        self.between: list[Asked] = []  # told to clients between a creation of a producer and its answer
        self.reloads = True  # whether rights for a station just made come to connections that are open
        self.races = 0  # how many creations of producers are told that somebody else is making the station
        self.stations: dict[str, list[int]] = {}
        self.schemas: dict[str, Any] = {}
        self.dead_letters: dict[str, bool] = {}
        self.notify = False
        self._allowed_at: dict[str, float] = {}
        self._made_at: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="memphis stand-in", daemon=True)
        self._thread.start()
        self._relays: set[asyncio.Task[None]] = set()
        self._relay: asyncio.Server | None = None
        try:
            self._run(self._open())
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """Its address."""
        return f"memphis://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Ends it; once is enough."""
        if self._thread.is_alive():
            self._run(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
            self.server.stop()

    def stored(self, stream: str) -> list[Stored]:
        """The messages of a stream."""
        return Operator(self.server, _SERVER["user"], _SERVER["pass"]).stored(stream)

    def bodies(self, subject: str) -> list[Any]:
        """What came on that subject of the control plane."""
        return [asked.body for asked in list(self.asked) if asked.subject == subject]

    # ---- what an operator does at the dashboard, or another client -----------------------------------------------

    def make(self, station: str, partitions: int = 1) -> None:
        """Makes a station."""
        self._run(self._make(station, partitions))

    def remove(self, station: str, notice: bool) -> None:
        """Removes a station; clients are told of it only when that is done in the dashboard."""
        self._run(self._remove(station))
        if notice:
            self.tell(
                "$memphis_sdk_clients_updates", {**RECORDED["remove_station"], "station_name": _internal(station)}
            )

    def attach(self, station: str, schema: str) -> None:
        """Attaches a recorded schema; clients are told."""
        self.schemas[station] = RECORDED["schemas"][schema]
        self.tell(f"$memphis_schema_updates_{_internal(station)}", {"UpdateType": 1, "init": self.schemas[station]})

    def detach(self, station: str) -> None:
        """Takes the schema away; clients are told."""
        self.schemas.pop(station, None)
        self.tell(f"$memphis_schema_updates_{_internal(station)}", RECORDED["detached"])

    def keep_dead_letters(self, station: str, on: bool) -> None:
        """Switches dead letters of schema failures; clients are told the value before the change, as recorded."""
        before, self.dead_letters[station] = self.dead_letters.get(station, True), on
        news = {**RECORDED["schemaverse_to_dls"], "station_name": _internal(station), "update": before}
        self.tell("$memphis_sdk_clients_updates", news)

    def tell(self, subject: str, body: Any) -> None:
        """Publishes something to clients."""
        self._run(self._tell(subject, body))

    async def _tell(self, subject: str, body: Any) -> None:
        await self._client.publish(subject, json.dumps(body).encode())
        await self._client.flush()

    # ---- the control plane ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        async def ignore(error: Exception) -> None:
            pass

        self._client: Client = await nats.connect(
            self.server.url,
            user=_SERVER["user"],
            password=_SERVER["pass"],
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            error_cb=ignore,
        )
        for subject in _HEARD:
            await self._client.subscribe(subject, cb=self._on_control)
        self._relay = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._relay.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._relay is not None:
            self._relay.close()
        for task in list(self._relays):
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), 1)

    async def _on_control(self, message: Msg) -> None:
        try:
            body = json.loads(message.data)
        except ValueError:
            body = message.data
        self.asked.append(Asked(message.subject, body))
        if not message.reply or message.subject in self.silent:
            return
        answer = _ANSWERS.get(message.subject)
        if answer is not None:
            answers = await answer(self, body)
            for one in answers if isinstance(answers, list) else [answers]:
                await message.respond(one)

    async def _answer_station(self, body: dict[str, Any]) -> bytes:
        name, user = body["name"], body["username"]
        if not _NAME.fullmatch(name):
            return RECORDED["bad_station"].encode()
        if not self._may_write(user, name):
            return RECORDED["not_allowed_to_create"].format(user=user, station=name).encode()
        if user in self.users:
            await self._make(name, body["partitions_number"], user)
        return b""

    async def _answer_producer(self, body: dict[str, Any]) -> bytes:
        name, user = body["station_name"].lower(), body["username"]
        error = ""
        if not _NAME.fullmatch(name):
            error = RECORDED["bad_station"]
        elif user not in self.users:
            error = RECORDED["no_user"].format(user=user)
        elif not self._may_write(user, name):
            text = "not_allowed_to_access" if name in self.stations else "not_allowed_to_create"
            error = RECORDED[text].format(user=user, station=name)
        elif self.races > 0:
            self.races -= 1
            error = RECORDED["race"].format(station=name)
        if error:
            return json.dumps({**RECORDED["no_producer"], "error": error}).encode()
        await self._make(name, 1, user)
        answer = json.loads(json.dumps(RECORDED["producer"]))
        answer["partitions_update"]["partitions_list"] = self.stations[name]
        answer["schema_update"] = self.schemas.get(name, answer["schema_update"])
        answer["schemaverse_to_dls"] = self.dead_letters.get(name, True)
        answer["send_notification"] = self.notify
        while self.between:
            await self._tell(*self.between.pop())
        return json.dumps(answer).encode()

    async def _answer_consumer(self, body: dict[str, Any]) -> list[bytes]:
        """A refusal is plain text, and another answer follows it."""
        name, user = body["station_name"].lower(), body["username"]
        error = ""
        if not _NAME.fullmatch(name):
            error = RECORDED["bad_station"]
        elif not _NAME.fullmatch(body["name"]):
            error = RECORDED["bad_consumer"]
        elif user not in self.users:
            error = RECORDED["no_consumers_user"]
        elif not self._may_write(user, name):
            text = "not_allowed_to_access" if name in self.stations else "not_allowed_to_create"
            error = RECORDED[text].format(user=user, station=name)
        if error:
            return [error.encode(), json.dumps(RECORDED["no_consumer"]).encode()]
        await self._make(name, 1, user)
        for number in self.stations[name]:
            await self._make_durable(f"{_internal(name)}${number}", body)
        partitions = {"partitions_list": self.stations[name]}
        return [json.dumps({**RECORDED["consumer"], "partitions_update": partitions}).encode()]

    async def _make_durable(self, stream: str, body: dict[str, Any]) -> None:
        durable = _internal(body["consumers_group"] or body["name"])
        wait, deliveries = body["max_ack_time_ms"], body["max_msg_deliveries"]
        config = {
            **RECORDED["durable"],
            "durable_name": durable,
            "filter_subject": f"{stream}.final",
            "ack_wait": (wait if wait > 0 else 30000) * 1_000_000,
            "max_deliver": deliveries if 1 <= deliveries <= 10 else 10,
        }
        asked = json.dumps({"stream_name": stream, "config": config}).encode()
        await self._client.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}", asked, timeout=5)

    async def _answer_destruction(self, body: dict[str, Any]) -> bytes:
        return b""

    async def _make(self, name: str, partitions: int, user: str = "") -> None:
        name = name.lower()
        if name in self.stations:
            return
        for number in range(1, partitions + 1):
            stream = f"{_internal(name)}${number}"
            config = {**RECORDED["stream"], "name": stream, "subjects": [f"{stream}.>"]}
            await self._client.request(f"$JS.API.STREAM.CREATE.{stream}", json.dumps(config).encode(), timeout=5)
        self.stations[name] = list(range(1, partitions + 1))
        self._made_at[name] = self._loop.time()
        if user in self.users and self.users[user].write:
            self._allowed_at[_internal(name)] = self._loop.time() + LATE_SECONDS

    async def _remove(self, name: str) -> None:
        for number in self.stations.pop(name):
            await self._client.request(f"$JS.API.STREAM.DELETE.{_internal(name)}${number}", b"", timeout=5)

    def _may_write(self, user: str, station: str) -> bool:
        patterns = self.users[user].write if user in self.users else ()
        return not patterns or any(fnmatch.fnmatchcase(station.lower(), pattern) for pattern in patterns)

    # ---- the relay -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._relay_all(reader, writer)
        finally:
            writer.close()
            self._relays.discard(task)

    async def _relay_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(_info(await inner.readline()))
            user = self._user(await reader.readline())
            if user is None:
                writer.write(b"-ERR 'Authorization Violation'\r\n")
                await writer.drain()
                return
            sent = {"headers": True, "no_responders": True, "verbose": False, "protocol": 1, **_SERVER}
            outer.write(b"CONNECT " + json.dumps(sent).encode() + b"\r\n")
            pumps = [
                asyncio.ensure_future(self._to_server(reader, outer, writer, user)),
                asyncio.ensure_future(to_client(inner, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            outer.close()

    def _user(self, line: bytes) -> str | None:
        """Who the broker takes the client for; None when it is not let in. The rules are those that were recorded."""
        connect: dict[str, Any] = json.loads(line.partition(b" ")[2])
        self.connects.append(connect)
        if "MEMPHIS HTTP LOGGER" in connect.get("name", ""):
            good = {"auth_token": f"root::{self.token}"} if self.token else {"user": "$$memphis", "pass": "memphis"}
            return "root" if good.items() <= connect.items() else None
        parts = connect.get("name", "").split("::")
        named = parts[1] if len(parts) == 2 else None
        if len(parts) > 2 or (named is not None and named not in self.users):
            return None
        if self.token:
            return named if named and connect.get("auth_token") == self.token else None
        user = connect.get("user", "").removesuffix("$1")
        if user not in self.users or connect.get("pass") != self.users[user].secret:
            return None
        self.names.append(connect.get("name", ""))
        return user

    async def _to_server(
        self, reader: asyncio.StreamReader, outer: asyncio.StreamWriter, back: asyncio.StreamWriter, user: str
    ) -> None:
        opened_at = self._loop.time()
        while line := await reader.readline():
            words = line.split()
            payload = b""
            if words[0] in (b"PUB", b"HPUB"):
                payload = await reader.readexactly(int(words[-1]) + 2)
            if words[0] in (b"PUB", b"HPUB", b"SUB"):
                subject = words[1].decode()
                self.lines.append(f"{words[0].decode()} {subject}")
                if not self._may_use(user, subject, opened_at):
                    back.write(f"-ERR {RECORDED['violation']}\r\n".encode())
                    continue
            if words[0] == b"HPUB":
                line, payload = with_nats_id(words, payload)
                if words[1].decode() in self.slow:
                    self._loop.call_later(SLOW_SECONDS, outer.write, line + payload)
                    continue
            outer.write(line + payload)
            await outer.drain()

    def _may_use(self, user: str, subject: str, opened_at: float) -> bool:
        """Whether a user of limited rights may use a station's subjects, now, by a connection opened then."""
        station = _STATIONS_OWN.sub("", subject)
        if not self.users[user].write or station == subject:
            return True
        name = station.replace("#", ".")
        late = self._allowed_at.get(station, 0.0)
        if name not in self.stations or not self._may_write(user, name):
            return False
        return self._loop.time() >= late if self.reloads else self._made_at[name] <= opened_at

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


_ANSWERS: dict[str, Callable[[Standin, dict[str, Any]], Awaitable[bytes | list[bytes]]]] = {
    "$memphis_station_creations": Standin._answer_station,
    "$memphis_producer_creations": Standin._answer_producer,
    "$memphis_producer_destructions": Standin._answer_destruction,
    "$memphis_consumer_creations": Standin._answer_consumer,
}

_HEARD = [*_ANSWERS, "$memphis_schemaverse_dls", "$memphis_notifications", "$memphis_syslogs.>"]


def _internal(station: str) -> str:
    return station.lower().replace(".", "#")


def _info(line: bytes) -> bytes:
    """What the broker announces: the recorded version."""
    info = {**json.loads(line.partition(b" ")[2]), "version": RECORDED["version"]}
    return b"INFO " + json.dumps(info).encode() + b"\r\n"
