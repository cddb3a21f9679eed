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

ended, told = threading.Event(), []
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
    """And have all cores again when they are let go."""
    gathered, scattered = _told(
        "threads(1); all_cores = processors.cores(); processors.gather(); told.append(cores())\n"
        "processors.scatter(all_cores); told.append(cores())"
    )
    assert gathered == [gathered[0]] * 2
    assert len(gathered[0]) == 1
    assert set(gathered[0]) <= set(_ALL)
    assert scattered == [_ALL] * 2


def test_threads_of_others_are_left_alone() -> None:
    """They may be there to use more cores; the worker's own are let go with them."""
    left, scattered = _told(
        "threads(1); all_cores = processors.cores(); processors.gather(); threads(1)\n"
        "processors.scatter(all_cores); processors.gather(); told.append(cores())\n"
        "threads(1); processors.gather(); told.append(cores())"
    )
    assert left == [_ALL] * 3
    assert scattered == [_ALL] * 4


def test_where_cores_cannot_be_chosen_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no such thing."""
    with_choice = processors.cores()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processors.cores() == set()
    assert with_choice == set(_ALL)
