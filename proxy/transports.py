"""Sockets as a connection uses them: reads that never wait, sends that let other greenlets run while they wait.

The sockets are `_socket.socket`, what the sockets of both the standard library and gevent are made of. Nothing here is
bound to a name that gevent replaces: this module is imported before its monkey patching.
"""

from __future__ import annotations

import _socket
import contextlib
import ssl
import time

import gevent.socket

_RECEIVE_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024


class ClientGone(Exception):
    """The client closed the connection, or takes nothing any more."""


class Backlog:
    """Answers that their clients take slowly, of all connections of a worker: `most` bytes of them at once.

    Beyond that, who has been at it for longest is hung up on; the last one never is.
    """

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._waiting: dict[Transport, int] = {}  # in the order in which they came

    def begin(self, transport: Transport, size: int) -> None:
        """An answer of so many bytes waits for its client."""
        self._waiting[transport] = size
        self._bytes += size
        while self._bytes > self._most and len(self._waiting) > 1:
            slowest = next(iter(self._waiting))
            self.end(slowest)
            slowest.hang_up()

    def end(self, transport: Transport) -> None:
        """It waits no more; a second time does nothing."""
        self._bytes -= self._waiting.pop(transport, 0)


class Transport:
    """A TCP or unix socket. A send raises `ClientGone` when the client does not take the next 64 KiB, or the rest,
    within `send_seconds`, or when `backlog` has no room for it.
    """

    __slots__ = ("_backlog", "_send_seconds", "_sock")

    # Whether there is more to read that polling the socket does not show.
    pending = False

    def __init__(self, sock: _socket.socket, send_seconds: float, backlog: Backlog) -> None:
        self._sock = sock
        self._send_seconds = send_seconds
        self._backlog = backlog

    def fileno(self) -> int:
        """The file descriptor, to poll."""
        return self._sock.fileno()

    def receive(self) -> bytes:
        """What has arrived; empty at the end. Raises `BlockingIOError` for nothing yet, other `OSError` if broken."""
        return self._sock.recv(_RECEIVE_BYTES)

    def send(self, data: bytes) -> None:
        """Send all of it. Raises `ClientGone`."""
        # One send() where the kernel takes everything: gevent's sendall() would ask for the buffer's size each time.
        rest = self.begin_send(data)
        if rest is not None:
            self.send_rest(rest)

    def begin_send(self, data: bytes) -> memoryview | None:
        """Send what there is room for, without waiting; returns the rest, for `send_rest`. Raises `ClientGone`."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientGone from error
        return None if sent == len(data) else memoryview(data)[sent:]

    def send_now(self, data: bytes) -> None:
        """Send a few bytes if there is room for them, which there is unless the client reads nothing."""
        with contextlib.suppress(OSError):
            self._sock.send(data)

    def discard(self) -> int:
        """Throw away what has arrived; returns its size in bytes, 0 at the end. Raises as `receive` does."""
        return len(self._sock.recv(_RECEIVE_BYTES))

    def end(self) -> None:
        """Tell the client that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(_socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the socket. Nothing may be polling it any more."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def send_rest(self, rest: memoryview) -> None:
        """Send what `begin_send` has left over, waiting for room."""
        self._backlog.begin(self, memoryview(rest.obj).nbytes)
        try:
            while rest:
                rest = self._send_piece(rest)
        finally:
            self._backlog.end(self)

    def hang_up(self) -> None:
        """Have whoever sends find that the client is gone."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(_socket.SHUT_RDWR)

    def _send_piece(self, rest: memoryview) -> memoryview:
        """Send the next piece; returns what is left. Progress of a few bytes gets no client more time."""
        deadline = time.monotonic() + self._send_seconds
        end = len(rest) - _PIECE_BYTES
        while rest and len(rest) > end:
            left = max(deadline - time.monotonic(), 0.0)
            gevent.socket.wait_write(self._sock.fileno(), timeout=left, timeout_exc=ClientGone())
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClientGone from error
        return rest


class TlsTransport(Transport):
    """TLS over a socket. The handshake is made along with the first reads, so a slow one holds nobody up."""

    __slots__ = ("_incoming", "_outgoing", "_shaken_hands", "_tls")

    def __init__(self, sock: _socket.socket, send_seconds: float, backlog: Backlog, context: ssl.SSLContext) -> None:
        super().__init__(sock, send_seconds, backlog)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken_hands = False

    @property
    def pending(self) -> bool:  # type: ignore[override]  # a constant for plain sockets
        """Whether records were received that `receive` has not returned."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def receive(self) -> bytes:
        """What has arrived, decrypted; as for plain sockets. Raises `ssl.SSLError` for what is not TLS.

        The socket is read once at most: a client may send nothing but new keys, for as long as it likes.
        """
        try:
            with contextlib.suppress(ssl.SSLWantReadError):
                return self._read()
            self._receive_records()
            return self._read()
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        finally:
            self._flush_now()

    def begin_send(self, data: bytes) -> memoryview | None:
        """Encrypt it and send what there is room for; as for plain sockets."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise ClientGone from error
        return super().begin_send(self._outgoing.read())

    def send_now(self, data: bytes) -> None:
        """Encrypt and send a few bytes if there is room for them."""
        self._tls.write(data)
        self._flush_now()

    def end(self) -> None:
        """Say goodbye in TLS and TCP."""
        self._say_goodbye()
        super().end()

    def close(self) -> None:
        """Say goodbye if the client listens, and let go of the socket."""
        self._say_goodbye()
        super().close()

    def _read(self) -> bytes:
        if not self._shaken_hands:
            self._tls.do_handshake()
            self._shaken_hands = True
        return self._tls.read(_RECEIVE_BYTES)

    def _receive_records(self) -> None:
        records = super().receive()
        if records:
            self._incoming.write(records)
        else:
            self._incoming.write_eof()

    def _flush_now(self) -> None:
        """Send what TLS itself has to say: handshake, alerts, key updates."""
        if self._outgoing.pending:
            super().send_now(self._outgoing.read())

    def _say_goodbye(self) -> None:
        if self._shaken_hands:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush_now()
