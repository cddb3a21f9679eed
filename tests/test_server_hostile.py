"""Malformed, smuggled, oversized and slow requests, sent to a real gunicorn with our worker class and its own.

tests/http_suite.py lists where that one differs."""

import time

import pytest

from tests.http_suite import CHUNKED, HEAD, OURS, STOCK, chunked, get, is_error, post, running, wait_for


@pytest.fixture(scope="module", params=[OURS, STOCK])
def server(request):
    """A server with short deadlines and small limits."""
    with running(request.param) as server:
        yield server


WAITS = 0

#: name: (request, statuses it may be answered with)
HOSTILE = {
    "length and coding": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "coding and length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", {400}),
    "same length twice": (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", {400}),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", {400}),
    "list of lengths": (HEAD + b"Content-Length: 3, 3\r\n\r\nabc", {400}),
    "negative length": (HEAD + b"Content-Length: -3\r\n\r\nabc", {400}),
    "signed length": (HEAD + b"Content-Length: +3\r\n\r\nabc", {400}),
    "hexadecimal length": (HEAD + b"Content-Length: 0x3\r\n\r\nabc", {400}),
    "length with underscore": (HEAD + b"Content-Length: 0_3\r\n\r\nabc", {400}),
    "empty length": (HEAD + b"Content-Length:\r\n\r\nabc", {400}),
    "two codings": (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "unknown coding": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "identity": (HEAD + b"Transfer-Encoding: identity\r\n\r\nabc", {400, 501}),
    "coding after vertical tab": (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", {400}),
    "coding before a space and colon": (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", {400}),
    "coding behind a bare CR": (HEAD + b"Content-Length: 5\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "coding in HTTP/1.0": (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "coding in HTTP/1.0 that asks to be kept": (
        b"POST /echo HTTP/1.0\r\nHost: a\r\nProxy-Connection: keep-alive\r\n" + CHUNKED[len(HEAD) :] + b"0\r\n\r\n",
        {400},
    ),
    "folded header": (HEAD + b"X: a\r\n b\r\n\r\n", {400}),
    "NUL": (HEAD + b"X: a\0b\r\n\r\n", {400}),
    "bare CR": (HEAD + b"X: a\rb\r\n\r\n", {400}),
    "bare LF": (HEAD + b"X: a\nY: b\r\n\r\n", {400}),
    "only LF": (b"GET / HTTP/1.1\nHost: a\n\n", {400}),
    "space before colon": (HEAD + b"X : a\r\n\r\n", {400}),
    "no colon": (HEAD + b"X\r\n\r\n", {400}),
    "no header name": (HEAD + b": a\r\n\r\n", {400}),
    "two Hosts": (HEAD + b"Host: b\r\n\r\n", {400}),
    "two types": (HEAD + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", {400}),
    "schemes that disagree": (HEAD + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n", {400}),
    "unknown expectation": (HEAD + b"Expect: tea\r\n\r\n", {417}),
    "space in target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "control character in target": (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "high byte in target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "relative target": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "asterisk with GET": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "HTTP/0.9": (b"GET /\r\n\r\n", {400, 505}),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\n\r\n", {400, 505}),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n\r\n", {400, 505}),
    "HTTP/2.0 that asks to be kept": (b"GET / HTTP/2.0\r\nHost: a\r\nProxy-Connection: keep-alive\r\n\r\n", {400, 505}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "garbage": (b"hello\r\n\r\n", {400}),
    "long line": (get("/" + "a" * 600), {414}),
    "long line without end": (b"GET /" + b"a" * 20_000, {414}),
    "many headers": (get("/", *[f"X-{i}: 1" for i in range(30)]), {431}),
    "one header many times": (get("/", *["X-A: 1"] * 30), {431}),
    "large header": (get("/", "X: " + "a" * 1500), {431}),
    "header without end": (HEAD + b"X: " + b"a" * 30_000, {431}),
    "chunk: negative": (CHUNKED + b"-1\r\na", {400}),
    "chunk: 0x": (CHUNKED + b"0x3\r\nabc\r\n", {400}),
    "chunk: space": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", {400}),
    "chunk: no size": (CHUNKED + b"\r\nabc", {400}),
    "chunk: LF": (CHUNKED + b"3\nabc\r\n", {400}),
    "chunk: too long": (CHUNKED + b"3\r\nabcd\r\n", {400}),
    "chunk: ends in LF": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", {400}),
    "chunk: underscore": (CHUNKED + b"1_0\r\n", {400}),
    "chunk: LF in extension": (CHUNKED + b"3;a\nb\r\nabc\r\n", {400}),
    "trailer: folded": (CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n", {400}),
    "trailer: coding": (CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n", {400}),
}

#: name: (request, our status, the stock worker's, the difference)
HOSTILE_AND_DIFFERENT = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, 200, "Host"),
    "gzip under chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, 200, "codings"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400, 200, "versions"),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, 200, "CONNECT"),
    "user name in target": (b"GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, 200, "absolute form"),
    "large head": (get("/", *[f"X-{i}: " + "a" * 900 for i in range(15)]), 431, 200, "head limit"),
    "huge length": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\na", 400, WAITS, "huge lengths"),
    "huge chunk": (CHUNKED + b"fffffffffffffffff\r\n", 400, WAITS, "huge lengths"),
    "large body": (HEAD + b"Content-Length: 100001\r\n\r\n", 413, WAITS, "body limit"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_http_is_refused(server, name):
    """It is answered with an error, and the connection closed."""
    request, statuses = HOSTILE[name]
    with server.connect() as client:
        answer = client.send(request).answer()
        assert answer.status in statuses
        assert answer.closes
        assert is_error(server, answer)
        assert client.ended()


@pytest.mark.parametrize("name", HOSTILE_AND_DIFFERENT)
def test_what_the_stock_worker_lets_pass_is_refused(server, name):
    """The same, where the stock worker calls the application or waits for more."""
    request, ours, stock, difference = HOSTILE_AND_DIFFERENT[name]
    with server.connect() as client:
        client.send(request)
        if not server.differs(difference):
            answer = client.answer()
            assert answer.status == ours
            assert is_error(server, answer)
        elif stock == WAITS:
            assert client.waits(0.1)
        else:
            assert client.answer().status == stock


@pytest.mark.parametrize("name", ["length and coding", "two lengths", "chunk: too long", "folded header", "two Hosts"])
def test_nothing_behind_a_refused_request_is_served(server, name):
    """A smuggled request is not answered, whatever the first one was."""
    with server.connect() as client:
        assert client.send(HOSTILE[name][0] + get("/show")).answer().status == 400
        assert client.ended()


def test_a_refused_request_leaves_others_alone(server):
    """What came before it on the connection is served."""
    with server.connect() as client:
        client.send(post(b"one") + post(b"two") + HOSTILE["two lengths"][0])
        assert [client.answer().body, client.answer().body] == [b"one", b"two"]
        assert client.answer().status == 400


def test_a_refusal_says_what_is_wrong(server):
    """The body has the fields of every error, and the status line is no HTML page."""
    answer = server.ask(get("/", "X-Request-Id: me-1", "X-Request-Id2: x", "Expect: tea"))
    if server.differs("JSON errors"):
        return
    assert answer.json == {
        "error": "100-continue is the only expectation met here",
        "repeat": "never",
        "request_id": "me-1",
        "stored": "no",
        "success": False,
    }


def test_large_bodies_are_refused_before_they_are_read(server):
    """By their length, or as soon as their chunks are too many; the sender can still read why."""
    if server.differs("body limit"):
        assert server.ask(post(b"x" * 3_000_000)).status == 200
        return
    with server.connect() as client:
        answer = client.send(get("/echo", "Content-Length: 100001", method="POST")).answer()
        assert (answer.status, answer.closes) == (413, True)
        client.send(b"x" * 100_001)
        assert client.ended()
    assert server.ask(chunked(b"x" * 60_000, b"x" * 60_000)).status == 413
    assert server.ask(post(b"x" * 3_000_000)).status == 413
    assert server.ask(chunked(b"x" * 3_000_000)).status == 413


def test_tiny_chunks_are_refused(server):
    """They cost more than what they carry."""
    answer = server.ask(chunked(*[b"x"] * 90_000))
    if server.differs("framing"):
        assert answer.status == 200
        return
    assert answer.status == 400
    assert "chunks" in answer.json["error"]
    assert server.ask(chunked(*[b"x"] * 9_000)).status == 200


def test_the_application_is_not_called_for_half_a_request(server):
    """A slow body holds nobody up."""
    before = server.log().count("slow began")
    with server.connect() as client:
        client.send(get("/slow", "Content-Length: 10", method="POST") + b"abc")
        if server.differs("read ahead"):
            assert client.answer().body == b"slow"
        else:
            assert client.answer().status == 408
            assert server.log().count("slow began") == before


@pytest.mark.slow
def test_slow_headers(server):
    """A head that does not arrive in time is answered with 408."""
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        if server.differs("head deadline"):
            assert client.ended()
            return
        answer = client.answer()
        assert (answer.status, answer.json["repeat"], answer.closes) == (408, "safe", True)


@pytest.mark.slow
def test_headers_that_trickle_in(server):
    """Each byte does not buy more time."""
    with server.connect() as client:
        for byte in get("/", "X-A: " + "b" * 40):
            client.send(bytes([byte]))
            time.sleep(0.02)
        assert client.answer().status == (0 if server.differs("head deadline") else 408)


@pytest.mark.parametrize("head", [HEAD + b"Content-Length: 10\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n"])
def test_slow_body(server, head):
    """A body that does not arrive in time is answered with 408."""
    with server.connect() as client:
        client.send(head)
        if server.differs("body deadline"):
            assert client.waits(1.2)
            return
        answer = client.answer()
        assert (answer.status, answer.json["error"]) == (408, "the body of the request did not arrive in time")


@pytest.mark.slow
def test_silent_connections_are_closed(server):
    """A client that says nothing is hung up on without a word."""
    with server.connect() as client:
        assert client.ended()


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"Content-Length: 10\r\n\r\nabc", CHUNKED + b"3\r\na"])
def test_clients_that_hang_up(server, sent):
    """The server goes on, and has nothing to say about it."""
    before = server.log().count("Traceback")
    with server.connect() as client:
        client.send(sent)
    assert server.ask(post(b"a")).body == b"a"
    assert server.log().count("Traceback") == before


def test_clients_that_hang_up_while_served(server):
    """A large answer that nobody takes any more ends quietly."""
    before = server.log().count("Traceback")
    with server.connect() as client:
        assert client.send(get("/many")).head().status == 200
    with server.connect() as client:
        server.ask_slowly(client)
    assert server.ask(get("/slow")).body == b"slow"
    assert server.log().count("Traceback") == before


def test_a_client_that_shuts_down_its_side_is_answered(server):
    """It will send no more, and still reads."""
    with server.connect() as client:
        client.send(post(b"abc"))
        client.sock.shutdown(1)
        assert client.answer().body == b"abc"


@pytest.mark.slow
def test_a_client_that_takes_nothing(server):
    """It is hung up on after a while, and its iterable closed."""
    with server.connect() as client:
        before = server.closed()
        client.send(get("/many"))
        if server.differs("send deadline"):
            assert client.answer().whole
            return
        wait_for(lambda: server.closed() == before + 1)
        assert not client.answer().whole


def test_many_pipelined_requests(server):
    """Those beyond a bound are left to be sent again, and nobody is told otherwise."""
    with server.connect() as client:
        client.send(get("/nothing") * 100)
        answers = [client.answer() for _ in range(64)]
        if server.differs("pipeline"):
            assert [client.answer().status for _ in range(36)] == [200] * 36
            return
        assert [answer.closes for answer in answers] == [False] * 63 + [True]
        assert client.ended()
