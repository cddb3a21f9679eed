"""Messages of a group, pulled from the broker: as many as are there, then those that come, until the time is over.

A pull asks a durable consumer for some messages, which are delivered to an inbox; a message without a payload and with
a status says how a pull has ended. Sources: NATS ADR-37 (simplified consumers) and ADR-13 (pull subscriptions).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from proxy.brokers import frames
from proxy.brokers.listening import ListeningConnection
from proxy.brokers.tokens import tokens
from proxy.errors import BrokerAway, BrokerRefused, Forbidden, GatewayError, Overloaded
from proxy.messages import Delivered

ACKS = "$JS.ACK."
BACK = b"-NAK"
ANSWER_SECONDS = 1.0  # within which a consumer says that it has nothing, or delivers the next message
SILENT_SECONDS = 0.25  # after which one that says nothing is asked with a time, PROBE_SECONDS: that it has to answer
PROBE_SECONDS = 0.1
AGAIN_SECONDS = 0.25  # before a consumer is asked again that has ended a pull: for want of a leader, it may be
LEAST_SECONDS = 0.005
CROWDED = "consumes hold as many bytes of messages as the gateway takes (MAX_PENDING_BYTES); try again shortly"
TURN_SECONDS = 10.0  # after which a pull that waits is sent anew: a server that starts again has forgotten it, unheard

_STATUS, _TEXT = slice(9, 12), slice(13, None)  # of "NATS/1.0 409 Consumer Deleted"
_LEFT = re.compile(rb"\r\nNats-Pending-Messages: *(\d{1,9})\r\n")
_NOTHING_NOW = ("404", "408")
_DONE = ("batch completed", "request timeout")  # as was asked for
_PASSING = (*_DONE, "leadership change", "server shutdown")
_NOBODY = "503"


class Source(NamedTuple):
    """A durable consumer of a stream, which messages are pulled from."""

    stream: str
    durable: str

    @property
    def subject(self) -> str:
        """Where pulls go."""
        return f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.durable}"


class Gone(BrokerRefused):
    """A consumer is not there any more, or does not answer: look for it again."""

    default = "the group's consumer at the broker does not answer"


class Room(NamedTuple):
    """How many messages, and how many bytes of them, are wanted at most; one message is, whatever its size."""

    messages: int
    bytes: int


class Stock:
    """Bytes of messages that all reads under way have in hand, `most` of them, and of the one that goes beyond."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0

    @property
    def full(self) -> bool:
        """Whether no read may take anything."""
        return self.bytes >= self.most


