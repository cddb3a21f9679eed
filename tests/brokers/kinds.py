"""Running brokers of each kind, as the tests that all kinds must pass see them.

A new kind of broker is a class here and a line in `KINDS`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from proxy.brokers import embedded
from proxy.brokers import embedded_files as files
from proxy.config import Config
from proxy.credentials import Credentials
from tests.brokers.memphis_standin import Standin
from tests.brokers.tools import ROOT, USERS, Operator, Stored, settings
from tests.servers import NatsServer, eventually, pause


class Broker(Protocol):
    """A running broker with a user who may do everything, and no station."""

    user: Credentials

    def settings(self, **env: Any) -> Config:
        """The settings of a gateway for it; `env` are further variables."""

    def stored(self, station: str) -> list[Stored]:
        """What a station has, in order, by the name that clients use."""

    def kill(self) -> None:
        """Ends it as a power cut would, and lets it come back with its messages."""

    def pause(self) -> None:
        """Makes it fall silent, its connections open."""

    def resume(self) -> None:
        """Ends a pause."""

    def stop(self) -> None:
        """Ends it."""


class Nats:
    """A nats-server with JetStream."""

    user = ROOT

    def __init__(self, directory: Path) -> None:
        self._server = NatsServer(directory, users=USERS).start()

    def settings(self, **env: Any) -> Config:
        """`BROKER_URL` is its address."""
        return settings(self._server.url, **env)

    def stored(self, station: str) -> list[Stored]:
        """The messages of the stream."""
        return Operator(self._server).stored(station.replace(".", "#"))

    def kill(self) -> None:
        """Starts it again at once."""
        self._server.kill()
        self._server.start()

    def pause(self) -> None:
        """By SIGSTOP."""
        self._server.pause()

    def resume(self) -> None:
        """By SIGCONT."""
        self._server.resume()

    def stop(self) -> None:
        """As an operator would."""
        self._server.stop()


class Embedded:
    """The broker that the gateway runs itself."""

    user = ROOT

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._broker = embedded.start(self.settings())
        assert self._broker.await_ready(10)

    @property
    def url(self) -> str:
        """Its address, which may change when it restarts."""
        return embedded.address(self._directory)

    def settings(self, **env: Any) -> Config:
        """No `BROKER_URL`, but a `DATA_DIR`."""
        return settings(DATA_DIR=self._directory, EMBEDDED_PORT=0, **env)

    def stored(self, station: str) -> list[Stored]:
        """The messages of the stream."""
        return Operator(self).stored(station.replace(".", "#"))

    def kill(self) -> None:
        """Its supervisor starts another one."""
        before = self._pid()
        os.kill(before, signal.SIGKILL)
        eventually(lambda: self._pid() not in (0, before))

    def pause(self) -> None:
        """The nats-server, not its supervisor."""
        pause(self._pid())

    def resume(self) -> None:
        """The nats-server."""
        os.kill(self._pid(), signal.SIGCONT)

    def stop(self) -> None:
        """With its supervisor."""
        self._broker.stop()

    def _pid(self) -> int:
        running = files.read_running(self._directory)
        return running.pid if running else 0


class Memphis:
    """The stand-in for a Memphis broker."""

    user = ROOT

    def __init__(self, directory: Path) -> None:
        self._standin = Standin(directory)

    def settings(self, **env: Any) -> Config:
        """`BROKER_URL` is its address."""
        return settings(self._standin.url, **env)

    def stored(self, station: str) -> list[Stored]:
        """The messages of its partitions, one after the other."""
        partitions = self._standin.stations[station]
        streams = [f"{station.replace('.', '#')}${number}" for number in partitions]
        return [message for stream in streams for message in self._standin.stored(stream)]

    def kill(self) -> None:
        """Starts it again at once."""
        self._standin.server.kill()
        self._standin.server.start()

    def pause(self) -> None:
        """By SIGSTOP."""
        self._standin.server.pause()

    def resume(self) -> None:
        """By SIGCONT."""
        self._standin.server.resume()

    def stop(self) -> None:
        """As an operator would."""
        self._standin.stop()


KINDS: dict[str, Callable[[Path], Broker]] = {
    "nats": Nats,
    "embedded": Embedded,
    "memphis": Memphis,
}
