"""Answers of a WSGI application as bytes."""

import json

import pytest

from proxy import http1_responses
from proxy.http1_requests import Request
from proxy.http1_responses import Response, error_answer


def respond(application, *, http10=False, keep_alive=True, **environ):
    """What an application's answer looks like on the wire, and the Response."""
    sent = []
    request = Request({"REQUEST_METHOD": "GET", **environ}, keep_alive, http10)
    response = Response(request, sent.append, b"Date: now\r\n\r\n", keep_alive=True)
    response.respond(application)
    return sent, response


def answering(status, headers, chunks):
    """An application that answers this."""

    def application(environ, start_response):
        start_response(status, headers)
        return chunks

    return application


def test_one_chunk_is_sent_with_its_head():
    """In one piece, with a length that the application need not give."""
    for headers in ([], [("Content-Length", "2")]):
        sent, response = respond(answering("200 OK", headers, [b"ok"]))
        assert sent == [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\n\r\nok"]
        assert response.keep_alive


def test_a_list_that_can_be_closed_is_sent_whole_and_then_closed():
    """As an application's own kind of list may want to know when it was sent."""

    class Closable(list):
        def close(self):
            order.append("closed")

    order = []

    def application(environ, start_response):
        start_response("200 OK", [])
        return Closable([b"body"])

    Response(Request({}, keep_alive=True, http10=False), order.append, b"\r\n", keep_alive=True).respond(application)
    assert order == [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "closed"]


def test_chunks_are_sent_one_by_one():
    """The first with the head; empty ones are no end."""
    sent, _ = respond(answering("200 OK", [], iter([b"", b"a", b"", b"bc"])))
    assert sent[0].endswith(b"Transfer-Encoding: chunked\r\nDate: now\r\n\r\n1\r\na\r\n")
    assert sent[1:] == [b"2\r\nbc\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", [("X", "a\r\nb")]),
        ("200 OK", [("X", "a\0")]),
        ("200 OK", [("X y", "a")]),
        ("200 OK", [("X", b"a")]),
        ("200 OK", [("X", "\u20ac")]),
        ("200 OK", [("Content-Length", "-1")]),
        ("200 OK\r\nX: y", []),
        ("100 Continue", []),
        ("20", []),
        ("200 OK", [("X", "a")] * 2000),
    ],
)
def test_heads_that_are_none(status, headers):
    """The application gets an exception, the client nothing of it."""
    with pytest.raises((ValueError, TypeError)):
        respond(answering(status, headers, [b""]))


def test_response_caches_are_bounded():
    """Not even an application makes them grow."""
    for i in range(1500):
        respond(answering(f"200 OK{i}", [(f"X-{i}", "a")], [b""]))
    assert len(http1_responses._prefixes) <= 512
    assert len(http1_responses._status_lines) <= 512


def test_start_response_twice():
    """Is a mistake without exc_info."""

    def application(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(AssertionError, match="exc_info"):
        respond(application)


@pytest.mark.parametrize(
    ("status", "stored", "repeat"), [(413, "no", "never"), (408, "no", "safe"), (503, "no", "safe")]
)
def test_error_answers(status, stored, repeat):
    """They say whether the message was stored and whether to repeat it; a harmless request id is echoed."""
    headers, content = error_answer(status, "why", {"HTTP_X_REQUEST_ID": "id.1"})
    assert json.loads(content).items() >= {"error": "why", "stored": stored, "repeat": repeat, "success": False}.items()
    assert ("X-Request-Id", "id.1") in headers
    assert ("Retry-After", "1") in headers or status != 503
    assert json.loads(error_answer(status, "why", {"HTTP_X_REQUEST_ID": "a\r\nb"})[1])["request_id"] != "a\r\nb"
