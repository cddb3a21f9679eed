"""Fixtures for all tests, and the check that none leaves anything behind."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import configuration
from hypothesis import settings as hypothesis_settings

from proxy.config import Config
from proxy.producer import Producer
from tests.application import NOWHERE, Api, add_team_routes, footprint, running, settings
from tests.servers import Gateway, NatsServer, children, command, eventually

_PR_SET_CHILD_SUBREAPER = 36

# The same examples every time, and no file of what was tried, nor of what hypothesis reads in the code.
configuration.set_hypothesis_home_dir(tempfile.gettempdir() + "/hypothesis")
hypothesis_settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis_settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _adopt_orphans() -> None:
    """Makes this process the parent of orphans that programs under test leave, so that `_leaves_nothing` sees them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture
def lasting() -> Callable[[], set[int]]:
    """Tells the processes that outlive a test although they may be others than before it; here none."""
    return set


@pytest.fixture(autouse=True)
def _leaves_nothing(lasting: Callable[[], set[int]]) -> Iterator[None]:
    """Fails a test that leaves a thread, a process or a changed environment variable."""
    threads, processes, environment = _threads(), _processes(), _environment()
    yield
    assert _environment() == environment, "the test has changed environment variables"
    with contextlib.suppress(AssertionError):
        eventually(lambda: _threads() <= threads and _processes() <= processes | lasting())
    assert not _threads() - threads, "the test has left threads"
    left = _processes() - processes - lasting()
    assert not {pid: command(pid) for pid in left}, "the test has left processes"


def _threads() -> set[int]:
    """All threads that run Python, those of `_thread.start_new_thread` too."""
    return set(sys._current_frames())


def _processes() -> set[int]:
    """All child processes; orphans that have ended are waited for on the way."""
    return children(os.getpid()) if sys.platform == "linux" else set()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Starts nats-servers: `nats_server(config, users={"root": "memphis"}, jetstream=True)`. See `NatsServer`."""
    with contextlib.ExitStack() as stack:

        def start(config: str = "", **options: Any) -> NatsServer:
            server = NatsServer(tmp_path / f"nats-{len(started)}", config, **options)
            started.append(server)
            stack.callback(server.stop)
            return server.start()

        started: list[NatsServer] = []
        yield start


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways: `gateway({"BROKER_URL": ...}, app=..., directory=...)`; call `.start()`. See `Gateway`."""
    with contextlib.ExitStack() as stack:

        def make(env: dict[str, str] | None = None, *, directory: Path = tmp_path, **options: Any) -> Gateway:
            gateway = Gateway(directory, env, **options)
            stack.callback(gateway.stop, signal.SIGINT)  # the quick way
            return gateway

        yield make


@pytest.fixture
def producer() -> Iterator[Callable[[Config], Producer]]:
    """Starts producers that ask for no schemas: `producer(config)`; stopped at the end, whatever is still under way."""
    with contextlib.ExitStack() as stack:

        def start(config: Config) -> Producer:
            producer = Producer(dataclasses.replace(config, schema_registry=False))
            stack.callback(producer.stop, 0)
            producer.start()
            return producer

        yield start


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server for all tests that only store messages and read them.

    Its users are `root` with `memphis`, `app1` with `Passw0rd!`, and `limited`, who may send to station `allowed` only.
    """
    server = NatsServer(tmp_path_factory.mktemp("broker"), _USERS)
    try:
        yield server.start()
    finally:
        server.stop()


_USERS = """
authorization { users: [
  { user: root, password: memphis }
  { user: app1, password: "Passw0rd!" }
  { user: limited, password: "Passw0rd!", permissions: { publish: [
      allowed.final, "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.KV_station-schemas"
  ] } }
] }
"""


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
    """Makes applications: `make_app(broker.url, MAX_BODY_BYTES="10")`; without a broker, for what needs none."""
    with contextlib.ExitStack() as stack:
        yield lambda url=NOWHERE, **env: stack.enter_context(running(settings(url, **env)))


@pytest.fixture(scope="module")
def app(broker: NatsServer) -> Iterator[Flask]:
    """An application at `broker` with routes of a team, shared by the tests of a module."""
    with running(settings(broker.url)) as app:
        add_team_routes(app)
        app.extensions["stations"].start()
        yield app


@pytest.fixture(scope="module")
def api(app: Flask) -> Api:
    """Requests to `app` as `root`."""
    return Api(app)


@pytest.fixture
def station() -> str:
    """The name of a station that no other test uses."""
    return f"station-{next(_NUMBERS)}"


_NUMBERS = itertools.count(1)


@pytest.fixture
def nothing_stored(broker: NatsServer) -> Iterator[None]:
    """Fails a test after which `broker` keeps more than before."""
    before = footprint(broker)
    yield
    assert footprint(broker) == before, "something was stored"
