"""nats-py's client with what a connection needs beside it.

Private parts of nats-py are used, guarded by `tests/brokers/test_connection.py` and `test_wire.py`: `_transport.write`
takes a whole group of frames at once, and its writer knows what has not left yet; `_process_msg` hands messages over
without a queue and a task between; `_process_info` is where TLS is insisted on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

Taker = Callable[..., None]  # subject, payload, header block or None; of a subscription also the reply subject


class Wire(Client):
    """A client that insists on TLS where it is told to, and is written to and read from without detours.

    `tls://` means TLS: nats-py would send the password in clear to a server that does not ask for TLS. Messages go
    straight to `takers[subscription](subject, data, headers, reply)`; those for the inbox, nearly all, to `on_reply`.
    """

    insist = False
    inbox = 0
    on_reply: Taker

    def __init__(self) -> None:
        super().__init__()
        self.takers: dict[int, Taker] = {}
        self._written = 0

    def write(self, data: bytes) -> None:
        """Hands bytes to the socket. Raises `RuntimeError` when that is closed."""
        self._transport.write(data)  # type: ignore[union-attr]
        self._written += len(data)

    def abort(self) -> None:
        """Drops what the socket has no room for, without which it is not closed before the network gives up."""
        if (writer := self._writer()) is not None:
            writer.transport.abort()

    @property
    def backlog(self) -> int:
        """Bytes that the server's machine has not taken yet."""
        writer = self._writer()
        if writer is None:
            return 0
        return int(writer.transport.get_write_buffer_size()) + _queued(writer.get_extra_info("socket"))

    @property
    def taken(self) -> int:
        """Bytes that it has taken, from the connection's beginning."""
        return self._written - self.backlog

    def _writer(self) -> asyncio.StreamWriter | None:
        return getattr(self._transport, "_io_writer", None)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        with contextlib.suppress(ValueError, IndexError):  # no stream's; raised here, it would end all reading
            if sid == self.inbox:
                self.on_reply(subject, data, headers)
            elif sid in self.takers:
                self.takers[sid](subject, data, headers, reply)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.insist:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.SecureConnRequiredError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


def _queued(sock: Any) -> int:
    """Bytes that the kernel holds until they are acknowledged; 0 where it does not tell. Source: tcp(7), SIOCOUTQ."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0
