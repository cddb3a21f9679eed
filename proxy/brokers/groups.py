"""Messages that are sent together: one fast-ingest batch, one ack for all of them.

Source: NATS ADR-50 (fast-ingest batch publishing, nats-server 2.14). The reply subject of message `n` of a batch is
`<inbox><batch>.<flow>.<gap mode>.<n>.<operation>.$FI`. With gap mode `fail` the stream's answers are true for each
message: one that it refuses answers on its own reply subject and ends the batch; the final ack counts those before it;
what comes after is not stored. The stream finds a batch by `<batch>` alone, whatever the inbox: it is unlike that of
any other gateway (`tokens.Tokens`), and a batch to which the stream has counted more messages than were sent is not
believed. Nor is a count without a sequence: the stream has met all these ids before, but passes over those whose
messages its leader has proposed to other servers as well, and these may get lost. Of a message alone it tells which.

A group never repeats anything. What is not stored, or not known to be, goes back to its delivery, which sends it again
alone, with the same id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from proxy.brokers import answers, frames
from proxy.brokers.connection import Connection
from proxy.brokers.publishing import Delivery
from proxy.brokers.tokens import tokens
from proxy.brokers.windows import Window

BATCHES_SINCE = (2, 14)
ALONE_SECONDS = 30.0
MAX_KNOWN_SUBJECTS = 10_000
OWN_GROUP = 64  # messages of one delivery that are a group of their own

CLOSE = 3  # the operation that ends a batch without a message; see `frames.batch` for the others
FLOW = 500  # the stream may report after that many messages; it does so no more seldom
_NEWS = b'{"type":"ack",'  # such a report, or that the stream has begun: the word that counts is still to come

# err_code: the stream takes no batches, too many are open, or this one is not (any more)
NO_BATCHES = 10205
TOO_MANY_BATCHES = 10211
NOT_IN_A_BATCH = {NO_BATCHES, 10206, 10207, 10208, TOO_MANY_BATCHES}

Member = tuple[Delivery, int]


class Portion(NamedTuple):
    """Messages of one delivery: which of them, and each as it is sent; or a whole batch, a group by itself."""

    delivery: Delivery
    indexes: list[int]
    blocks: list[frames.Block]
    whole: frames.Whole | None = None

    def frames(self, subject: str, reply: str) -> bytes:
        """The frames of a batch of these messages."""
        if self.whole is not None:
            return self.whole.frames(subject, reply)
        return frames.batch(subject, reply, self.blocks)


class Batch(NamedTuple):
    """A batch on its way: where it is sent, under which token and subject."""

    gatherer: Gatherer
    token: int
    subject: str

    def close(self, group: Group, last: int) -> None:
        """Ends a batch whose last message was refused, which the stream would keep open for seconds."""
        self.gatherer.close(self, group, last)

    def rest(self) -> None:
        """The stream takes no batches now."""
        self.gatherer.rest(self.subject)

    def acked(self) -> None:
        """The stream has stored it."""
        self.gatherer.acked(self)

    def denied(self) -> None:
        """The user may not send it."""
        self.gatherer.denied(self)

    def forget(self) -> None:
        """Nothing more can be learnt."""
        self.gatherer.forget(self)


class Group:
    """The messages of one batch, in order, and what the stream says of them.

    `size` is how many they are. `waited_for` is how many deliveries still wait for something; without any, no answer is
    of interest.
    """

    __slots__ = ("_batch", "_heard", "_listed", "_mixed", "_portions", "size", "waited_for")

    def __init__(self, portions: list[Portion], batch: Batch) -> None:
        self._portions = portions
        self.waited_for = len(portions)
        self.size = sum([len(portion.indexes) for portion in portions])
        self._batch = batch
        self._mixed = False  # with messages of another batch of the same name
        self._heard: set[int] = set()
        self._listed: list[Member] = []

    @property
    def _members(self) -> list[Member]:
        """All members in order, listed once. Only failures ask for it, maybe one for each member."""
        if not self._listed:
            self._listed = [(portion.delivery, index) for portion in self._portions for index in portion.indexes]
        return self._listed

    def left(self) -> None:
        """One of the deliveries has ended, maybe long before the stream says the last word about its messages."""
        self.waited_for -= 1
        if not self.waited_for:
            self._batch.forget()

    def answered(self, n: int, data: bytes, status: str | None) -> None:
        """A reply to the `n`-th message."""
        if data.startswith(_NEWS):
            return
        if not 0 < n <= self.size:
            return  # whoever listens to a station can answer on any subject below the inbox
        answer = answers.decode(data) if status is None else None
        if status is not None:
            self._hear(n, lambda delivery, index: delivery.answered(index, data, status))
        elif answer is None:
            return
        elif answer.error is not None:
            self._on_error(n, answer.error)
        elif answer.type == "gap":
            self._mixed |= answer.last_seq > answer.seq
        elif answer.batch:
            self._on_commit(answer.count, bool(answer.seq))
        elif answer.stream:  # a server that knows no batches has stored it as a message like any other
            self._hear(n, lambda delivery, index: delivery.answered(index, data, status))

    def denied(self, n: int, maybe_stored: bool) -> None:
        """The user may not publish here: nobody of the group may, nor of those that wait behind it."""
        self._batch.denied()
        for delivery, index in self._members:
            delivery.denied(index, maybe_stored)

    def lost(self, n: int) -> None:
        """The connection ended."""
        for delivery, index in self._members:
            delivery.lost(index)
        self._batch.forget()

    def repeated(self, since: float) -> bool:
        """Whether a delivery has sent messages again, alone, after that time."""
        return any(portion.delivery.repeated_at > since for portion in self._portions)

    def unsent(self, since: float) -> None:
        """Nothing of this was sent. Deliveries that have sent messages again since then see to theirs themselves."""
        for delivery, index in self._members:
            if delivery.repeated_at <= since:
                delivery.not_stored(index)

    def _hear(self, n: int, tell: Callable[[Delivery, int], None]) -> None:
        """What became of the `n`-th message; only the first word counts."""
        if n in self._heard:
            return
        self._heard.add(n)
        tell(*self._members[n - 1])
        if len(self._heard) == self.size:
            self._batch.forget()

    def _on_error(self, n: int, error: answers.ApiError) -> None:
        if error.err_code in NOT_IN_A_BATCH:
            if error.err_code in (NO_BATCHES, TOO_MANY_BATCHES):
                self._batch.rest()
            self._hear(n, lambda delivery, index: delivery.not_stored(index))
            return
        last = n == self.size and n not in self._heard
        self._hear(n, lambda delivery, index: delivery.on_error(index, error))
        if last:
            self._batch.close(self, n)

    def _on_commit(self, count: int, believed: bool) -> None:
        """The batch has ended: the first `count` are stored, those after are not.

        Unless that is not believed, or they are somebody else's: then it is not known, and they are repeated.
        """
        if not self._mixed:
            self._batch.acked()
        self._batch.forget()
        if self._mixed:
            return
        if believed and count >= self.size and not self._heard:
            for portion in self._portions:
                portion.delivery.all_stored(portion.indexes)
            return
        for n, (delivery, index) in enumerate(self._members, 1):
            if n in self._heard:
                continue
            if n > count:
                delivery.not_stored(index)
            elif believed:
                delivery.stored(index)
            else:
                delivery.doubted(index)


class Departure(NamedTuple):
    """A group that may be sent, its frames, and since when it waits."""

    group: Group
    batch: Batch
    frame: bytes
    since: float


class Gatherer:
    """Collects the messages of one turn of the loop, and sends those for the same subject as one batch.

    Each subject has a window, so that its stream has always something to store, and never more than it needs for that.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds  # how long a group is waited for
        self._loop = asyncio.get_running_loop()
        self._gathered: dict[str, list[Portion]] = {}
        self._groups: deque[tuple[float, Batch]] = deque()
        self._windows: dict[str, Window[Departure]] = {}
        self._alone: dict[str, float] = {}

    def add(self, subject: str, portion: Portion) -> None:
        """Sends messages at the end of this turn, together with what else comes until then."""
        if not self._gathered:
            self._loop.call_soon(self._send)
        self._gathered.setdefault(subject, []).append(portion)

    def send_alone(self, subject: str, portion: Portion) -> None:
        """Sends messages at the end of this turn, each with an answer of its own."""
        connection, delivery = self._connection, portion.delivery
        delivery.alone = True  # it has replies of its own to forget
        for index, block in zip(portion.indexes, portion.blocks, strict=True):
            token = delivery.token + index
            frame = frames.publish(subject, connection.reply_subject(token), block)
            connection.send(delivery, index, token, subject, frame)

    def takes(self, subject: str) -> bool:
        """Whether messages for this subject may be sent in groups now."""
        if self._connection.server_version < BATCHES_SINCE:
            return False
        again_at = self._alone.get(subject)
        return again_at is None or self._loop.time() >= again_at

    def _send(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for subject, portions in gathered.items():
            waited_for = [portion for portion in portions if portion.delivery.session is not None]  # others have ended
            for group in _groups(waited_for):
                if len(group) == 1 and len(group[0].indexes) == 1:  # a batch of one costs more than a message alone
                    self.send_alone(subject, group[0])
                else:
                    self._send_group(subject, group)
        self._connection.flush()

    def _send_group(self, subject: str, portions: list[Portion]) -> None:
        """One batch, in one piece."""
        token = tokens.take(1)
        reply = f"{self._connection.reply_subject(token)}.{FLOW}.fail."
        if len(portions) == 1:
            frame = portions[0].frames(subject, reply)
        else:
            frame = frames.batch(subject, reply, [block for portion in portions for block in portion.blocks])
        batch = Batch(self, token, subject)
        group = Group(portions, batch)
        for portion in portions:
            portion.delivery.on_end.append(group.left)
        self._forget_old_groups(batch)
        window = self._window(subject)
        window.hold(token, group.size, Departure(group, batch, frame, self._loop.time()))
        self._release(window)

    def _window(self, subject: str) -> Window[Departure]:
        window = self._windows.get(subject)
        if window is None:
            if len(self._windows) >= MAX_KNOWN_SUBJECTS:
                self._windows = {subject: window for subject, window in self._windows.items() if window.busy}
            window = self._windows[subject] = Window()
        return window

    def _release(self, window: Window[Departure]) -> None:
        """Sends the groups that have room.

        Not those of which a part was sent again meanwhile: a repeat must not come before what it repeats, or the stream
        might have forgotten its id.
        """
        now = self._loop.time()
        for group, batch, frame, since in window.ready(now):
            if not group.waited_for:
                window.ended(batch.token)  # nobody would hear of it
            elif self._connection.alive and not group.repeated(since):
                self._connection.send(group, 0, batch.token, batch.subject, frame, group.size)
            else:
                window.ended(batch.token)
                group.unsent(since)

    def close(self, batch: Batch, group: Group, last: int) -> None:
        """Sends the end of a batch, which is no message."""
        subject, reply = batch.subject, self._connection.reply_subject(batch.token)
        end = frames.request(subject, f"{reply}.{FLOW}.fail.{last}.{CLOSE}.$FI", b"")
        self._connection.send(group, last, batch.token, subject, end)
        if not group.waited_for:
            self.forget(batch)

    def acked(self, batch: Batch) -> None:
        """A batch is stored, which tells how many may be under way."""
        window = self._windows.get(batch.subject)
        if window is not None:
            window.acked(batch.token, self._loop.time())

    def denied(self, batch: Batch) -> None:
        """Tells those that wait to be sent to the same subject; each would be told by the broker otherwise, in turn."""
        window = self._windows.get(batch.subject)
        for departure in window.given_up() if window is not None else ():
            departure.group.denied(0, False)
        self.forget(batch)

    def forget(self, batch: Batch) -> None:
        """Waits for nothing more of that batch."""
        self._connection.forget(batch.token)
        window = self._windows.get(batch.subject)
        if window is not None and window.ended(batch.token):
            self._release(window)
            self._connection.flush()  # now: the stream may have nothing to do

    def rest(self, subject: str) -> None:
        """This stream takes no batches now; asked again after a while."""
        if len(self._alone) >= MAX_KNOWN_SUBJECTS:
            self._alone.clear()
        self._alone[subject] = self._loop.time() + ALONE_SECONDS

    def _forget_old_groups(self, new: Batch) -> None:
        """A group that never got its last answer is waited for no longer than its messages were."""
        now = self._loop.time()
        while self._groups and self._groups[0][0] < now:
            self.forget(self._groups.popleft()[1])
        self._groups.append((now + self._seconds, new))


def _groups(portions: list[Portion]) -> list[list[Portion]]:
    """Portions that share a group, which is answered as a whole: a large one waits for none but itself."""
    small = [portion for portion in portions if len(portion.indexes) < OWN_GROUP]
    large = [[portion] for portion in portions if len(portion.indexes) >= OWN_GROUP]
    return [*large, small] if small else large
