"""The short way past Flask, for a produce like those that Flask has already served.

It has no rule of its own: the token must be one that was verified, the path one that Flask has served, and the answer
comes from the function that the route calls. Whatever is different goes to Flask, and so does every failure: Flask gets
the request as it was, and what the lane met, so that it answers without producing again.

It steps aside for a route on which the application has anything of its own: hooks, a replaced view, receivers of
signals, classes of its own.

For our own server there is a shorter way still, without WSGI: `offer` gives what follows from the head of a request,
worked out. It takes the body, and the bodies of further requests with the same head (see `proxy.http1_repeats`). The
same rules hold for each of them.
"""

from __future__ import annotations

import functools
import io
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import flask
from flask import Flask, signals
from flask.sessions import SecureCookieSessionInterface

from proxy.application import Application, Routes
from proxy.edge import OK_HEADERS, ROUTE, USER
from proxy.errors import GatewayError, RateLimited
from proxy.extension import OUTCOME, Plan, Proved, Stations
from proxy.http1_repeats import Asker
from proxy.messages import Ack
from proxy.tokens import Caller

Environ = dict[str, Any]
App = Callable[..., Iterable[bytes]]

_SIGNALS = (
    signals.appcontext_popped,
    signals.appcontext_pushed,
    signals.appcontext_tearing_down,
    signals.got_request_exception,
    signals.request_finished,
    signals.request_started,
    signals.request_tearing_down,
)


class Lane:
    """Wraps the WSGI side of a Flask application that has the `stations` extension."""

    def __init__(self, wsgi_app: App, app: Flask, extension: Stations) -> None:
        self.extension = extension
        self._wsgi_app, self._app = wsgi_app, app
        self._views = dict(app.view_functions)
        self._rules = _rules(app)
        self._plain = type(app) is Application and type(extension) is Stations

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """One request, the short way if it is one that was proved."""
        content = None
        if environ["REQUEST_METHOD"] == "POST" and OUTCOME not in environ:  # else the message has been sent already
            proved = self.extension.proved.get(environ["PATH_INFO"])
            if proved is not None and not self.has_company(proved):
                content = self._answer(environ, proved)
        if content is None:
            return self._wsgi_app(environ, start_response)
        start_response("200 OK", [*OK_HEADERS, ("Content-Length", str(len(content)))])
        return [content]

    def offer(self, environ: Environ) -> Again | None:
        """What serves this request, and others with its head, without WSGI; None for one that has to go through it."""
        proved = self.extension.proved.get(environ["PATH_INFO"])
        header = environ.get("HTTP_AUTHORIZATION", "")
        caller = self.extension.tokens.remembered(header[7:]) if header[:7] == "Bearer " else None
        if proved is None or caller is None or self._length(environ) is None:
            return None
        try:
            plan = proved.plan(self.extension, caller.credentials, proved.station, environ)
        except Exception:  # whatever it is, the whole way finds it too, and answers
            return None
        if not plan.posts:
            return None
        again = Again(self, environ["PATH_INFO"], proved, header[7:], caller, plan)
        again.address = environ.get("REMOTE_ADDR", "")
        return again

    def _answer(self, environ: Environ, proved: Proved) -> bytes | None:
        """The answer's body; None when it is for Flask to answer."""
        header = environ.get("HTTP_AUTHORIZATION", "")
        caller = self.extension.tokens.remembered(header[7:]) if header[:7] == "Bearer " else None
        length = self._length(environ)
        if caller is None or length is None:
            return None
        body = environ["wsgi.input"].read(length)
        if len(body) < length:  # the client is gone, as Flask will find out
            environ["wsgi.input"] = io.BytesIO(body)
            return None
        try:
            self.extension.admit(environ, caller)
            plan = proved.plan(self.extension, caller.credentials, proved.station, environ)
            content = plan.answer(body)
        except Exception as error:
            environ[OUTCOME] = error
            environ["wsgi.input"] = io.BytesIO(body)
            return None
        environ[ROUTE] = (proved.rule, proved.station.name)
        return content

    def _length(self, environ: Environ) -> int | None:
        """The body's length; None for a body that Flask should judge, or a session that it may keep alive."""
        text = environ.get("CONTENT_LENGTH", "")
        if not text.isdecimal() or "HTTP_TRANSFER_ENCODING" in environ or "HTTP_CONTENT_ENCODING" in environ:
            return None
        if "HTTP_COOKIE" in environ and self._app.secret_key:
            return None
        return int(text) if self.fits(int(text)) else None

    def fits(self, length: int) -> bool:
        """Whether the application takes bodies of that many bytes."""
        limit = self._app.config["MAX_CONTENT_LENGTH"]
        return limit is None or length <= limit

    def is_wrapped(self) -> bool:
        """Whether the application has put something around us, which is to see every request."""
        return self._app.wsgi_app is not self.extension.edge

    def has_company(self, proved: Proved) -> bool:
        """Whether anything of the application's own decides about this route, or would run for it or on its answer."""
        app = self._app
        if _rules(app) is not self._rules:
            self._rules = _rules(app)
            self.extension.proved.clear()  # other rules may serve these paths now
            return True
        return (
            not self._plain
            or self._rules is None
            or app.config["TRUSTED_HOSTS"] is not None
            or app.view_functions.get(proved.endpoint) is not self._views.get(proved.endpoint)
            or _applies(app.before_request_funcs, proved)
            or _applies(app.after_request_funcs, proved)
            or _applies(app.teardown_request_funcs, proved)
            or _applies(app.url_value_preprocessors, proved)
            or bool(app.teardown_appcontext_funcs)
            or type(app.session_interface) is not SecureCookieSessionInterface
            or app.request_class is not flask.Request
            or app.response_class is not flask.Response
            or is_heard()
        )


