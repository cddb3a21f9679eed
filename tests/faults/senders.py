"""64 senders over HTTP keep-alive, in one thread, and light: a crew that produces while faults happen."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import uvloop

from tests.clients import logged_on
from tests.faults.ledger import NO_ANSWER, Answer, Ledger
from tests.servers import eventually

USER, TOKEN = "shop", "memphis"
SENDERS = 64
PAUSE_SECONDS = 0.05
GIVE_UP_SECONDS = 30.0  # a sender waits no longer for any answer
RECONNECT_SECONDS = 0.05
REPEAT_SECONDS = 0.1
BATCH = 10
FILLING = b"." * 80


class Habit(NamedTuple):
    """How a sender works: messages in a request, and whether it gives a key and repeats as answers advise."""

    size: int
    repeats: bool


# One in four sends batches; every other one repeats.
HABITS = (Habit(1, False), Habit(1, True), Habit(1, False), Habit(1, True), Habit(1, False), Habit(1, True))
HABITS += (Habit(BATCH, False), Habit(BATCH, True))


class Crew:
    """Senders at work while the block runs: `with Crew(gateway.host, "orders") as crew: ...`.

    Each sends its next request when it has an answer, whatever it is, after a pause. No two messages are alike; all
    end with `filling`. `ledger` holds what they were told. At the end each finishes the request that it is at.
    """

    def __init__(
        self,
        host: str,
        station: str,
        *,
        secret: str = TOKEN,
        senders: int = SENDERS,
        pause: float = PAUSE_SECONDS,
        habits: tuple[Habit, ...] = HABITS,
        filling: bytes = FILLING,
    ) -> None:
        self.ledger = Ledger()
        self.senders = senders
        self._host, self._station, self._secret = host, station, secret
        self._pause, self._habits, self._filling = pause, habits, filling
        self._stopping = False
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        self._failure: BaseException | None = None

    def __enter__(self) -> Crew:
        with logged_on(self._host, USER, self._secret) as sender:
            self.token = sender.token
        self._thread.start()
        return self

    def stop(self) -> None:
        """Has the senders finish what they are at; the end of the block waits for them."""
        self._stopping = True

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(2 * GIVE_UP_SECONDS)
        assert not self._thread.is_alive(), "the senders do not come to an end"
        if self._failure is not None:
            raise self._failure

    def seen(self, condition: Callable[[Answer], bool], since: float = 0.0) -> int:
        """How many answers like that have come to requests made since then."""
        return sum(condition(answer) for answer in list(self.ledger.answers) if answer.asked >= since)

    def await_stored(self, count: int = 200, within: float = 30.0) -> None:
        """Waits until so many requests, made from now on, have been answered with 200."""
        self.await_status(200, count=count, within=within)

    def await_status(self, *statuses: int, count: int = 20, within: float = 30.0) -> None:
        """Waits until so many requests, made from now on, have been answered with one of these statuses."""
        began = time.monotonic()
        eventually(lambda: self._failure or self.seen(lambda answer: answer.status in statuses, began) >= count, within)

    def await_all(self, within: float = 30.0) -> None:
        """Waits until each sender has had a 200 from now on."""
        began = time.monotonic()
        eventually(lambda: self._failure or self.ledger.recovery(self.senders, began) < within, within)

    async def _run(self) -> None:
        try:
            await asyncio.gather(*(self._send(number) for number in range(self.senders)))
        except BaseException as error:
            self._failure = error

    async def _send(self, number: int) -> None:
        habit = self._habits[number % len(self._habits)]
        connection = _Connection(self._host)
        await asyncio.sleep(self._pause * number / self.senders)
        try:
            for n in itertools.count():
                await self._produce(connection, number, habit, n)
                if self._stopping:
                    return
                await asyncio.sleep(self._pause)
        finally:
            connection.close()

    async def _produce(self, connection: _Connection, number: int, habit: Habit, n: int) -> None:
        payloads = [b'"%d-%d-%d %b"' % (number, n, part, self._filling) for part in range(habit.size)]
        request = self._request(payloads, f"{number}-{n}" if habit.repeats else "")
        self.ledger.sent(payloads)
        while True:
            answer = await connection.ask(number, request)
            self.ledger.answered(payloads, answer)
            if answer.status == 200 or not habit.repeats or answer.json.get("repeat") == "never" or self._stopping:
                return
            await asyncio.sleep(REPEAT_SECONDS)

    def _request(self, payloads: list[bytes], key: str) -> bytes:
        kind = "single" if len(payloads) == 1 else "batch"
        body = payloads[0] if len(payloads) == 1 else b"[%b]" % b",".join(payloads)
        lines = [
            f"POST /stations/{self._station}/produce/{kind} HTTP/1.1",
            f"Host: {self._host}",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Idempotency-Key: {key}"] if key else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection:
    """A keep-alive connection, opened when it is needed."""

    def __init__(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        self._address = name, int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Closes it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self, sender: int, request: bytes) -> Answer:
        """Sends a request and reads its answer. Waits for a gateway that does not accept connections now."""
        await asyncio.wait_for(self._open(), GIVE_UP_SECONDS)
        asked = time.monotonic()
        try:
            status, body, retry = await asyncio.wait_for(self._exchange(request), GIVE_UP_SECONDS)
        except (OSError, EOFError, asyncio.TimeoutError):
            status, body, retry = NO_ANSWER, b"", False
        if status == NO_ANSWER:
            self.close()
        return Answer(sender, asked, time.monotonic() - asked, status, body if status != 200 else b"", retry)

    async def _open(self) -> None:
        """A connection that the server has closed while it was idle has not taken the request: another is opened."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        while self._streams is None:
            try:
                self._streams = await asyncio.open_connection(*self._address)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _exchange(self, request: bytes) -> tuple[int, bytes, bool]:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        body = await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body, b"\r\nretry-after:" in head


@contextlib.contextmanager
def memory_of(pids: Callable[[], set[int]], read: Callable[[int], float]) -> Iterator[list[float]]:
    """Reads the MiB that processes have, all together, about twice a second while the block runs."""
    done, series = threading.Event(), [sum(map(read, pids()))]

    def run() -> None:
        while not done.wait(0.5):
            series.append(sum(map(read, pids())))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield series
    finally:
        done.set()
        thread.join()
