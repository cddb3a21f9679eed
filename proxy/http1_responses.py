"""HTTP/1 responses of a WSGI application (PEP 3333, RFC 9112). No sockets here: bytes go to a `send` that is given.

Head and first chunk are sent together, so an answer of one chunk is one system call.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import TypeVar

from proxy.http1_requests import Environ, Request

Headers = list[tuple[str, str]]
_Value = TypeVar("_Value")
Send = Callable[[bytes], None]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
Application = Callable[[Environ, Callable[..., Send]], Iterable[bytes]]
ErrorAnswer = Callable[[int, str, Environ], tuple[Headers, bytes]]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS = re.compile(r"[2-9][0-9]{2}( .*)?")
_HARMLESS_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Every byte that a line of a head may hold.
_TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
_LINE_ENDS = b"\r\n" * 1024
# Not for an application to set (PEP 3333); and the date, because ours is the same.
_DROPPED = frozenset(
    ("connection", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
_REPEAT = {408: "safe", 500: "with-key", 503: "safe"}

# What applications send over and over is checked once. Both are cleared when full.
_CACHE_ENTRIES = 512
_status_lines: dict[str, tuple[str, bool]] = {}
_prefixes: dict[str, str] = {}


class Response:
    """The answer to one request; `send` takes its bytes, `date` is the Date line and the empty one after it.

    `respond` runs the application. `is_last` is asked when the head is made, since a worker may begin to stop while the
    application runs. Afterwards `keep_alive` says whether the connection can take another request; `status`, `headers`
    and `sent` (bytes of body) are what gunicorn's access log wants to know.
    """

    started = False
    sent = 0
    status = ""
    headers: Headers = []  # noqa: RUF012  # replaced, never changed
    _head = b""
    _length: int | None = None
    _chunked = False
    _omits_body = False

    def __init__(
        self, request: Request, send: Send, date: bytes, keep_alive: bool, is_last: Callable[[], bool] = bool
    ) -> None:
        self._request = request
        self._send = send
        self._date = date
        self._is_last = is_last
        self.keep_alive = keep_alive and request.keep_alive

    def respond(self, application: Application) -> None:
        """Run the application and send what it answers, as it comes; its iterable is closed whatever happens."""
        chunks = application(self._request.environ, self.start_response)
        try:
            if isinstance(chunks, (list, tuple)) and len(chunks) == 1 and not self.started:
                self._send_whole(chunks[0])
            else:
                self._send_each(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Send:
        """What WSGI calls `start_response`; returns `write`. Raises for what would make no HTTP head."""
        if exc_info is not None and self.started:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self.status:
            raise AssertionError("start_response was called again without exc_info")
        self._head, self._length, omits_body = _encoded(status, headers)
        self._omits_body = omits_body or self._request.environ.get("REQUEST_METHOD") == "HEAD"
        self.status, self.headers = status, headers
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body now; the head goes with the first one."""
        head = b"" if self.started else self._open(None)
        if self._omits_body:
            data = b""
        elif self._length is not None:
            data = data[: self._length - self.sent]
        self._emit(head + (b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data))
        self.sent += len(data)

    def _send_whole(self, body: bytes) -> None:
        head = self._open(len(body))
        if self._omits_body:
            body = b""
        elif self._length != len(body):
            body = body[: self._length]
        self._emit(head + body)
        self.sent = len(body)
        self._check_length()

    def _send_each(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            if chunk:
                self.write(chunk)
        if not self.started:
            self._emit(self._open(0))
        elif self._chunked:
            self._send(b"0\r\n\r\n")
        self._check_length()

    def _check_length(self) -> None:
        if self._length is not None and self.sent < self._length and not self._omits_body:
            self.keep_alive = False  # only the connection's end can tell the client that something is missing

    def _emit(self, data: bytes) -> None:
        if data:
            self.started = True
            self._send(data)

    def _open(self, whole: int | None) -> bytes:
        """The head, with the framing that is right for this request; `whole` is the length of the body if known."""
        if not self.status:
            raise AssertionError("the application did not call start_response")
        if self._length is None and not self._omits_body:
            self._length = whole
        head = self._head
        self.keep_alive = self.keep_alive and not self._is_last()
        if self._length is not None:
            if not self.status.startswith("204"):
                head += b"Content-Length: %d\r\n" % self._length
        elif not self._omits_body:
            head += self._frame()
        if not self.keep_alive or self._request.http10:
            head += b"Connection: keep-alive\r\n" if self.keep_alive else b"Connection: close\r\n"
        return head + self._date

    def _frame(self) -> bytes:
        """What marks the end of a body of unknown length: chunks, or the connection's end for HTTP/1.0."""
        if self._request.http10:
            self.keep_alive = False
            return b""
        self._chunked = True
        return b"Transfer-Encoding: chunked\r\n"


def head_of(status: str, headers: Headers) -> bytes:
    """The head of an answer as it is sent, without the headers of framing and date. Raises `ValueError`."""
    return _encoded(status, headers)[0]


def _encoded(status: str, headers: Headers) -> tuple[bytes, int | None, bool]:
    """That head, the length of the body if it is told, and whether this status has none."""
    head, omits_body = _status_lines.get(status) or _status_line(status)
    length = None
    lines = 1
    for name, value in headers:
        prefix = _prefixes.get(name)
        if prefix is None:
            prefix = _prefix(name)
        if prefix:
            head += prefix + value + "\r\n"
            lines += 1
        elif name.lower() == "content-length":
            length = _content_length(value)
    encoded = head.encode("latin-1")
    if encoded.translate(None, _TEXT) != _LINE_ENDS[: 2 * lines]:
        raise ValueError("a response header holds a control character, or there are too many headers")
    return encoded, length, omits_body


def error_answer(status: int, message: str, environ: Environ) -> tuple[Headers, bytes]:
    """Headers and JSON body of an answer that the server gives itself, before or instead of the application's."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    request_id = given if _HARMLESS_ID.fullmatch(given) else uuid.uuid4().hex
    body = {
        "error": message,
        "repeat": _REPEAT.get(status, "never"),
        "request_id": request_id,
        "stored": "unknown" if status == HTTPStatus.INTERNAL_SERVER_ERROR else "no",
        "success": False,
    }
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("X-Request-Id", request_id)]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", "1"))
    return headers, json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def error_application(status: int, message: str, answer: ErrorAnswer) -> Application:
    """A WSGI application that answers with an error."""

    def application(environ: Environ, start_response: Callable[..., Send]) -> Iterable[bytes]:
        headers, body = answer(status, message, environ)
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    return application


def _status_line(status: str) -> tuple[str, bool]:
    """The line, and whether there is no body after it (RFC 9110 6.4.1)."""
    if not _STATUS.fullmatch(status):
        raise ValueError(f"no status of a final answer: {status!r}")
    return _remember(_status_lines, status, (f"HTTP/1.1 {status}\r\n", status.startswith(("204", "304"))))


def _prefix(name: str) -> str:
    """What goes before the value of this header; empty for those that need more thought, or are dropped."""
    if name.lower() == "content-length" or name.lower() in _DROPPED:
        return _remember(_prefixes, name, "")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"no name of a header: {name!r}")
    return _remember(_prefixes, name, f"{name}: ")


def _content_length(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"no Content-Length: {value!r}")
    return int(value)


def _remember(cache: dict[str, _Value], key: str, value: _Value) -> _Value:
    if len(cache) >= _CACHE_ENTRIES:
        cache.clear()
    cache[key] = value
    return value
