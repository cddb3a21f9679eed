"""What it costs to sync messages to the disk: one server and three, each choice in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.cluster import Cluster
from tests.faults.scene import percentile
from tests.faults.senders import USER, Crew, Habit
from tests.servers import Gateway

_ONE = ("always", "0.1", "1", "10", "120")
_THREE = ("always", "1", "120")
_STATION = "orders"
_LOADS = ((64, Habit(1, False)), (8, Habit(100, False)))


class Cost(NamedTuple):
    """Messages a second and the seconds that half of and 99 of 100 answers took."""

    servers: int
    interval: str
    batch: int
    senders: int
    rate: float
    p50: float
    p99: float


def costs(directory: Path, seconds: float) -> Iterator[Cost]:
    """Measures each choice under each load for so many seconds."""
    for interval in _ONE:
        with _one(directory / f"one-{interval}", interval) as gateway:
            yield from _measure(gateway, 1, interval, seconds)
    for interval in _THREE:
        with _three(directory / f"three-{interval}", interval) as gateway:
            yield from _measure(gateway, 3, interval, seconds)


@contextlib.contextmanager
def _one(directory: Path, interval: str) -> Iterator[Gateway]:
    """A gateway with a broker of its own."""
    settings = {"SYNC_INTERVAL_SECONDS": interval, "ROOT_USER": USER, "LOG_LEVEL": "warning"}
    gateway = Gateway(directory, settings)
    try:
        yield gateway.start()
    finally:
        gateway.stop()


@contextlib.contextmanager
def _three(directory: Path, interval: str) -> Iterator[Gateway]:
    """A gateway at a cluster, with a station of three replicas."""
    sync = interval if interval == "always" else f"'{interval}s'"
    config = f"jetstream {{{{ store_dir: '{{directory}}', sync_interval: {sync} }}}}"
    cluster = Cluster(directory / "cluster", config=config)
    brokers = ",".join(server.url for server in cluster.servers)
    gateway = Gateway(directory, {"BROKER_URL": brokers, "JWT_SECRET": "s" * 32, "LOG_LEVEL": "warning"})
    try:
        cluster.start().add(_STATION)
        yield gateway.start()
    finally:
        gateway.stop()
        cluster.stop()


def _measure(gateway: Gateway, servers: int, interval: str, seconds: float) -> Iterator[Cost]:
    for senders, habit in _LOADS:
        with Crew(gateway.host, _STATION, senders=senders, pause=0, habits=(habit,)) as crew:
            began = time.monotonic()
            time.sleep(seconds)
            crew.stop()
        answers = crew.ledger.answers
        assert {answer.status for answer in answers} == {200}, crew.ledger.statuses
        took = max(answer.at for answer in answers) - began
        rate = len(answers) * habit.size / took
        yield Cost(servers, interval, habit.size, senders, rate, percentile(answers, 50), percentile(answers, 99))
