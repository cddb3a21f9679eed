"""Where faults happen: brokers, a gateway in front of them, senders at work, and what is measured meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import pss_mib
from tests.faults.cluster import USERS, Cluster
from tests.faults.ledger import Answer, Ledger, Verdict
from tests.faults.network import TcpProxy, urls
from tests.faults.senders import PAUSE_SECONDS, SENDERS, Crew, memory_of
from tests.servers import Gateway

DEADLINE_SECONDS = 10.0
_NUMBERS = itertools.count(1)


@dataclass
class Scene:
    """What a fault may lay hands on. `long` asks for faults that last; `station` is where the senders produce.

    A fault that the broker has no part in sets `back`, the (monotonic) time from which on recovery counts. One that
    nobody can hide from the senders sets `felt`: so many seconds some of them must have waited.
    """

    cluster: Cluster
    gateway: Gateway
    proxies: list[TcpProxy]
    station: str
    crew: Crew
    deadline: float
    long: bool = False
    back: float = 0.0
    felt: float = 0.0
    kept: list[bytes] = field(default_factory=list)

    def keep(self) -> None:
        """Reads all that the stream has, since it is about to go."""
        self.kept += self.cluster.payloads(self.station)

    def purge(self) -> None:
        """Reads what the stream has by now, and purges exactly that."""
        last = self.cluster.last(self.station)
        self.kept += self.cluster.payloads(self.station, last)
        self.cluster.api(f"STREAM.PURGE.{self.station}", seq=last + 1)

    def hold(self, short: float, long: float | None = None, *, felt: bool = False) -> None:
        """Lets the fault last for so many seconds; if it is felt, senders wait as long, or until their deadline."""
        seconds = (long or short) if self.long else short
        if felt:
            self.felt = min(seconds, self.deadline)
        time.sleep(seconds)

    def heal_network(self) -> None:
        """Lets everything pass again."""
        for proxy in self.proxies:
            proxy.heal()


@dataclass(frozen=True)
class Fault:
    """A fault: `run` brings it about and returns when it is over, or when it is the brokers' turn to get over it.

    `statuses` are those that may come besides 200, 0 for a connection that ends without an answer. `env` are settings
    of the gateway, `stream` of the station; `servers` run, with `config` and `users`; `proxied` puts a TCP proxy before
    each. Within `recovery` seconds of the broker's all senders must be served again, the gateway may need `growth` MiB
    more meanwhile, 99 of 100 answers 503 come within `refusal` seconds, and as many answers 200 within `latency`. In
    the long form the senders work for `seconds`.
    """

    name: str
    run: Callable[[Scene], None]
    statuses: frozenset[int] = frozenset()
    env: dict[str, str] = field(default_factory=dict)
    stream: dict[str, object] = field(default_factory=dict)
    servers: int = 3
    config: str = ""
    users: str = USERS
    proxied: bool = False
    app: str = "wsgi:app"
    args: tuple[str, ...] = ()
    filling: bytes = b"." * 80
    senders: int = SENDERS
    pause: float = PAUSE_SECONDS
    recovery: float = 5.0
    refusal: float = float("inf")
    latency: float = float("inf")
    growth: float = 64.0
    seconds: float = 20.0

    @property
    def deadline(self) -> float:
        """Seconds that a produce is tried."""
        return float(self.env.get("PRODUCE_TIMEOUT_SECONDS", DEADLINE_SECONDS))


@dataclass(frozen=True)
class Outcome:
    """What a fault has done: the ledger, its verdict, seconds until all senders were served again, memory in MiB.

    `felt` are the seconds that it must have made some sender wait.
    """

    fault: Fault
    ledger: Ledger
    verdict: Verdict
    recovery: float
    memory: list[float]
    felt: float = 0.0

    @property
    def growth(self) -> float:
        """MiB that the gateway needed more at its peak than before."""
        return max(self.memory) - self.memory[0]

    @property
    def wrong(self) -> dict[str, object]:
        """What must not be, by name; empty when the gateway has done what it promises."""
        found: dict[str, object] = dict(self.verdict.wrong)
        if strange := set(self.ledger.statuses) - self.fault.statuses - {200}:
            found["statuses"] = strange
        if self.ledger.longest > self.fault.deadline + 1:
            found["longest answer"] = self.ledger.longest
        if self.ledger.longest < self.felt * 0.9:
            found["not felt"] = self.ledger.longest
        if self.recovery > self.fault.recovery:
            found["recovery"] = self.recovery
        if self.growth > self.fault.growth:
            found["memory"] = self.memory
        refused = [answer for answer in self.ledger.answers if answer.status == 503]
        served = [answer for answer in self.ledger.answers if answer.status == 200]
        if not all(answer.retry for answer in refused):
            found["503"] = "no Retry-After"
        if percentile(refused, 99) > self.fault.refusal:
            found["99 of 100 answers 503"] = percentile(refused, 99)
        if percentile(served, 99) > self.fault.latency:
            found["99 of 100 answers 200"] = percentile(served, 99)
        return found


def percentile(answers: Iterable[Answer], share: int) -> float:
    """Seconds within which so many of 100 answers came; 0 for none."""
    seconds = sorted(answer.seconds for answer in answers)
    return seconds[len(seconds) * share // 100] if seconds else 0.0


def play(fault: Fault, cluster: Cluster, directory: Path, *, long: bool = False) -> Outcome:
    """Has the senders produce, brings about the fault, and compares what they were told with what the stream has."""
    station = f"faults-{next(_NUMBERS)}"
    cluster.add(station, **fault.stream)
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(TcpProxy(server.port)) for server in cluster.servers if fault.proxied]
        gateway = Gateway(directory, _settings(fault, cluster, proxies), app=fault.app, args=fault.args)
        stack.callback(gateway.stop)
        gateway.start()
        stack.callback(cluster.heal)
        crew = Crew(gateway.host, station, senders=fault.senders, pause=fault.pause, filling=fault.filling)
        scene = Scene(cluster, gateway, proxies, station, crew, fault.deadline, long)
        memory, back = _under_load(fault, scene)
        cluster.heal()
        verdict = crew.ledger.compare(scene.kept + cluster.payloads(station))
        with contextlib.suppress(Exception):
            cluster.api(f"STREAM.DELETE.{station}")
        return Outcome(fault, crew.ledger, verdict, crew.ledger.recovery(crew.senders, back), memory, scene.felt)


def _under_load(fault: Fault, scene: Scene) -> tuple[list[float], float]:
    """Memory, and when the broker was back."""
    began = time.monotonic()
    with scene.crew as crew, memory_of(scene.gateway.worker_pids, pss_mib) as memory:
        crew.await_stored()
        scene.hold(0, 5)
        fault.run(scene)
        back = scene.back or scene.cluster.await_store(scene.station)
        crew.await_all(60)
        scene.hold(0, max(1.0, began + fault.seconds - time.monotonic()))
    return memory, back


def _settings(fault: Fault, cluster: Cluster, proxies: list[TcpProxy]) -> dict[str, str]:
    brokers = urls(proxies) if proxies else [server.url for server in cluster.servers]
    return {
        "BROKER_URL": ",".join(brokers),
        "JWT_SECRET": "s" * 32,
        "HTTP_HOST": "127.0.0.1",
        "LOG_LEVEL": "warning",
        "PRODUCE_TIMEOUT_SECONDS": str(fault.deadline),
        **fault.env,
    }


@contextlib.contextmanager
def cluster_for(fault: Fault, shared: Cluster, directory: Path) -> Iterator[Cluster]:
    """The cluster that the fault happens to: the shared one, unless it needs servers of its own."""
    if fault.servers == len(shared.servers) and not fault.config and fault.users == USERS:
        yield shared
        return
    own = Cluster(directory, fault.servers, fault.config, fault.users)
    try:
        yield own.start()
    finally:
        own.stop()
