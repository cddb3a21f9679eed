"""What can be told of a client's connection while its answer is made and written."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from proxy.hanging_up import CLIENT, Line
from tests.servers import eventually

KEYS = [CLIENT, "gunicorn.socket"]


def _tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


@pytest.fixture(params=[_tcp, socket.socketpair], ids=["tcp", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's end of a connection, and ours."""
    client, ours = request.param()
    with client, ours:
        yield client, ours


@pytest.mark.parametrize("key", KEYS)
def test_a_client_that_waits_has_not_hung_up(ends: tuple[socket.socket, socket.socket], key: str) -> None:
    """Nor one that sends its next request early."""
    client, ours = ends
    line = Line({key: ours})
    assert not line.has_hung_up()
    client.sendall(b"POST")
    assert not line.has_hung_up()
    assert not line.was_reset()
    assert ours.recv(10) == b"POST"  # looking takes nothing


@pytest.mark.parametrize("key", KEYS)
def test_a_client_that_closes_has_hung_up(ends: tuple[socket.socket, socket.socket], key: str) -> None:
    """Which is no reset: it may have read everything."""
    client, ours = ends
    line = Line({key: ours})
    client.close()
    eventually(line.has_hung_up)
    assert not line.was_reset()


@pytest.mark.parametrize("key", KEYS)
def test_who_waits_has_not_hung_up_when_no_file_can_be_opened(
    ends: tuple[socket.socket, socket.socket], key: str
) -> None:
    """A worker with as many connections as it may have descriptors still knows its readers."""
    client, ours = ends
    line = Line({key: ours})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        states = line.has_hung_up(), line.was_reset()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert states == (False, False)
    client.sendall(b"x")
    assert ours.recv(10) == b"x"  # it is still open


def test_what_is_written_to_a_closed_connection_resets_it() -> None:
    """Although the write itself meets no error."""
    client, ours = _tcp()
    with ours:
        client.close()
        line = Line({CLIENT: ours})
        eventually(line.has_hung_up)
        ours.sendall(b"x")
        eventually(line.was_reset)


def test_a_reset_is_one() -> None:
    """In mid-answer, say."""
    client, ours = _tcp()
    with ours:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        eventually(Line({CLIENT: ours}).was_reset)


def test_our_own_closed_end_is_a_reset() -> None:
    """There is nobody to write to."""
    client, ours = _tcp()
    with client:
        ours.close()
        assert Line({CLIENT: ours}).was_reset()


def test_without_a_connection_nobody_hangs_up() -> None:
    """As under a server that tells none."""
    assert not Line({}).has_hung_up()
    assert not Line({}).was_reset()
