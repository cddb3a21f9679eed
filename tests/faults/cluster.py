"""Three real nats-servers that are one cluster, or one alone; and an operator who looks into it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from proxy.brokers.embedded import find_nats_server
from tests.brokers.tools import MONITOR, sessions
from tests.faults.senders import TOKEN, USER
from tests.servers import NatsServer, alive, eventually, free_port

_T = TypeVar("_T")
_CALM_SECONDS = 30.0  # for a cluster to have its leaders, and its copies of all streams
PROBE = b"probe"

USERS = f"""
authorization {{ users: [
  {{ user: root, password: memphis }}
  {{ user: {USER}, password: {TOKEN} }}
] }}
"""


class NotNow(Exception):
    """The broker does not answer, or refuses, for now."""


class Cluster:
    """`size` nats-servers with JetStream: `root` is their operator, `shop` the user whom senders log on as.

    `config` is added to the configuration of each, `{directory}` in it being where it keeps its data; `users` tells who
    may log on.
    """

    operator = ("root", "memphis")

    def __init__(self, directory: Path, size: int = 3, config: str = "", users: str = USERS) -> None:
        self._own, self._users = config, users
        self._routes = [free_port() for _ in range(size)] if size > 1 else []
        self.servers = [NatsServer(directory / f"n{number}") for number in range(size)]
        self.configure()

    def name(self, number: int) -> str:
        """What a server calls itself."""
        return f"n{number}"

    def configure(self, users: str = "", more: str = "") -> None:
        """Writes the configuration of all servers anew; it counts from `reload` or the next start on."""
        users = users or self._users
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        for number, server in enumerate(self.servers):
            own = self._own.format(directory=server.directory)
            lines = [f"server_name: {self.name(number)}", MONITOR, users, own, more]
            lines += ["lame_duck_grace_period: 1s", "lame_duck_duration: 30s"]
            if self._routes:
                lines.append(f"cluster {{ name: test, listen: 127.0.0.1:{self._routes[number]}, routes: [{routes}] }}")
            server.config("\n".join(lines))

    def start(self) -> Cluster:
        """Starts all servers, and waits until they have agreed on a leader."""
        for server in self.servers:
            server.start()
        self.await_api()
        return self

    def stop(self) -> None:
        """Ends all of them."""
        for server in self.servers:
            server.kill()

    def reload(self) -> None:
        """Makes all servers take their configuration."""
        for server in self.running():
            server.reload()

    def running(self) -> list[NatsServer]:
        """The servers that run."""
        return [server for server in self.servers if server._process is not None and alive(server.pid)]

    def heal(self) -> None:
        """Starts what has ended, wakes what stands still, takes back configurations, and waits until all is calm."""
        for server in self.servers:
            if server in self.running():
                server.resume()
            else:
                server.kill()
        self.configure()
        for server in self.servers:
            if server in self.running():
                server.reload()
            else:
                server.start()
        self.await_api()

    def lame_duck(self, server: NatsServer) -> None:
        """Restarts a server as an operator does who wants nobody to notice: it lets go of its clients first."""
        subprocess.run([find_nats_server(), "--signal", f"ldm={server.pid}"], check=True, timeout=10)
        eventually(lambda: not alive(server.pid), 40)
        server.kill()
        server.start()

    # ---- the operator ------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Client], Awaitable[_T]], seconds: float = 5.0) -> _T:
        """Asks through the first server that answers. Raises `NotNow` when none does."""

        async def through(server: NatsServer) -> _T:
            user, password = self.operator
            client = await nats.connect(
                server.url, user=user, password=password, allow_reconnect=False, connect_timeout=1, error_cb=_ignore
            )
            try:
                return await question(client)
            finally:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await client.close()

        why: Exception = NotNow("no server runs")
        for server in self.running():
            try:
                return asyncio.run(asyncio.wait_for(through(server), seconds))
            except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
                why = error
        raise NotNow(repr(why)) from None

    def api(self, verb: str, **body: Any) -> dict[str, Any]:
        """Asks the JetStream API. Raises `NotNow`."""
        answer = self.ask(lambda client: client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=2))
        content: dict[str, Any] = json.loads(answer.data)
        if "error" in content:
            raise NotNow(content["error"])
        return content

    def patiently(self, function: Callable[[], _T], within: float = _CALM_SECONDS) -> _T:
        """Repeats until the broker does not say `NotNow`."""
        found: list[_T] = []

        def done() -> bool:
            with contextlib.suppress(NotNow):
                found.append(function())
            return bool(found)

        eventually(done, within)
        return found[0]

    def await_api(self) -> None:
        """Waits until the cluster answers questions about streams."""
        self.patiently(lambda: self.api("STREAM.NAMES"))

    def add(self, station: str, **config: Any) -> None:
        """Makes the stream of a station, with a copy on each server."""
        stream = {"name": station, "subjects": [f"{station}.final"], "num_replicas": len(self.servers)}
        stream |= {"duplicate_window": int(120e9), "allow_batched": True, "allow_direct": True, **config}
        self.patiently(lambda: self.api(f"STREAM.CREATE.{station}", **stream))

    def update(self, station: str, **config: Any) -> None:
        """Changes the configuration of a station's stream."""
        stream = self.config(station)
        self.patiently(lambda: self.api(f"STREAM.UPDATE.{station}", **{**stream, **config}))

    def config(self, station: str) -> dict[str, Any]:
        """The configuration of a station's stream."""
        config: dict[str, Any] = self.patiently(lambda: self.api(f"STREAM.INFO.{station}"))["config"]
        return config

    def leader(self, station: str) -> NatsServer:
        """The server that leads the station's stream."""
        info = self.patiently(lambda: self._led(station))
        names = list(map(self.name, range(len(self.servers))))
        return self.servers[names.index(info["cluster"]["leader"])] if "cluster" in info else self.servers[0]

    def await_copies(self, station: str) -> None:
        """Waits until each server has all of the stream."""

        def current() -> bool:
            replicas = self.patiently(lambda: self._led(station)).get("cluster", {}).get("replicas") or []
            return len(replicas) == len(self.servers) - 1 and all(replica["current"] for replica in replicas)

        eventually(current, _CALM_SECONDS)

    def lead_elsewhere(self, station: str, than: NatsServer) -> None:
        """Has another server lead the stream."""

        def elsewhere() -> bool:
            if self.leader(station) is not than:
                return True
            with contextlib.suppress(NotNow):
                self.api(f"STREAM.LEADER.STEPDOWN.{station}")
            return False

        eventually(elsewhere, _CALM_SECONDS)

    def connected(self) -> list[NatsServer]:
        """The servers that senders' sessions are connected to."""
        return [server for server in self.running() if sessions(server, USER)]

    def await_store(self, station: str) -> float:
        """Waits until the stream stores what a plain client publishes, and the cluster answers questions about streams,
        which needs a leader of its own; the (monotonic) time at which it did.
        """

        async def publish(client: Client) -> None:
            answer = json.loads((await client.request(f"{station}.final", PROBE, timeout=0.5)).data)
            if "error" in answer:
                raise NotNow(answer["error"])

        self.patiently(lambda: self.ask(publish, 2.0), 60)
        self.await_api()
        return time.monotonic()

    def last(self, station: str) -> int:
        """The sequence of the stream's last message."""
        return int(self.patiently(lambda: self.api(f"STREAM.INFO.{station}"))["state"]["last_seq"])

    def payloads(self, station: str, last: int | None = None) -> list[bytes]:
        """The payloads of all messages of a station, up to that sequence, without those of `await_store`."""
        last = self.last(station) if last is None else last
        state = self.patiently(lambda: self.api(f"STREAM.INFO.{station}"))["state"]
        if not state["messages"] or state["first_seq"] > last:
            return []
        return self.patiently(lambda: self.ask(lambda client: _read(client, station, last), 120.0))

    def _led(self, station: str) -> dict[str, Any]:
        info = self.api(f"STREAM.INFO.{station}")
        if len(self.servers) > 1 and not info.get("cluster", {}).get("leader"):
            raise NotNow("no leader")
        return info


