"""The bridge alone: no HTTP, no broker."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from proxy.bridge import Bridge
from proxy.errors import Overloaded, Stopping
from proxy.replies import GaveUp, Reply
from proxy.waiters import GeventWaiter, ThreadWaiter, Waiter

WAITERS = {"gevent": GeventWaiter, "threads": ThreadWaiter}


async def nothing() -> None:
    """A set-up or teardown that has nothing to do."""


def at_once(reply: Reply, value: Any) -> None:
    """A job that answers where it stands."""
    reply.set(value)


def never(reply: Reply) -> None:
    """A job that does not answer."""


def spawn(waiter: Waiter, count: int, function: Any) -> list[Any]:
    """Runs `function(i)` in `count` greenlets or threads at once; returns the results in order."""
    if isinstance(waiter, GeventWaiter):
        return [g.get(timeout=30) for g in [gevent.spawn(function, i) for i in range(count)]]
    results: list[Any] = [None] * count
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, function(i)), name=f"caller {i}")
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.fixture(params=WAITERS)
def waiter(request: pytest.FixtureRequest) -> Waiter:
    """Each way of waiting."""
    return WAITERS[request.param]()


@pytest.fixture
def bridge(waiter: Waiter) -> Iterator[Bridge]:
    """A running bridge."""
    bridge = Bridge(nothing, nothing, waiter=waiter)
    bridge.start()
    yield bridge
    bridge.stop(0.1)


def test_a_job_answers(bridge: Bridge) -> None:
    """What a job sets is what `call` returns."""
    assert bridge.call(at_once, {"a": 1}, timeout=5) == {"a": 1}


def test_jobs_run_on_one_other_thread(bridge: Bridge) -> None:
    """All jobs share a thread, which is not the caller's."""
    idents = {bridge.call(lambda reply: reply.set(threading.get_ident()), timeout=5) for _ in range(5)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_a_coroutine_answers(bridge: Bridge) -> None:
    """`run` returns what the coroutine returns."""

    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    assert bridge.run(double, 21, timeout=5) == 42


def test_a_job_that_raises_raises_where_it_was_called(bridge: Bridge) -> None:
    """The exception of a job is the caller's."""

    def divide(reply: Reply) -> None:
        reply.set(1 // 0)

    with pytest.raises(ZeroDivisionError):
        bridge.call(divide, timeout=5)
    assert bridge.pending == 0


def test_a_coroutine_that_raises_raises_where_it_was_called(bridge: Bridge) -> None:
    """The same for coroutines."""

    async def divide() -> float:
        return 1 // 0

    with pytest.raises(ZeroDivisionError):
        bridge.run(divide, timeout=5)


def test_refused_before_start(waiter: Waiter) -> None:
    """A bridge that has not started takes nothing."""
    with pytest.raises(Stopping):
        Bridge(nothing, nothing, waiter=waiter).call(at_once, 1, timeout=1)


def test_refused_after_stop(bridge: Bridge) -> None:
    """A bridge that has stopped takes nothing, and stopping again does nothing."""
    assert bridge.stop() == 0
    with pytest.raises(Stopping):
        bridge.call(at_once, 1, timeout=1)
    assert bridge.stop() == 0


def test_a_failing_start_is_told_to_the_starter(waiter: Waiter) -> None:
    """What the set-up raises is raised by `start`, and the bridge stays closed."""

    async def fail() -> None:
        raise LookupError("no broker")

    bridge = Bridge(fail, nothing, waiter=waiter)
    with pytest.raises(LookupError, match="no broker"):
        bridge.start()
    assert not bridge.is_open


def test_a_start_has_a_deadline(waiter: Waiter) -> None:
    """A set-up that hangs ends `start` with a time-out."""
    bridge = Bridge(lambda: asyncio.sleep(60), nothing, waiter=waiter)
    with pytest.raises(asyncio.TimeoutError):
        bridge.start(timeout=0.05)
    assert not bridge.is_open


def test_a_caller_gives_up(bridge: Bridge) -> None:
    """A job that does not answer in time ends with `GaveUp`, which says that the job had begun."""
    with pytest.raises(GaveUp) as caught:
        bridge.call(never, timeout=0.02)
    assert caught.value.started


def test_giving_up_is_told_to_the_job(bridge: Bridge) -> None:
    """A job can clean up when nobody waits any more."""
    told = threading.Event()

    def wait(reply: Reply) -> None:
        reply.on_abandon = lambda: (told.set(), reply.fail(Stopping()))

    with pytest.raises(GaveUp):
        bridge.call(wait, timeout=0.02)
    assert told.wait(5)
    bridge.call(at_once, 1, timeout=5)
    assert bridge.pending == 0


def test_giving_up_cancels_a_coroutine(bridge: Bridge) -> None:
    """A coroutine nobody waits for is cancelled, and its place is free again."""
    with pytest.raises(GaveUp):
        bridge.run(asyncio.sleep, 60, timeout=0.02)
    bridge.call(at_once, 1, timeout=5)
    bridge.call(at_once, 1, timeout=5)
    assert bridge.pending == 0


def test_a_job_given_up_before_it_began_never_runs(bridge: Bridge) -> None:
    """While the loop is blocked a caller gives up; its job is not begun afterwards, and `GaveUp` says so."""
    ran = []
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(10)

    bridge._loop.call_soon_threadsafe(block)
    assert blocked.wait(5)
    with pytest.raises(GaveUp) as caught:
        bridge.call(lambda reply: ran.append(reply.set(None)), timeout=0.05)
    release.set()
    bridge.call(at_once, 1, timeout=5)
    assert not caught.value.started
    assert ran == []


@pytest.mark.slow
def test_ten_thousand_jobs_from_hundreds_of_callers_in_order(bridge: Bridge) -> None:
    """200 callers submit 50 jobs each; each caller's jobs run in its order, none twice, none lost."""
    seen: list[tuple[int, int]] = []

    def note(reply: Reply, caller: int, number: int) -> None:
        seen.append((caller, number))
        reply.set(number)

    def caller(i: int) -> list[int]:
        return [bridge.call(note, i, n, timeout=20) for n in range(50)]

    answers = spawn(bridge._waiter, 200, caller)
    assert answers == [list(range(50))] * 200
    assert len(seen) == len(set(seen)) == 10_000
    for i in range(200):
        assert [n for c, n in seen if c == i] == list(range(50))
    assert bridge.pending == 0


def test_jobs_of_one_turn_wake_the_loop_once() -> None:
    """A hundred greenlets that submit in the same turn cost one wake-up."""
    bridge = Bridge(nothing, nothing, waiter=GeventWaiter())
    bridge.start()
    wakes = []
    wake = bridge._wake
    bridge._wake = lambda: (wakes.append(1), wake())  # type: ignore[method-assign,assignment,return-value]
    try:
        spawn(bridge._waiter, 100, lambda i: bridge.call(at_once, i, timeout=5))
    finally:
        bridge.stop()
    assert len(wakes) < 10


def test_the_limit_refuses_at_once(waiter: Waiter) -> None:
    """More work than the limit is refused with `Overloaded`; there is room again when it is done."""
    bridge = Bridge(nothing, nothing, limit=10, waiter=waiter)
    bridge.start()
    try:
        with pytest.raises(GaveUp):
            bridge.call(never, timeout=0.01, weight=8)
        with pytest.raises(Overloaded):
            bridge.call(at_once, 1, timeout=5, weight=3)
        assert bridge.call(at_once, 1, timeout=5, weight=2) == 1
    finally:
        bridge.stop(0.01)


def test_the_limit_of_bytes_refuses_at_once(waiter: Waiter) -> None:
    """The same for bytes."""
    bridge = Bridge(nothing, nothing, limit_bytes=1000, waiter=waiter)
    bridge.start()
    try:
        with pytest.raises(GaveUp):
            bridge.call(never, timeout=0.01, size=900)
        with pytest.raises(Overloaded):
            bridge.call(at_once, 1, timeout=5, size=101)
    finally:
        bridge.stop(0.01)


def test_a_single_job_over_the_limit_is_taken(waiter: Waiter) -> None:
    """Work larger than the limit is taken when nothing else is under way."""
    bridge = Bridge(nothing, nothing, limit=10, waiter=waiter)
    bridge.start()
    try:
        assert bridge.call(at_once, 1, timeout=5, weight=11) == 1
    finally:
        bridge.stop()


def test_stop_waits_for_what_is_under_way(bridge: Bridge) -> None:
    """Jobs under way at `stop` are answered when they are done in time."""

    def later(reply: Reply) -> None:
        bridge._loop.call_later(0.1, reply.set, "done")

    def caller(i: int) -> Any:
        if i:
            gevent.sleep(0.02) if isinstance(bridge._waiter, GeventWaiter) else time.sleep(0.02)
            return bridge.stop(5)
        return bridge.call(later, timeout=5)

    assert spawn(bridge._waiter, 2, caller) == ["done", 0]


def test_stop_gives_up_after_its_limit(bridge: Bridge) -> None:
    """Jobs that do not end in time are counted, and their callers are told that nothing is known."""

    def caller(i: int) -> Any:
        if i:
            gevent.sleep(0.02) if isinstance(bridge._waiter, GeventWaiter) else time.sleep(0.02)
            return bridge.stop(0.05)
        try:
            bridge.call(never, timeout=10)
        except GaveUp as error:
            return error.started

    assert spawn(bridge._waiter, 2, caller) == [True, 1]


def test_stop_tears_down_after_draining(waiter: Waiter) -> None:
    """The order of a stop: refuse, drain, close."""
    order = []

    async def teardown() -> None:
        order.append("closed")

    bridge = Bridge(nothing, teardown, waiter=waiter)
    bridge.start()
    bridge.call(lambda reply: (order.append("job"), reply.set(None)), timeout=5)
    bridge.stop()
    assert order == ["job", "closed"]


def test_stop_ends_the_thread(waiter: Waiter) -> None:
    """Nothing of the bridge is left running."""
    bridge = Bridge(nothing, nothing, waiter=waiter)
    bridge.start()
    ident = bridge.call(lambda reply: reply.set(threading.get_native_id()), timeout=5)
    bridge.stop()
    deadline = time.monotonic() + 5
    while ident in native_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert ident not in native_threads()


def native_threads() -> set[int]:
    """Ids of the threads of this process, those unknown to `threading` too."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def test_notices_are_told_on_the_callers_side() -> None:
    """What the loop tells arrives in a caller's thread, and too many push out the oldest."""
    told: list[tuple[str, int]] = []
    bridge = Bridge(
        nothing,
        nothing,
        on_notice=lambda event, fields: told.append((event, threading.get_ident())),
        waiter=ThreadWaiter(),
    )
    bridge.start()
    bridge.call(lambda reply: (bridge.tell("refused", subject="a"), reply.set(1)), timeout=5)
    bridge.stop()
    assert told == [("refused", threading.get_ident())]


def test_an_error_nobody_waits_for_becomes_a_notice() -> None:
    """An exception in a callback of the loop is told, and the loop goes on."""
    told = []
    bridge = Bridge(nothing, nothing, on_notice=lambda event, fields: told.append(fields), waiter=ThreadWaiter())
    bridge.start()
    try:
        bridge._loop.call_soon_threadsafe(lambda: 1 // 0)
        assert bridge.call(at_once, 1, timeout=5) == 1
    finally:
        bridge.stop()
    assert "ZeroDivisionError" in told[0]["error"]


def test_answers_are_not_kept() -> None:
    """A payload that was answered is not held by the bridge."""

    class Payload:
        pass

    bridge = Bridge(nothing, nothing, waiter=ThreadWaiter())
    bridge.start()
    try:
        for _ in range(100):
            bridge.call(at_once, Payload(), timeout=5)
        bridge.call(at_once, None, timeout=5)
        gc.collect()
        assert sum(isinstance(o, Payload) for o in gc.get_objects()) == 0
    finally:
        bridge.stop()


@pytest.mark.slow
def test_under_monkey_patching_the_thread_is_a_real_one() -> None:
    """With gevent's patching in force, as in a gunicorn worker, greenlets and the thread run side by side."""
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, time, os
from proxy.bridge import Bridge
from proxy.waiters import GeventWaiter
async def nothing(): pass
bridge = Bridge(nothing, nothing)
bridge.start()
assert isinstance(bridge._waiter, GeventWaiter)
threads = len(os.listdir("/proc/self/task"))
def job(reply, i): reply.set(i)
greenlets = [gevent.spawn(bridge.call, job, i, timeout=5) for i in range(300)]
gevent.joinall(greenlets, timeout=20)
assert [g.value for g in greenlets] == list(range(300))
assert threads >= 2, threads
assert bridge.stop() == 0
print("fine")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr
