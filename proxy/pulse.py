"""Whether a thread that others wait for still gets anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

LOOK_SECONDS = 0.2
STANDSTILL_SECONDS = 1.5
_MOST_A_LOOK = 0.5  # a process that was stopped has seen no time pass
_LEAST_SHARE = 0.1
_ASLEEP_SECONDS = 20e-6  # of a processor, in the time between two looks


def _unknown() -> float:
    return 0.0


class Pulse:
    """Looks after a thread that is asked for a sign of life at each look, and gives it with `beat`.

    While it gives none it is charged with the time that passes if it sleeps, and with the processor time that it gets
    if it works. So a thread that waits for what does not come and one that runs in circles have soon stood still, while
    one with a long piece of work on a machine that leaves it little is given the time it takes. Where the system does
    not tell what a thread uses, all time counts.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, used: Callable[[], float] = _unknown) -> None:
        self._now, self._used = now, used
        self._asked = False
        self._looked = self._last_used = self._stood = 0.0

    def belongs_to(self, thread: int) -> None:
        """Names the thread (its `get_ident`)."""
        if hasattr(time, "pthread_getcpuclockid"):  # macOS has none
            self._used = partial(time.clock_gettime, time.pthread_getcpuclockid(thread))

    def beat(self) -> None:
        """The thread lives. A look at the same moment may miss it; the next one does not."""
        self._asked = False

    def due(self) -> bool:
        """Whether it is time for a look."""
        return self._now() - self._looked >= LOOK_SECONDS

    def look(self) -> bool:
        """Whether the thread is alive, as far as is known; if so, it has to be asked for a `beat` now."""
        now, used = self._now(), self._used()
        passed = min(now - self._looked, _MOST_A_LOOK)
        worked = min(used - self._last_used, passed)
        self._looked, self._last_used = now, used
        if not self._asked:
            self._stood = 0.0
        elif worked < _ASLEEP_SECONDS:
            self._stood += passed
        else:  # the least is for one that only ever wakes to go to sleep again
            self._stood += max(worked, passed * _LEAST_SHARE)
        self._asked = True
        return self._stood < STANDSTILL_SECONDS