async def _read(client: Client, station: str, last: int) -> list[bytes]:
    """All that a stream has up to that sequence, which it must have, pushed to us as fast as we take it."""
    payloads: list[bytes] = []
    read = asyncio.Event()

    async def take(message: Msg) -> None:
        if not message.reply.startswith("$JS.ACK."):
            if message.reply:  # flow control: go on
                await client.publish(message.reply)
            return
        sequence = int(message.reply.split(".")[5])  # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>....
        if sequence <= last:
            payloads.append(message.data)
        if sequence >= last:
            read.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    consumer: dict[str, Any] = {"deliver_subject": inbox, "ack_policy": "none", "mem_storage": True, "num_replicas": 1}
    consumer |= {"flow_control": True, "idle_heartbeat": int(5e9)}
    body = json.dumps({"stream_name": station, "config": consumer}).encode()
    answer = json.loads((await client.request(f"$JS.API.CONSUMER.CREATE.{station}", body, timeout=5)).data)
    if "error" in answer:
        raise NotNow(answer["error"])
    await asyncio.wait_for(read.wait(), 90)
    return [payload for payload in payloads if payload != PROBE]


async def _ignore(error: Exception) -> None:
    """Takes nats-py's report of an error."""


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal, and waits until the process has ended."""
    os.kill(pid, number)
    eventually(lambda: not alive(pid), 10)
