"""How many messages may be on their way to one stream at a time.

A stream stores all that it has received by then, and sends the acks for it afterwards. Whoever sends everything at once
has all acks at once, and leaves the stream without work until the next messages are there. So what is more than it
takes to keep the stream busy waits here, ready to be sent.

The window is twice what the stream acks in a shortest round trip at the best rate of late. Source: "BBR:
Congestion-Based Congestion Control" (ACM Queue, 2016), which finds the window of a network path so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

LEAST_MESSAGES = 500  # enough where a round trip takes next to nothing; see docs/decisions/0041
LEAST_GROUPS = 2  # however large: one that is stored, one that comes next
GAIN = 2
RATE_SECONDS, TRIP_SECONDS = 1.0, 10.0  # how long a high rate, and a short trip, are remembered at least
COUNTED_SECONDS = 0.1  # acks come in bursts; this is long enough for a rate

T = TypeVar("T")


class Recent:
    """The least or the most, as `pick` says, of what came in the last one or two periods of so many seconds.

    A period without anything does not count: after it, what was known before holds for one more.
    """

    def __init__(self, pick: Callable[[float, float], float], start: float, seconds: float) -> None:
        self._pick, self._start, self._seconds = pick, start, seconds
        self._before = self._now = start
        self._until = 0.0

    def add(self, value: float, now: float) -> float:
        """What it is, now that this one has come."""
        if now >= self._until:
            self._before, self._now = self._now, self._start
            self._until = now + self._seconds
        self._now = self._pick(self._now, value)
        return self._pick(self._before, self._now)


class Held(NamedTuple, Generic[T]):
    """Something of that many messages, under a number of its own."""

    token: int
    size: int
    item: T


class Sent(NamedTuple):
    """When something left, and of how many messages it is."""

    at: float
    size: int


class Window(Generic[T]):
    """What is on its way to one stream, and what waits for room, in its order. Times are the loop's."""

    def __init__(self) -> None:
        self._held: deque[Held[T]] = deque()
        self._sent: dict[int, Sent] = {}
        self._size = self._acked = 0
        self._since = 0.0
        self._most: float = LEAST_MESSAGES
        self._trip = Recent(min, float("inf"), TRIP_SECONDS)
        self._rate = Recent(max, 0.0, RATE_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether anything is on its way, or waits."""
        return bool(self._sent or self._held)

    def hold(self, token: int, size: int, item: T) -> None:
        """Has something wait for its turn."""
        self._held.append(Held(token, size, item))

    def ready(self, now: float) -> Iterator[T]:
        """What may be sent now; it counts as sent."""
        while self._held and self._has_room(self._held[0].size):
            token, size, item = self._held.popleft()
            self._sent[token] = Sent(now, size)
            self._size += size
            yield item

    def given_up(self) -> list[T]:
        """What waits; it does no longer."""
        held = [item for _, _, item in self._held]
        self._held.clear()
        return held

    def acked(self, token: int, now: float) -> None:
        """The stream has stored what has that number, which tells how fast it is."""
        sent = self._sent.get(token)
        if sent is not None:
            self._acked += sent.size
            self._learn(now - sent.at, now)

    def ended(self, token: int) -> bool:
        """What has that number is waited for no longer. Returns whether something else waits, and may have room now."""
        sent = self._sent.pop(token, None)
        if sent is not None:
            self._size -= sent.size
        return sent is not None and bool(self._held)

    def _has_room(self, size: int) -> bool:
        return len(self._sent) < LEAST_GROUPS or self._size + size <= self._most

    def _learn(self, trip: float, now: float) -> None:
        shortest = self._trip.add(trip, now)
        seconds = now - self._since
        if seconds >= COUNTED_SECONDS:
            rate = self._rate.add(self._acked / seconds, now)
            self._most = max(LEAST_MESSAGES, GAIN * rate * shortest)
            self._acked, self._since = 0, now
