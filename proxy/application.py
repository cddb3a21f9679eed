"""The Flask application: all that Flask documents holds, and a request costs less where nothing has been added to it.

For each request Flask asks for the hooks of each blueprint, works out the host, and has werkzeug walk through the URL
map, which leaves a circle of objects to the garbage collector. Here empty tables of hooks are not searched, and what
follows from a host or a path alone is worked out once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.ctx import RequestContext
from flask.globals import request_ctx
from flask.signals import request_tearing_down
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule, RuleFactory

from proxy.errors import GatewayError, let_go
from proxy.intake import NameConverter

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_MATCHED = 10_000
MAX_PATH = 256  # characters of a path that is remembered
MAX_HOSTS = 1024
MAX_HOST = 256

# Whether one of these takes a part of a path depends on the part alone.
_STEADY = {*Map.default_converters.values(), NameConverter}

Place = tuple["str | None", str, str, bool]  # subdomain, method, path, and whether it is for WebSocket
Match = tuple["Rule | None", "dict[str, Any]"]


class Routes(Map):
    """A URL map that remembers which rule serves a path, as long as no rule is added.

    Nothing is remembered if there are converters that it does not know, which may decide otherwise the next time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.matched: dict[Place, Match] = {}
        self._steady: bool | None = None
        super().__init__(*args, **kwargs)

    def add(self, rulefactory: RuleFactory) -> None:
        """Adds rules. Who is looking for one at this moment keeps what it finds in the table that is thrown away."""
        super().add(rulefactory)
        self.matched, self._steady = {}, None

    def remember(self, matched: dict[Place, Match], place: Place, match: Match) -> None:
        """Keeps what was found in `matched`, the table of before the search; bounded, and emptied when it is full."""
        path = place[2]
        if len(path) > MAX_PATH or "//" in path or not self._is_steady():  # `merge_slashes` is a setting of any time
            return
        if len(matched) >= MAX_MATCHED:
            matched.clear()
        matched[place] = match

    def _is_steady(self) -> bool:
        if self._steady is None:
            rules = () if self.host_matching else self.iter_rules()
            known = all(type(one) in _STEADY for rule in rules for one in rule._converters.values())
            self._steady = known and not self.host_matching
        return self._steady


class Context(RequestContext):
    """The context of a request to an `Application`."""

    def match_request(self) -> None:
        """Finds the rule for this request, or notes why there is none."""
        adapter, request = self.url_adapter, self.request
        if adapter is None or not isinstance(adapter.map, Routes):
            super().match_request()
            return
        place = adapter.subdomain, adapter.default_method, adapter.path_info, adapter.websocket
        matched = adapter.map.matched
        match = matched.get(place)
        if match is not None:
            request.url_rule, request.view_args = match[0], match[1].copy()  # hooks may change the arguments
            return
        super().match_request()
        if request.routing_exception is None:
            adapter.map.remember(matched, place, (request.url_rule, dict(request.view_args or {})))


class Application(Flask):
    """A Flask application; each method does what Flask says of it."""

    url_map_class = Routes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hosts: dict[tuple[str, str], tuple[str, str]] = {}

    def request_context(self, environ: WSGIEnvironment) -> RequestContext:
        """The context for one request."""
        return Context(self, environ)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """The URL map as it is for the host of a request; what the host's name means there is remembered."""
        if request is None or not self._judges_by_host_alone(request):
            return super().create_url_adapter(request)
        environ = request.environ
        asked = environ["wsgi.url_scheme"], environ["HTTP_HOST"]
        known = self._hosts.get(asked)
        if known is None:
            adapter = super().create_url_adapter(request)
            if adapter is not None and len(asked[1]) <= MAX_HOST and len(self._hosts) < MAX_HOSTS:
                self._hosts[asked] = request.host, adapter.server_name
            return adapter
        request.host, server_name = known
        return MapAdapter(
            self.url_map,
            server_name,
            _text(environ.get("SCRIPT_NAME", "/")),
            self.url_map.default_subdomain or "",
            asked[0],
            _text(environ.get("PATH_INFO", "/")),
            environ["REQUEST_METHOD"],
            _text(environ.get("QUERY_STRING", "")),
        )

    def preprocess_request(self) -> Any:
        """Calls what is to run before the view; its result, if it is not None, is the answer."""
        if self.before_request_funcs or self.url_value_preprocessors:
            return super().preprocess_request()
        return None

    def process_response(self, response: Response) -> Response:
        """Calls what is to run after the view, saves the session, and returns the response to send."""
        context = request_ctx._get_current_object()  # type: ignore[attr-defined]
        if (
            self.after_request_funcs
            or context._after_request_functions
            or not self.session_interface.is_null_session(context._session)
        ):
            return super().process_response(response)
        return response

    def handle_user_exception(self, e: Exception) -> Any:
        """What the handler of this error answers, whoever has registered it; then an error of ours is over.

        What a team raises itself keeps where it was raised: hooks of theirs may tell it after the answer is made.
        """
        answer = super().handle_user_exception(e)
        if isinstance(e, GatewayError | HTTPException):
            let_go(e)
        return answer

    def do_teardown_request(self, *args: Any, **kwargs: Any) -> None:
        """Calls what is to run when the request is over."""
        if self.teardown_request_funcs or request_tearing_down.receivers:
            super().do_teardown_request(*args, **kwargs)

    def _judges_by_host_alone(self, request: Request) -> bool:
        config, environ = self.config, request.environ
        return (
            config["TRUSTED_HOSTS"] is None
            and config["SERVER_NAME"] is None
            and request.trusted_hosts is None
            and not self.url_map.host_matching
            and not self.subdomain_matching
            and "HTTP_HOST" in environ
            and "HTTP_UPGRADE" not in environ
        )


def _text(value: str) -> str:
    """What WSGI hands over as Latin-1, as the UTF-8 that it is."""
    return value if value.isascii() else value.encode("latin-1").decode(errors="replace")
