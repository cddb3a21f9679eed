"""A bridge whose loop stands still, or has ended."""

from __future__ import annotations

import threading
import time
from typing import Any

import gevent
import pytest

from proxy.bridge import Bridge
from proxy.errors import Stopping
from proxy.pulse import Pulse
from proxy.replies import GaveUp, Reply
from proxy.waiters import GeventWaiter
from tests.servers import eventually
from tests.test_bridge import at_once, bridge, never, spawn, waiter

__all__ = ["bridge", "waiter"]  # fixtures


def test_a_blocked_loop_delays_and_loses_nothing(bridge: Bridge) -> None:
    """The loop stands still for a second while jobs come in; all are answered afterwards."""
    bridge._loop.call_soon_threadsafe(time.sleep, 1)
    assert spawn(bridge._waiter, 50, lambda i: bridge.call(at_once, i, timeout=10)) == list(range(50))


def _looked_after(bridge: Bridge, seconds: float) -> bool:
    """Looks as a worker does for so long; whether the bridge is open all the while."""
    end = time.monotonic() + seconds
    while bridge.look() and time.monotonic() < end:
        gevent.sleep(0.05)
    return bridge.is_open


def test_a_loop_that_gives_signs_of_life_is_left_alone(bridge: Bridge) -> None:
    """Also while it stands still for a while."""
    bridge._loop.call_soon_threadsafe(time.sleep, 0.5)
    assert _looked_after(bridge, 0.9)
    bridge.call(at_once, 1, timeout=5)


@pytest.mark.slow
def test_a_loop_that_gives_no_sign_of_life_is_given_up(bridge: Bridge) -> None:
    """Nothing is accepted any more, for good."""
    release = threading.Event()
    bridge._loop.call_soon_threadsafe(release.wait, 20)
    assert not _looked_after(bridge, 10)
    with pytest.raises(Stopping):
        bridge.call(at_once, 1, timeout=5)
    release.set()
    eventually(lambda: not bridge._pulse._asked)
    assert not bridge.look()
    _end(bridge)


@pytest.mark.slow
def test_a_loop_that_runs_in_circles_is_given_up(bridge: Bridge) -> None:
    """Although it uses all that it gets."""
    release = threading.Event()

    def spin() -> None:
        while not release.is_set():
            pass

    bridge._loop.call_soon_threadsafe(spin)
    assert not _looked_after(bridge, 20)
    release.set()
    _end(bridge)


class _Gone(Pulse):
    """That of a thread that has stood still for long enough."""

    def due(self) -> bool:
        return True

    def look(self) -> bool:
        return False


def test_callers_of_a_loop_that_stands_still_are_told_what_is_known(bridge: Bridge) -> None:
    """They do not wait for their deadline."""
    release, told = threading.Event(), []

    def call() -> None:
        try:
            bridge.call(never, timeout=60)
        except GaveUp as error:
            told.append(error.started)

    joins = [_start(bridge, call)]
    _until(lambda: bridge._started)
    bridge._loop.call_soon_threadsafe(release.wait, 20)
    joins.append(_start(bridge, call))
    _until(lambda: bridge._inbox)
    bridge._pulse = _Gone()
    assert not bridge.look()
    for join in joins:
        join(10)
    assert sorted(told) == [False, True]
    release.set()
    _end(bridge)


def test_callers_of_a_loop_that_has_ended_are_told(bridge: Bridge) -> None:
    """What was under way is not known, and nobody waits for it."""
    told = []

    def call(job: Any) -> None:
        try:
            bridge.call(job, timeout=60)
        except GaveUp as error:
            told.append(error.started)

    joins = [_start(bridge, lambda job=job: call(job)) for job in (never, _exit)]
    _until(lambda: not bridge.is_open)
    assert not bridge.look()
    for join in joins:
        join(10)
    assert told == [True, True]
    bridge._waiter.close()


def _exit(reply: Reply) -> None:
    raise SystemExit


def _start(bridge: Bridge, function: Any) -> Any:
    """Runs a function as a caller of the bridge; the result waits for its end."""
    if isinstance(bridge._waiter, GeventWaiter):
        return gevent.spawn(function).join
    thread = threading.Thread(target=function)
    thread.start()
    return thread.join


def _until(condition: Any) -> None:
    """Waits as a greenlet does."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.01)


def test_a_loop_that_has_ended_is_noticed(bridge: Bridge) -> None:
    """Whatever ended it; nothing is accepted any more."""
    with pytest.raises(GaveUp):
        bridge.call(_exit, timeout=0.5)
    assert not bridge.look()
    bridge._waiter.close()


def _end(bridge: Bridge) -> None:
    """Ends the thread of a bridge that has been given up, which nobody does where the process ends anyway."""
    bridge._loop.call_soon_threadsafe(bridge._loop.stop)
    bridge._waiter.close()
