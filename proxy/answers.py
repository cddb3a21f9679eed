"""What a route of ours answers with when all went well: a response like any other, but cheap to make and to send."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_TYPE = ("Content-Type", "application/json")
_SOME_WORK = ("location", "content-location")  # werkzeug makes URLs of them


class Body(list[bytes]):
    """A complete body: a server may send it as a whole, and calls `close` after that (PEP 3333)."""

    __slots__ = ("close",)

    def __init__(self, chunks: list[bytes], close: Callable[[], Any]) -> None:
        super().__init__(chunks)
        self.close = close


class Answer(Response):
    """A success whose body is JSON. Hooks may change it as they may any response of Flask."""

    def __init__(self, content: bytes) -> None:
        super().__init__([content], headers=_Headers([_TYPE, ("Content-Length", str(len(content)))]))

    def get_wsgi_response(self, environ: WSGIEnvironment) -> tuple[Any, str, list[tuple[str, str]]]:
        """Body, status and headers for the server; the shorter way there if werkzeug would change none of them."""
        if self.status_code == 200 and self._is_whole() and environ["REQUEST_METHOD"] != "HEAD":
            names = [name.lower() for name, _ in self.headers]
            if "content-length" in names and not any(name in names for name in _SOME_WORK):
                return Body(self.response, self.close), self.status, self.headers.to_wsgi_list()  # type: ignore[arg-type]
        return super().get_wsgi_response(environ)

    def _is_whole(self) -> bool:
        chunks = self.response
        return type(chunks) is list and len(chunks) == 1 and type(chunks[0]) is bytes and not self.direct_passthrough


class _Headers(Headers):
    """Headers of our own making: they are not looked through for what no header may hold."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._list = list(pairs)
