"""Requests and answers as they should be, on a real gunicorn with our worker class and its own.

tests/http_suite.py lists where that one differs."""

import time
from pathlib import Path

import pytest

from tests.http_suite import CHUNKED, OURS, STOCK, chunked, get, is_error, post, running, wait_for


@pytest.fixture(scope="module", params=[OURS, STOCK])
def server(request):
    """A server with short deadlines and small limits."""
    with running(request.param) as server:
        yield server


def test_a_body_comes_back(server):
    """Length in, length out."""
    answer = server.ask(post(b"hello"))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"hello", "5")
    assert "date" in answer.headers


@pytest.mark.parametrize("size", [0, 1, 65_536, 99_999])
def test_bodies_of_any_size(server, size):
    """Empty, of one byte, of several reads."""
    assert server.ask(post(b"x" * size)).body == b"x" * size


def test_chunked_body(server):
    """Chunks are put together; extensions mean nothing."""
    assert server.ask(chunked(b"hello ", b"world", b"!" * 70_000)).body == b"hello world" + b"!" * 70_000
    assert server.ask(CHUNKED + b'3;a=b;c="d"\r\nabc\r\n00\r\n\r\n').body == b"abc"


def test_trailers_are_dropped(server):
    """A trailer is no header, and does not hurt the next request."""
    with server.connect() as client:
        client.send(chunked(b"a", path="/show", trailers="X-User: root\r\nX-Trailer: t\r\n") + get("/show"))
        environ = client.answer().json
        assert environ["body"] == "a"
        assert environ.keys().isdisjoint({"HTTP_X_USER", "HTTP_X_TRAILER"})
        assert client.answer().json.keys().isdisjoint({"HTTP_X_USER", "HTTP_X_TRAILER"})


def test_a_trailer_that_ends_the_connection_spoils_no_further_request(server):
    """It is no header; who believes it all the same says so, and leaves the next request to another connection."""
    with server.connect() as client:
        if not client.send(chunked(b"a", trailers="Connection: close\r\n")).answer().closes:
            assert client.send(post(b"next")).answer().body == b"next"


def test_one_byte_at_a_time(server):
    """Requests arrive in pieces of any size."""
    with server.connect() as client:
        for request in (post(b"abc", "X-A: b"), chunked(b"ab", b"c")):
            for byte in request:
                client.send(bytes([byte]))
            assert client.answer().body == b"abc"


def test_keep_alive(server):
    """A connection serves many requests."""
    with server.connect() as client:
        for body in (b"a", b"b" * 5000, b""):
            answer = client.send(post(body)).answer()
            assert (answer.body, answer.closes) == (body, False)


def test_connection_close(server):
    """A client that asks for it is hung up on."""
    with server.connect() as client:
        assert client.send(post(b"a", "Connection: close")).answer().closes
        assert client.ended()


@pytest.mark.slow
def test_keep_alive_timeout(server):
    """An idle connection is closed without a word after `keepalive` seconds, not before."""
    with server.connect() as client:
        client.send(post(b"a")).answer()
        began = time.monotonic()
        assert client.ended()
        assert 0.8 < time.monotonic() - began < 2


def test_pipelining(server):
    """Requests sent together are answered in order."""
    with server.connect() as client:
        client.send(b"".join(post(b"%d" % i) for i in range(30)) + get("/show"))
        assert [client.answer().body for _ in range(30)] == [b"%d" % i for i in range(30)]
        assert client.answer().json["PATH_INFO"] == "/show"


def test_pipelining_while_a_request_runs(server):
    """What arrives in the meantime is served afterwards."""
    with server.connect() as client:
        server.ask_slowly(client)
        client.send(post(b"a"))
        assert [client.answer().body, client.answer().body] == [b"slow", b"a"]


def test_http10(server):
    """HTTP/1.0 is closed unless it asks otherwise, and needs no Host."""
    with server.connect() as client:
        answer = client.send(get("/show", version="1.0", host="")).answer()
        assert (answer.json["SERVER_PROTOCOL"], answer.closes) == ("HTTP/1.0", True)
        assert client.ended()
    with server.connect() as client:
        for body in (b"a", b"b"):
            answer = client.send(post(body, "Connection: keep-alive", version="1.0")).answer()
            assert (answer.body, answer.headers["connection"]) == (body, "keep-alive")


