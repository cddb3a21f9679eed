"""Connections, over socket pairs in this process."""

import contextvars
import gc
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator

import gevent
import gevent.event
import gevent.socket
import pytest

from proxy import http1
from proxy.http1 import Connection
from proxy.http1_repeats import known_head
from proxy.http1_service import Options, Service
from proxy.transports import Backlog, TlsTransport, Transport

BASE = {"SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"}
POST = b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"


def answering(status, headers, chunks):
    """An application that answers this."""

    def application(environ, start_response):
        start_response(status, headers)
        return chunks

    return application


def until(condition):
    """Let the event loop run until a condition holds."""
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0)


class Talk:
    """A service in this process, and clients of it."""

    send_seconds = 1.0

    def __init__(self, application, **options):
        self.service = Service(application, Options(**options))
        self.backlog = Backlog(3_500_000)
        self.clients = []

    def connect(self):
        """The client's side of a new connection, and the connection."""
        ours, theirs = socket.socketpair()
        self.clients.append(theirs)
        theirs.settimeout(5)
        ours.setblocking(False)
        return theirs, Connection(self.service, Transport(ours, self.send_seconds, self.backlog), ("", ""), BASE)

    def ask(self, client, data):
        """Send, let the service work, and receive."""
        client.sendall(data)
        gevent.socket.wait_read(client.fileno(), timeout=5)
        return client.recv(100_000)

    def end(self):
        """Close everything."""
        self.service.abort()
        until(lambda: not self.service.connections)
        for client in self.clients:
            client.close()


