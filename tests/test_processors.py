"""The core that a worker's threads share. Each case is a process of its own, as it is about all threads of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from proxy import processors
from tests.servers import ROOT

_START = """
import json, os, threading
from proxy import processors

def threads(count):
    for _ in range(count):
        started = threading.Event()
        threading.Thread(target=lambda: (started.set(), ended.wait(10))).start()
        started.wait(10)

def cores():
    return [sorted(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")]

ended, told, company = threading.Event(), [], processors.Company()
all_cores = os.sched_getaffinity(0)
"""
_END = "ended.set(); print(json.dumps(told))"
_ALL = sorted(os.sched_getaffinity(0))


def _told(lines: str) -> list[list[list[int]]]:
    """What a process that runs these lines tells: lists with the cores of each of its threads."""
    code = "\n".join([_START, lines, _END])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    told: list[list[list[int]]] = json.loads(done.stdout or done.stderr)
    return told


def test_both_threads_of_a_worker_share_a_core() -> None:
    """And have all cores again when they are let go, with what was started meanwhile."""
    gathered, scattered = _told(
        "threads(1); company.gather(); told.append(cores())\nthreads(1); company.scatter(); told.append(cores())"
    )
    assert gathered == [gathered[0]] * 2
    assert len(gathered[0]) == 1
    assert set(gathered[0]) <= set(_ALL)
    assert scattered == [_ALL] * 3


def test_threads_of_others_are_left_alone() -> None:
    """They may be there to use more cores."""
    (left,) = _told("threads(2); company.gather(); told.append(cores())")
    assert left == [_ALL] * 3


def test_those_that_look_up_names_do_not_count() -> None:
    """The loop has some as soon as the broker has a name."""
    gathered, scattered = _told(
        "import asyncio, uvloop\n"
        "loop = uvloop.new_event_loop()\n"
        "loop.run_until_complete(loop.getaddrinfo('localhost', 1)); loop.close()\n"
        "threads(1); company.gather(); told.append(cores()); company.scatter(); told.append(cores())"
    )
    assert len(gathered) > 2
    assert sorted(map(len, gathered))[:2] == [1, 1]
    assert scattered == [_ALL] * len(gathered)


def test_what_somebody_has_chosen_stays() -> None:
    """As with taskset, for one thread before and for all after."""
    before, after = _told(
        "threads(1); one = {min(all_cores)}\n"
        "os.sched_setaffinity(0, one); company.gather(); told.append(cores()); os.sched_setaffinity(0, all_cores)\n"
        "company.gather(); chosen = all_cores - os.sched_getaffinity(0) or all_cores\n"
        "[os.sched_setaffinity(int(thread), chosen) for thread in os.listdir('/proc/self/task')]\n"
        "company.scatter(); told.append(cores()); told[1] = [core == sorted(chosen) for core in told[1]]"
    )
    assert before == [_ALL[:1], _ALL]
    assert after == [True, True]


def test_they_are_let_go_without_a_file_descriptor() -> None:
    """Without a file descriptor threads cannot be listed."""
    (left,) = _told(
        "import resource\n"
        "threads(1); company.gather()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "company.scatter()\n"
        "told.append([sorted(os.sched_getaffinity(thread)) for thread in company._threads])"
    )
    assert left == [_ALL] * 2


def test_where_cores_cannot_be_chosen_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no such thing; and of one core there is nothing to choose."""
    assert processors.supported() == (len(_ALL) > 1)
    monkeypatch.delattr(os, "sched_setaffinity")
    assert not processors.supported()
