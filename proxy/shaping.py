"""A request's body, content type and headers become messages.

Payloads are taken byte for byte; JSON is checked for being well formed and never written anew.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import msgspec

from proxy.errors import BadBody, BadHeader, TooLarge, UnsupportedMediaType
from proxy.outline import is_deeper

Form = Literal["text", "json", "protobuf", "ndjson"]
T = TypeVar("T")
HeaderPairs = tuple[tuple[str, str], ...]

MAX_DEPTH = 128
MAX_HEADERS = 64
MAX_HEADER_BYTES = 8192
MAX_KNOWN_NAMES = 1024
MAX_KNOWN_PLANS = 1024
MAX_NAME_CHARACTERS, MAX_PLAN_CHARACTERS = 128, 4096  # of those that are remembered
MANY_COMMAS = 4  # for each message that is allowed; with fewer, an array that is refused costs little
MAX_BOUNDED = 50_000  # messages; for more of them such a decoder costs about what it saves

_element = msgspec.json.Decoder(msgspec.Raw).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_HALF_AT_END = re.compile(rb"\\u([dD][89abAB][0-9a-fA-F]{2}).{0,5}\Z", re.DOTALL)

_PROTOBUF = ("application/x-protobuf", "application/protobuf")
_NDJSON = ("application/x-ndjson", "application/ndjson")
SINGLE_TYPES = "text/*, application/json, application/*+json, application/x-protobuf"
BATCH_TYPES = "application/json, application/x-ndjson"

_NEVER = re.compile(
    r"cookie|proxy-.*|x-forwarded-.*|x-real-ip|nats-.*|dls-.*|\$.*|"
    r"connection|keep-alive|te|trailers?|transfer-encoding|upgrade|"  # hop by hop
    r"msg-id|msg-partition-key|partition-key|idempotency-key|x-request-id|"
    r".*(?:token|secret|auth|password|api-key|apikey|session|csrf|jwt).*"
)
_UNSAFE = re.compile(r"[\r\n\0]")
_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


@functools.lru_cache(maxsize=256)
def form_of(content_type: str) -> Form | None:
    """What a content type says about the body; None for one that no route takes."""
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        return "json"
    if media in ("", "text") or media.startswith("text/"):
        return "text"
    if media in _PROTOBUF:
        return "protobuf"
    return "ndjson" if media in _NDJSON else None


def single(content_type: str, body: bytes) -> bytes:
    """The payload of a single message. Raises `UnsupportedMediaType`, `BadBody`."""
    form = form_of(content_type)
    if form is None or form == "ndjson":
        raise UnsupportedMediaType(f"send one of {SINGLE_TYPES}")
    if form == "json":
        check_json(body)
    elif form == "text" and not body:
        raise BadBody("the body is empty")
    return body


def batch(content_type: str, body: bytes, most: int) -> list[bytes]:
    """The payloads of a batch: the elements of a JSON array, or the lines of NDJSON that are not blank.

    Raises `UnsupportedMediaType`, `BadBody`, and `TooLarge` for more than `most` messages.
    """
    form = form_of(content_type)
    if form == "json":
        payloads = _array(body, most)
    elif form == "ndjson":
        payloads = _lines(body, most)
    else:
        raise UnsupportedMediaType(f"send one of {BATCH_TYPES}")
    if not payloads:
        raise BadBody("the batch has no messages")
    return payloads


def check_json(body: bytes, where: str = "the body", depth: int = MAX_DEPTH) -> None:
    """Sees that this is one well-formed JSON document; numbers may have any size.

    Raises `BadBody`: not UTF-8, a BOM, not JSON (NaN and lone surrogates are not), nested deeper than `depth`.
    """
    _check_text(body, where)
    _decoded(_element, body, where)
    _check_depth(body, where, depth)


def _array(body: bytes, most: int) -> list[bytes]:
    _check_text(body, "the body")
    if body.lstrip()[:1] != b"[":
        raise BadBody("the body is not a JSON array")
    elements = _decoded(_at_most(most) if _may_be_far_too_many(body, most) else _elements, body, "the body")
    if len(elements) > most:
        raise _too_many(most)
    payloads = list(map(bytes, elements))
    # An element is nested no deeper than half its bytes, so most arrays need no look at their brackets.
    if max(map(len, payloads), default=0) > 2 * MAX_DEPTH:
        _check_depth(body, "the body", MAX_DEPTH + 1)
    return payloads


def _may_be_far_too_many(body: bytes, most: int) -> bool:
    """Whether an array may have so many elements that making them all would cost more than a good batch does."""
    commas = MANY_COMMAS * most
    return most <= MAX_BOUNDED and len(body) > commas and body.count(b",") >= commas


@functools.lru_cache(maxsize=4)
def _at_most(most: int) -> Callable[[bytes], list[msgspec.Raw]]:
    """A decoder of arrays that makes no more than `most` elements, and raises `TooLarge` for an array that has more.

    To msgspec a list has no such bound, but a structure has: it is an array whose elements are its fields.
    """
    fields = [(f"_{place}", msgspec.Raw, None) for place in range(most)]
    few = msgspec.defstruct("Few", fields, array_like=True, forbid_unknown_fields=True)
    decode = msgspec.json.Decoder(few).decode

    def elements(body: bytes) -> list[msgspec.Raw]:
        try:
            found = msgspec.structs.astuple(decode(body))
        except msgspec.ValidationError:  # there is nothing else that such an array could violate
            _element(body)  # if what follows is not JSON, that is what is wrong
            raise _too_many(most) from None
        return [element for element in found if element is not None]

    return elements


def _too_many(most: int) -> TooLarge:
    return TooLarge(f"a batch has at most {most} messages")


def _lines(body: bytes, most: int) -> list[bytes]:
    payloads: list[bytes] = []
    number, last = 1, 0
    for match in _LINE.finditer(body):
        if len(payloads) == most:
            raise _too_many(most)
        number, last = number + body.count(b"\n", last, match.start()), match.start()
        payload = match[0].rstrip(b" \t\r")
        check_json(payload, f"line {number}")
        payloads.append(payload)
    return payloads


def _check_text(body: bytes, where: str) -> None:
    if body.startswith(b"\xef\xbb\xbf"):
        raise BadBody(f"{where} begins with a byte order mark; send JSON without one")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BadBody(f"{where} is not UTF-8 (byte {error.start})") from None


def _decoded(decode: Callable[[bytes], T], body: bytes, where: str) -> T:
    try:
        return decode(body)
    except msgspec.MsgspecError as error:
        raise BadBody(f"{where} is not JSON: {reason(body, error)}") from None
    except RecursionError:
        raise BadBody(f"{where} is nested too deeply (at most {MAX_DEPTH} levels)") from None


def reason(text: bytes, error: Exception) -> str:
    """Why msgspec takes no such JSON, where `error` is what it raised.

    Of a lone surrogate within the last bytes it says that the text is truncated. It is what is wrong if the text would
    be taken with another character in its place.
    """
    half = _HALF_AT_END.search(text, max(0, len(text) - 12))
    if half is None:
        return str(error)
    try:
        _element(text[: half.start(1)] + b"fffd" + text[half.end(1) :])
    except (msgspec.DecodeError, RecursionError):
        return str(error)
    return f"lone surrogate (byte {half.start()})"


def _check_depth(body: bytes, where: str, depth: int) -> None:
    if is_deeper(body, depth):
        raise BadBody(f"{where} is nested too deeply (at most {MAX_DEPTH} levels)")


class HeaderFilter:
    """Which request headers are stored with a message, and under which name.

    `patterns` are those of `FORWARD_HEADERS`. Names of secrets and of the broker's own headers never pass.
    """

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._patterns = patterns
        self._known: dict[str, str] = {}
        self._plans: dict[tuple[str, ...], HeaderPairs] = {}

    def pick(self, environ: Mapping[str, object], *, content_type: str | None = None) -> HeaderPairs:
        """The headers to store out of a WSGI environment; `content_type`, if given, replaces the request's.

        Raises `BadHeader` for CR, LF or NUL in a value, for more than 64 headers, and for more than 8 KiB.
        """
        pairs = []
        media = content_type or environ.get("CONTENT_TYPE")
        if media and self._stored_name("HTTP_CONTENT_TYPE"):
            pairs.append(("content-type", str(media)))
        variables = tuple(environ)
        plan = self._plans.get(variables)
        if plan is None:
            plan = self._plan(variables)
        pairs += [(name, str(environ[variable])) for variable, name in plan]
        return _checked(pairs)

    def _plan(self, variables: tuple[str, ...]) -> HeaderPairs:
        """Which variables to store under which names; a sender's requests have the same ones again and again."""
        plan = tuple((variable, name) for variable in variables if (name := self._stored_name(variable)))
        if sum(map(len, variables)) <= MAX_PLAN_CHARACTERS:
            if len(self._plans) >= MAX_KNOWN_PLANS:
                self._plans.clear()
            self._plans[variables] = plan
        return plan

    def _stored_name(self, variable: str) -> str:
        """The name under which a variable's header is stored; empty for one that is not. Remembered, in a bound."""
        name = self._known.get(variable)
        if name is None:
            name = self._judge(variable[5:].replace("_", "-").lower()) if variable.startswith("HTTP_") else ""
            if len(variable) <= MAX_NAME_CHARACTERS:
                if len(self._known) >= MAX_KNOWN_NAMES:
                    self._known.clear()
                self._known[variable] = name
        return name

    def _judge(self, name: str) -> str:
        if name == "content-encoding" or not any(fnmatchcase(name, pattern) for pattern in self._patterns):
            return ""  # the request's encoding has been undone; that of a payload may be told as `msg-content-encoding`
        stored = name[4:] if name.startswith("msg-") else name
        return "" if _NEVER.fullmatch(name) or _NEVER.fullmatch(stored) else stored


def check_headers(pairs: HeaderPairs) -> None:
    """Sees that the headers which a program gives are names and values of one line. Raises `BadHeader`."""
    for name, value in pairs:
        if not _HEADER_NAME.fullmatch(name):
            raise BadHeader(f"{name!r} is no name of a header")
        if _UNSAFE.search(value):
            raise BadHeader(f"header {name} has a line break or NUL in it")


def _checked(pairs: list[tuple[str, str]]) -> HeaderPairs:
    if len(pairs) > MAX_HEADERS:
        raise BadHeader(f"more than {MAX_HEADERS} headers to store with the message")
    size = 0
    for place, (name, value) in enumerate(pairs):
        size += len(name) + len(value)
        if _UNSAFE.search(value):
            raise BadHeader(f"header {name} has a line break or NUL in it")
        if not value.isascii():
            # WSGI hands bytes over as Latin-1; the broker is given the bytes that were sent.
            pairs[place] = name, value.encode("latin-1").decode("utf-8", "surrogateescape")
    if size > MAX_HEADER_BYTES:
        raise BadHeader(f"more than {MAX_HEADER_BYTES} bytes of headers to store with the message")
    return tuple(pairs)
