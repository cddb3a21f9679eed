"""Who reads in the tests of brokers."""

from __future__ import annotations

from proxy.config import Config
from proxy.consumer import Consumer, Turn
from proxy.credentials import Credentials
from proxy.messages import Station, Wanted
from proxy.producer import Producer

WAIT = 0.3


class Reader:
    """Reads from a station as the user of a broker."""

    def __init__(self, user: Credentials, producer: Producer, config: Config, station: Station) -> None:
        self.producer, self.station, self.user = producer, station, user
        self.consumer = Consumer(config, producer)

    def send(self, *payloads: bytes) -> None:
        """Stores messages, in order."""
        for payload in payloads:
            self.producer.single(self.user, self.station, payload, (("x-a", "b"),))

    def take(
        self, messages: int = 10, seconds: float = WAIT, group: str = "", *, name: str = "c1", size: int = 8 << 20
    ) -> Turn:
        """Reads; the turn is still to be ended."""
        return self.consumer.take(self.user, self.station, Wanted(name, group, messages, seconds, size))

    def read(self, messages: int = 10, seconds: float = WAIT, group: str = "", **more: str) -> list[bytes]:
        """The payloads of what is read; all of it is acked."""
        turn = self.take(messages, seconds, group, **more)  # type: ignore[arg-type]
        turn.end(True, True)
        return payloads(turn)


def payloads(turn: Turn) -> list[bytes]:
    """The payloads of what was read."""
    return [message.payload for message in turn.messages]
