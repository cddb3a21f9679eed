"""What routes take out of a request: names in its path, and the body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from flask import Request, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import PathConverter

from proxy import shaping
from proxy.errors import BadBody, LengthRequired, UnsupportedEncoding, UnsupportedMediaType
from proxy.inflating import Inflating, is_gzip

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_INFLATING = Inflating()
_SHARE = "stations.inflated"  # goes with the request
LARGEST_CONTENT = 1 << 30  # where a team has taken the limit away


class NameConverter(PathConverter):
    """A path in which line breaks may stand, so that they get the answer of every other bad name."""

    regex = "(?s:[^/].*?)"


def add_converters(state: BlueprintSetupState) -> None:
    """Lets the routes of a blueprint say `<station:station>` and `<schema:name>`; for `record_once`."""
    state.app.url_map.converters |= {"station": NameConverter, "schema": NameConverter}


def current() -> Request:
    """The current request itself: whatever is asked of `flask.request` looks it up anew."""
    own: Request = request._get_current_object()  # type: ignore[attr-defined]
    return own


def body() -> bytes:
    """The body as sent, or inflated; the application's limit on its length is enforced before it is read."""
    own = current()
    environ, limit = own.environ, own.max_content_length
    gzip = is_gzip(environ.get("HTTP_CONTENT_ENCODING", ""))
    length = _length(environ)
    if gzip is None:
        raise UnsupportedEncoding
    if length is None:
        body = _in_chunks(own, limit)
    elif limit is not None and length > limit:
        raise RequestEntityTooLarge
    else:
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # some servers hand over what has come
            raise BadBody("the body ended before its Content-Length")
    if gzip:
        body, environ[_SHARE] = _INFLATING.content(body, limit or LARGEST_CONTENT)
    return body


def fields(most: int) -> dict[str, Any]:
    """The body, a JSON object of at most so many bytes. Raises `UnsupportedMediaType`, `BadBody`."""
    own = current()
    own.max_content_length = min(most, own.max_content_length or most)
    content = body()
    if shaping.form_of(own.environ.get("CONTENT_TYPE", "")) != "json":
        raise UnsupportedMediaType("send application/json")
    shaping.check_json(content)
    try:
        found: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise BadBody("Invalid request body: it must be a JSON object") from None
    return found


def _length(environ: WSGIEnvironment) -> int | None:
    """The body's length; None for one that comes in chunks."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None
    text = environ.get("CONTENT_LENGTH")
    if text is None:
        raise LengthRequired
    if not text.isdecimal() or not text.isascii():
        raise BadBody("the Content-Length is no number")
    return int(text)


def _in_chunks(own: Request, limit: int | None) -> bytes:
    """A body without a length. werkzeug reads as much as the limit allows, and says nothing if there is more."""
    body = own.get_data(cache=False)
    if len(body) == limit and own.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
    return body
