"""A WSGI application that does what the HTTP tests need; its path says what."""

import json
from wsgiref.validate import validator

import gevent
from gevent.event import Event

closed = 0
release = Event()
KEYS = (
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "HTTP_HOST",
    "HTTP_X_LIST",
    "HTTP_X_TRAILER",
    "HTTP_X_USER",
    "PATH_INFO",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "wsgi.input_terminated",
    "wsgi.multiprocess",
    "wsgi.multithread",
    "wsgi.run_once",
    "wsgi.url_scheme",
    "wsgi.version",
)


class Closing:
    """An iterable that counts that it was closed, and may fail before."""

    def __init__(self, chunks, fail=False):
        self.chunks = chunks
        self.fail = fail

    def __iter__(self):
        yield from self.chunks
        if self.fail:
            raise ValueError("in the middle")

    def close(self):
        """Count."""
        global closed
        closed += 1


def app(environ, start_response):
    """Call the function that the path names."""
    name = environ["PATH_INFO"].strip("/").partition("/")[0] or "echo"
    return HANDLERS.get(name, echo)(environ, start_response)


def echo(environ, start_response):
    """The request's body."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]


def show(environ, start_response):
    """What the environ says, as JSON."""
    environ["wsgi.errors"].write("")
    start_response("200 OK", [("Content-Type", "application/json")])
    shown = {key: environ[key] for key in KEYS if key in environ}
    return [json.dumps({**shown, "body": environ["wsgi.input"].read().decode("latin-1")}).encode()]


def stream(environ, start_response):
    """Two chunks, the second once somebody asks for /release."""
    start_response("200 OK", [])
    release.clear()
    yield b"first"
    release.wait(5)
    yield b""
    yield b"second"


def sized(environ, start_response):
    """Two chunks whose length is known beforehand."""
    start_response("200 OK", [("Content-Length", "11")])
    return Closing([b"first", b"second"])


def free(environ, start_response):
    """Let what waits go on."""
    release.set()
    start_response("204 No Content", [])
    return []


def written(environ, start_response):
    """Through the write callable."""
    write = start_response("200 OK", [])
    write(b"written ")
    return [b"and returned"]


def wrapped(environ, start_response):
    """A file through wsgi.file_wrapper."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](open(__file__, "rb"), 512)


def fail(environ, start_response):
    """An error before anything was sent."""
    raise ValueError("before the answer")


def fail_later(environ, start_response):
    """An error when a part was sent."""
    start_response("200 OK", [])
    return Closing([b"part"], fail=True)


def unstarted(environ, start_response):
    """No start_response."""
    return [b"x"]


def corrected(environ, start_response):
    """A second start_response, with exc_info."""
    start_response("200 OK", [])
    try:
        raise ValueError
    except ValueError as error:
        start_response("503 Service Unavailable", [("X-Why", "corrected")], (ValueError, error, error.__traceback__))
    return [b"corrected"]


def injected(environ, start_response):
    """A header that would be two."""
    start_response("200 OK", [("X-A", "b\r\nX-Injected: yes")])
    return [b""]


def hop_by_hop(environ, start_response):
    """Headers that are the server's business."""
    start_response("200 OK", [("Connection", "close"), ("Transfer-Encoding", "gzip"), ("Keep-Alive", "5")])
    return [b"ok"]


def many(environ, start_response):
    """More than a socket takes at once."""
    start_response("200 OK", [])
    return Closing([b"x" * 1_000_000] * 8)


def nothing(environ, start_response):
    """No body at all."""
    start_response("200 OK", [])
    return []


def not_modified(environ, start_response):
    """A status without a body."""
    start_response("304 Not Modified", [("ETag", '"a"')])
    return [b"dropped"]


def short(environ, start_response):
    """Less than was promised."""
    start_response("200 OK", [("Content-Length", "10")])
    return [b"short"]


def long(environ, start_response):
    """More than was promised."""
    start_response("200 OK", [("Content-Length", "4")])
    return [b"long", b"er"]


def counted(environ, start_response):
    """How many iterables were closed."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(closed).encode()]


def slow(environ, start_response):
    """An answer that takes a moment; the log tells when it began."""
    environ["wsgi.errors"].write("slow began\n")
    gevent.sleep(0.5)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"slow"]


def validated(environ, start_response):
    """The body, under the eyes of a program that knows PEP 3333."""

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))]

    return validator(application)(environ, start_response)


HANDLERS = {
    handler.__name__.replace("_", "-"): handler
    for handler in (
        validated,
        echo,
        show,
        stream,
        sized,
        free,
        written,
        wrapped,
        fail,
        fail_later,
        unstarted,
        corrected,
        injected,
        hop_by_hop,
        many,
        nothing,
        not_modified,
        short,
        long,
        counted,
        slow,
    )
}
