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

_PROCESSOR = 36  # its place in /proc/<pid>/stat behind the name, from 0. Source: proc_pid_stat(5)


def cores() -> set[int]:
    """The cores that this thread may use; none where a program cannot choose among them."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def gather() -> None:
    """Keeps the threads of this process to the core that this one runs on. Raises `OSError` where it may not.

    If there are others than a worker's own, nothing is done: they may have been started to use more cores.
    """
    threads = _threads()
    if len(threads) == THREADS:
        _keep(threads, {_core()})


def scatter(cores: Iterable[int]) -> None:
    """Lets all threads of this process use these cores. Raises `OSError`."""
    _keep(_threads(), cores)


def _keep(threads: Iterable[int], cores: Iterable[int]) -> None:
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread, cores)


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _core() -> int:
    """The core that this thread runs on."""
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
