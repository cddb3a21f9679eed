"""How a caller waits for an answer from another thread: as a greenlet of gevent, or as a plain thread.

The bridge asks six things of a waiter: make a cell for a caller, let the caller wait on it, or expect a cell that is no
caller, wake many cells from the loop's thread, run a function at the end of the caller's turn, and run another one on
the callers' side after each wake-up.
"""

from __future__ import annotations

import _thread
import sys
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

Cell = Any
TICK_SECONDS = 0.1


class Waiter(Protocol):
    """What the bridge needs to know about its callers."""

    #: Whether there is an event loop that calls cells which are no callers.
    calls_back: bool

    def open(self, after_wake: Callable[[], None]) -> None:
        """Makes ready, in the thread that will wait; `after_wake` runs there after each wake-up, if it can."""

    def close(self) -> None:
        """Gives back what `open` took."""

    def new(self) -> Cell:
        """A cell for one answer."""

    def wait(self, cell: Cell, timeout: float) -> bool:
        """Waits up to `timeout` seconds; false when time was up."""

    def expect(self, cell: Cell, timeout: float) -> None:
        """Has `cell.switch(False)` called after `timeout` seconds. The cell is the bridge's own, none of `new`."""

    def forget(self, cell: Cell) -> None:
        """Expects it no longer."""

    def meet(self, cell: Cell) -> Any:
        """Waits for `cell.switch(value)` and returns the value; whoever was given the cell sees to the deadline."""

    def wake(self, cells: list[Cell]) -> None:
        """Wakes those who wait on these cells; called on the loop's thread."""

    def give_up(self) -> None:
        """Ends all waiting, at the next tick: nothing will come any more."""

    def at_end_of_turn(self, function: Callable[[], None]) -> None:
        """Runs a function when all callers that can submit now have done so."""


class ThreadWaiter:
    """Callers are threads. A cell is a lock that the loop releases, which never makes it wait."""

    calls_back = False
    _given_up = False

    def open(self, after_wake: Callable[[], None]) -> None:
        """Nothing is needed; callers look for notices themselves."""

    def close(self) -> None:
        """Nothing was taken."""

    def new(self) -> Cell:
        """A lock, taken."""
        lock = _thread.allocate_lock()
        lock.acquire()
        return lock

    def wait(self, cell: Cell, timeout: float) -> bool:
        """Takes the lock again, once the loop has released it."""
        deadline = monotonic() + timeout
        while not self._given_up and (left := deadline - monotonic()) > 0:
            if cell.acquire(timeout=min(left, TICK_SECONDS)):
                return True
        return False

    def expect(self, cell: Cell, timeout: float) -> None:
        """Threads wait, each on its own: there is nobody who could call a cell."""
        raise RuntimeError("threads have no event loop that could be called back")

    def forget(self, cell: Cell) -> None:
        """Nothing is expected."""

    def meet(self, cell: Cell) -> Any:
        """As for `expect`: nobody could switch."""
        raise RuntimeError("threads have no event loop that could be called back")

    def wake(self, cells: list[Cell]) -> None:
        """Releases the locks."""
        for cell in cells:
            if cell is not None:
                cell.release()

    def give_up(self) -> None:
        """Each waits in small pieces."""
        self._given_up = True

    def at_end_of_turn(self, function: Callable[[], None]) -> None:
        """Threads have no turns: now."""
        function()


class GeventWaiter:
    """Callers are greenlets of the hub of the thread that opens it. A cell is a `gevent.hub.Waiter`.

    Across threads only the `send` of an async watcher is safe, so the loop leaves cells in a deque and sends; the
    hub's callback switches to the greenlets. One timer looks after all deadlines, ten times a second: a timer for each
    wait costs more than the wait.
    """

    calls_back = True

    def open(self, after_wake: Callable[[], None]) -> None:
        """Starts the watchers in this thread's hub; the hub exists from here on, before any other thread does."""
        from gevent.hub import Waiter as HubWaiter
        from gevent.hub import get_hub

        self._after_wake = after_wake
        self._hub = get_hub()
        self._cell = HubWaiter
        self._woken: deque[Cell] = deque()
        self._deadlines: dict[Cell, float] = {}
        self._watcher = self._hub.loop.async_()
        self._watcher.start(self._switch)
        self._timer = self._hub.loop.timer(TICK_SECONDS, TICK_SECONDS, ref=False)
        self._timer.start(self._tick)

    def close(self) -> None:
        """Stops the watchers. The async one is not closed: the thread may be about to send, which is then ignored."""
        self._watcher.stop()
        self._timer.close()

    def new(self) -> Cell:
        """A waiter of the hub."""
        return self._cell(self._hub)

    def wait(self, cell: Cell, timeout: float) -> bool:
        """Switches to the hub until the cell is switched to, at the latest a tick after the deadline."""
        self._deadlines[cell] = monotonic() + timeout
        try:
            answered: bool = cell.get()
        finally:
            del self._deadlines[cell]
        return answered

    def expect(self, cell: Cell, timeout: float) -> None:
        """The hub calls the cell, whatever comes first: the answer, or a tick after the deadline."""
        self._deadlines[cell] = monotonic() + timeout

    def forget(self, cell: Cell) -> None:
        """Leaves the deadline alone."""
        self._deadlines.pop(cell, None)

    def meet(self, cell: Cell) -> Any:
        """Switches to the hub until the cell is switched to there."""
        return cell.get()

    def wake(self, cells: list[Cell]) -> None:
        """Leaves the cells for the hub and wakes it."""
        self._woken.extend(cells)
        self._watcher.send()

    def give_up(self) -> None:
        """At the next tick."""
        self._deadlines = dict.fromkeys(self._deadlines, 0.0)

    def at_end_of_turn(self, function: Callable[[], None]) -> None:
        """After the greenlets that can run now have run."""
        self._hub.loop.run_callback(function)

    def _switch(self) -> None:
        woken = self._woken
        while woken:
            cell = woken.popleft()
            if cell is not None:
                cell.switch(True)
        self._after_wake()

    def _tick(self) -> None:
        now = monotonic()
        for cell in [cell for cell, deadline in self._deadlines.items() if deadline <= now]:
            cell.switch(False)


def pick_waiter() -> Waiter:
    """The waiter for this process: gevent's where its monkey patching is in force."""
    monkey = sys.modules.get("gevent.monkey")
    return GeventWaiter() if monkey and monkey.is_module_patched("threading") else ThreadWaiter()