class Pull:
    """One request for messages that is under way; its `Fetch` is told what comes of it.

    With `seconds` it `waits` for messages, without it takes what is there. `left` messages may still come; `word` is
    what the broker has said about the end, a status and a text. By `due` it must have said something.
    """

    def __init__(self, fetch: Fetch, source: Source, room: Room, seconds: float | None) -> None:
        self.source, self.left, self.waits = source, room.messages, seconds is not None
        self.word: tuple[str, str] | None = None
        self._late: asyncio.TimerHandle | None = None
        self._fetch, self._connection = fetch, fetch.connection
        self._sid, inbox = self._connection.open_inbox(self._delivered)
        self._token = tokens.take(1)
        self.due = asyncio.get_running_loop().time() + (seconds or 0.0) + ANSWER_SECONDS
        asked: dict[str, int | bool] = {"batch": room.messages}
        if room.bytes:
            asked["max_bytes"] = room.bytes
        if seconds is None:
            asked["no_wait"] = True
        else:
            asked["expires"] = int(seconds * 1e9)
        frame = frames.request(source.subject, inbox, msgspec.json.encode(asked))
        # Registered as if its reply came to the token, so that denials and the connection's end are told.
        self._connection.send(self, 0, self._token, source.subject, frame)

    def close(self) -> None:
        """Takes no more."""
        if self._late is not None:
            self._late.cancel()
        self._connection.forget(self._token)
        self._connection.close_inbox(self._sid)

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """Nothing comes here."""

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The user may not pull."""
        subject = self.source.subject
        self._fetch.fail(Forbidden(f"the broker does not allow this user to publish to {subject}, and so to consume"))

    def lost(self, index: int) -> None:
        """The connection ended."""
        self._fetch.fail(BrokerAway())

    def _delivered(self, reply: bytes, payload: bytes, head: bytes | None) -> None:
        """A message, which has where to ack it as its reply subject; or a word about the pull, which has none."""
        if reply.startswith(ACKS.encode()):
            self.left -= 1
            self._fetch.take(self.source, Delivered(payload, head or b"", reply.decode()))
        elif head is not None and head[8:9] == b" ":
            self._hear(head)
        else:
            return
        if self.left <= 0:
            self._end()

    def _end(self) -> None:
        if self.word is None:
            self._fetch.ended(self)
        else:
            self._fetch.told(self, *self.word)

    def _hear(self, head: bytes) -> None:
        """A word about the end, which counts once all has come that was sent before it.

        Where a consumer has replicas the word may overtake messages: they wait until most replicas know of them. Who
        closed the inbox now would not get them, and neither would anybody else before the time to ack is over. Those
        that a consumer has not sent when it gets another leader never come: the next pull brings them.
        """
        line, _, _ = head.partition(b"\r\n")
        self.word = line[_STATUS].decode("latin-1"), line[_TEXT].decode("latin-1").strip().lower()
        never = _LEFT.search(head)
        self.left -= int(never[1]) if never else self.left
        if self.left > 0 and self._late is None:
            self._late = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._end)


HandOn = Callable[[Source, Delivered], bool]


class Fetch:
    """Reads once from all the sources of a group; `taken` has what has come.

    What comes when it is over, or above `room`, is for another read if `hand_on` finds one, which does not count as a
    delivery as everything does that goes back to the broker: there it goes at once else, for whoever reads next. With
    messages in hand it waits `hold` seconds at most: the broker gives each to others when it is not acked in time.
    """

    def __init__(
        self,
        connection: ListeningConnection,
        sources: Sequence[Source],
        room: Room,
        hold: float,
        stock: Stock,
        hand_on: HandOn = lambda source, message: False,
    ) -> None:
        self.connection = connection
        self._hand_on, self._stock = hand_on, stock
        self.taken: list[Delivered] = []
        self._sources, self._room, self._hold = sources, room, hold
        self._bytes = self._count = 0
        self._full = self._over = self._waits = False
        self._pulls: dict[Source, Pull] = {}
        self._not_before: dict[Source, float] = {}
        self._large: set[Source] = set()  # whose next message is larger than all that is wanted
        self._error: GatewayError | None = None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._until = self._first_at = 0.0

    async def run(self, until: float) -> None:
        """Reads until there is as much as is wanted, or the loop's time is `until`.

        Raises what has kept it from reading when nothing was taken: `Forbidden`, `BrokerAway`, `BrokerRefused`, `Gone`,
        `Overloaded`.
        """
        self._until = until
        try:
            for source in self._sources:
                await self._sweep(source)
            self._waits = True
            while not self._done() and self._loop.time() < self._until - LEAST_SECONDS:
                self._pull_from_idle()
                await self._wait()
        finally:
            self._over, self._waits = True, False
            self._stock.bytes -= self._bytes
            for pull in self._pulls.values():
                pull.close()
        if self._error is not None and not self.taken:
            raise self._error

    @property
    def held(self) -> float:
        """For how many seconds the first message has been in hand."""
        return self._loop.time() - self._first_at if self.taken else 0.0

    def finish(self) -> None:
        """Ends the waiting now, with what there is; what the broker has not sent by then, it keeps."""
        self._until, self._waits = 0.0, False
        for pull in [pull for pull in self._pulls.values() if pull.waits]:
            self.ended(pull)
        self._news.set()

    def give_back(self) -> None:
        """Gives back what was taken."""
        taken, self.taken = self.taken, []
        for message in taken:
            self.connection.tell(message.ack, BACK)

    # ---- what pulls tell ---------------------------------------------------------------------------------------

    def take(self, source: Source, message: Delivered) -> None:
        """A message has come."""
        self._count += 1
        if self._has_room_for(message):
            self._keep(message)
            return
        self._full = True
        self._news.set()
        if not self.taken and not self._over:
            self.fail(Overloaded(CROWDED))
        if not self._hand_on(source, message):
            self.connection.tell(message.ack, BACK)

    def takes_over(self, source: Source, message: Delivered) -> bool:
        """Takes what has come for another read, if this one waits for the like and has room."""
        if not self._waits or self._error is not None or source not in self._sources:
            return False
        if not self._has_room_for(message):
            return False
        self._keep(message)
        return True

    def _has_room_for(self, message: Delivered) -> bool:
        size = len(message.payload) + len(message.head)
        over = self._over or self._full or self._stock.full
        return not (over or (self.taken and self._bytes + size > self._room.bytes))

    def _keep(self, message: Delivered) -> None:
        if not self.taken:
            self._first_at = self._loop.time()
            self._until = min(self._until, self._first_at + self._hold)
        self.taken.append(message)
        size = len(message.payload) + len(message.head)
        self._bytes += size
        self._stock.bytes += size
        self._full = len(self.taken) >= self._room.messages or self._bytes >= self._room.bytes
        if self._full or len(self.taken) == 1:
            self._news.set()

    def ended(self, pull: Pull) -> None:
        """A pull has brought all that it can."""
        if self._pulls.get(pull.source) is pull:
            del self._pulls[pull.source]
            pull.close()
            self._news.set()

    def told(self, pull: Pull, status: str, text: str) -> None:
        """The broker has ended a pull. Of the statuses 409 stands for many situations, told apart by their text."""
        if pull.waits and text not in _DONE:
            self._not_before[pull.source] = self._loop.time() + AGAIN_SECONDS
        if status == "409" and text == "message size exceeds maxbytes":
            self._full = bool(self.taken)
            self._large.add(pull.source)
            self._not_before.pop(pull.source, None)
        elif status == _NOBODY or (status == "409" and text == "consumer deleted"):
            self.fail(Gone())
        elif status not in _NOTHING_NOW and text not in _PASSING:
            self.fail(BrokerRefused(f"the broker refused to deliver messages: {text}"))
        self.ended(pull)

    def fail(self, error: GatewayError) -> None:
        """Nothing more can be read now."""
        self._error = error
        self._news.set()

    # ---- reading -----------------------------------------------------------------------------------------------

    async def _sweep(self, source: Source) -> None:
        """Takes what is there; this is also how a consumer that is gone, or may not be used, is noticed."""
        while not self._done():
            self._pull(source, Room(self._room.messages - len(self.taken), self._bytes_left()), None)
            await self._swept(source)
            if source not in self._large or self.taken:
                return

    async def _swept(self, source: Source) -> None:
        """Waits for the end of a pull. A consumer with as many messages in hand as it may have says nothing to it."""
        patience = SILENT_SECONDS
        while source in self._pulls and not self._done():
            count = self._count
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), patience)
            except asyncio.TimeoutError:
                if count == self._count and patience == ANSWER_SECONDS:
                    self.connection.check()
                    self.fail(Gone())
                elif count == self._count:
                    patience = ANSWER_SECONDS
                    if self._pulls[source].word is None:
                        self._probe(self._pulls[source])

    def _probe(self, pull: Pull) -> None:
        """Replaces a pull by one whose end the broker tells in any case, unless the consumer is gone."""
        pull.close()
        self._pull(pull.source, Room(pull.left, self._bytes_left()), PROBE_SECONDS)

    def _pull_from_idle(self) -> None:
        """Shares what is still wanted among the sources, one message each at least."""
        now = self._loop.time()
        idle = [one for one in self._sources if one not in self._pulls and self._not_before.get(one, 0.0) <= now]
        if not idle:
            return
        asked = sum(pull.left for pull in self._pulls.values())
        share = max(1, (self._room.messages - len(self.taken) - asked) // len(idle))
        size = max(1, self._bytes_left() // len(self._sources))
        for source in idle:
            self._pull(source, Room(share, size), max(min(self._until - now, TURN_SECONDS), LEAST_SECONDS))

    def _pull(self, source: Source, room: Room, seconds: float | None) -> None:
        if source in self._large:  # one message of any size
            self._large.discard(source)
            room = Room(1, 0)
        self._pulls[source] = Pull(self, source, room, seconds)

    async def _wait(self) -> None:
        """Waits for news. The broker ends each pull when its time is over, which shows that it has listened."""
        self._news.clear()
        now = self._loop.time()
        left = max(self._until - now, 0)
        if len(self._pulls) < len(self._sources) and left > AGAIN_SECONDS:
            left = AGAIN_SECONDS
        elif self._pulls and not self.taken:
            left = min(left + ANSWER_SECONDS, min(pull.due for pull in self._pulls.values()) - now)
        try:
            await asyncio.wait_for(self._news.wait(), left)
        except asyncio.TimeoutError:
            self._look_for_silence()

    def _look_for_silence(self) -> None:
        """Nothing has come for a while, which the broker has to say; with messages in hand nobody needs its word."""
        now = self._loop.time()
        silent = [pull for pull in self._pulls.values() if now >= min(pull.due, self._until)]
        if silent and not self.taken:
            self.connection.check()
            self.fail(BrokerAway("the broker does not answer") if now >= self._until else Gone())

    def _done(self) -> bool:
        return self._full or self._error is not None

    def _bytes_left(self) -> int:
        return max(1, self._room.bytes - self._bytes)
