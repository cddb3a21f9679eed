"""Acks of messages that were delivered, each confirmed by the broker.

An ack that is sent as a request is answered once the consumer has taken it: NATS ADR-15 calls that a double ack.
"""

from __future__ import annotations

import asyncio

from proxy.brokers import frames
from proxy.brokers.api import API_SECONDS
from proxy.brokers.connection import NO_RESPONDERS, Connection
from proxy.brokers.tokens import tokens
from proxy.errors import BrokerAway, BrokerRefused, ChangeUnconfirmed, Forbidden, GatewayError

PIECE = 500  # sent in one turn of the loop


class Acking:
    """Words about deliveries: (subject of the ack, payload). `results` has None for each that the broker has taken."""

    def __init__(self, connection: Connection, words: list[tuple[str, bytes]]) -> None:
        self.results: list[GatewayError | None] = [ChangeUnconfirmed() for _ in words]
        self._connection, self._words = connection, words
        self._open = set(range(len(words)))
        self._token = tokens.take(max(1, len(words)))
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> list[GatewayError | None]:
        """Sends them all and waits for the answers, two seconds at most."""
        if not self._connection.alive:
            return [BrokerAway() for _ in self._words]
        try:
            for start in range(0, len(self._words), PIECE):
                self._send(range(start, min(start + PIECE, len(self._words))))
                await asyncio.sleep(0)
            if self._open:
                await asyncio.wait_for(self._all, API_SECONDS)
        except asyncio.TimeoutError:
            self._connection.check()
        finally:
            for index in self._open:
                self._connection.forget(self._token + index)
        return self.results

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """The consumer has taken it, or nobody is there to take it."""
        refused = status == NO_RESPONDERS
        error = BrokerRefused("nobody takes the ack: the group is gone, or has no leader now") if refused else None
        self._settle(index, error)

    def denied(self, index: int, maybe_stored: bool) -> None:
        """The user may not ack; or something else was refused, and it was not said what: the ack may be taken."""
        error = Forbidden(f"the broker does not allow this user to publish to {self._words[index][0]}")
        self._settle(index, ChangeUnconfirmed() if maybe_stored else error)

    def lost(self, index: int) -> None:
        """The connection ended: it may have been taken."""
        self._settle(index, ChangeUnconfirmed())

    def _send(self, indexes: range) -> None:
        for index in indexes:
            subject, payload = self._words[index]
            token = self._token + index
            frame = frames.request(subject, self._connection.reply_subject(token), payload)
            self._connection.send(self, index, token, subject, frame)

    def _settle(self, index: int, result: GatewayError | None) -> None:
        if index not in self._open:
            return
        self._open.discard(index)
        self._connection.forget(self._token + index)
        self.results[index] = result
        if not self._open and not self._all.done():
            self._all.set_result(None)
