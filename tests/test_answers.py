"""The answer of our routes is a response of Flask in every respect but its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from proxy.answers import Answer

CONTENT = b'{"error":null,"success":true}'


def plain() -> flask.Response:
    """What Flask makes of the same content."""
    return flask.Response(CONTENT, mimetype="application/json")


def sent(response: flask.Response, method: str = "POST") -> tuple[str, list[tuple[str, str]], bytes]:
    """What a server is given."""
    begun: list[Any] = []
    environ = EnvironBuilder("/x", method=method).get_environ()
    chunks: Any = response(environ, lambda *args: begun.extend(args))
    body = b"".join(chunks)
    chunks.close()
    return begun[0], begun[1], body


def _iterate(response: flask.Response) -> None:
    response.response = (part for part in (b"a", b"b"))


def _text(response: flask.Response) -> None:
    response.response = ["text"]


def _no_length(response: flask.Response) -> None:
    del response.headers["Content-Length"]


def _cookie(response: flask.Response) -> None:
    response.set_cookie("a", "b")


CHANGES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda response: None,
    "a header": lambda response: response.headers.add("X-Shop", "7"),
    "a header twice": lambda response: response.headers.extend([("Vary", "a"), ("Vary", "b")]),
    "headers of its own": lambda response: setattr(response, "headers", Headers({"X": "1"})),
    "other data": lambda response: response.set_data("ü"),
    "no data": lambda response: response.set_data(b""),
    "text": _text,
    "an iterator": _iterate,
    "no length": _no_length,
    "a cookie": _cookie,
    "a location": lambda response: response.headers.set("Location", "/ü"),
    "created": lambda response: setattr(response, "status_code", 201),
    "no content": lambda response: setattr(response, "status_code", 204),
    "not modified": lambda response: setattr(response, "status", "304 NOT MODIFIED"),
    "frozen": lambda response: response.freeze(),
}


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_it_is_sent_as_flask_sends_it(change: Callable[[Any], object], method: str) -> None:
    """Whatever a hook changes: status, headers in their order, and body are the same."""
    ours, theirs = Answer(CONTENT), plain()
    with Flask("x").app_context():
        change(ours), change(theirs)
        assert sent(ours, method) == sent(theirs, method)


def test_its_headers_are_its_own() -> None:
    """Also those of a copy."""
    one, other = Answer(CONTENT), Answer(CONTENT)
    copied = one.headers.copy()
    one.headers["X-Shop"] = "7"
    assert "X-Shop" not in other.headers
    assert "X-Shop" not in copied
    assert list(copied) == list(plain().headers)


def test_what_is_to_run_at_its_end_runs_after_it_was_sent() -> None:
    """Also what is added once the server has it."""
    response, ran = Answer(CONTENT), []
    chunks: Any = response(EnvironBuilder("/x").get_environ(), lambda *args: None)
    response.call_on_close(lambda: ran.append("closed"))
    assert b"".join(chunks) == CONTENT
    assert not ran
    chunks.close()
    assert ran == ["closed"]


def test_it_becomes_a_response_of_a_teams_own_class() -> None:
    """As Flask makes of any response where the application has a class of its own."""

    class Theirs(flask.Response):
        """Adds a header."""

        def get_wsgi_headers(self, environ: Any) -> Headers:
            headers = super().get_wsgi_headers(environ)
            headers["X-Theirs"] = "1"
            return headers

    app = Flask("x")
    app.response_class = Theirs
    app.add_url_rule("/", "index", lambda: Answer(CONTENT))
    answer = app.test_client().get("/")
    assert answer.headers["X-Theirs"] == "1"
    assert answer.data == CONTENT