@pytest.mark.parametrize("asks", [[], ["Connection: keep-alive"], ["Proxy-Connection: keep-alive"]])
def test_http10_knows_no_chunks(server, asks):
    """An answer of unknown length ends with the connection."""
    answer = server.ask(get("/written", *asks, version="1.0"))
    assert "transfer-encoding" not in answer.headers
    assert answer.body == b"written and returned"


def test_head(server):
    """A HEAD gets the head of the answer and nothing more."""
    with server.connect() as client:
        for path in ("/sized", "/written", "/counted"):
            assert client.send(get(path, method="HEAD")).answer("HEAD").status == 200
        assert client.send(get("/sized", method="HEAD")).answer("HEAD").headers["content-length"] == "11"
        assert client.send(post(b"still there")).answer().body == b"still there"


def test_expect_100_continue(server):
    """A client that asks is told to go on, then answered."""
    with server.connect() as client:
        client.send(get("/echo", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert client.line() == b"HTTP/1.1 100 Continue\r\n"
        assert client.line() == b"\r\n"
        assert client.send(b"abc").answer().body == b"abc"


def test_expect_100_continue_pipelined(server):
    """The question is answered in its turn."""
    with server.connect() as client:
        client.send(get("/slow") + get("/echo", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert client.answer().body == b"slow"
        assert client.line() == b"HTTP/1.1 100 Continue\r\n"
        assert client.line() == b"\r\n"
        assert client.send(b"abc").answer().body == b"abc"


def test_no_continue_for_a_body_that_is_here_or_too_large(server):
    """It is answered at once."""
    with server.connect() as client:
        line = client.send(post(b"abc", "Expect: 100-continue")).line()
        if server.differs("100-continue"):
            assert line == b"HTTP/1.1 100 Continue\r\n"
            return
        assert line == b"HTTP/1.1 200 OK\r\n"
    head = get("/echo", "Content-Length: 100001", "Expect: 100-continue", method="POST")
    assert server.ask(head).status == 413


def test_http10_expects_nothing(server):
    """The expectation is ignored there."""
    with server.connect() as client:
        assert client.send(post(b"abc", "Expect: 100-continue", version="1.0")).line().endswith(b"200 OK\r\n")


def test_an_answer_is_streamed(server):
    """The first chunk arrives while the application still waits to make the second."""
    with server.connect() as client:
        client.send(get("/stream"))
        assert client.head().headers["transfer-encoding"] == "chunked"
        assert client.read(len(b"5\r\nfirst\r\n")) == b"5\r\nfirst\r\n"
        assert server.ask(get("/free")).status == 204
        assert client.read(len(b"6\r\nsecond\r\n0\r\n\r\n")) == b"6\r\nsecond\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/sized", b"firstsecond"), ("/written", b"written and returned"), ("/nothing", b""), ("/many", b"x" * 8_000_000)],
)
def test_answers_of_every_kind(server, path, body):
    """With a length, through write(), empty, and more than fits into a socket; the connection lives on."""
    with server.connect() as client:
        answer = client.send(get(path)).answer()
        assert answer.body == body
        assert answer.whole
        assert client.send(post(b"next")).answer().body == b"next"


def test_file_wrapper(server):
    """A file is sent through wsgi.file_wrapper."""
    assert server.ask(get("/wrapped")).body == Path(__file__).with_name("http_app.py").read_bytes()


@pytest.mark.parametrize(("path", "status"), [("/free", 204), ("/not-modified", 304)])
def test_statuses_without_a_body(server, path, status):
    """Neither body nor framing is sent, and the connection lives on."""
    with server.connect() as client:
        answer = client.send(get(path)).answer()
        assert answer.status == status
        assert answer.headers.keys().isdisjoint({"content-length", "transfer-encoding"})
        assert client.send(post(b"next")).answer().body == b"next"


def test_promised_length_is_kept(server):
    """More than promised is cut off, less ends the connection."""
    with server.connect() as client:
        assert client.send(get("/long")).answer().body == b"long"
        assert client.send(post(b"next")).answer().body == b"next"
    with server.connect() as client:
        answer = client.send(get("/short", "Connection: close")).answer()
        assert (answer.body, answer.whole) == (b"short", False)


def test_hop_by_hop_headers_are_the_servers(server):
    """What the application says about the connection is ignored."""
    answer = server.ask(get("/hop-by-hop"))
    assert (answer.body, answer.closes) == (b"ok", False)
    assert "keep-alive" not in answer.headers


@pytest.mark.parametrize("path", ["/fail", "/unstarted", "/injected"])
def test_a_failing_application(server, path):
    """A failure before the answer is a 500 without detail, and in the log."""
    answer = server.ask(get(path + "?authorization=secret"))
    assert answer.status == 500
    assert is_error(server, answer)
    assert b"before the answer" not in answer.body
    assert "x-injected" not in answer.headers
    assert f"Error handling {'request ' * (server.worker == STOCK)}GET {path}" in server.log()
    if server.worker == OURS:
        assert answer.json["stored"] == "unknown"
        assert "secret" not in server.log() + server.log("access")


def test_failing_in_the_middle_cuts_the_answer_off(server):
    """The client can tell that something is missing; the iterable is closed."""
    before = server.closed()
    answer = server.ask(get("/fail-later"))
    assert (answer.body, answer.whole) == (b"part", False)
    assert server.closed() == before + 1


def test_iterables_are_closed(server):
    """Also when the client hangs up before the answer is complete."""
    before = server.closed()
    server.ask(get("/sized"))
    assert server.closed() == before + 1
    with server.connect() as client:
        assert client.send(get("/many")).head().status == 200
    wait_for(lambda: server.closed() == before + 2)


def test_start_response_again(server):
    """With exc_info it replaces what was not sent yet."""
    answer = server.ask(get("/corrected"))
    assert (answer.status, answer.headers["x-why"], answer.body) == (503, "corrected", b"corrected")


def test_environ(server):
    """WSGI's variables, and those of CGI that it took over."""
    environ = server.ask(post(b"abc", "Content-Type: a/b", "X-List: 1", "x-list: 2", path="/show/a%20b?c=%20d")).json
    assert environ == {
        "CONTENT_LENGTH": "3",
        "CONTENT_TYPE": "a/b",
        "HTTP_HOST": "test",
        "HTTP_X_LIST": "1,2",
        "PATH_INFO": "/show/a b",
        "QUERY_STRING": "c=%20d",
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "body": "abc",
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": False,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "http",
        "wsgi.version": [1, 0],
    }


def test_wsgi_is_kept_to(server):
    """As far as the standard library's validator can tell."""
    answer = server.ask(post(b"abc", path="/validated"))
    assert (answer.status, answer.body) == (200, b"abc")


def test_header_values(server):
    """White space around them goes, bytes above 127 stay as PEP 3333 wants them."""
    environ = server.ask(get("/show", "X-User: \t J\xf6rg \t")).json
    assert environ["HTTP_X_USER"] == "J\xf6rg"


def test_names_with_underscores_are_dropped(server):
    """X_User is not X-User."""
    assert "HTTP_X_USER" not in server.ask(get("/show", "X_User: root")).json


def test_forwarded_scheme(server):
    """A trusted proxy says that it was asked over TLS."""
    assert server.ask(get("/show", "X-Forwarded-Proto: https")).json["wsgi.url_scheme"] == "https"


def test_absolute_form(server):
    """A request target may be a URL, whose host counts."""
    environ = server.ask(get("http://other:81/show/x?y=z")).json
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/show/x", "y=z")
    assert environ["HTTP_HOST"] == ("test" if server.differs("absolute form") else "other:81")


def test_other_targets(server):
    """A fragment is no part of it, and OPTIONS may ask for everything."""
    environ = server.ask(get("/show?a#b")).json
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/show", "a")
    assert server.ask(get("*", method="OPTIONS")).status == 200


def test_upgrade_is_declined(server):
    """`curl --http2` gets HTTP/1.1, its body is not lost, and the connection lives on."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    head = get("/echo", "Transfer-Encoding: chunked", *upgrade, method="POST")
    with server.connect() as client:
        assert client.send(post(b"abc", *upgrade)).answer().body == b"abc"
        assert client.send(get("/nothing", *upgrade) + post(b"d", *upgrade)).answer().body == b""
        assert client.answer().body == b"d"
        assert client.send(head).send(b"3\r\nabc\r\n").send(b"0\r\n\r\n").answer().body == b"abc"
        assert client.send(post(b"next")).answer().body == b"next"
