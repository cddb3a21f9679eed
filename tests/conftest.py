"""Fixtures for all tests, and the check that none leaves anything behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Config
from proxy.producer import Producer
from tests.servers import Gateway, NatsServer, children, command, eventually

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def _adopt_orphans() -> None:
    """Makes this process the parent of orphans that programs under test leave, so that `_leaves_nothing` sees them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """Fails a test that leaves a thread, a process or a changed environment variable."""
    threads, processes, environment = _threads(), _processes(), _environment()
    yield
    assert _environment() == environment, "the test has changed environment variables"
    with contextlib.suppress(AssertionError):
        eventually(lambda: _threads() <= threads and _processes() <= processes)
    assert not _threads() - threads, "the test has left threads"
    assert not {pid: command(pid) for pid in _processes() - processes}, "the test has left processes"


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
    """Starts producers: `producer(config)`; stopped at the end, whatever is still under way."""
    with contextlib.ExitStack() as stack:

        def start(config: Config) -> Producer:
            producer = Producer(config)
            stack.callback(producer.stop, 0)
            producer.start()
            return producer

        yield start
