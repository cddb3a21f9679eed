"""The parts put together: one error body everywhere, and a team's own hooks, handlers and routes work."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask, Response, abort, g, redirect
from structlog.testing import capture_logs
from werkzeug.exceptions import HTTPException, ServiceUnavailable, TooManyRequests

from proxy.errors import BadBody, BrokerAway, GatewayError
from tests.application import SECRET, Api, payloads, running, settings
from tests.servers import ROOT, NatsServer, eventually

COMMON = {"error", "success", "stored", "repeat", "request_id"}


# ---- one error body everywhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/nowhere.html", {"headers": {"Accept": "text/html"}}, 404),
        ("GET", "/stations", {}, 404),
        ("POST", "/stations/orders", {}, 404),
        ("GET", "/auth", {}, 404),
        ("GET", "/static/x", {}, 404),
        ("GET", "/stations/orders/produce/single", {}, 405),
        ("DELETE", "/monitoring/status", {}, 405),
        ("POST", "/", {}, 405),
        ("BREW", "/", {}, 405),
        ("POST", "/auth/authenticate", {"data": b"x", "content_type": "text/plain"}, 415),
        ("POST", "/auth/authenticate", {"data": b"x", "content_type": "application/json"}, 400),
        ("POST", "/stations/orders/produce/single", {"data": b"x"}, 401),
        ("GET", "/monitoring/ready", {}, 503),
    ],
)
def test_every_error_has_the_same_body(
    make_app: Callable[..., Flask], method: str, path: str, options: dict[str, Any], status: int
) -> None:
    """Routes that do not exist and methods that are not allowed too: JSON, never a page."""
    answer = Api(make_app()).request(method, path, **options)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.get_json()) - {"message"} == COMMON


@pytest.mark.parametrize(
    "path", ["/nowhere", "/auth/authenticate", "/stations/orders/produce/single", "/monitoring/ready"]
)
def test_every_error_is_told_as_problem_details_to_whom_asks(make_app: Callable[..., Flask], path: str) -> None:
    """RFC 9457, everywhere."""
    answer = Api(make_app()).request("GET", path, headers={"Accept": "application/problem+json"})
    body = answer.get_json(force=True)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert body["status"] == answer.status_code
    assert {"type", "title", "detail"} <= set(body)


def test_a_method_that_is_not_allowed_tells_which_are(make_app: Callable[..., Flask]) -> None:
    """`Allow`, as RFC 9110 asks."""
    answer = Api(make_app()).request("DELETE", "/monitoring/status")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


# ---- what a team raises --------------------------------------------------------------------------------------------


def _answer_of(app: Flask, view: Callable[..., Any], **options: Any) -> Any:
    """The answer of a team's route."""
    app.add_url_rule("/team", view_func=view, endpoint="team")
    return Api(app).request("GET", "/team", **options)


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 418, 422, 429, 500, 501, 502, 503, 504]
)
def test_a_status_that_a_route_aborts_with_gets_our_body(make_app: Callable[..., Flask], status: int) -> None:
    """Flask's own way to fail, in the one form of all errors."""
    answer = _answer_of(make_app(), lambda: abort(status))
    assert answer.status_code == status
    assert set(answer.get_json()) - {"message"} == COMMON
    assert "<" not in answer.get_json()["error"]
    assert answer.get_json()["stored"] == ("unknown" if status in (500, 502, 504) else "no")


def test_what_a_route_says_when_it_aborts_is_told(make_app: Callable[..., Flask]) -> None:
    """Its description is the error."""
    assert _answer_of(make_app(), lambda: abort(409, "already there")).get_json()["error"] == "already there"


def test_an_aborted_401_is_as_complete_as_ours(make_app: Callable[..., Flask]) -> None:
    """With the challenge and the message that old clients read."""
    answer = _answer_of(make_app(), lambda: abort(401))
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.get_json()["message"] == "Unauthorized"


@pytest.mark.parametrize("error", [TooManyRequests, ServiceUnavailable])
def test_a_team_may_say_when_to_come_back(make_app: Callable[..., Flask], error: type[HTTPException]) -> None:
    """Headers of what is raised are kept, once."""

    def view() -> str:
        raise error(retry_after=7)  # type: ignore[call-arg]

    assert _answer_of(make_app(), view).headers.getlist("Retry-After") == ["7"]


