"""Whether a client has hung up while it was waiting for its answer, or while it was being written."""

from __future__ import annotations

import _socket
from collections.abc import Mapping
from typing import Any

CLIENT = "stations.client"  # where our server leaves a request's connection, which has a `fileno`
_GUNICORNS = "gunicorn.socket"
# States of a TCP connection, as Linux tells them (include/net/tcp_states.h).
_ESTABLISHED, _CLOSED = 1, 7


class Line:
    """The connection of a request's client, as far as the server tells it; without it nobody ever hangs up."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._client = environ.get(CLIENT) or environ.get(_GUNICORNS)

    def has_hung_up(self) -> bool:
        """Whether the client has closed its side, or both. What is written to it meets no error at first."""
        return self._state() != _ESTABLISHED

    def was_reset(self) -> bool:
        """Whether the connection is gone altogether; one whose client has closed its side after reading is not."""
        return self._state() == _CLOSED

    def _state(self) -> int:
        """One of the two states, or any other for one that is being closed."""
        if self._client is None:
            return _ESTABLISHED
        try:
            # No duplicate: a worker without a descriptor left would take all readers for gone.
            sock = _socket.socket(fileno=self._client.fileno())
        except (OSError, ValueError):
            return _CLOSED
        try:
            return _state_of(sock)
        except BlockingIOError:
            return _ESTABLISHED
        except OSError:
            return _CLOSED
        finally:
            sock.detach()


def _state_of(sock: _socket.socket) -> int:
    if hasattr(_socket, "TCP_INFO") and sock.family != getattr(_socket, "AF_UNIX", None):
        return int(sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 1)[0])
    return _ESTABLISHED if sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT) else 0
