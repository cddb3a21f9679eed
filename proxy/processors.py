"""The core that a worker's threads share.

A worker has two threads, and as only one of them can run Python at a time they take turns, several for each request.
Left to the system they do so across cores: a turn wakes up another core, and both drive the broker's threads from
theirs. See `docs/decisions/0046-a-workers-threads-share-a-core.md`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

THREADS = 2  # of a worker: that of the requests, and that of the broker's connections

_TASKS = Path("/proc/self/task")
_PROCESSOR = 36  # its place in /proc/<pid>/stat behind the name, from 0. Source: proc_pid_stat(5)
_RESOLVER = b"libuv-worker"  # a thread of the loop's that looks up names, and sleeps otherwise


class Company:
    """The threads of this process, which share a core for a while."""

    def __init__(self) -> None:
        self._core = -1
        self._all = self._cores = os.sched_getaffinity(0)
        self._threads: list[int] = []

    def gather(self) -> None:
        """Keeps the threads of a worker to the core that this one runs on. Raises `OSError` where it may not.

        Nothing is done if there are others, which may have been started to use more cores, or if somebody has chosen
        cores for them one by one.
        """
        threads, cores = _threads(), os.sched_getaffinity(0)
        if len(threads) != THREADS or any(_cores_of(thread) != cores for thread in threads) or cores == {self._core}:
            return
        # What the parent has, too, is the system's choice. It may be less for now: asked for all, the system gives all
        # as soon as it can.
        self._cores = self._all if cores == os.sched_getaffinity(os.getppid()) else cores
        self._core, self._threads = _core(), threads
        _keep(threads, {self._core})

    def scatter(self) -> None:
        """Lets them use all cores again that they could, and what was started meanwhile. Raises `OSError`.

        Threads for which somebody has chosen others since then are left there.
        """
        threads = self._threads
        with contextlib.suppress(OSError):  # no file descriptor is left
            threads = _all_threads()
        _keep([thread for thread in threads if _cores_of(thread) == {self._core}], self._cores)


def supported() -> bool:
    """Whether this system lets a program choose its cores, and has several for it."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


def _keep(threads: Iterable[int], cores: Iterable[int]) -> None:
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread, cores)


def _cores_of(thread: int) -> set[int]:
    with contextlib.suppress(ProcessLookupError):
        return os.sched_getaffinity(thread)
    return set()


def _threads() -> list[int]:
    """Those of them that work."""
    return [thread for thread in _all_threads() if (_TASKS / str(thread) / "comm").read_bytes().strip() != _RESOLVER]


def _all_threads() -> list[int]:
    return list(map(int, os.listdir(_TASKS)))


def _core() -> int:
    """The core that this thread runs on."""
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
