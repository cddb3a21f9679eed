"""The hand-over between the threads or greenlets of a worker and its one asyncio thread.

A caller submits a job and waits for its answer; the job runs on the loop and answers when it likes. Wake-ups are
coalesced both ways: callers that submit in the same turn wake the loop once, jobs that are answered in the same turn
of the loop wake the callers once. That is what makes the hand-over cheap, and why there is no future for each job.

Nothing in the loop's half takes a lock of the standard library: under gevent those are gevent's, and would block the
thread for good. It appends to deques, which the interpreter keeps consistent.
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import uvloop

from proxy.errors import Overloaded, Stopping
from proxy.pulse import Pulse
from proxy.replies import GaveUp, Posted, Receiver, Reply
from proxy.waiters import Cell, Waiter, pick_waiter

T = TypeVar("T")
Job = Callable[..., None]
MAX_NOTICES = 1000
HEAVY = 64  # units of work that are worth a wake-up of their own


class Bridge:
    """One asyncio thread, and the way there and back.

    `setup` and `teardown` are coroutine functions run on the loop at start and stop. At most `limit` units of work
    and `limit_bytes` bytes are under way at once. `on_notice(event, fields)` receives, on a caller's side, what the
    loop told with `tell`.
    """

    def __init__(
        self,
        setup: Callable[[], Awaitable[Any]],
        teardown: Callable[[], Awaitable[Any]],
        *,
        limit: int = 20_000,
        limit_bytes: int = 256 << 20,
        on_notice: Callable[[str, dict[str, Any]], None] = lambda event, fields: None,
        waiter: Waiter | None = None,
    ) -> None:
        self._setup, self._teardown = setup, teardown
        self._limit, self._limit_bytes = limit, limit_bytes
        self._on_notice = on_notice
        self._waiter = waiter or pick_waiter()
        self._loop: asyncio.AbstractEventLoop
        self._open = False
        self._admission = _original("allocate_lock")()
        self._taken = self._taken_bytes = 0  # by callers, under the admission lock
        self._given = self._given_bytes = 0  # by the loop alone; a stale read admits one job too few
        self._inbox: deque[Reply] = deque()
        self._woken = False
        self._started: set[Reply] = set()
        self._outbox: list[Reply] = []
        self._flushing = False
        self._idle: Reply | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._notices: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MAX_NOTICES)
        self._pulse = Pulse()
        # A caller's has its request, with the body, and connections that jobs open keep theirs as long as they live.
        self._context = contextvars.Context()

    # ---- the callers' half -------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether jobs are accepted."""
        return self._open

    @property
    def calls_back(self) -> bool:
        """Whether `post` can be used."""
        return self._waiter.calls_back

    @property
    def pending(self) -> int:
        """Units of work under way."""
        return self._taken - self._given

    def start(self, timeout: float = 10.0) -> None:
        """Starts the thread and waits for `setup`; raises what `setup` raised, `asyncio.TimeoutError` in time."""
        self._waiter.open(self._drain_notices)
        ready = Reply(self, (), 0, 0)
        ready.cell = self._waiter.new()
        _start_thread(self._main, ready, timeout)
        try:
            self._await(ready, timeout + 1)
        except BaseException:
            ready.claim()
            self._waiter.close()
            raise
        self._open = True

    def call(self, job: Job, *args: Any, timeout: float, weight: int = 1, size: int = 0) -> Any:
        """Runs `job(reply, *args)` on the loop and returns its answer, or raises it.

        `weight` and `size` (bytes) count against the limits. Raises `Overloaded` when they are reached, `Stopping`
        before start and after stop, `GaveUp` after `timeout` seconds.
        """
        if not self._open:
            raise Stopping
        reply = Reply(self, (job, *args), weight, size)
        self._admit(reply)
        return self._submit_and_wait(reply, timeout)

    def post(self, receiver: Receiver, job: Job, *args: Any, timeout: float, weight: int = 1, size: int = 0) -> None:
        """Runs a job as `call` does, and returns at once; the answer goes to `receiver`, in gevent's event loop.

        Raises `Overloaded` and `Stopping` as `call` does. Only where callers are greenlets: threads cannot be called.
        """
        if not self._open:
            raise Stopping
        posted = Posted(self, (job, *args), weight, size, receiver)
        self._waiter.expect(posted, timeout)
        try:
            self._admit(posted)
        except Overloaded:
            self._waiter.forget(posted)
            raise
        self._submit(posted)

    def meet(self, begin: Callable[[Cell], None]) -> Any:
        """Waits for the value of `cell.switch(value)`, called in gevent's event loop by what `begin(cell)` has begun.

        There is no deadline here: what is posted has its own, and there always is an answer. Only where greenlets call.
        """
        cell = self._waiter.new()
        begin(cell)
        return self._waiter.meet(cell)

    def at_end_of_turn(self, function: Callable[[], None]) -> None:
        """Runs a function when all callers that can submit now have done so, to post for them together."""
        self._waiter.at_end_of_turn(function)

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, timeout: float) -> T:
        """Runs a coroutine function on the loop, as `call` does; it is cancelled when time is up."""
        result: T = self.call(self._spawn, function, *args, timeout=timeout)
        return result

    def stop(self, drain: float = 5.0, close: float = 5.0) -> int:
        """Refuses new jobs, waits up to `drain` seconds for those under way, tears down, and joins the thread.

        Returns how many units of work were abandoned. Stopping twice, or before start, does nothing.
        """
        if not self._open:
            return 0
        self._open = False
        self._quietly(Reply(self, (self._when_idle,), 0, 0), drain)
        abandoned = self.pending
        self._quietly(Reply(self, (self._spawn, self._teardown), 0, 0), close)
        self._quietly(Reply(self, (self._end,), 0, 0), close)
        self._waiter.close()
        self._drain_notices()
        return abandoned

    def look(self) -> bool:
        """Asks the loop for a sign of life, five times a second at most; true while jobs are accepted.

        A loop that stands still (see `proxy.pulse`) or has ended does nothing any more: no job is accepted from then
        on, and callers give up.
        """
        if self._open and self._pulse.due():
            if self._pulse.look():
                self._call_soon(self._pulse.beat)
            else:
                self._open = False
        if not self._open:
            self._waiter.give_up()
        return self._open

    def _admit(self, reply: Reply) -> None:
        with self._admission:  # held for a few instructions, never while a greenlet switches
            pending = self._taken - self._given
            full = pending + reply.weight > self._limit
            full = full or self._taken_bytes - self._given_bytes + reply.size > self._limit_bytes
            if full and pending:  # a single job over the limit must run when nothing else does, or it never could
                raise Overloaded
            self._taken += reply.weight
            self._taken_bytes += reply.size

    def _submit_and_wait(self, reply: Reply, timeout: float) -> Any:
        reply.cell = self._waiter.new()
        self._submit(reply)
        try:
            return self._await(reply, timeout)
        finally:
            if not reply.settled:
                self._abandon(reply)

    def _submit(self, reply: Reply) -> None:
        self._inbox.append(reply)
        if not self._woken:
            # Set before the wake-up and cleared by the loop before it empties the inbox: whoever saw it set had
            # appended before that, so the loop finds the job. Two threads that both see it clear wake it twice.
            self._woken = True
            if reply.weight >= HEAVY:
                self._wake()
            else:
                self._waiter.at_end_of_turn(self._wake)

    def _await(self, reply: Reply, timeout: float) -> Any:
        answered = self._waiter.wait(reply.cell, timeout)
        if self._notices:
            self._drain_notices()
        if not answered and not reply.settled:
            raise GaveUp(started=not reply.claim())
        if reply.error is not None:
            raise reply.error
        return reply.value

    def _abandon(self, reply: Reply) -> None:
        """Lets the loop know that nobody waits any more. A job whose claim we get is never begun."""
        reply.claim()
        self._inbox.append(Reply(self, (self._abandoned, reply), 0, 0))
        self._wake()

    def left(self, reply: Posted) -> None:
        """A receiver has had its last call."""
        self._waiter.forget(reply)
        if not reply.settled:
            self._abandon(reply)

    def report(self, error: Exception) -> None:
        """A receiver has raised, which nobody expects."""
        self._notices.append(("unexpected", {"error": repr(error)}))

    def _wake(self) -> None:
        self._call_soon(self._empty_inbox)

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function, context=self._context)
        except RuntimeError:  # the loop has ended; whoever waits is answered by its own deadline
            self._open = False

    def _quietly(self, reply: Reply, timeout: float) -> None:
        """Submits a job of our own while stopping; one that fails or is late does not keep us from stopping."""
        try:
            self._submit_and_wait(reply, timeout)
        except Exception as error:
            if not isinstance(error, GaveUp):
                self._notices.append(("stop_failed", {"error": repr(error)}))

    def _drain_notices(self) -> None:
        while self._notices:
            try:
                event, fields = self._notices.popleft()
            except IndexError:  # another caller was faster
                return
            self._on_notice(event, fields)

    # ---- the loop's half: no lock, no log ----------------------------------------------------------------------

    def tell(self, event: str, **fields: Any) -> None:
        """Hands a notice to the callers' side, where it may be logged; the oldest go when there are too many."""
        self._notices.append((event, fields))
        self._schedule_flush()

    def _main(self, ready: Reply, timeout: float) -> None:
        """The thread. Waking the callers for the last time is the last thing it does."""
        self._pulse.belongs_to(_original("get_ident")())
        loop = self._loop = uvloop.new_event_loop()
        loop.set_exception_handler(self._on_loop_error)
        try:
            loop.run_until_complete(asyncio.wait_for(self._setup(), timeout))
            if ready.claim():
                loop.call_soon(ready.set, None)
                loop.run_forever()
        except BaseException as error:
            ready.error = error
            self._outbox.append(ready)
        finally:
            self._open = False
            loop.close()
            self._waiter.wake([reply.cell for reply in self._outbox])

    def _empty_inbox(self) -> None:
        self._woken = False
        inbox, started = self._inbox, self._started
        while inbox:
            reply = inbox.popleft()
            if reply.claim():
                started.add(reply)
                reply.run()
            else:
                self._release(reply)

    def finished(self, reply: Reply) -> None:
        """A job has answered."""
        self._started.discard(reply)
        self._release(reply)
        self.hand_over(reply)

    def hand_over(self, reply: Reply) -> None:
        """Wakes the caller at the end of this turn of the loop."""
        self._outbox.append(reply)
        self._schedule_flush()

    def _release(self, reply: Reply) -> None:
        self._given += reply.weight
        self._given_bytes += reply.size
        reply.weight = reply.size = 0
        if self._idle is not None and not self.pending:
            idle, self._idle = self._idle, None
            idle.set(None)

    def _schedule_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        replies, self._outbox = self._outbox, []
        self._waiter.wake([reply.cell for reply in replies])

    def _abandoned(self, own: Reply, reply: Reply) -> None:
        own.set(None)
        if not reply.settled and reply.on_abandon is not None:
            reply.on_abandon()

    def _spawn(self, reply: Reply, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        task = self._loop.create_task(_coroutine(function, args))
        self._tasks.add(task)
        reply.on_abandon = task.cancel

        def answer(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                reply.fail(Stopping())
            elif (error := task.exception()) is not None:
                reply.fail(error)
            else:
                reply.set(task.result())

        task.add_done_callback(answer)

    def _when_idle(self, reply: Reply) -> None:
        if self.pending:
            self._idle = reply
        else:
            reply.set(None)

    def _end(self, reply: Reply) -> None:
        for task in self._tasks:
            task.cancel()
        for left in list(self._started - {reply}):
            left.fail(GaveUp(started=True))
        # Answered when the loop is closed, by the thread's last wake-up.
        reply.settled = True
        self._flush()
        self._outbox.append(reply)
        self._flushing = True
        self._loop.call_soon(self._loop.stop)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.tell("loop_error", message=str(context.get("message")), error=repr(context.get("exception")))


async def _coroutine(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await function(*args)


def _start_thread(function: Callable[..., None], *args: Any) -> None:
    """Starts a thread of the operating system, also where gevent has put greenlets in their place."""
    _original("start_new_thread")(function, args)


def _original(name: str) -> Any:
    """What `_thread` has before gevent patches it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original("_thread", name) if monkey else getattr(_thread, name)
