"""What is looked up again and again, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """At most `most` values, and no more than `most_weight` as `weigh` tells it of their keys; those not used for long
    are forgotten first, in bulk. The newest is kept whatever it weighs.

    Threads may share it: each step is one operation of a dict, and what a race loses is only remembered anew.
    """

    def __init__(self, most: int, most_weight: int = 0, weigh: Callable[[K], int] = lambda key: 0) -> None:
        self._most, self._most_weight, self._weigh = most // 2, most_weight // 2, weigh
        self._weight = 0
        self._recent: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """What is remembered."""
        value = self._recent.get(key)
        if value is None:
            value = self._older.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remembers a value; once there are many, those not met for long are forgotten."""
        weight = self._weigh(key)
        if len(self._recent) >= self._most or self._weight + weight > self._most_weight:
            self._older, self._recent, self._weight = self._recent, {}, 0
        self._recent[key] = value
        self._weight += weight

    def clear(self) -> None:
        """Forgets everything."""
        self._recent, self._older, self._weight = {}, {}, 0
