"""Consuming as the routes see it: read, then ack or give back. Each call has a deadline and a truthful end."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator

import msgspec

from proxy.ack_ids import AckIds
from proxy.breathing import breathe
from proxy.brokers.consuming import ACK, Haul
from proxy.brokers.pulling import CROWDED
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import AcksFailed, BrokerAway, ChangeUnconfirmed, GatewayError, Overloaded, let_go
from proxy.messages import Delivered, Station, Wanted
from proxy.producer import Producer
from proxy.replies import GaveUp

# What reading may take beyond the wait: for a session, for the group, for a broker in trouble.
GRACE_SECONDS = 8.0
ACK_SECONDS = 6.0
MOST_IDS = 100  # that are read without letting others run
BACK = b"-NAK"


class Turn:
    """One consume: messages that were read, and are their reader's until `end` says what became of them."""

    def __init__(self, consumer: Consumer, credentials: Credentials, station: Station) -> None:
        self.messages: list[Delivered] = []
        self.size = 0  # bytes of their payloads
        self.until = 0.0  # Unix time at which the broker gives the messages to others
        self._consumer, self._credentials, self._station = consumer, credentials, station
        self._open = True

    def shed(self) -> None:
        """Forgets payloads and headers, of which the answer has been made."""
        self.messages = [message._replace(payload=b"", head=b"") for message in self.messages]
        self.size = 0

    def ack_id(self, message: Delivered) -> str:
        """What the reader of the message can ack it with."""
        return self._consumer.ids.make(self._credentials, self._station, message.ack, self.until)

    def end(self, reached: bool, ack: bool) -> None:
        """Acks what has reached its reader, if `ack`; gives back what has not. The first call counts."""
        if not self._open:
            return
        self._open = False
        self._consumer.done(self)
        if self.messages and (ack or not reached):
            self._consumer.settle(self._credentials, self._station, self.messages, reached)

    @contextlib.contextmanager
    def given_back_on_failure(self) -> Iterator[None]:
        """Gives the messages back if what is done with them raises."""
        try:
            yield
        except BaseException:
            self.end(False, False)
            raise


class Consumer:
    """Reads from stations, and acks, as the users that callers name; at most `MAX_CONSUMES` at once."""

    def __init__(self, config: Config, producer: Producer) -> None:
        self.ids = AckIds(config.jwt_secret, config.jwt_secret_previous)
        self._most, self._most_bytes, self._producer = config.max_consumes, config.max_pending_bytes, producer
        # Turns whose answers were never sent nor closed leave by themselves. Two threads that look at the same time let
        # one more in, harmlessly.
        self._turns: weakref.WeakSet[Turn] = weakref.WeakSet()

    def take(
        self, credentials: Credentials, station: Station, wanted: Wanted, gone: Callable[[], bool] = lambda: False
    ) -> Turn:
        """Reads as many messages as are wanted, or those that are there when the wait is over. `end` the turn.

        The wait is also over once the reader is `gone`, which another thread asks. Raises `Overloaded`, `Forbidden`,
        `StationNotFound`, `TooManyStations`, `Conflict`, `Unavailable`.
        """
        if len(self._turns) >= self._most:
            raise Overloaded("as many consumes as the gateway takes are under way (MAX_CONSUMES); try again shortly")
        turn = Turn(self, credentials, station)
        self._turns.add(turn)
        try:
            haul = self._read(credentials, station, wanted, gone)
        except BaseException:
            self.done(turn)
            raise
        turn.messages, turn.until = haul.messages, time.time() + haul.ack_seconds
        turn.size = sum([len(message.payload) for message in haul.messages])
        with turn.given_back_on_failure():
            self._check_bytes(turn)
        return turn

    def _check_bytes(self, turn: Turn) -> None:
        """Raises `Overloaded` for a turn that goes beyond what all may hold; one of its own may be of any size."""
        others = sum(one.size for one in list(self._turns) if one is not turn)
        if others and others + turn.size > self._most_bytes:
            raise Overloaded(CROWDED)

    def done(self, turn: Turn) -> None:
        """A turn has ended."""
        self._turns.discard(turn)

    def settle(self, credentials: Credentials, station: Station, messages: list[Delivered], reached: bool) -> None:
        """Acks messages that have reached their reader, gives back others. A failure is in the log: they come again."""
        acks = [message.ack for message in messages]
        with contextlib.suppress(GatewayError, GaveUp):  # no broker: it delivers them again by itself
            self._producer.consuming("settle", credentials, station, acks, reached, seconds=ACK_SECONDS)

    def ack(self, credentials: Credentials, station: Station, ids: list[str]) -> None:
        """Acks by ids; all are tried. Raises `AcksFailed`, with a reason for each that the broker has not taken."""
        self._tell(credentials, station, ids, ACK)

    def give_back(self, credentials: Credentials, station: Station, ids: list[str], delay: float) -> None:
        """Has messages delivered again, after `delay` seconds; otherwise as `ack`."""
        word = BACK + b" " + msgspec.json.encode({"delay": int(delay * 1e9)}) if delay else BACK
        self._tell(credentials, station, ids, word)

    def _read(self, credentials: Credentials, station: Station, wanted: Wanted, gone: Callable[[], bool]) -> Haul:
        try:
            haul: Haul = self._producer.consuming(
                "consume", credentials, station, wanted, gone, seconds=wanted.seconds + GRACE_SECONDS
            )
        except GaveUp:
            raise BrokerAway("the broker does not answer in time") from None
        return haul

    def _tell(self, credentials: Credentials, station: Station, ids: list[str], word: bytes) -> None:
        results: list[GatewayError | None] = []
        words = []
        now = time.time()
        for number, id in enumerate(ids, 1):
            if number % MOST_IDS == 0:
                breathe()
            try:
                words.append((self.ids.read(credentials, station, id, now), word))
                results.append(None)
            except GatewayError as error:
                let_go(error)  # else it has this call, which has the error
                results.append(error)
        told = iter(self._confirm(credentials, words) if words else ())
        results = [next(told) if result is None else result for result in results]
        failures = [(index, error) for index, error in enumerate(results) if error is not None]
        if failures:
            raise AcksFailed(len(ids), failures)

    def _confirm(self, credentials: Credentials, words: list[tuple[str, bytes]]) -> list[GatewayError | None]:
        try:
            results: list[GatewayError | None] = self._producer.consuming(
                "confirm", credentials, words, seconds=ACK_SECONDS
            )
        except GaveUp:
            return [ChangeUnconfirmed() for _ in words]
        return results
