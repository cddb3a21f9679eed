"""Whether a client has hung up while it was waiting for its answer."""

from __future__ import annotations

import _socket
import os
from collections.abc import Mapping
from typing import Any

CLIENT = "stations.client"  # where our server leaves a request's connection, which has a `fileno`
_GUNICORNS = "gunicorn.socket"
_ESTABLISHED = 1


def has_hung_up(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its side of the connection, or both; false where that cannot be told.

    What is sent to such a client goes into the kernel without an error, at least once.
    """
    client = environ.get(CLIENT) or environ.get(_GUNICORNS)
    if client is None:
        return False
    try:
        sock = _socket.socket(fileno=os.dup(client.fileno()))
    except (OSError, ValueError):
        return True
    try:
        return _is_closed(sock)
    finally:
        sock.close()


def _is_closed(sock: _socket.socket) -> bool:
    try:
        if hasattr(_socket, "TCP_INFO") and sock.family != getattr(_socket, "AF_UNIX", None):
            return sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 1)[0] != _ESTABLISHED
        return not sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
