"""Servers of a few lines, for what a real nats-server does not do when asked to."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.errors import GatewayError

INFO = b'INFO {"server_id":"FAKE","version":"2.15.1","headers":true,"max_payload":1048576,"jetstream":true}\r\n'

Answer = Callable[["FakeNats", "Published"], bytes]


class Published(NamedTuple):
    """A message that a client has published: `number` counts those of its subject, from 1, over all connections."""

    number: int
    subject: str
    reply: str
    content: bytes
    connection: int


class FakeServer:
    """Accepts connections on 127.0.0.1, says `greeting`, and keeps all bytes that come.

    `open` is the number of connections that are open now, `received` what all of them sent, `accepted_at` when the
    last one came.
    """

    def __init__(self, greeting: bytes = b"") -> None:
        self.received = b""
        self.open = self.accepted = 0
        self.accepted_at = 0.0
        self._greeting = greeting
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, name="fake server")]
        self._clients: list[socket.socket] = []
        self._threads[0].start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Ends all connections and threads."""
        for endpoint in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                endpoint.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                self.accepted_at = time.monotonic()
                self.open += 1
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._run, args=(client, self.accepted), name="fake"))
                self._threads[-1].start()

    def _run(self, client: socket.socket, number: int) -> None:
        with client, contextlib.suppress(OSError):
            self.serve(client, number)
        self.open -= 1

    def serve(self, client: socket.socket, number: int) -> None:
        """One connection, in a thread of its own; it is closed on return."""
        client.sendall(self._greeting)
        while data := client.recv(65536):
            self.received += data


class FakeNats(FakeServer):
    """A NATS server that lets everyone in and leaves the answer to each publish to `answer`.

    `answer(server, published)` returns the bytes to send back; raising `ConnectionError` ends the connection. `greet`
    is called before the `INFO` of each connection with its number. Connections whose number is in `mute` get no sign of
    life. `info` is that line.
    """

    info = INFO

    def __init__(self, answer: Answer, greet: Callable[[int], object] = lambda number: None) -> None:
        self.published: list[Published] = []
        self.mute: set[int] = set()
        self._answer, self._greet = answer, greet
        super().__init__()

    def serve(self, client: socket.socket, number: int) -> None:
        """Speaks the part of the protocol that a publishing client uses."""
        self._greet(number)
        client.sendall(self.info)
        for line, content in self._commands(client):
            if line == b"PING" and number not in self.mute:
                client.sendall(b"PONG\r\n")
            elif line.startswith((b"PUB ", b"HPUB ")):
                _, subject, answer_to, *_ = line.decode().split()
                count = 1 + sum(before.subject == subject for before in self.published)
                published = Published(count, subject, answer_to, content, number)
                self.published.append(published)
                client.sendall(self._answer(self, published))

    def _commands(self, client: socket.socket) -> Iterator[tuple[bytes, bytes]]:
        """The lines that come, each with the message that follows it."""
        with client.makefile("rb") as stream:
            for line in stream:
                self.received += line
                size = int(line.split()[-1]) + 2 if line.startswith((b"PUB ", b"HPUB ")) else 0
                content = stream.read(size)
                self.received += content
                yield line.rstrip(b"\r\n"), content[:-2]


def station(answer: Answer) -> Answer:
    """The answers of a server that has the station `orders`, with a duplicate window of two minutes."""
    api = {
        "$JS.API.STREAM.NAMES": b'{"streams":["orders"]}',
        "$JS.API.STREAM.INFO.orders": b'{"config":{"duplicate_window":120000000000}}',
    }

    def answer_all(server: FakeNats, published: Published) -> bytes:
        known = api.get(published.subject)
        return reply(published, known) if known else answer(server, published)

    return answer_all


def reply(published: Published, payload: bytes) -> bytes:
    """A message to the one who waits for the answer; its subscription is the first of the connection."""
    return b"MSG %b 1 %d\r\n%b\r\n" % (published.reply.encode(), len(payload), payload)


def no_responders(published: Published) -> bytes:
    """What the server itself answers when nobody listens."""
    return b"HMSG %b 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % published.reply.encode()


def message_id(published: Published) -> str:
    """The de-duplication id that the message has."""
    found = re.search(rb"Nats-Msg-Id:\s*(\S+)", published.content)
    return found[1].decode() if found else ""


class Recorder:
    """A delivery that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def stored(self, index: int) -> None:
        """Stored as one of a group."""
        self.told.append(("stored", index))

    def all_stored(self, indexes: list[int]) -> None:
        """The same of several."""
        self.told += [("stored", index) for index in indexes]

    def not_stored(self, index: int) -> None:
        """To be sent again."""
        self.told.append(("again", index))

    def doubted(self, index: int) -> None:
        """Maybe stored, and to be sent again."""
        self.told.append(("doubted", index))

    def on_error(self, index: int, error: GatewayError) -> None:
        """Refused."""
        self.told.append(("refused", index))

    def answered(self, index: int, data: bytes, status: str | None) -> None:
        """Answered like a message of its own."""
        self.told.append((status or "answered", index))

    def denied(self, index: int, maybe_stored: bool) -> None:
        """Not for this user."""
        self.told.append(("maybe denied" if maybe_stored else "denied", index))

    def lost(self, index: int) -> None:
        """The connection ended."""
        self.told.append(("lost", index))
