"""Our application class does what Flask does, and remembers only what stays the same."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, after_this_request, request, session, signals
from flask.globals import request_ctx
from werkzeug.routing import BaseConverter, Map, Rule, ValidationError
from werkzeug.test import EnvironBuilder, run_wsgi_app

from proxy.application import MAX_HOSTS, MAX_MATCHED, MAX_PATH, Application
from tests.uncollected import uncollected


def seen() -> dict[str, Any]:
    """What a view can see of how it was found."""
    adapter = request_ctx.url_adapter
    return {
        "rule": str(request.url_rule),
        "arguments": request.view_args,
        "endpoint": request.endpoint,
        "host": request.host,
        "url": request.url,
        "adapter": {name: value for name, value in vars(adapter).items() if name != "map"},
        "built": adapter.build("item", {"number": 3}, force_external=True),
    }


def build(kind: type[Flask], **options: Any) -> Flask:
    """An application with routes of several kinds."""
    app = kind("routes", static_folder=None, **options)
    where = {"host": "example.com"} if app.url_map.host_matching else {}
    app.add_url_rule("/", "index", seen, **where)
    app.add_url_rule("/items/<int:number>", "item", lambda number: seen(), **where)
    app.add_url_rule("/items/<int:number>", "put", lambda number: seen(), methods=["PUT"], **where)
    app.add_url_rule("/folder/", "folder", seen, **where)
    app.add_url_rule("/named", "named", defaults={"name": "a"}, **where)
    app.add_url_rule("/named/<name>", "named", lambda name: seen(), **where)
    app.add_url_rule("/files/<path:name>", "files", lambda name: seen(), **where)
    app.add_url_rule("/old", "old", seen, redirect_to="/items/1", **where)
    return app


def ask(app: Flask, path: str, **options: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """The answer to a request."""
    environ = EnvironBuilder(path, **options).get_environ()
    environ.update(options.get("environ_overrides") or {})
    body, status, headers = run_wsgi_app(app, environ, buffered=True)
    return status, list(headers), b"".join(body)


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/", {}),
    ("/items/7?q=%C3%A4", {}),
    ("/items/7", {"method": "PUT"}),
    ("/items/7", {"method": "HEAD"}),
    ("/items/7", {"method": "OPTIONS"}),
    ("/items/7", {"method": "DELETE"}),
    ("/items/x", {}),
    ("/folder", {}),
    ("/named/a", {}),
    ("/named/b", {}),
    ("/files/a/b", {}),
    ("/files//a", {}),
    ("/files/%C3%A4", {}),
    ("/old", {}),
    ("/items/7", {"base_url": "https://Example.com:443/mounted"}),
    ("/items/7", {"base_url": "http://b\u00fccher.example:8080"}),
    ("/items/7", {"headers": {"Host": "not a host"}}),
    ("/items/7", {"headers": {"Host": ""}}),
    ("/items/7", {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}}),
    ("/items/7", {"base_url": "http://sub.example.com"}),
]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, {}),
        ({"host_matching": True, "static_host": "x"}, {}),
        ({"subdomain_matching": True}, {"SERVER_NAME": "example.com"}),
        ({}, {"SERVER_NAME": "example.com"}),
        ({}, {"TRUSTED_HOSTS": ["example.com"]}),
    ],
    ids=["plain", "host matching", "subdomains", "server name", "trusted hosts"],
)
@pytest.mark.filterwarnings("ignore:Current server name")
def test_requests_are_served_as_flask_serves_them(options: dict[str, Any], config: dict[str, Any]) -> None:
    """Answers, and what a view sees of its route, are the same; the second time too, when they are remembered."""
    plain, ours = build(Flask, **options), build(Application, **options)
    plain.config.update(config)
    ours.config.update(config)
    for _ in range(3):
        for path, how in REQUESTS:
            assert ask(ours, path, **how) == ask(plain, path, **how), (path, how)
    assert ask(ours, "/items/7", base_url="http://example.com")[0] == "200 OK"


def test_a_setting_of_hosts_that_changes_counts_at_once() -> None:
    """What was remembered of a host holds only as long as the host alone decides."""
    app = build(Application)
    assert ask(app, "/")[0] == ask(app, "/")[0] == "200 OK"
    app.config["TRUSTED_HOSTS"] = ["example.com"]
    assert ask(app, "/")[0] == "400 BAD REQUEST"


def test_arguments_are_each_requests_own() -> None:
    """A hook that changes them changes them for its request alone."""
    app = build(Application)

    def double(endpoint: str | None, values: dict[str, Any] | None) -> None:
        if values:
            values["number"] *= 2

    app.url_value_preprocessor(double)
    assert [b'"number":4' in ask(app, "/items/2")[2] for _ in range(3)] == [True] * 3


def test_a_rule_that_is_added_later_counts() -> None:
    """Also for a path that another rule has served."""
    app = build(Application)
    assert b'"endpoint":"files"' in ask(app, "/files/one")[2]
    app.url_map.add(Rule("/files/one", endpoint="index"))
    assert b'"endpoint":"index"' in ask(app, "/files/one")[2]


def test_a_converter_of_a_teams_own_is_asked_each_time() -> None:
    """It may decide otherwise for the same path."""
    open_now = [True]

    class Door(BaseConverter):
        """Takes anything while the door is open."""

        def to_python(self, value: str) -> str:
            if not open_now[0]:
                raise ValidationError
            return value

    app = build(Application)
    app.url_map.converters["door"] = Door
    app.add_url_rule("/doors/<door:name>", "door", lambda name: name)
    assert ask(app, "/doors/a")[2] == b"a"
    open_now[0] = False
    assert ask(app, "/doors/a")[0] == "404 NOT FOUND"


def test_a_url_map_of_a_teams_own_is_used() -> None:
    """Whatever its class."""
    app = build(Application)
    app.url_map = Map([Rule("/theirs", endpoint="index"), Rule("/theirs/<int:number>", endpoint="item")])
    assert [ask(app, "/theirs")[0] for _ in range(2)] == ["200 OK"] * 2


def test_what_is_remembered_is_bounded() -> None:
    """Strangers choose paths and hosts: neither many nor long ones fill the memory."""
    app = build(Application)
    routes: Any = app.url_map
    ask(app, "/files/" + "x" * MAX_PATH)
    assert not routes.matched
    for number in range(MAX_MATCHED + 5):
        routes.remember(routes.matched, ("", "GET", f"/files/{number}", False), (None, {}))
    assert 0 < len(routes.matched) <= MAX_MATCHED
    for number in range(MAX_HOSTS + 5):
        with app.request_context(EnvironBuilder("/", base_url=f"http://h{number}.example").get_environ()):
            pass
    assert len(app._hosts) == MAX_HOSTS  # type: ignore[attr-defined]


def test_every_kind_of_hook_runs_in_flasks_order() -> None:
    """Those of the application, those that a request asks for, and those of signals."""

    def order(kind: type[Flask]) -> list[str]:
        app, ran = build(kind), []
        app.add_url_rule("/hooks", "hooks", lambda: (after_this_request(note("this", True)), "")[1])

        def note(name: str, passes: bool = False) -> Callable[..., Any]:
            return lambda *args, **kwargs: (ran.append(name), args[0] if passes else None)[1]

        hooks = [note("started"), note("finished"), note("tearing"), note("popped")]
        names = (
            signals.request_started,
            signals.request_finished,
            signals.request_tearing_down,
            signals.appcontext_popped,
        )
        for signal, hook in zip(names, hooks, strict=True):
            signal.connect(hook, app)
        ask(app, "/hooks")
        app._got_first_request = False
        app.before_request(note("before"))
        app.after_request(note("after", True))
        app.teardown_request(note("teardown"))
        app.teardown_appcontext(note("teardown of the context"))
        ask(app, "/hooks")
        return ran

    assert order(Application) == order(Flask) != []


def test_a_session_is_kept() -> None:
    """Where a team sets a key to sign it with."""
    app = build(Application)
    app.secret_key = "s" * 32

    def count() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    app.add_url_rule("/count", "count", count)
    client = app.test_client()
    assert [client.get("/count").text for _ in range(3)] == ["1", "2", "3"]


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    """Which stops the whole worker while it looks for circles."""
    app = build(Application)
    app.add_url_rule("/small", "small", lambda: "")

    def serve() -> None:
        chunks: Any = app(environ.copy(), lambda *args: None)
        chunks.close()

    environ = EnvironBuilder("/small").get_environ()
    serve()
    with uncollected():
        for _ in range(20):
            serve()
        assert gc.collect() < 20
