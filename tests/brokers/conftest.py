"""Fixtures that several broker tests share; a module brings its own `server`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Config
from proxy.producer import Producer
from tests.brokers import tools
from tests.brokers.memphis_standin import Standin
from tests.brokers.memphis_tools import USERS
from tests.brokers.replicas import Replica
from tests.brokers.tools import Operator, settings
from tests.servers import NatsServer, eventually, free_port


@pytest.fixture
def submit() -> Iterator[Callable[..., Future[Any]]]:
    """Runs functions in threads; they have ended when the test has."""
    with ThreadPoolExecutor(70) as pool:
        yield pool.submit


@pytest.fixture
def operator(server: NatsServer) -> Operator:
    """Who looks into the server."""
    return Operator(server)


@pytest.fixture
def started(server: NatsServer, operator: Operator, producer: Callable[[Config], Producer]) -> Producer:
    """A producer; the station `orders` is there."""
    operator.add("orders", allow_batched=True)
    return producer(settings(server.url, PRODUCE_TIMEOUT_SECONDS="2"))


@pytest.fixture
def replica() -> Iterator[Callable[[Config], Replica]]:
    """Starts workers: `replica(config)`."""
    with contextlib.ExitStack() as stack:

        def start(config: Config) -> Replica:
            replica = Replica(config)
            stack.callback(replica.stop)
            return replica

        yield start


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    """A Memphis broker with the recorded users; station `orders` is there."""
    standin = Standin(tmp_path / "broker", USERS)
    standin.make("orders")
    yield standin
    standin.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """Three servers of one cluster."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        servers = []
        for number, port in enumerate(ports):
            config = f"server_name: n{number}\ncluster {{ name: c, listen: '127.0.0.1:{port}', routes: [{routes}] }}"
            server = NatsServer(tmp_path / f"n{number}", config, users=tools.USERS)
            stack.callback(server.stop)
            servers.append(server.start())
        eventually(lambda: _ready(servers), 20)
        yield servers


def _ready(servers: list[NatsServer]) -> bool:
    """Whether streams can be made."""
    with contextlib.suppress(Exception):
        for server in servers:
            Operator(server).api("INFO")
        Operator(servers[0]).api("STREAM.CREATE.probe", name="probe", subjects=["probe"], num_replicas=3)
        Operator(servers[0]).api("STREAM.DELETE.probe")
        return True
    return False
