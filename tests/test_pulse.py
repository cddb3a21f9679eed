"""When a thread counts as standing still: with clocks of our own, and with a real thread."""

from __future__ import annotations

import threading
import time

import pytest

from proxy.pulse import STANDSTILL_SECONDS, Pulse


class _Thread:
    """Looks at a thread that does not answer. In each `step` so many seconds pass, and it uses some of them."""

    def __init__(self) -> None:
        self.now = self.used = 100.0
        self.pulse = Pulse(lambda: self.now, lambda: self.used)
        assert self.pulse.look()

    def step(self, passed: float, used: float) -> bool:
        self.now += passed
        self.used += used
        return self.pulse.look()

    def lasts(self, passed: float, used: float) -> float:
        """Seconds until it counts as standing still."""
        began = self.now
        while self.step(passed, used):
            assert self.now < began + 1000
        return self.now - began


def test_a_thread_that_sleeps_is_charged_with_the_time_that_passes() -> None:
    """It waits for what does not come."""
    assert _Thread().lasts(0.25, 0.0) == pytest.approx(STANDSTILL_SECONDS, abs=0.25)


def test_a_thread_that_works_is_charged_with_what_it_uses() -> None:
    """One that runs in circles has soon used it up; one that gets a quarter of a processor has four times as long."""
    assert _Thread().lasts(0.25, 0.25) == pytest.approx(STANDSTILL_SECONDS, abs=0.25)
    assert _Thread().lasts(0.25, 0.0625) == pytest.approx(4 * STANDSTILL_SECONDS, abs=0.25)


def test_a_thread_that_wakes_only_to_sleep_again_is_charged_in_the_end() -> None:
    """It uses next to nothing, for ever."""
    assert _Thread().lasts(0.25, 0.001) == pytest.approx(10 * STANDSTILL_SECONDS, abs=0.25)


def test_a_sign_of_life_settles_all() -> None:
    """However often it came late."""
    thread = _Thread()
    for _ in range(100):
        assert thread.step(STANDSTILL_SECONDS / 2, 0.0)
        thread.pulse.beat()


def test_a_process_that_was_stopped_is_not_charged_with_that() -> None:
    """Nobody has looked meanwhile; then the thread gets its turn."""
    thread = _Thread()
    assert thread.step(3600, 0.0)
    assert thread.step(0.25, 0.0)


def test_a_look_is_due_a_few_times_a_second() -> None:
    """Whoever asks more often is not answered more often."""
    thread = _Thread()
    assert not thread.pulse.due()
    thread.now += 0.25
    assert thread.pulse.due()


def test_what_another_thread_uses_does_not_count() -> None:
    """It is of the very thread, where the system tells at all: another one works meanwhile."""
    done, pulse, started = threading.Event(), Pulse(), threading.Event()

    def run() -> None:
        pulse.belongs_to(threading.get_ident())
        started.set()
        done.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(5)
    before, end = pulse._used(), time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
    assert pulse._used() - before < 0.05
    done.set()
    thread.join()
