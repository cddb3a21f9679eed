"""How the jobs of a bridge answer: to a caller that waits, or to a receiver that is called.

A reply has two halves. The job answers on the loop; the caller's half waits, gives up, or is called. What both touch
are deques and single attributes, which the interpreter keeps consistent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from proxy.waiters import Cell


class GaveUp(Exception):
    """The caller's time was up. `started` tells whether the job had begun; one that had not never will."""

    def __init__(self, started: bool) -> None:
        super().__init__("no answer in time")
        self.started = started


class Receiver(Protocol):
    """Where the answer to a job goes whose caller does not wait. Both are called on the callers' side."""

    def heard(self, part: Any) -> None:
        """A part of the answer, before its end."""

    def ended(self, value: Any, error: BaseException | None) -> None:
        """The job's answer, or its failure; `GaveUp` when time was up. The last call, and there always is one."""


class Desk(Protocol):
    """What replies need of their bridge: the first two on the loop, the others where callers are."""

    def finished(self, reply: Reply) -> None:
        """The job has answered."""

    def hand_over(self, reply: Reply) -> None:
        """There is something for the caller."""

    def left(self, reply: Posted) -> None:
        """The receiver has had its last call; if the job has not answered, nobody waits for it any more."""

    def report(self, error: Exception) -> None:
        """A receiver has raised."""


class Reply:
    """How a job answers: `set` or `fail` once, on the loop; later calls have no effect.

    `on_abandon`, if a job sets it, is called on the loop when the caller has given up.
    """

    __slots__ = ("_claim", "_desk", "_job", "cell", "error", "on_abandon", "settled", "size", "value", "weight")

    #: Whether `tell` is worth calling.
    hears_parts = False

    def __init__(self, desk: Desk, job: tuple[Any, ...], weight: int, size: int) -> None:
        self._desk = desk
        self._job = job
        self._claim = [True]
        self.cell: Cell = None
        self.error: BaseException | None = None
        self.value: Any = None
        self.settled = False
        self.on_abandon: Callable[[], object] | None = None
        self.weight = weight
        self.size = size

    def tell(self, part: Any) -> None:
        """Answers a part, before `set` or `fail`. A caller that waits does so for the whole, and hears none."""

    def set(self, value: Any) -> None:
        """Answers with a value."""
        if not self.settled:
            self.value = value
            self.settled = True
            self._desk.finished(self)

    def fail(self, error: BaseException) -> None:
        """Answers with an error, which is raised where the caller waits."""
        if not self.settled:
            self.error = error
            self.settled = True
            self._desk.finished(self)

    def claim(self) -> bool:
        """Takes the right to decide whether the job begins: the first of loop and giving-up caller gets it.

        `list.pop` is one step of the interpreter, so both cannot succeed.
        """
        try:
            return self._claim.pop()
        except IndexError:
            return False

    def run(self) -> None:
        """Begins the job; what it raises is its answer."""
        job, *args = self._job
        self._job = ()
        try:
            job(self, *args)
        except Exception as error:
            self.fail(error)


class Posted(Reply):
    """The reply of a job whose caller does not wait. It is its own cell: waking it calls the receiver."""

    __slots__ = ("_left", "_parts", "_receiver")

    hears_parts = True

    def __init__(self, desk: Desk, job: tuple[Any, ...], weight: int, size: int, receiver: Receiver) -> None:
        super().__init__(desk, job, weight, size)
        self.cell = self
        self._receiver = receiver
        self._parts: deque[Any] = deque()  # the loop appends, the callers' side takes
        self._left = False

    def tell(self, part: Any) -> None:
        """Answers a part, before `set` or `fail`."""
        self._parts.append(part)
        self._desk.hand_over(self)

    def switch(self, answered: bool) -> None:
        """Called where callers are: something was answered, or (not `answered`) time is up."""
        if self._left:
            return
        try:
            while self._parts:
                self._receiver.heard(self._parts.popleft())
            if self.settled or not answered:
                self._leave()
        except Exception as error:  # a fault of ours; others wait behind this one
            self._desk.report(error)

    def _leave(self) -> None:
        self._left = True
        self.cell = None  # else it would refer to itself, and wait for the garbage collector
        late = None if self.settled else GaveUp(started=not self.claim())
        self._desk.left(self)
        self._receiver.ended(self.value, late or self.error)
