"""What is measured with one gateway running and no other, since processes share memory: start, memory, soak."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import client, servers
from benchmarks.cases import CASES, Case
from benchmarks.load import Answers
from benchmarks.measure import Memory, anonymous_mib
from benchmarks.rounds import FAILURES, Bench, MessagesLost, Sample, prove
from benchmarks.servers import CannotStart, Contestant
from tests.servers import alive, eventually

_START_WITHIN = 30.0
_MOST_BYTES = 256 << 20
_GROWTH, _GROWTH_MIB = 1.10, 2.0
_TRAFFIC = CASES["single-64"]
_SOAKED = (_TRAFFIC, CASES["single-1"])  # messages sent in groups, and each on its own
_IDLE = CASES["idle"]


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a gateway with a broker of its own to the first acknowledged message."""

    server: str
    seconds: list[float]


@dataclass(frozen=True)
class Footprint:
    """Most memory (PSS, MiB) of the largest process, and of all processes of a gateway."""

    server: str
    fresh: tuple[float, float]
    loaded: tuple[float, float]
    idle: int
    with_idle: tuple[float, float]


@dataclass(frozen=True)
class Soak:
    """A long run of one case; memory (MiB) of the largest process and of the broker at start, middle and end.

    Growth is judged by the anonymous memory: PSS divides libraries among those who happen to run with them.
    """

    server: str
    case: str
    minutes: float
    answers: Answers
    stored: int
    worker_pss_mib: tuple[float, float, float]
    worker_mib: tuple[float, float, float]
    broker_mib: tuple[float, float, float]

    @property
    def has_grown(self) -> bool:
        """Whether the worker has clearly more memory at the end than at the start: a tenth and 2 MiB."""
        start, _, end = self.worker_mib
        return end > start * _GROWTH + _GROWTH_MIB


def measure_start(names: Sequence[str], rounds: int) -> list[Start]:
    """Starts each variant in turn, again and again; the first time, which compiles modules, does not count."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds + 1):
        for name in list(taken):
            try:
                taken[name].append(_start(servers.VARIANTS[name]))
            except CannotStart as error:
                del taken[name]
                print(f"skipped {name}: it does not start: {error}", file=sys.stderr, flush=True)
    return [Start(name, seconds[1:]) for name, seconds in taken.items()]


def _start(settings: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory(prefix="stations-start-") as directory:
        began = time.monotonic()
        running = servers.started(Path(directory), settings)
        try:
            eventually(lambda: not alive(running.pid) or _takes_a_message(running.url), _START_WITHIN)
            seconds = time.monotonic() - began
        except AssertionError as error:
            raise CannotStart(str(error)) from None
        else:
            if alive(running.pid):
                return seconds
            raise CannotStart(servers.last_line(running.output()))
        finally:
            running.stop()


def _takes_a_message(url: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException, CannotStart):
        return client.send(url, _TRAFFIC.requests([servers.token(url)])[0])[0] == 200
    return False


def measure_memory(bench: Bench, directory: Path, names: Sequence[str]) -> list[Footprint]:
    """Runs each variant alone: as it starts, under traffic, and with idle connections beside the traffic."""
    once = replace(bench, rounds=1)
    found = []
    for name in names:
        print(f"measuring memory of {name} ...", file=sys.stderr, flush=True)
        with contextlib.ExitStack() as stack:
            for contestant in servers.start_all(stack, directory / "memory", [name], bench.broker.url):
                found += _footprint(once, contestant)
    return found


def _footprint(bench: Bench, contestant: Contestant) -> list[Footprint]:
    """One footprint; none when a measurement failed, which the bench has told."""
    fresh = Memory(contestant.pids())
    fresh.read()
    loaded, idle = bench.measure(_TRAFFIC, [contestant]), bench.measure(_IDLE, [contestant])
    if not loaded or not idle:
        return []
    largest, together = fresh.series[0]
    return [Footprint(contestant.name, (largest, together), _sizes(loaded[0]), idle[0].idle_open, _sizes(idle[0]))]


def _sizes(sample: Sample) -> tuple[float, float]:
    return sample.largest_mib or 0.0, sample.together_mib or 0.0


def measure_soak(bench: Bench, directory: Path, names: Sequence[str], minutes: float) -> list[Soak]:
    """Sends single messages, for so long in each case; memory that grows is a failure, which the bench is told."""
    found = []
    for name in names:
        print(f"measuring soak of {name} ...", file=sys.stderr, flush=True)
        with contextlib.ExitStack() as stack:
            for contestant in servers.start_all(stack, directory / "soak", [name], bench.broker.url):
                try:
                    found += [_soak(bench, case, contestant, minutes) for case in _SOAKED]
                except (*FAILURES, MessagesLost) as error:
                    bench.fail(f"soak: {name}: {error}")
    for soak in found:
        if soak.has_grown:
            start, _, end = soak.worker_mib
            bench.fail(f"soak: {soak.server}, {soak.case}: memory has grown from {start:.0f} to {end:.0f} MiB")
    return found


def _soak(bench: Bench, case: Case, contestant: Contestant, minutes: float) -> Soak:
    requests = bench.requests(case, contestant)
    bench.streams.make(case.stations, _MOST_BYTES)
    prove(contestant, requests[0])
    bench.load.run(contestant.url, requests, case.connections, bench.seconds)
    before = bench.streams.stored()
    pids, broker_pid = contestant.pids(), bench.broker.pid
    with Memory(pids) as pss, Memory(pids, anonymous_mib) as worker, Memory([broker_pid], anonymous_mib) as broker:
        answers = bench.load.run(contestant.url, requests, case.connections, max(1, round(minutes * 60)))
    stored = bench.check(case, answers, before, limited=True)
    return Soak(contestant.name, case.name, minutes, answers, stored, *map(_course, (pss, worker, broker)))


def _course(memory: Memory) -> tuple[float, float, float]:
    """Medians of the first, the middle and the last tenth of the readings of the largest process."""
    sizes = [largest for largest, _ in memory.series]
    tenth = max(1, len(sizes) // 10)
    middle = (len(sizes) - tenth) // 2
    return (
        statistics.median(sizes[:tenth]),
        statistics.median(sizes[middle : middle + tenth]),
        statistics.median(sizes[-tenth:]),
    )