@pytest.mark.parametrize("error", [BadBody("the team's reason"), BrokerAway("the team's reason")])
def test_a_team_may_raise_errors_of_ours(make_app: Callable[..., Flask], error: GatewayError) -> None:
    """They become the answer that they say."""

    def view() -> str:
        raise error

    answer = _answer_of(make_app(), view)
    assert (answer.status_code, answer.get_json()["error"]) == (error.status, "the team's reason")


def test_an_answer_that_a_route_aborts_with_is_left_alone(make_app: Callable[..., Flask]) -> None:
    """`abort(response)` is a team's own answer."""
    answer = _answer_of(make_app(), lambda: abort(Response("ours", 418)))
    assert (answer.status_code, answer.data) == (418, b"ours")


def test_redirects_are_left_alone(make_app: Callable[..., Flask]) -> None:
    """Those that a team makes, and those that Flask makes for a missing slash."""
    app = make_app()
    app.add_url_rule("/folder/", view_func=lambda: "x", endpoint="folder")
    assert _answer_of(app, lambda: redirect("/elsewhere")).headers["Location"] == "/elsewhere"
    assert Api(app).request("GET", "/folder").status_code == 308


@pytest.mark.parametrize("where", ["view", "before_request", "after_request", "teardown_request"])
@pytest.mark.parametrize("testing", [True, False])
def test_what_nobody_expected_is_a_500_without_detail(
    make_app: Callable[..., Flask], where: str, testing: bool
) -> None:
    """Wherever it is raised: logged with the request id, and since the message may be stored by then, said so."""
    app = make_app()
    app.testing = testing

    def fail(*_: Any) -> Any:
        raise ValueError("inner detail")

    if where != "view":
        getattr(app, where)(fail)
    with capture_logs() as lines:
        answer = _answer_of(app, fail if where == "view" else lambda: "x")
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["repeat"]) == (500, "unknown", "with-key")
    assert "detail" not in answer.get_data(as_text=True)
    (line,) = [line for line in lines if line["event"] == "unexpected"]
    assert line["request_id"] == body["request_id"]
    assert str(line["exc_info"]) == "inner detail"


# ---- what a team adds ----------------------------------------------------------------------------------------------


def test_hooks_of_a_team_see_our_routes(make_app: Callable[..., Flask], broker: NatsServer, station: str) -> None:
    """Before, after and at the end of every request, the repeated ones too."""
    app, seen = make_app(broker.url), []
    app.before_request(lambda: seen.append("before"))
    app.after_request(lambda response: (seen.append("after"), response.headers.add("X-Team", "1"), response)[-1])
    app.teardown_request(lambda error: seen.append("end"))
    answers = [Api(app).single(station) for _ in range(3)]
    assert [answer.headers["X-Team"] for answer in answers] == ["1"] * 3
    assert seen == ["before", "after", "end"] * 3


def test_a_hook_may_answer_in_place_of_a_route(
    make_app: Callable[..., Flask], broker: NatsServer, station: str, nothing_stored: None
) -> None:
    """What a team's `before_request` refuses is not produced."""
    app = make_app(broker.url)

    @app.before_request
    def refuse() -> Any:
        g.reason = "closed"
        return {"team": g.reason}, 423

    assert [Api(app).single(station).status_code for _ in range(2)] == [423, 423]


@pytest.mark.parametrize("what", [404, 405, BadBody, GatewayError, Exception])
def test_error_handlers_of_a_team_go_before_ours(make_app: Callable[..., Flask], what: Any) -> None:
    """By status, by class, by the base of all errors of ours, or for everything."""
    app = make_app()
    app.register_error_handler(what, lambda error: ("the team's answer", 599))
    requests = {404: ("GET", "/nowhere"), 405: ("DELETE", "/monitoring/status")}
    method, path = requests.get(what, ("POST", "/auth/authenticate"))
    answer = Api(app).request(method, path, data=b"{nope", content_type="application/json")
    assert (answer.status_code, answer.data) == (599, b"the team's answer")


