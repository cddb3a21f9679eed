"""How many messages may be on their way to one stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from proxy.brokers.windows import GAIN, LEAST_MESSAGES, TRIP_SECONDS, Window

_TOKENS = count(1)


def hold(window: Window[int], *sizes: int) -> None:
    """Has things of these sizes wait; each is its own token."""
    for size in sizes:
        token = next(_TOKENS)
        window.hold(token, size, token)


def filled(window: Window[int], size: int, now: float) -> Iterator[int]:
    """What is sent of as much as there is room for; one waits afterwards."""
    while True:
        hold(window, size)
        sent = list(window.ready(now))
        if not sent:
            return
        yield from sent


def run(window: Window[int], seconds: float, trip: float, most: float, size: int = 100, start: float = 0.0) -> float:
    """Keeps a window full for so long, at a broker that acks `most` messages a second at most; messages a second."""
    sent: list[tuple[float, int]] = []
    now = free = start
    acked = 0
    while now < start + seconds:
        for token in filled(window, size, now):
            free = max(free, now) + size / most
            sent.append((max(now + trip, free), token))
        now, token = sent.pop(0)
        window.acked(token, now)
        window.ended(token)
        acked += size
    for _, token in sent:
        window.ended(token)
    for token in window.ready(now):  # what still waits
        window.ended(token)
    assert not window.busy
    return acked / seconds


def test_two_go_however_large() -> None:
    """One is stored while the next is on its way; the third waits for an ack, and order is kept."""
    window: Window[int] = Window()
    hold(window, *[10 * LEAST_MESSAGES] * 4)
    first, second = window.ready(0.0)
    assert list(window.ready(0.0)) == []
    assert window.ended(second)
    (third,) = window.ready(0.1)
    assert first < second < third


def test_small_ones_go_until_the_window_is_full() -> None:
    """As many messages as keep a stream busy that is near."""
    window: Window[int] = Window()
    hold(window, *[LEAST_MESSAGES // 5] * 7)
    assert len(list(window.ready(0.0))) == 5
    assert list(window.ready(0.0)) == []


def test_who_has_ended_makes_room_once() -> None:
    """Nothing is counted twice, and what was never sent makes no room."""
    window: Window[int] = Window()
    hold(window, *[LEAST_MESSAGES] * 4)
    first, _ = window.ready(0.0)
    assert window.ended(first)
    assert not window.ended(first)
    assert not window.ended(next(_TOKENS))
    assert len(list(window.ready(0.1))) == 1


def test_nothing_waits_for_room_in_an_empty_window() -> None:
    """Whoever ends last is told that nobody else waits, and the window is of no use any more."""
    window: Window[int] = Window()
    hold(window, 1)
    (only,) = window.ready(0.0)
    assert window.busy
    assert not window.ended(only)
    assert not window.busy


def test_a_broker_far_away_is_kept_busy() -> None:
    """The window grows to what such a way holds: at 50 ms the least would be a tenth of what this broker can do."""
    window: Window[int] = Window()
    assert LEAST_MESSAGES / 0.05 < 0.11 * 100_000
    run(window, 3.0, 0.05, 100_000)
    assert run(window, 1.0, 0.05, 100_000, start=3.0) > 0.9 * 100_000


def test_a_slow_broker_is_not_sent_more_than_it_can_take() -> None:
    """However long: what is under way waits here, not in its queue."""
    window: Window[int] = Window()
    run(window, 3.0, 0.05, 20_000)
    hold(window, *[10] * 10_000)
    assert LEAST_MESSAGES < 10 * len(list(window.ready(3.0))) <= GAIN * 20_000 * 0.05 * 1.2


def test_a_way_that_has_become_longer_is_learnt() -> None:
    """The shortest trip is that of the last seconds, not of all times."""
    window: Window[int] = Window()
    run(window, 1.0, 0.001, 100_000)
    run(window, 3 * TRIP_SECONDS, 0.05, 100_000, start=1.0)
    assert run(window, 1.0, 0.05, 100_000, start=1.0 + 3 * TRIP_SECONDS) > 0.9 * 100_000
