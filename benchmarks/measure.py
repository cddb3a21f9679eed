"""What processes use, read from `/proc` (Linux): CPU time and memory. Source: proc(5)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.servers import children

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.5


class ProcessEnded(Exception):
    """A process that is measured has ended."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that the processes have used so far, their threads included. Raises `ProcessEnded`."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise ProcessEnded(f"process {pid} has ended") from None
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


def machine_seconds() -> float:
    """CPU time that everything on this machine has used so far, all cores together."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS


def own_seconds() -> float:
    """CPU time of this process and of the children that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pss_mib(pid: int) -> float:
    """Proportional set size of a process: its own memory, and its share of what it shares. 0 when it has ended."""
    return _mapped_mib(pid, "Pss:")


def anonymous_mib(pid: int) -> float:
    """Memory of a process that is of no file; whoever else maps the same files does not change it, as it does PSS.

    0 when it has ended.
    """
    return _mapped_mib(pid, "Anonymous:")


def _mapped_mib(pid: int, name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def descendants(pid: int) -> set[int]:
    """The process and all that descend from it."""
    return {pid}.union(*map(descendants, children(pid)))


class Memory:
    """Reads the memory of processes twice a second, from `with` to its end.

    `series` holds for each reading the MiB of the largest process and of all together, as `size` tells them.
    """

    def __init__(self, pids: Iterable[int], size: Callable[[int], float] = pss_mib) -> None:
        self._pids, self._size = tuple(pids), size
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.series: list[tuple[float, float]] = []

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def largest(self) -> float | None:
        """The most that one process had, in MiB; None without processes."""
        return max(one for one, _ in self.series) if self._pids else None

    @property
    def together(self) -> float | None:
        """The most that all had together, in MiB; None without processes."""
        return max(every for _, every in self.series) if self._pids else None

    def _run(self) -> None:
        while True:
            self.read()
            if self._done.wait(_SAMPLE_SECONDS):
                return

    def read(self) -> None:
        """Takes a reading now."""
        sizes = [self._size(pid) for pid in self._pids] or [0.0]
        self.series.append((max(sizes), sum(sizes)))


class Usage:
    """CPU time of a server, of the broker and of the rest of the machine, from `with` to its end, in seconds."""

    def __init__(self, server: Iterable[int], broker: int) -> None:
        self._server, self._broker = tuple(server), (broker,)
        self.server: float | None = None
        self.broker = self.others = self.seconds = 0.0

    def __enter__(self) -> Usage:
        self._before = self._read()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        server, broker, ours, all_, self.seconds = (
            after - before for after, before in zip(self._read(), self._before, strict=True)
        )
        self.server = server if self._server else None
        self.broker = broker
        self.others = max(0.0, all_ - server - broker - ours)

    def _read(self) -> tuple[float, float, float, float, float]:
        server, broker = cpu_seconds(self._server), cpu_seconds(self._broker)
        return server, broker, own_seconds(), machine_seconds(), time.monotonic()
