"""The messages of a request on their way into a station: what it demands, what is refused, what the broker says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from proxy import checking, dead_letters
from proxy.bridge import Bridge
from proxy.brokers.pool import Pool
from proxy.credentials import Credentials
from proxy.errors import (
    AckTimeout,
    BadStationName,
    BatchFailed,
    BrokerAway,
    GatewayError,
    Overloaded,
    SchemaViolation,
    let_go,
)
from proxy.messages import Ack, Demand, Elements, Manner, Message, Pairs, Station, Unknown
from proxy.replies import GaveUp

# The loop ends every delivery at its deadline; a caller that waits longer knows that the loop stands still.
GRACE_SECONDS = 0.75
LEAST_SECONDS = 0.5  # what is sent with less time before it could hardly be answered
LETTER_SECONDS = 1.0

Results = Sequence["Ack | GatewayError"]
Rejected = list[tuple[Message, SchemaViolation]]


class Way(NamedTuple):
    """Who stores, where, until when by `time.monotonic()`, and how."""

    credentials: Credentials
    station: Station
    until: float
    manner: Manner


class Storing:
    """Stores messages that are what their station demands, over one bridge; `seconds` is the deadline of a request."""

    def __init__(self, bridge: Bridge, pool: Pool, seconds: float) -> None:
        self._bridge, self._pool, self._seconds = bridge, pool, seconds

    def demand(self, credentials: Credentials, station: Station, until: float) -> Demand | None:
        """What the station demands of payloads, None for nothing; the broker is asked only where it is not known.

        `until` is when, by `time.monotonic()`, the answer is of no use any more. Raises what keeps it from being known.
        """
        known = self._pool.known_demand(credentials, station)
        if not isinstance(known, Unknown):
            return known
        seconds = max(until - time.monotonic(), 0)
        try:
            found: Demand | None = self._bridge.call(
                self._pool.demand, credentials, station, seconds, timeout=seconds + GRACE_SECONDS
            )
        except GaveUp:
            raise BrokerAway("the broker did not tell in time which schema the station has") from None
        return found

    def store(self, credentials: Credentials, station: Station, messages: Sequence[Message], manner: Manner) -> Results:
        """What became of each message; only those that are what the station demands are published.

        Raises what keeps all of them from being stored; of an atomic batch, the reason for which one was refused.
        """
        way = Way(credentials, station, time.monotonic() + self._seconds, manner)
        demand = self.demand(credentials, station, way.until)
        if demand is None:
            return self._publish(way, messages)
        refused = checking.refused(demand, payloads_of(messages), way.until, manner)
        if not refused:
            return self._publish(way, messages)
        accepted = [message for index, message in enumerate(messages) if index not in refused]
        results = self._publish_or_say(way, accepted) if manner != "atomic" else []
        if demand.dead_letter:
            self._keep(way, [(messages[index], error) for index, error in refused.items()])
        if manner == "atomic":
            raise checking.first_of(refused)
        rest = iter(results)
        return [refused[index] if index in refused else next(rest) for index in range(len(messages))]

    def _keep(self, way: Way, rejected: Rejected) -> None:
        """Has dead letters kept, and notes in each refusal what became of its one; they have a second at least."""
        way = way._replace(until=max(way.until, time.monotonic() + LETTER_SECONDS))
        keep = self._hand_over if self._pool.keeps_letters else self._keep_here
        for (_, refusal), result in zip(rejected, keep(way, rejected), strict=True):
            refusal.fields["dead_letter"] = dead_letters.outcome(result)

    def _keep_here(self, way: Way, rejected: Rejected) -> Results:
        """Stores dead letters in the station beside."""
        messages = dead_letters.letters(rejected, way.station, way.credentials.user)
        try:
            beside = dead_letters.station_of(way.station)
        except BadStationName as error:
            return [error] * len(messages)
        return self._publish_or_say(way._replace(station=beside, manner="together"), messages)

    def _hand_over(self, way: Way, rejected: Rejected) -> Sequence[GatewayError | None]:
        """Gives what was refused to a broker that keeps dead letters itself."""
        seconds = way.until - time.monotonic()
        reasons = [(message, error.message) for message, error in rejected]
        try:
            return self._bridge.run(
                self._pool.dead_letter,
                way.credentials,
                way.station,
                reasons,
                seconds,
                timeout=seconds + GRACE_SECONDS,
            )
        except GaveUp as late:
            error = AckTimeout("the broker did not confirm in time") if late.started else Overloaded()
            return [error] * len(rejected)
        except GatewayError as error:
            let_go(error)  # else it has this call, which has the messages
            return [error] * len(rejected)

    def _publish_or_say(self, way: Way, messages: Sequence[Message]) -> Results:
        """As `_publish`; what keeps all messages from being sent is the answer for each of them."""
        try:
            return self._publish(way, messages) if messages else []
        except GatewayError as error:
            let_go(error)
            return [error] * len(messages)

    def _publish(self, way: Way, messages: Sequence[Message]) -> Results:
        seconds = way.until - time.monotonic()
        if seconds < LEAST_SECONDS:
            raise Overloaded("checking the messages against the schema has left no time to store them; try again")
        try:
            results: Results = self._bridge.call(
                self._pool.publish,
                way.credentials,
                way.station,
                messages,
                seconds,
                way.manner,
                timeout=seconds + GRACE_SECONDS,
                weight=len(messages),
                size=size_of(messages),
            )
        except GaveUp as error:
            raise (AckTimeout() if error.started else Overloaded()) from None
        return results


def payloads_of(messages: Sequence[Message]) -> list[bytes]:
    """The payloads of messages, in order."""
    return messages.payloads if isinstance(messages, Elements) else [message.payload for message in messages]


def size_of(messages: Sequence[Message]) -> int:
    """Bytes of the messages of one produce: many small ones may consist of their headers, mostly the same for all."""
    if isinstance(messages, Elements):
        return sum(messages.sizes) + len(messages) * _head_size(messages.headers)
    size, headers, head = 0, None, 0
    for message in messages:
        if message.headers is not headers:
            headers = message.headers
            head = _head_size(headers)
        size += len(message.payload) + head
    return size


def _head_size(headers: Pairs) -> int:
    return sum([len(name) + len(value) for name, value in headers])


def failure_of(results: Results) -> BatchFailed | None:
    """What a batch's results come to, None where all are acks."""
    first = results[0]
    if isinstance(first, Ack) and results.count(first) == len(results):  # a group is told one ack for all its messages
        return None
    failed = [(index, result) for index, result in enumerate(results) if isinstance(result, GatewayError)]
    for _, error in failed:
        let_go(error)
    return BatchFailed(len(results), failed) if failed else None