class Again:
    """What serves requests with a certain head without WSGI.

    Nothing is taken for granted but what follows from the head: each time the token, the route and the application are
    asked as for any other request. `user` and `route` are for the log, `head` is the edge's.
    """

    __slots__ = ("_caller", "_lane", "_path", "_plan", "_proved", "_token", "address", "head", "route", "user")

    def __init__(self, lane: Lane, path: str, proved: Proved, token: str, caller: Caller, plan: Plan) -> None:
        self._lane, self._path, self._proved = lane, path, proved
        self._token, self._caller, self._plan = token, caller, plan
        self.user, self.route = caller.credentials.user, (proved.rule, proved.station.name)
        self.head: Callable[[float, int, int], bytes]
        self.address = ""

    def __call__(self, body: bytes, asker: Asker) -> bool:
        """Takes a body; false where the whole way has to be gone. Whoever asked is answered in the event loop."""
        lane, proved = self._lane, self._proved
        extension = lane.extension
        if (
            extension.proved.get(self._path) is not proved
            or extension.tokens.remembered(self._token) is not self._caller
            or not lane.fits(len(body))
            or lane.is_wrapped()
            or lane.has_company(proved)
        ):
            return False
        try:
            extension.limits.admit(self.address, self._caller.credentials)
        except RateLimited as error:
            return self._refuse(asker, error)
        try:
            self._plan.post(body, self._settled, (asker, time.perf_counter(), len(body)))
        except Exception as error:
            if isinstance(error, GatewayError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return self._refuse(asker, error)
            extension.limits.withdraw(self.address, self._caller.credentials)
            return False  # the whole way finds it too, and answers; or it does more than we
        return True

    def _refuse(self, asker: Asker, error: Exception) -> bool:
        """Leaves to Flask to say what is known: it counts and checks nothing again."""
        asker.decline({OUTCOME: error, USER: self.user})
        return True

    def _settled(self, asked: tuple[Asker, float, int], result: Ack | Exception) -> None:
        asker, began, length = asked
        if not isinstance(result, Ack):
            self._refuse(asker, result)
            return
        content = self._plan.posted
        try:
            head = self.head(began, length, len(content))
        except Exception as error:  # a log that cannot be written; the application answers what is left to say
            self._refuse(asker, error)
        else:
            asker.answer(head, content)


def _applies(hooks: Mapping[str | None, Any], proved: Proved) -> bool:
    """Whether a table of hooks, by blueprint or for all, has any for this route."""
    return bool(hooks) and bool(hooks.get(None) or any(map(hooks.get, _blueprints(proved.endpoint))))


@functools.lru_cache(maxsize=64)
def _blueprints(endpoint: str) -> tuple[str, ...]:
    """The blueprint of an endpoint, and those around it."""
    return tuple(itertools.accumulate(endpoint.split(".")[:-1], "{}.{}".format))


def _rules(app: Flask) -> object:
    """What stays the same object until a rule is added; None where a path alone does not tell the rule."""
    rules = app.url_map
    if not isinstance(rules, Routes) or rules.host_matching or app.subdomain_matching:
        return None
    return rules.matched


def is_heard() -> bool:
    """Whether anybody has connected to one of Flask's signals."""
    return any([signal.receivers for signal in _SIGNALS])  # noqa: C419 - a list is made faster than a generator
