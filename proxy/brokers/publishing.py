"""One produce on its way to the stream: attempts, retries, and the truth about each message.

A message is sent with a de-duplication id and its own reply subject, the same in every attempt, so whichever answer
comes first settles it. What may be told afterwards follows from two facts kept for each message: is an attempt in
flight, and was one ever left unanswered. `stored: no` is said only when neither is so.

Source for replies: the NATS JetStream ADR-1 (API errors) and ADR-22 (no responders while a stream has no leader).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from proxy.brokers import Reply, Session, answers
from proxy.brokers.connection import NO_RESPONDERS
from proxy.brokers.doubts import Doubts
from proxy.brokers.tokens import tokens
from proxy.errors import AckTimeout, BrokerAway, BrokerRefused, Forbidden, GatewayError, KeyReused, TooLarge, let_go
from proxy.messages import Ack, Elements, Message, Station

ATTEMPT_SECONDS = 1.0
LOOK_SECONDS = 1.0

# err_code of the JetStream API
ID_IN_PROCESS = 10158
MESSAGE_TOO_LARGE = 10054
NOT_NOW = {10008, 10009, 10118, 10167}  # no quorum, no leader, offline, queue full: as good as no responders


_STORED, _STORED_SOMETIME = Ack(None, False), Ack(None, None)


class Delivery:
    """The messages of one produce, from hand-over to answer.

    `reply` is set to a list with an `Ack` or a `GatewayError` for each message, at the latest at `deadline` (the
    loop's time); if it hears parts, it is told lists of (index, result) before that, as messages are settled that
    others would have to wait for. When `grouped`, they may be sent in a group with others, and their sequences are not
    told. `token` is the number of the first one's reply subject. `on_end` is called, each once, when all are settled.
    `repeated_at` is the loop's time at which something was last sent again.
    """

    __slots__ = (
        "_again",
        "_done",
        "_early",
        "_finding",
        "_first_sent",
        "_flying",
        "_looked",
        "_looking",
        "_loop",
        "_open",
        "_repeated",
        "_repeating",
        "_reply",
        "_results",
        "_tasks",
        "_unanswered",
        "_why",
        "alone",
        "deadline",
        "grouped",
        "messages",
        "on_end",
        "repeated_at",
        "session",
        "station",
        "token",
    )

    def __init__(
        self,
        reply: Reply,
        station: Station,
        messages: Sequence[Message],
        deadline: float,
        done: Callable[[Delivery], object],
        grouped: bool = False,
    ) -> None:
        self.station, self.messages, self.deadline = station, messages, deadline
        self.grouped = grouped and (isinstance(messages, Elements) or not messages[0].compare)
        self.on_end: list[Callable[[], None]] = []
        self.session: Session | None = None
        self._reply, self._done = reply, done
        self._loop = asyncio.get_running_loop()
        count = self._open = self._units()
        self._results: list[Ack | GatewayError | None] = [None] * count
        self.token = tokens.take(count)
        self._flying: dict[int, float] = {}
        self._again: set[int] = set()
        self._unanswered = Doubts()
        self._repeated: set[int] = set()
        self._first_sent = self._looked = self.repeated_at = 0.0
        self.alone = self._looking = self._finding = self._repeating = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._why: GatewayError | None = None
        self._early: list[tuple[int, Ack | GatewayError]] = []
        reply.on_abandon = self.expire

    def _units(self) -> int:
        """How many results there are."""
        return len(self.messages)

    # ---- sending -----------------------------------------------------------------------------------------------

    def begin(self, session: Session) -> None:
        """Sends everything that is not settled yet, through a session that has just become available."""
        self.session = session
        if not self._first_sent:
            self._first_sent = self._loop.time()
            self._send(range(len(self._results)), self.grouped)
        else:
            self._repeat()

    def _send(self, indexes: Iterable[int], grouped: bool = False) -> None:
        session = self.session
        if session is None:
            return
        untouched = self._open == len(self._results)
        unsettled = list(indexes) if untouched else [index for index in indexes if self._results[index] is None]
        flying = dict.fromkeys(unsettled, self._loop.time())
        if self._flying:
            self._flying.update(flying)
        else:
            self._flying = flying
        for index in session.publish(self, unsettled, grouped):
            del self._flying[index]
            refusal = TooLarge(f"the broker takes messages of at most {session.max_payload} bytes")
            self._settle(index, self._truthful(index, refusal))  # an earlier attempt was not too large

    def _repeat(self, grouped: bool = False) -> None:
        """Sends again what was refused for now, and what was left unanswered while the station knows its id.

        Alone, if not `grouped`: one that would fail its group again must not hold up others for another time.
        """
        self._repeating = False
        if self.session is None or not self.session.alive or not self._again:
            return
        ready, self._again = self._again, set()
        doubtful = ready & self._unanswered
        if doubtful and not self._may_repeat():
            ready -= doubtful
            self._again = doubtful
        if ready:
            self._repeated |= ready
            self.repeated_at = self._loop.time()
        self._send(sorted(ready), grouped and not doubtful)

    def _repeat_soon(self) -> None:
        """Once for all that come back in this turn."""
        if not self._repeating:
            self._repeating = True
            self._loop.call_soon(self._repeat)

    def _may_repeat(self) -> bool:
        """Whether a repeat of what may be stored would still be recognised as one."""
        window = self.session.window(self.station) if self.session is not None else None
        # The repeat has to arrive before the window ends, not only to leave.
        return window is not None and self._loop.time() - self._first_sent + ATTEMPT_SECONDS < window

    def tick(self, now: float) -> None:
        """Called four times a second: repeats, and gives up at the deadline."""
        if now >= self.deadline:
            self.expire()
            return
        if self._flying:
            self._look_for_silence(now)
        if not self._finding:
            self._repeat()

    def _look_for_silence(self, now: float) -> None:
        session = self.session
        silent = [index for index, sent in self._flying.items() if now - sent >= ATTEMPT_SECONDS]
        if not silent or session is None:
            return
        self._unanswered.update(silent)
        proved = [index for index in silent if self._flying[index] < session.proved_at]
        for index in proved:
            del self._flying[index]
        self._again.update(proved)
        if len(proved) < len(silent):
            session.check()

    # ---- what becomes of an attempt ----------------------------------------------------------------------------

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """A reply to message `index`: an ack, an error of the stream, or word that no stream listens."""
        if status == NO_RESPONDERS and not data:
            # What the last look-up has met tells more than this.
            self._not_now(index, self._why or BrokerRefused("the station has no leader, or the broker no JetStream"))
            self._look_up()
            return
        answer = answers.decode(data)
        if answer is None:
            return  # a core subscriber's answer; the stream's is still to come
        if answer.error is not None:
            self.on_error(index, answer.error)
        elif answer.stream:
            self._on_ack(index, answer)

    def stored(self, index: int) -> None:
        """The message was stored as one of a group; its place is not told."""
        self._settle(index, _STORED_SOMETIME if index in self._unanswered else _STORED)

    def all_stored(self, indexes: list[int]) -> None:
        """These messages were stored as some, or all, of a group."""
        if self._open == len(indexes) == len(self._results) and not (self._unanswered or self.alone):
            self._results = [_STORED] * self._open
            self._flying.clear()
            self._open = 0
            self._finish()
        else:
            for index in indexes:
                self.stored(index)

    def not_stored(self, index: int) -> None:
        """The message was not stored, for no fault of its own: it is sent again, alone, in this turn."""
        if self._results[index] is None:
            self._flying.pop(index, None)
            self._again.add(index)
            self._repeat_soon()

    def doubted(self, index: int) -> None:
        """The stream knows the id, but not yet whether a message with it is stored: it is sent again, alone."""
        self._not_now(index, BrokerRefused("the broker has not stored the message yet"), known=True)
        self._repeat_soon()

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The broker does not let this user produce to this station."""
        error = Forbidden(f"the broker does not allow this user to produce to station {self.station.name}")
        self._flying.pop(index, None)
        if maybe_stored:
            self._unanswered.add(index)
        if self.session is not None and self.session.settling(self.station):
            self._not_now(index, error)
            return
        self._settle(index, self._truthful(index, error))

    def lost(self, index: int) -> None:
        """The connection ended while the message was in flight."""
        if self._flying.pop(index, None) is not None:
            self._unanswered.add(index)
            self._again.add(index)

    def delayed(self, why: GatewayError) -> None:
        """No session can be had now, for that reason."""
        self._why = why

    def refuse(self, error: GatewayError) -> None:
        """Ends the delivery: no session can be had, for that reason."""
        for index in range(len(self._results)):
            if self._results[index] is None:
                self._settle(index, self._truthful(index, error))

    def expire(self) -> None:
        """Ends the delivery: time is up."""
        self.refuse(self._why or BrokerAway())

    def on_error(self, index: int, error: answers.ApiError) -> None:
        """The stream refused the message, for good or for now."""
        if error.err_code == ID_IN_PROCESS or error.err_code in NOT_NOW:
            not_ready = BrokerRefused(f"the broker is not ready: {error.description}")
            self._not_now(index, not_ready, known=error.err_code == ID_IN_PROCESS)
            return
        self._unanswered.refused(index)
        self._flying.pop(index, None)
        refusal: GatewayError = BrokerRefused(f"the broker refused the message: {error.description}")
        if error.err_code == MESSAGE_TOO_LARGE:
            refusal = TooLarge("the message is larger than this station takes")
        self._settle(index, self._truthful(index, refusal))

    def _on_ack(self, index: int, ack: answers.Answer) -> None:
        self._flying.pop(index, None)
        message = self.messages[index]
        # A repeat that the stream knows: an attempt was stored although its answer said otherwise.
        repeated = index in self._unanswered or (ack.duplicate and index in self._repeated)
        result = Ack(ack.seq, None if repeated else ack.duplicate)
        if not ack.duplicate or (repeated and not message.compare):
            self._settle(index, result)
        elif not message.named:
            # An id of our own making, sent for the first time, and known: it met another one. Nothing was stored.
            self._settle(index, BrokerRefused("the de-duplication id was in use; repeat the request"))
        elif message.compare:
            self._unanswered.add(index)  # until it has been compared: whose bytes are stored is not known
            self._do(self._compare(index, ack.seq, result))
        else:
            self._settle(index, result)

    def _not_now(self, index: int, why: GatewayError, known: bool = False) -> None:
        """Has it sent again later. `known`: the leader knows the id, maybe from another request, and will tell more."""
        if known:
            self._unanswered.add_known(index)
        else:
            self._unanswered.leader_left(index)
        self._flying.pop(index, None)
        self._why = why
        self._again.add(index)

    async def _compare(self, index: int, sequence: int, ack: Ack) -> None:
        """The broker knows the sender's key: it must belong to the same bytes.

        While that cannot be seen it may be another message that is stored: the repeat will be a duplicate again, and
        compared again.
        """
        try:
            if self.session is None:
                raise BrokerAway
            payload = await self.session.stored(self.station, self.messages[index], sequence)
        except GatewayError as error:
            let_go(error)
            self._again.add(index)
            return
        same = payload is None or payload == self.messages[index].payload
        self._settle(index, ack if same else KeyReused())

    def _look_up(self) -> None:
        """No stream listens: asks whether the station exists, once a second at most."""
        now = self._loop.time()
        if not self._looking and (not self._looked or now - self._looked >= LOOK_SECONDS):
            # Until the first answer is there the station may have to be created. What is repeated before that would be
            # refused once more, and come after what is repeated then.
            self._finding = not self._looked
            self._looking, self._looked = True, now
            self._do(self._ensure())

    async def _ensure(self) -> None:
        session = self.session
        try:
            if session is not None and await session.ensure(self.station):
                self._repeat(self.grouped)  # nobody has seen any of them yet
        except (BrokerAway, BrokerRefused) as error:
            self._why = error  # cannot be told now; the next attempt may
            let_go(error)
        except GatewayError as error:
            let_go(error)  # else the task that failed with it has this call, and the messages
            for index in sorted(self._again):
                self._settle(index, self._truthful(index, error))
        finally:
            self._looking = self._finding = False

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the end -----------------------------------------------------------------------------------------------

    def _truthful(self, index: int, error: GatewayError) -> GatewayError:
        """The error where nothing can be stored, else one that says that it may be.

        Always a new one: others may be told the same, and each answer adds to its own.
        """
        if index not in self._unanswered and index not in self._flying:
            return type(error)(error.message)
        if not isinstance(error, Forbidden):
            return AckTimeout()
        error = Forbidden(error.message)
        error.stored, error.repeat = "unknown", "with-key"
        return error

    def _settle(self, index: int, result: Ack | GatewayError) -> None:
        if self._results[index] is not None:
            return
        self._results[index] = result
        self._flying.pop(index, None)
        self._again.discard(index)
        if self.alone and self.session is not None:
            self.session.forget(self.token + index)
        self._open -= 1
        if not self._open:
            self._finish()
        elif self._reply.hears_parts:
            if not self._early:
                self._loop.call_soon(self._tell_early)
            self._early.append((index, result))

    def _tell_early(self) -> None:
        """Tells what was settled in a turn that did not settle everything."""
        early, self._early = self._early, []
        if self._open:
            self._reply.tell(early)

    def _finish(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for function in self.on_end:
            function()
        self.on_end.clear()
        self._done(self)
        self.session = None
        self._reply.on_abandon = None  # else the two would hold each other
        self._reply.set(self._report())

    def _report(self) -> list[Ack | GatewayError | None]:
        return self._results
