"""One structured line a request, and no secret in any."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from flask import Flask

from tests.application import Api
from tests.servers import NatsServer

FIELDS = {
    *("event", "level", "timestamp", "method", "route", "station", "status", "bytes_in", "bytes_out", "ms"),
    *("request_id", "user", "client"),
}


@pytest.fixture(autouse=True)
def _fresh_logs() -> Iterator[None]:
    """As in a new process: the first application sets up the logs."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    """Reads the lines written since the last time."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# ---- the line of a request -----------------------------------------------------------------------------------------


def test_a_request_has_one_line(broker: NatsServer, make_app: Callable[..., Flask], station: str, read: Read) -> None:
    """What, where, by whom, how long: the same fields by Flask and by the lane."""
    api = Api(make_app(broker.url))
    for _ in range(2):
        answer = api.single(station, b'{"a": 1}')
        (line,) = read()
        assert set(line) == FIELDS
        assert line["request_id"] == answer.headers["X-Request-Id"]
        assert 0 < line["ms"] < 5000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
        assert (
            line
            | {
                "event": "request",
                "level": "info",
                "method": "POST",
                "route": "/stations/<station:station>/produce/single",
                "station": station,
                "status": 200,
                "bytes_in": 8,
                "bytes_out": len(answer.data),
                "user": "root",
                "client": "127.0.0.1",
            }
            == line
        )


@pytest.mark.parametrize(
    ("method", "path", "status", "level", "route"),
    [
        ("GET", "/monitoring/status", 200, "info", "/monitoring/status"),
        ("GET", "/nowhere/at/all", 404, "info", None),
        ("GET", "/auth/authenticate", 405, "info", None),
        ("POST", "/stations/x/produce/batch", 401, "info", "/stations/<station:station>/produce/batch"),
        ("GET", "/monitoring/ready", 503, "warning", "/monitoring/ready"),
    ],
)
def test_failures_have_their_line(
    make_app: Callable[..., Flask], read: Read, method: str, path: str, status: int, level: str, route: str | None
) -> None:
    """The route's pattern and not the path; what is our fault or the broker's is a warning."""
    Api(make_app()).request(method, path, environ_overrides={"CONTENT_LENGTH": "0"})
    line = next(line for line in read() if line["event"] == "request")
    assert (line["status"], line["level"], line["route"], line["method"]) == (status, level, route, method)


def test_the_user_of_a_failure_is_named(
    broker: NatsServer, make_app: Callable[..., Flask], station: str, read: Read
) -> None:
    """Whose request it was, where that is proved, or who tried to log on; by Flask and by the lane."""
    api = Api(make_app(broker.url))
    api.single(station, b"{nope")
    assert read()[0]["user"] == "root"
    api.single(station)
    api.single(station, b"{nope")
    assert [line["user"] for line in read()] == ["root", "root"]
    api.authenticate({"username": "stranger", "password": "x"})
    assert read()[0]["user"] == "stranger"


def test_the_client_behind_a_proxy_is_named(make_app: Callable[..., Flask], read: Read) -> None:
    """Not the proxy."""
    api = Api(make_app(TRUSTED_PROXIES="127.0.0.1"))
    api.request("GET", "/monitoring/status", headers={"X-Forwarded-For": "198.51.100.7"})
    assert read()[0]["client"] == "198.51.100.7"


def test_nobody_can_write_a_line_of_their_own(make_app: Callable[..., Flask], read: Read) -> None:
    """Line breaks in what a client sends stay inside the line."""
    api = Api(make_app())
    api.post('/stations/a%0a{"event":"forged"}/produce/single', b"x")
    api.request("POST", "/auth/authenticate", data={"username": 'a\n{"event":"forged"}', "password": "x"})
    assert {line["event"] for line in read()} <= {"request", "broker_away"}