@pytest.fixture
def talk() -> Iterator:
    """Makes services."""
    made = []

    def make(application, **options):
        made.append(Talk(application, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_a_connection_answers(talk):
    """Requests that repeat their head, and others between them."""
    echo = talk(lambda environ, start: [start("200 OK", []) and environ["wsgi.input"].read()])
    client, connection = echo.connect()
    for data in (POST, POST, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", POST):
        assert echo.ask(client, data).startswith(b"HTTP/1.1 200 OK\r\n")
    connection.tidy()
    assert echo.ask(client, POST).endswith(b"abc")


def test_heads_that_always_differ_are_hardly_ever_remembered(talk, monkeypatch):
    """Not even when what was remembered is forgotten meanwhile; a head that comes again is, and then at once."""
    learnt = []
    monkeypatch.setattr(http1, "known_head", lambda data, *rest: (learnt.append(data), known_head(data, *rest))[1])
    client, connection = (echo := talk(lambda environ, start: [start("200 OK", []) and b"x"])).connect()

    def send(host):
        connection.tidy()
        echo.ask(client, POST.replace(b"Host: h", b"Host: %b" % host))

    for number in range(100):
        send(b"h%d" % number)
    learnt.clear()
    for number in range(100):
        send(b"g%d" % number)
    assert len(learnt) <= 2
    for _ in range(70):
        echo.ask(client, POST)
    learnt.clear()
    send(b"other")
    assert len(learnt) == 1


def test_requests_do_not_share_context_variables(talk):
    """What one sets is not there in the next one on the same connection."""
    variable = contextvars.ContextVar("variable", default=b"unset")

    def application(environ, start_response):
        start_response("200 OK", [])
        seen = variable.get()
        variable.set(b"set")
        return [seen]

    service = talk(application)
    client, _ = service.connect()
    assert service.ask(client, POST).endswith(b"unset")
    assert service.ask(client, POST).endswith(b"unset")


def test_greenlets_are_used_again(talk):
    """A connection has none while it is idle, and the next request takes the one that is parked."""
    seen = set()

    def application(environ, start_response):
        seen.add(gevent.getcurrent())
        start_response("200 OK", [])
        return [b""]

    service = talk(application)
    for _ in range(5):
        service.ask(service.connect()[0], POST)
    assert len(seen) == 1


def test_incomplete_requests_have_a_bound_together(talk):
    """The one that goes over it is refused, those that are here already are not."""
    service = talk(answering("200 OK", [], [b"ok"]), max_buffered_bytes=200)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200\r\n\r\n"
    first, second = service.connect()[0], service.connect()[0]
    first.sendall(head + b"x" * 100)
    until(lambda: service.service.buffered)
    answer = service.ask(second, head + b"x" * 100)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 1\r\n" in answer
    assert service.service.buffered == len(head) + 100
    assert service.ask(first, b"x" * 100).endswith(b"ok")
    assert service.service.buffered == 0


@pytest.mark.parametrize("before", [b"", POST], ids=["alone", "behind a request"])
def test_half_a_head_counts_as_half_a_body_does(talk, before):
    """Else tens of thousands of them could fill the memory; also what came in one piece with a whole request."""
    service = talk(answering("200 OK", [], [b"ok"]), max_buffered_bytes=20_000)
    half = b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 8000
    clients = [service.connect()[0] for _ in range(3)]
    for client in clients[:2]:
        client.sendall(before + half)
    until(lambda: service.service.buffered >= 2 * len(half))
    assert not before or all(client.recv(1000).endswith(b"ok") for client in clients[:2])
    answer = service.ask(clients[2], before + half)
    while b" 503 " not in answer:
        gevent.socket.wait_read(clients[2].fileno(), timeout=5)
        answer += clients[2].recv(1000)
    assert service.ask(clients[0], b"\r\n\r\n").endswith(b"ok")


def test_what_came_while_the_worker_stood_still_is_served(talk):
    """Its time was up only because nobody looked."""
    service = talk(answering("200 OK", [], [b"ok"]), sweep_seconds=0.05)
    client, connection = service.connect()
    service.ask(client, POST)
    connection.deadline = time.monotonic() + 0.01
    client.sendall(POST)
    time.sleep(0.1)
    gevent.socket.wait_read(client.fileno(), timeout=5)
    assert client.recv(1000).endswith(b"ok")


def test_answers_that_nobody_takes_have_a_bound_together(talk):
    """Who has been at it for longest is hung up on; the others have all of theirs."""
    service = talk(answering("200 OK", [], [b"x" * 1_000_000]))
    service.send_seconds = 60.0
    clients = [service.connect()[0] for _ in range(4)]
    for number, client in enumerate(clients):
        client.sendall(POST)
        until(lambda number=number: service.service.requests == number + 1)
    until(lambda: len(service.service.connections) == 3)
    assert len(received(clients[0])) < 1_000_000
    assert all(len(received(client, 1_000_000)) > 1_000_000 for client in clients[1:])


def test_an_answer_that_is_taken_byte_by_byte_has_an_end(talk):
    """Else a client could hold it, and one of the consumes that may be under way, for as long as it likes."""
    service = talk(answering("200 OK", [], [b"x" * 1_000_000]))
    client, connection = service.connect()
    client.sendall(POST)
    with gevent.Timeout(5):
        while not connection.closed:
            gevent.socket.wait_read(client.fileno(), timeout=5)
            client.recv(100)
            gevent.sleep(0.01)


def received(client, most=1 << 30):
    """What the client is sent until the end, or until it is more than `most` bytes."""
    data = b""
    while len(data) <= most:
        gevent.socket.wait_read(client.fileno(), timeout=5)
        piece = client.recv(100_000)
        if not piece:
            break
        data += piece
    return data


def test_half_a_body_is_gone_with_its_client(talk):
    """At once: the garbage collector counts objects, and half a body is one of them, of megabytes perhaps. Nor does it
    stay with the greenlet that has served its client before.
    """
    all_here = gevent.event.Event()

    def application(environ, start_response):
        all_here.wait()
        start_response("200 OK", [])
        return [b""]

    service = talk(application)
    clients = [service.connect()[0] for _ in range(20)]
    for client in clients:
        client.sendall(POST)
    until(lambda: service.service.requests == 20)
    all_here.set()
    until(lambda: not any(connection.busy for connection in service.service.connections))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for client in clients:
            gevent.socket.wait_read(client.fileno(), timeout=5)
            client.recv(1000)
            client.sendall(POST.replace(b"3", b"1000000").replace(b"abc", b"x" * 50_000))
            until(lambda: service.service.buffered)
            client.close()
            until(lambda: not service.service.buffered)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
        gc.enable()


def test_what_tls_has_for_itself_is_taken_in_turns():
    """A client that only ever changes its keys must not keep all others waiting."""

    class Changing(TlsTransport):
        """Finds nothing but new keys in what it reads."""

        def _read(self):
            self._incoming.read()
            raise ssl.SSLWantReadError

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(b"x" * 100_000)
        transport = Changing(ours, 1.0, Backlog(0), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        with pytest.raises(BlockingIOError):
            transport.receive()
        assert ours.recv(100_000)


def test_error_answers_can_be_replaced(talk):
    """By a function of status, message and what is known of the request, in which no query is left."""
    environs = []

    def answer(status, message, environ):
        environs.append(environ)
        return [("X-Status", str(status))], message.encode()

    service = talk(answering("200 OK", [], [b""]), error_answer=answer)
    request = b"POST /x?authorization=secret HTTP/1.1\r\nHost: h\r\nAccept: a\r\nContent-Length: 99999999\r\n\r\n"
    received = service.ask(service.connect()[0], request)
    assert b"X-Status: 413\r\n" in received
    assert environs[0]["HTTP_ACCEPT"] == "a"
    assert "secret" not in str(environs)


def test_killed_requests_close_their_connection(talk):
    """As at the end of a worker's graceful timeout."""
    service = talk(lambda environ, start_response: gevent.sleep(60))
    client, connection = service.connect()
    client.sendall(POST)
    until(lambda: connection.busy)
    gevent.sleep(0)
    assert service.service.abort() == 1
    until(lambda: connection.closed)
    assert client.recv(1) == b""


def test_a_stop_waits_for_what_is_on_its_way(talk):
    """A request that is sent while the service stops, on an idle connection, is served, and told to be the last."""
    service = talk(answering("200 OK", [], [b"ok"]), linger_seconds=5.0)
    client, _ = service.connect()
    assert b"Connection: close" not in service.ask(client, POST)
    service.service.stop()
    gevent.sleep(0.05)
    assert b"\r\nConnection: close\r\n" in service.ask(client, POST)
    until(lambda: not service.service.connections)


def test_a_stop_tells_whoever_is_being_served(talk):
    """The answer to a request that runs when the stop comes is the last one on its connection, and says so."""
    release = gevent.event.Event()

    def application(environ, start_response):
        release.wait(5)
        start_response("200 OK", [])
        return [b"ok"]

    service = talk(application, linger_seconds=5.0)
    client, _ = service.connect()
    client.sendall(POST)
    until(lambda: service.service.requests)
    service.service.stop()
    release.set()
    assert b"\r\nConnection: close\r\n" in received(client)
    assert not service.service.connections


def test_a_stop_closes_idle_connections_in_the_end(talk):
    """Without a word: nothing was sent."""
    service = talk(answering("200 OK", [], [b"ok"]), linger_seconds=0.05)
    client, _ = service.connect()
    service.ask(client, POST)
    service.service.stop()
    until(lambda: not service.service.connections)
    assert client.recv(100) == b""


def test_who_sends_early_gets_the_last_answer(talk):
    """Over TCP a close with something unread would reset the connection, and take the answer away."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(listener.getsockname())
    ours, _ = listener.accept()
    ours.setblocking(False)
    release = gevent.event.Event()

    def application(environ, start_response):
        release.wait(5)
        start_response("200 OK", [])
        return [b"x" * 100_000]

    service = talk(application, max_requests=1)
    Connection(service.service, Transport(ours, 5.0, Backlog(1 << 20)), ("", ""), BASE)
    with listener, client:
        client.sendall(POST)
        gevent.sleep(0.05)
        client.sendall(POST)
        gevent.sleep(0.05)
        release.set()
        received = b""
        while not received.endswith(b"x" * 100_000):
            gevent.socket.wait_read(client.fileno(), timeout=5)
            received += client.recv(1000)
    assert received.count(b"200 OK") == 1
