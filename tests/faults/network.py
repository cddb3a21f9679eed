"""A network that misbehaves: a TCP proxy that cuts, delays, throttles, resets and truncates; and one front for many."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

_CHUNK = 1 << 16
_AHEAD = 64  # chunks that a delayed direction holds
_T = TypeVar("_T")
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_Queue = asyncio.Queue[tuple[float, bytes]]  # when to pass on, and what


class TcpProxy:
    """Listens on 127.0.0.1 and passes connections on to `ports` in turn, from `with` to its end.

    What spoils them may change at any time: `delay` holds everything back for so many seconds each way, `rate` lets so
    many bytes a second through each way (0: all), `silent` lets nothing through and keeps all connections open,
    `closed` resets new connections at once.
    """

    def __init__(self, *ports: int) -> None:
        self.delay = self.rate = 0.0
        self.silent = self.closed = False
        self._next = itertools.cycle(ports)
        self._pass_on: int | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def heal(self) -> None:
        """Spoils nothing any more."""
        self.delay = self.rate = 0.0
        self.silent = self.closed = False
        self._pass_on = None

    def reset(self) -> int:
        """Resets all connections (RST), whatever is under way; how many there were."""
        return self._do(self._reset)

    def truncate(self, count: int) -> None:
        """Lets `count` more bytes through, in all directions together, and then ends the connections there."""
        self._pass_on = count

    @property
    def truncated(self) -> bool:
        """Whether all that was to be let through has been."""
        return self._pass_on == 0

    def _do(self, function: Callable[[], _T]) -> _T:
        async def run() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listener, limit=_CHUNK))
        loop.run_forever()
        server.close()
        self._reset()
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def _reset(self) -> int:
        count = len(self._open)
        for writer in list(self._open):
            _abort(writer)
        return count

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.closed:
                await self._connect((reader, writer))
        except OSError:
            pass
        finally:
            _abort(writer)
            self._open.discard(writer)

    async def _connect(self, client: _Streams) -> None:
        server = await asyncio.open_connection("127.0.0.1", next(self._next), limit=_CHUNK)
        self._open.add(server[1])
        queues: list[_Queue] = [asyncio.Queue(_AHEAD), asyncio.Queue(_AHEAD)]
        reads = [asyncio.create_task(self._read(*pair)) for pair in zip((client[0], server[0]), queues, strict=True)]
        sends = [asyncio.create_task(self._send(*pair)) for pair in zip(queues, (server[1], client[1]), strict=True)]
        try:
            await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in reads + sends:
                task.cancel()
            await asyncio.gather(*reads, *sends, return_exceptions=True)
            self._open.discard(server[1])
            _abort(server[1])

    async def _read(self, reader: asyncio.StreamReader, queue: _Queue) -> None:
        """Half of a direction. It goes on while what was read is held back, so a delay is not a throttle."""
        data = b"."
        while data:
            try:
                data = await reader.read(_CHUNK)
            except OSError:
                data = b""
            await queue.put((self._loop.time() + self.delay, data))

    async def _send(self, queue: _Queue, writer: asyncio.StreamWriter) -> None:
        """The other half; its end is the end of the connection."""
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            while self.silent:
                await asyncio.sleep(0.01)
            if not data:
                await _close(writer)
                return
            await self._write(writer, data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        whole = len(data)
        if self._pass_on is not None:
            data, self._pass_on = data[: self._pass_on], max(0, self._pass_on - whole)
        writer.write(data)
        await writer.drain()
        if len(data) < whole:
            await asyncio.sleep(0.02)  # what was let through arrives first
            raise ConnectionResetError
        if self.rate:
            await asyncio.sleep(len(data) / self.rate)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Ends a connection in order: what was passed on arrives, which RST would prevent."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST, where it is still one."""
    if writer.is_closing():
        return
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def urls(proxies: Sequence[TcpProxy]) -> list[str]:
    """The addresses of NATS servers behind proxies."""
    return [f"nats://127.0.0.1:{proxy.port}" for proxy in proxies]