def test_nobody_can_tell_the_terminal_what_to_do(
    make_app: Callable[..., Flask], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters are escaped where a terminal is written to: in its colours, not in a sender's."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    api = Api(make_app())
    api.post("/stations/%1b]0;mine%07/produce/single", b"x", headers={"Authorization": None})
    written = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "/produce/single" in written
    assert "\\x1b]0;mine\\x07" in written
    assert written.replace("\n", "").isprintable()


# ---- what is in no line --------------------------------------------------------------------------------------------


def test_no_line_and_no_error_holds_a_secret(
    broker: NatsServer, make_app: Callable[..., Flask], station: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither tokens, nor what they are made of, whatever goes wrong; nor query strings."""
    api = Api(make_app(broker.url), "app1", "Passw0rd!")
    tokens = api.authenticate({"username": "app1", "password": "Passw0rd!"}).get_json()
    secrets = [
        "Passw0rd!",
        "wr0ng-secret",
        "s3arch-term",
        api.token,
        *(tokens[n] for n in ("jwt", "jwt_refresh_token")),
    ]
    path = f"/stations/{station}/produce/single"
    bodies = [
        api.authenticate({"username": "app1", "password": "wr0ng-secret"}).data,
        api.authenticate({"username": ["wr0ng-secret"], "password": "wr0ng-secret"}).data,
        api.request(
            "POST", "/auth/authenticate", data=b'{"password": "wr0ng-secret"', content_type="application/json"
        ).data,
        api.request("POST", "/auth/refreshToken", json={"jwt_refresh_token": tokens["jwt"]}).data,
        api.request("POST", f"{path}?authorization={api.token}&q=s3arch-term", data=b"x").data,
        api.request("POST", f"{path}?authorization={api.token}&q=s3arch-term", data=b"").data,
        api.request("GET", f"/nowhere?authorization={api.token}").data,
        api.request("POST", path, data=b"x", headers={"Authorization": f"Basic {api.token}"}).data,
    ]
    written = "".join(capsys.readouterr()) + b"".join(bodies).decode()
    assert written
    assert not [secret for secret in secrets if secret in written]
    assert not [token for token in secrets if token.count(".") == 2 and token.rpartition(".")[2] in written]


def test_what_nobody_expected_is_logged_with_its_traceback(make_app: Callable[..., Flask], read: Read) -> None:
    """By the request id that the client was told."""
    app = make_app()

    @app.get("/team/broken")
    def broken() -> str:
        raise ValueError("inner detail")

    answer = Api(app).request("GET", "/team/broken")
    line = next(line for line in read() if line["event"] == "unexpected")
    assert (line["level"], line["request_id"]) == ("error", answer.headers["X-Request-Id"])
    assert "Traceback" in line["exception"]
    assert "ValueError: inner detail" in line["exception"]
    assert "detail" not in answer.get_data(as_text=True)


@pytest.mark.parametrize("name", ["nats.aio.client", "asyncio"])
def test_libraries_do_not_log_from_the_loops_thread(make_app: Callable[..., Flask], name: str) -> None:
    """Their loggers would take a lock there."""
    make_app()
    assert logging.getLogger(name).disabled


# ---- which requests ------------------------------------------------------------------------------------------------


def _paths_logged(app: Flask, read: Read) -> list[str]:
    api = Api(app)
    for path in ("/monitoring/status", "/nowhere", "/monitoring/ready"):
        api.request("GET", path)
    return [str(line["status"]) for line in read() if line["event"] == "request"]


@pytest.mark.parametrize(
    ("env", "logged"),
    [
        ({}, ["200", "404", "503"]),
        ({"ACCESS_LOG_SAMPLE": "0"}, ["404", "503"]),
        ({"LOG_LEVEL": "warning"}, ["503"]),
        ({"LOG_LEVEL": "error"}, []),
        ({"LOG_LEVEL": "error", "DEBUG": "true"}, ["200", "404", "503"]),
        ({"LOG_LEVEL": "debug"}, ["200", "404", "503"]),
    ],
)
def test_settings_say_which_requests_are_logged(
    make_app: Callable[..., Flask], read: Read, env: dict[str, str], logged: list[str]
) -> None:
    """By level, and of the successful ones a share."""
    assert _paths_logged(make_app(**env), read) == logged


def test_a_share_of_the_successful_ones_is_logged(make_app: Callable[..., Flask], read: Read) -> None:
    """Chosen by chance."""
    api = Api(make_app(ACCESS_LOG_SAMPLE="0.25"))
    for _ in range(800):
        api.request("GET", "/monitoring/status")
    assert 100 < len(read()) < 300


# ---- the form ------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_text(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Api(make_app()).request("GET", "/monitoring/status")
    written = capsys.readouterr().out
    assert "request" in written
    assert not written.startswith("{")


def test_an_application_that_has_set_up_its_logs_keeps_them(
    make_app: Callable[..., Flask], capsys: pytest.CaptureFixture[str]
) -> None:
    """A team's own configuration of structlog is left alone."""
    seen: list[dict[str, Any]] = []

    def keep(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        seen.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    Api(make_app()).request("GET", "/monitoring/status")
    assert [event["event"] for event in seen] == ["request"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("query", ["authorization=eyJhbGciOi.eyJ.x-y_z", "a=1&Authorization=secret&b=2", "x=1"])
def test_flasks_development_server_prints_no_token(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture, query: str
) -> None:
    """It prints the request line, with the query."""
    make_app()
    with caplog.at_level(logging.INFO, "werkzeug"):
        logging.getLogger("werkzeug").info('%s - "%s" %s', "127.0.0.1", f"POST /x?{query} HTTP/1.1", "200")
    assert "POST /x?" in caplog.text
    assert "secret" not in caplog.text
    assert "eyJ" not in caplog.text


class _WithoutAReader(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError


def _closed() -> io.StringIO:
    output = io.StringIO()
    output.close()
    return output


@pytest.mark.parametrize("output", [_WithoutAReader, _closed, lambda: None])
def test_a_log_that_cannot_be_written_fails_no_request(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, output: Callable[[], Any]
) -> None:
    """A message would be stored without an answer, and be sent again."""
    monkeypatch.setattr(sys, "stdout", output())
    assert Api(make_app()).request("GET", "/monitoring/status").status_code == 200


def test_an_output_that_is_not_unicode_gets_the_same_lines(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in ASCII, and JSON all the same."""
    written = io.BytesIO()
    make_app()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    structlog.get_logger().info("odd", user='"Ł" é \U0001f600')
    assert json.loads(written.getvalue())["user"] == '"Ł" é \U0001f600'


def test_lines_are_json_whatever_they_hold(make_app: Callable[..., Flask], read: Read) -> None:
    """Half a surrogate pair, and what JSON has no form for."""
    make_app()
    read()
    structlog.get_logger().info("odd", text="\ud800", thing=Callable)
    structlog.get_logger().info("odd", thing={1, 2})
    first, second = read()
    assert first["text"] == "\ud800"
    assert second["thing"] in ("{1, 2}", [1, 2])
