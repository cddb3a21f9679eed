"""HTTP/1 requests: from bytes to a WSGI environ, or to a refusal. No sockets here.

llhttp (through httptools) splits the bytes and is strict about them: both lengths, bad chunks, folded headers, NUL and
bare CR or LF never get past it. What RFC 9110 and 9112 ask for beyond that is added here, and so are the limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar, cast
from urllib.parse import unquote_to_bytes

import httptools

Environ = dict[str, Any]
SchemeHeaders = tuple[tuple[str, str], ...]
_Value = TypeVar("_Value")

# Requests that one connection may have waiting; what a client sends beyond them it has to send again (RFC 9112 9.3.2).
MAX_PIPELINED = 64
# A request's chunk headers and trailers may take this much, and an eighth of the body: chunks of a byte or two would
# cost far more than the body they carry.
_FRAMING_BYTES = 128 * 1024
_FRAMING_SHARE = 8
# Of a length below 2**64, beyond which llhttp takes none. Leading zeros are digits too, and may be thousands.
_LENGTH_DIGITS = 20

# What clients send over and over is worked out once. All are cleared when full, so that no client can make them grow.
_CACHE_ENTRIES = 1024
_CACHED_BYTES = 128
_keys: dict[bytes, str] = {}
_targets: dict[bytes, tuple[str, str, str]] = {}
_methods: dict[bytes, str] = {}

_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]+)((?:/[^?#]*)?)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)


class Refusal(Exception):
    """A request that is not served: `status`, a sentence for the client, and as much of the environ as is known."""

    def __init__(self, status: int, message: str, environ: Environ | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.environ: Environ = environ or {}


@dataclass(frozen=True)
class Limits:
    """What a request may measure, in bytes; `fields` is a number of headers.

    `field_bytes` holds for the headers of one name together, `head_bytes` for request line and headers.
    """

    request_line: int = 4094
    fields: int = 100
    field_bytes: int = 8190
    head_bytes: int = 64 * 1024
    body_bytes: int = 8 * 1024 * 1024


class Request:
    """A request whose head has been read; `environ["wsgi.input"]` is there once the body is."""

    __slots__ = ("environ", "http10", "keep_alive")

    def __init__(self, environ: Environ, keep_alive: bool, http10: bool) -> None:
        self.environ = environ
        self.keep_alive = keep_alive
        self.http10 = http10


class RequestParser:
    """Collects the bytes of one connection into requests.

    `feed` bytes and take what `ready` holds: requests in order, then at most one refusal, after which nothing more is
    parsed. `seen` are the bytes of a request that is incomplete, head and body, with what came in one piece with its
    beginning. Every environ is a copy of `base`. `scheme_headers` are pairs of an environ key and the value meaning
    https; give them for peers that are trusted to set them.
    """

    __slots__ = (
        "_base",
        "_chunks",
        "_dropped",
        "_dropped_bytes",
        "_environ",
        "_fed",
        "_limits",
        "_most_entries",
        "_parser",
        "_request",
        "_scheme_headers",
        "_url",
        "buffered",
        "cut_short",
        "expects_continue",
        "finished",
        "ready",
        "seen",
        "waiting",
    )

    def __init__(self, limits: Limits, base: Environ, scheme_headers: SchemeHeaders = ()) -> None:
        self.ready: list[Request | Refusal] = []
        self.buffered = 0
        self.finished = self.cut_short = self.waiting = self.expects_continue = False
        self._limits = limits
        self._base = base
        self._most_entries = len(base) + limits.fields
        self._scheme_headers = scheme_headers
        self._parser: Any = httptools.HttpRequestParser(self)
        self._environ: Environ = {}
        self._request: Request | None = None
        self._chunks: list[bytes] = []
        self._fed = self.seen = 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the client; never raises for what they hold."""
        self.seen += len(data)
        self._parse(data)
        if self.ready:
            self.seen = len(data) if self.waiting else 0
            self._fed = 0
        else:
            self._fed += len(data)
            self._check_unfinished()

    @property
    def reads_body(self) -> bool:
        """Whether a head is complete and its body is not."""
        return self._request is not None

    def refuse(self, status: int, message: str) -> None:
        """Put a refusal of the request being read into `ready`, and parse nothing more."""
        environ = self._request.environ if self._request else self._environ
        self.finished = self.cut_short = True
        self.waiting = False
        self._request, self._environ, self._chunks, self.buffered = None, {}, [], 0
        self.ready.append(Refusal(status, message, environ))

    def close(self) -> None:
        """Let go of what has come of a request: nothing more will be fed.

        llhttp's parser and this one know each other. The garbage collector, which would have to find that out, looks
        when there are many objects, and few of them may hold bodies of gigabytes.
        """
        self._parser = self._request = None
        self._environ, self._chunks = {}, []

    def _parse(self, data: bytes) -> None:
        while (upgrade := self._parse_on(data)) is not None:
            self._decline_upgrade()  # not where it is caught: errors would have another context there
            data = data[upgrade:]

    def _parse_on(self, data: bytes) -> int | None:
        """Returns where an `Upgrade` was taken for granted."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return int(upgrade.args[0])
        except httptools.HttpParserError as error:
            self._fail(error)
        return None

    # What llhttp calls, in order.

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.ready) >= MAX_PIPELINED:
            raise _PipelineFull
        self._environ = self._base.copy()
        self._url = b""
        self.waiting = True
        self._dropped = self._dropped_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._url += url
        if len(self._url) > self._limits.request_line:
            raise Refusal(414, f"the request line is longer than {self._limits.request_line} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which goes to an environ that nobody reads."""
        key = _keys.get(name) or self._new_key(name)
        environ = self._environ
        if not key:
            self._dropped += 1
            self._dropped_bytes += len(name) + len(value)
        elif key in environ:
            self._repeat(key, value)
        else:
            environ[key] = value.decode("latin-1").rstrip(" \t")

    def on_headers_complete(self) -> None:
        """The head is complete: check it, and decide about the body before it is read."""
        environ = self._environ
        keep_alive = self._parser.should_keep_alive()
        # Only HTTP/1.1 is kept alive without being asked, by either name; asking llhttp for the version is slow.
        asked = "HTTP_CONNECTION" in environ or "HTTP_PROXY_CONNECTION" in environ
        http10 = (not keep_alive or asked) and self._is_http10()
        if "HTTP_HOST" not in environ and not http10:
            raise Refusal(400, "an HTTP/1.1 request needs a Host header")
        if len(environ) + self._dropped > self._most_entries or self.seen > self._limits.field_bytes:
            self._check_sizes(environ)
        self._fill(environ, http10)
        length = environ.get("CONTENT_LENGTH", "")
        if len(length) > _LENGTH_DIGITS:
            raise Refusal(400, "the Content-Length has more digits than any length")
        if length and int(length) > self._limits.body_bytes:
            raise self._too_large()
        if "HTTP_TRANSFER_ENCODING" in environ or "HTTP_EXPECT" in environ:
            self._check_framing(environ, http10)
        self._request = Request(environ, keep_alive, http10)
        self._environ = {}

    def on_body(self, chunk: bytes) -> None:
        """A part of the body, without its chunk framing."""
        self.buffered += len(chunk)
        if self.buffered > self._limits.body_bytes:
            raise self._too_large()
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """The request is complete."""
        request, chunks = self._request, self._chunks
        if request is None:
            return
        body = b"".join(chunks) if len(chunks) > 1 else chunks[0] if chunks else b""
        request.environ["wsgi.input"] = BytesIO(body)
        self._request, self._environ, self._chunks, self.buffered = None, {}, [], 0
        self.waiting = self.expects_continue = False
        if "HTTP_TRANSFER_ENCODING" in request.environ:  # a trailer may say that it is the last; llhttp believes it
            request.keep_alive = request.keep_alive and self._parser.should_keep_alive()
        self.finished = not request.keep_alive
        self.ready.append(request)

    # The head.

    def _is_http10(self) -> bool:
        version = self._parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise Refusal(505, f"this server speaks HTTP/1.1 and HTTP/1.0, not HTTP/{version}")
        return bool(version == "1.0")

    def _new_key(self, name: bytes) -> str:
        self._check_count()
        return _environ_key(name)

    def _repeat(self, key: str, value: bytes) -> None:
        self._check_count()
        if key in {"HTTP_HOST", "CONTENT_TYPE"} and self._request is None:
            raise Refusal(400, f"the request has two {key.replace('HTTP_', '').replace('_', '-').title()} headers")
        self._dropped += 1
        self._environ[key] += "," + value.decode("latin-1").rstrip(" \t")

    def _check_count(self) -> None:
        if len(self._environ) + self._dropped > self._most_entries:
            raise Refusal(431, f"the request has more than {self._limits.fields} headers")

    def _check_sizes(self, environ: Environ) -> None:
        self._check_count()
        limits = self._limits
        sizes = [len(key.removeprefix("HTTP_")) + len(environ[key]) + 4 for key in environ.keys() - self._base.keys()]
        if sizes and max(sizes) > limits.field_bytes:
            raise Refusal(431, f"a header is larger than {limits.field_bytes} bytes")
        if sum(sizes) + len(self._url) + self._dropped_bytes > limits.head_bytes:
            raise Refusal(431, f"the headers are larger than {limits.head_bytes} bytes")

    def _fill(self, environ: Environ, http10: bool) -> None:
        method = self._parser.get_method()
        environ["REQUEST_METHOD"] = _methods.get(method) or _methods.setdefault(method, method.decode())
        target = _targets.get(self._url)
        if target is None:
            target, host = _split_target(method, self._url)
            if host is not None:
                environ["HTTP_HOST"] = host
        environ["RAW_URI"], environ["PATH_INFO"], environ["QUERY_STRING"] = target
        if http10:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        if self._scheme_headers:
            self._apply_scheme(environ)

    def _apply_scheme(self, environ: Environ) -> None:
        scheme = ""
        for key, https in self._scheme_headers:
            if key in environ:
                told = "https" if environ[key] == https else "http"
                if scheme and told != scheme:
                    raise Refusal(400, "the proxy's headers disagree about the scheme")
                scheme = environ["wsgi.url_scheme"] = told

    # The body.

    def _check_framing(self, environ: Environ, http10: bool) -> None:
        if "HTTP_TRANSFER_ENCODING" in environ:
            if http10:
                raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
            if environ["HTTP_TRANSFER_ENCODING"].lower() != "chunked":
                raise Refusal(501, "chunked is the only Transfer-Encoding taken here")
        if "HTTP_EXPECT" in environ and not http10:
            if environ["HTTP_EXPECT"].lower() != "100-continue":
                raise Refusal(417, "100-continue is the only expectation met here")
            self.expects_continue = True

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._limits.body_bytes} bytes")

    def _check_unfinished(self) -> None:
        """Bound what was fed for a request that is still incomplete."""
        if self.finished:
            return
        if self._request is None:
            if self._fed > self._limits.head_bytes:
                self.refuse(431, f"the headers are larger than {self._limits.head_bytes} bytes")
        elif self._fed - self.buffered > _FRAMING_BYTES + self.buffered // _FRAMING_SHARE:
            self.refuse(400, "the body's chunks are too small for its size; send larger ones")

    # The end.

    def _decline_upgrade(self) -> None:
        """Go on in HTTP/1.1 where llhttp took an `Upgrade` for granted and skipped the body.

        A fresh parser is told how the body is framed, and collects it for the request that it belongs to.
        """
        request = self.ready.pop()
        self._parser = httptools.HttpRequestParser(self)
        framing = _framing(request.environ)
        if framing:
            self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: -\r\n" + framing + b"\r\n\r\n")
            self._request = cast(Request, request)
            self.finished = False
            self.expects_continue = "HTTP_EXPECT" in request.environ
        else:
            self.ready.append(request)

    def _fail(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if self.finished:  # what follows the last request of a connection is not for us
            return
        if isinstance(cause, _PipelineFull):
            self.finished = self.cut_short = True
            cast(Request, self.ready[-1]).keep_alive = False
        elif isinstance(cause, Refusal):
            self.refuse(cause.status, cause.message)
        elif isinstance(error, httptools.HttpParserCallbackError):
            raise error  # a fault of ours
        else:
            self.refuse(400, f"malformed HTTP: {error}")


class _PipelineFull(Exception):
    """More requests in one go than are taken."""


def _environ_key(name: bytes) -> str:
    """The environ key of a header; empty for names with an underscore.

    `X-User` and `X_User` have the same key, so who may not set one could set it by the other.
    """
    if b"_" in name:
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    return _remember(_keys, name, key if key in {"CONTENT_LENGTH", "CONTENT_TYPE"} else "HTTP_" + key)


def _split_target(method: bytes, url: bytes) -> tuple[tuple[str, str, str], str | None]:
    """Raw URI, path and query of a request target, and the host if it names one (RFC 9112 3.2)."""
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
        target = (url.decode(), unquote_to_bytes(path).decode("latin-1"), query.decode())
        return (target if query else _remember(_targets, url, target)), None
    absolute = _ABSOLUTE_FORM.fullmatch(url)
    if absolute and method != b"CONNECT":
        host, path, query = absolute.groups(b"")
        target = (url.decode(), unquote_to_bytes(path or b"/").decode("latin-1"), query.decode())
        return target, host.decode()
    if url == b"*" and method == b"OPTIONS":
        return ("*", "*", ""), None
    raise Refusal(400, "the request target must be a path, or a URL of http or https")


def _framing(environ: Environ) -> bytes:
    """The header that says where the body of this request ends; empty if it has none."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return b"Transfer-Encoding: chunked"
    length = environ.get("CONTENT_LENGTH", "0")
    return b"" if int(length) == 0 else b"Content-Length: " + length.encode()


def _remember(cache: dict[bytes, _Value], key: bytes, value: _Value) -> _Value:
    """Put a short key into a cache, which is emptied first when it is full."""
    if len(key) <= _CACHED_BYTES:
        if len(cache) >= _CACHE_ENTRIES:
            cache.clear()
        cache[key] = value
    return value
