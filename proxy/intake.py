"""What routes take out of a request: names in its path, and the body."""

from __future__ import annotations

from flask import request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import PathConverter

from proxy.errors import BadBody, LengthRequired, UnsupportedEncoding
from proxy.inflating import gunzip, is_gzip

LARGEST_CONTENT = 1 << 30  # where a team has taken the limit away


class NameConverter(PathConverter):
    """A path in which line breaks may stand, so that they get the answer of every other bad name."""

    regex = "(?s:[^/].*?)"


def add_converters(state: BlueprintSetupState) -> None:
    """Lets the routes of a blueprint say `<station:station>` and `<schema:name>`; for `record_once`."""
    state.app.url_map.converters |= {"station": NameConverter, "schema": NameConverter}


def body() -> bytes:
    """The body as sent, or inflated; the application's limit on its length is enforced before it is read."""
    if request.content_length is None and not request.environ.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    gzip = is_gzip(request.environ.get("HTTP_CONTENT_ENCODING", ""))
    if gzip is None:
        raise UnsupportedEncoding
    body = request.get_data(cache=False)
    length = request.content_length
    if length is None and len(body) == request.max_content_length:
        _see_that_it_ends()
    if length is not None and len(body) < length:  # some servers hand over what has come
        raise BadBody("the body ended before its Content-Length")
    return gunzip(body, request.max_content_length or LARGEST_CONTENT) if gzip else body


def _see_that_it_ends() -> None:
    """Of a body in chunks werkzeug reads as much as the limit allows, and says nothing if there is more."""
    if request.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
