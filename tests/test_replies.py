"""Replies to receivers, which are called where callers are, rather than waiting."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from proxy.bridge import Bridge
from proxy.errors import Overloaded, Stopping
from proxy.replies import GaveUp, Reply
from proxy.waiters import GeventWaiter, ThreadWaiter
from tests.test_bridge import at_once, never, nothing
from tests.uncollected import uncollected


class Heard:
    """A receiver that keeps what it is told."""

    def __init__(self, raises: bool = False) -> None:
        self.parts: list[Any] = []
        self.ends: list[tuple[Any, BaseException | None]] = []
        self._raises = raises

    def heard(self, part: Any) -> None:
        """A part."""
        self.parts.append(part)

    def ended(self, value: Any, error: BaseException | None) -> None:
        """The end."""
        self.ends.append((value, error))
        if self._raises:
            raise ZeroDivisionError

    def wait(self) -> tuple[Any, BaseException | None]:
        """Lets the event loop run until the end, and returns it."""
        with gevent.Timeout(10):
            while not self.ends:
                gevent.sleep(0.001)
        return self.ends[0]


@pytest.fixture
def called() -> Iterator[Bridge]:
    """A running bridge that can call receivers."""
    bridge = Bridge(nothing, nothing, waiter=GeventWaiter(), limit=10)
    bridge.start()
    yield bridge
    bridge.stop(0.1)


def test_a_posted_job_answers_its_receiver(called: Bridge) -> None:
    """Parts come first and in order, then the one end, where callers are."""
    heard = Heard()

    def job(reply: Reply) -> None:
        reply.tell(1)
        reply.tell(2)
        reply.set(threading.get_ident())

    called.post(heard, job, timeout=5)
    ident, error = heard.wait()
    assert (heard.parts, error) == ([1, 2], None)
    assert ident != threading.get_ident()
    assert called.pending == 0


def test_what_has_ended_is_gone_without_the_garbage_collector(called: Bridge) -> None:
    """Else a worker would stand still now and then, to look for what thousands of replies have left behind."""
    with uncollected():
        heard = Heard()
        called.post(heard, lambda reply: (reply.tell(1), reply.set(2)), timeout=5)
        heard.wait()
        gone = weakref.ref(heard)
        del heard
        with gevent.Timeout(10):
            while gone() is not None:
                gevent.sleep(0.001)


def test_a_posted_job_that_raises_tells_its_receiver(called: Bridge) -> None:
    """The exception of a job is its end."""
    heard = Heard()
    called.post(heard, lambda reply: reply.set(1 // 0), timeout=5)
    assert isinstance(heard.wait()[1], ZeroDivisionError)


def test_a_posted_job_ends_in_time(called: Bridge) -> None:
    """The receiver is told once that time is up, and the job that nobody waits for it."""
    heard, abandoned = Heard(), threading.Event()
    replies: list[Reply] = []

    def job(reply: Reply) -> None:
        reply.on_abandon = abandoned.set
        replies.append(reply)

    called.post(heard, job, timeout=0.01)
    error = heard.wait()[1]
    assert isinstance(error, GaveUp)
    assert error.started
    assert abandoned.wait(5)
    called.call(lambda own: (replies[0].set(1), own.set(1)), timeout=5)
    assert len(heard.ends) == 1


def test_a_receiver_that_raises_keeps_nobody_waiting(called: Bridge) -> None:
    """Those behind it are told all the same."""
    bad, good = Heard(raises=True), Heard()
    called.post(bad, at_once, 1, timeout=5)
    called.post(good, at_once, 2, timeout=5)
    assert good.wait() == (2, None)
    assert bad.ends == [(1, None)]


def test_posts_count_against_the_limits(called: Bridge) -> None:
    """What is over the limit is refused, and leaves nothing behind."""
    called.post(Heard(), never, timeout=0.05, weight=10)
    with pytest.raises(Overloaded):
        called.post(Heard(), at_once, 1, timeout=5)
    called.stop(0)
    with pytest.raises(Stopping):
        called.post(Heard(), at_once, 1, timeout=5)


def test_threads_cannot_be_called() -> None:
    """Where callers are threads, posting is a fault of ours and says so."""
    bridge = Bridge(nothing, nothing, waiter=ThreadWaiter())
    bridge.start()
    assert not bridge.calls_back
    with pytest.raises(RuntimeError):
        bridge.post(Heard(), at_once, 1, timeout=5)
    assert bridge.pending == 0
    bridge.stop(0)


def test_a_stop_tells_every_receiver() -> None:
    """What is under way when the bridge stops is given up, and told."""
    bridge, heard = Bridge(nothing, nothing, waiter=GeventWaiter()), Heard()
    bridge.start()
    bridge.post(heard, never, timeout=5)
    assert bridge.stop(0.05) == 1
    assert isinstance(heard.wait()[1], GaveUp)