def test_a_hook_of_a_team_may_tell_where_an_error_of_theirs_was_raised(make_app: Callable[..., Flask]) -> None:
    """After the answer was made, as those do that log once for each request."""
    app = make_app()

    def remember(error: Exception) -> tuple[str, int]:
        g.error = error
        return "no", 409

    @app.get("/team/stock")
    def stock() -> Any:
        raise KeyError("shelf") from ValueError("empty")

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers["X-Told"] = traceback.format_exception(g.error)[-2].strip().partition(" in ")[2].split()[0]
        return response

    app.register_error_handler(KeyError, remember)
    assert Api(app).request("GET", "/team/stock").headers["X-Told"] == "stock"


def test_a_blueprint_of_a_team_has_its_own_prefix(make_app: Callable[..., Flask]) -> None:
    """Routes are added as in any Flask application."""
    blueprint = flask.Blueprint("team", __name__, url_prefix="/Team")
    blueprint.add_url_rule("/Report/", view_func=lambda: {"a": 1}, endpoint="report")
    app = make_app()
    app.register_blueprint(blueprint)
    assert Api(app).request("GET", "/Team/Report/").get_json() == {"a": 1}


# ---- several, and none --------------------------------------------------------------------------------------------


def test_two_applications_live_side_by_side(make_app: Callable[..., Flask], broker: NatsServer, station: str) -> None:
    """Nothing is shared but the process."""
    first, second = make_app(broker.url), make_app(broker.url, JWT_SECRET="o" * 40)
    assert Api(first).single(station).status_code == 200
    assert Api(second).single(station, Authorization=f"Bearer {Api(first).token}").status_code == 401
    assert Api(second).single(station).status_code == 200
    assert len(payloads(broker, station)) == 2


def test_making_an_application_connects_to_nothing(nats_server: Callable[..., NatsServer]) -> None:
    """Not before `start`, or the first request that needs the broker."""
    server = nats_server("debug: true", users={"root": "memphis"})
    with running(settings(server.url)) as app:
        before = server.log().count("Client connection created")
        assert Api(app).request("GET", "/").status_code == 200
        app.extensions["stations"].start()
        eventually(lambda: server.log().count("Client connection created") == before + 1)


def test_the_environment_is_read_when_no_settings_are_given(tmp_path: Path) -> None:
    """As `wsgi.py` does, for gunicorn and `flask run`."""
    program = "import wsgi; print(wsgi.app.extensions['stations'].config.broker_url)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BROKER_URL": "nats://a:1", "JWT_SECRET": SECRET}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=env, cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == b"('nats://a:1',)\n"


def test_a_bad_setting_stops_the_start(tmp_path: Path) -> None:
    """With the name of the variable, in one line, and gunicorn's code for a worker that it must not start again."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BROKER_URL": "nats://a:1"}
    done = subprocess.run([sys.executable, "-c", "import wsgi"], env=env, cwd=tmp_path, capture_output=True)
    assert done.returncode == 3
    assert done.stderr.startswith(b"stations: JWT_SECRET must be set")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "add",
    [
        lambda app: app.add_url_rule("/own", "own", lambda: "own"),
        lambda app: app.before_request(lambda: None),
        lambda app: app.after_request(lambda answer: answer),
        lambda app: app.teardown_request(lambda error: None),
        lambda app: app.teardown_appcontext(lambda error: None),
        lambda app: app.url_value_preprocessor(lambda endpoint, values: None),
        lambda app: app.errorhandler(KeyError)(lambda error: "own"),
        lambda app: setattr(app, "response_class", type("Own", (Response,), {})),
        lambda app: app.view_functions.update({"monitoring.status": lambda: "own"}),
        lambda app: setattr(app, "wsgi_app", lambda environ, start_response: []),
    ],
    ids=["route", "before", "after", "teardown", "context", "values", "errors", "class", "view", "middleware"],
)
def test_what_a_team_adds_is_noticed(make_app: Callable[..., Flask], add: Callable[[Flask], object]) -> None:
    """Without it the application is plain."""
    app = make_app()
    plain = app.extensions["stations"].plain
    assert plain()
    add(app)
    assert not plain()


def test_who_listens_to_signals_is_noticed(make_app: Callable[..., Flask]) -> None:
    """As long as there is somebody."""
    plain = make_app().extensions["stations"].plain
    with flask.request_finished.connected_to(lambda *_, **__: None):
        assert not plain()
    assert plain()
