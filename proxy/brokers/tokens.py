"""Numbers for reply subjects: by them an answer finds who asked, and a stream its batches."""

from __future__ import annotations

import secrets

START_BITS = 52  # 13 hex digits; behind that is room for all numbers that a process can use up


class Tokens:
    """Numbers, each given once; only the loop's thread takes them.

    A stream tells batches apart by the number alone, whoever sent them (NATS ADR-50), so each process begins somewhere
    else. Where that is, is found out late: what was drawn before a fork would be the same in all workers.
    """

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> int:
        """The first of `count` numbers in a row."""
        if not self._next:
            self._next = 1 + secrets.randbits(START_BITS)
        first, self._next = self._next, self._next + count
        return first


tokens = Tokens()
