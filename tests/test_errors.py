"""One class for each situation, and the one place that makes an answer of it."""

from __future__ import annotations

import inspect
import json
import re
from http import HTTPStatus
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy import errors
from proxy.errors import (
    AcksFailed,
    AckTimeout,
    BadBody,
    BatchFailed,
    BrokerAway,
    BrokerRefused,
    CheckFailed,
    Forbidden,
    GatewayError,
    Internal,
    MethodNotAllowed,
    Overloaded,
    SchemaViolation,
    StationNotFound,
    TooLarge,
    Unauthorized,
    to_response,
)

BATCHES = (AcksFailed, BatchFailed, CheckFailed)
CLASSES = {
    name: thing
    for name, thing in vars(errors).items()
    if inspect.isclass(thing) and issubclass(thing, GatewayError) and thing not in (GatewayError, *BATCHES)
}
PROBLEM = "application/problem+json"

# Status, stored, repeat of every class: the truth that its answer tells.
TRUTH = {
    "BadRequest": (400, "no", "never"),
    "BadBody": (400, "no", "never"),
    "BadStationName": (400, "no", "never"),
    "BadHeader": (400, "no", "never"),
    "BadSchema": (400, "no", "never"),
    "BadSchemaName": (400, "no", "never"),
    "SchemaViolation": (400, "no", "never"),
    "Unauthorized": (401, "no", "never"),
    "Forbidden": (403, "no", "never"),
    "RouteNotFound": (404, "no", "never"),
    "StationNotFound": (404, "no", "never"),
    "SchemaNotFound": (404, "no", "never"),
    "RegistryOff": (404, "no", "never"),
    "MethodNotAllowed": (405, "no", "never"),
    "SlowBody": (408, "no", "safe"),
    "Conflict": (409, "no", "never"),
    "LengthRequired": (411, "no", "never"),
    "TooLarge": (413, "no", "never"),
    "UnsupportedMediaType": (415, "no", "never"),
    "UnsupportedEncoding": (415, "no", "never"),
    "KeyReused": (422, "no", "never"),
    "RateLimited": (429, "no", "safe"),
    "TooManyStations": (429, "no", "safe"),
    "HeadersTooLarge": (431, "no", "never"),
    "Internal": (500, "unknown", "with-key"),
    "LogOutOff": (501, "no", "never"),
    "Unavailable": (503, "no", "safe"),
    "Overloaded": (503, "no", "safe"),
    "Stopping": (503, "no", "safe"),
    "BrokerAway": (503, "no", "safe"),
    "BrokerRefused": (503, "no", "safe"),
    "BadRegistry": (503, "no", "safe"),
    "OpenBroker": (503, "no", "safe"),
    "AckTimeout": (504, "unknown", "with-key"),
    "ChangeUnconfirmed": (504, "unknown", "with-key"),
}


def _answer(error: BaseException, **options: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, headers, body = to_response(error, **options)
    return status, dict(headers), json.loads(body)


def test_the_truth_of_every_class_is_told_here() -> None:
    """A new class must say what its answer tells."""
    assert set(TRUTH) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_has_its_status_and_tells_the_truth(name: str) -> None:
    """Status, `stored` and `repeat` of the answer are those of the situation."""
    status, _, body = _answer(CLASSES[name]("x"))
    assert (status, body["stored"], body["repeat"]) == TRUTH[name]


@pytest.mark.parametrize("name", CLASSES)
def test_a_body_says_what_is_wrong_and_has_the_request_id(name: str) -> None:
    """The body has exactly the fields that every error has, and the message."""
    _, headers, body = _answer(CLASSES[name]("what is wrong"), request_id="id-1", path="/stations/x")
    common = {"error": "what is wrong", "success": False, "request_id": "id-1"}
    assert {**body, **common} == body
    assert set(body) - {"message"} == {*common, "stored", "repeat"}
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("name", CLASSES)
def test_only_what_may_help_is_called_safe_to_repeat(name: str) -> None:
    """`stored: unknown` is never called safe without a key, and a fault of the sender's is not worth repeating."""
    error = CLASSES[name]("x")
    assert (error.repeat == "with-key") == (error.stored == "unknown")
    assert (error.repeat == "never") == (error.status not in (408, 429, 500, 503, 504))


@pytest.mark.parametrize("name", CLASSES)
def test_problem_details_say_the_same(name: str) -> None:
    """With `Accept: application/problem+json` the body is as in RFC 9457, our own fields beside it."""
    status, headers, body = _answer(CLASSES[name]("what is wrong"), accept=PROBLEM, request_id="id-1")
    assert headers["Content-Type"] == PROBLEM
    assert (body["status"], body["title"], body["detail"]) == (status, HTTPStatus(status).phrase, "what is wrong")
    assert (status, body["stored"], body["repeat"]) == TRUTH[name]
    assert body["request_id"] == "id-1"
    assert re.fullmatch(r"urn:stations:error:[a-z-]+", body["type"])


def test_types_of_problems_are_all_different() -> None:
    """A client can tell every situation from every other by `type`."""
    types = {_answer(error("x"), accept=PROBLEM)[2]["type"] for error in CLASSES.values()}
    assert len(types) == len(CLASSES)


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/*", False),
        (PROBLEM, True),
        (PROBLEM.upper(), True),
        (f"text/html, {PROBLEM};q=0.5", True),
        (f"{PROBLEM}; charset=utf-8, */*", True),
        (f"{PROBLEM};q=0", False),
        (f"{PROBLEM}; q=0.000", False),
        (f"{PROBLEM}x", False),
    ],
)
def test_problem_details_are_given_to_those_who_ask(accept: str, problem: bool) -> None:
    """Only a client that names the media type gets it."""
    assert (_answer(BadBody("x"), accept=accept)[1]["Content-Type"] == PROBLEM) == problem


@pytest.mark.parametrize("name", [name for name, (status, _, _) in TRUTH.items() if status in (429, 503)])
def test_what_may_be_repeated_later_says_when(name: str) -> None:
    """Every 429 and 503 has `Retry-After`, in whole seconds."""
    assert int(dict(_answer(CLASSES[name]("x"))[1])["Retry-After"]) >= 1


def test_unauthorized_carries_the_challenge_and_the_old_message() -> None:
    """A 401 has `WWW-Authenticate: Bearer`, and `message` as old clients know it."""
    _, headers, body = _answer(Unauthorized(), path="/stations/x")
    assert headers["WWW-Authenticate"] == "Bearer"
    assert (body["error"], body["message"]) == ("Unauthorized", "Unauthorized")


@pytest.mark.parametrize(
    ("path", "there"), [("/auth/authenticate", True), ("/auth/x", True), ("/stations/auth", False)]
)
def test_errors_of_auth_have_the_message_that_old_clients_read(path: str, there: bool) -> None:
    """Under `/auth` every error has `message` too."""
    assert _answer(BadBody("wrong"), path=path)[2].get("message") == ("wrong" if there else None)


def test_a_refused_method_names_those_that_work() -> None:
    """A 405 has `Allow`."""
    assert _answer(MethodNotAllowed(allowed=("POST", "OPTIONS")))[1]["Allow"] == "OPTIONS, POST"


def test_errors_are_not_to_be_cached() -> None:
    """No error is kept by anyone on the way."""
    assert _answer(StationNotFound())[1]["Cache-Control"] == "no-store"


def test_what_nobody_expected_is_logged_and_not_told() -> None:
    """An exception that is none of ours gets a 500 without its text; the log has all of it, by the request id."""
    with capture_logs() as lines:
        status, _, body = _answer(ValueError("the inner secret"), request_id="id-7")
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert (body["stored"], body["request_id"]) == ("unknown", "id-7")
    (line,) = lines
    assert (line["log_level"], line["request_id"]) == ("error", "id-7")
    assert str(line["exc_info"]) == "the inner secret"


def test_errors_of_ours_are_not_logged() -> None:
    """What was expected has its place in the access log only."""
    with capture_logs() as lines:
        _answer(Internal())
    assert lines == []


def test_further_fields_do_not_replace_the_common_ones() -> None:
    """A field of one error cannot hide what every error says."""
    body = _answer(SchemaViolation("x", violations=[1], stored="yes", success=True))[2]
    assert (body["violations"], body["stored"], body["success"]) == ([1], "no", False)


def test_bodies_are_written_as_old_clients_know_them() -> None:
    """Keys in order, no blanks, text as it is."""
    assert errors.encode({"b": "é", "a": None}) == '{"a":null,"b":"é"}'.encode()


# ---- batches -------------------------------------------------------------------------------------------------------


def _unknown(error: GatewayError) -> GatewayError:
    error.stored, error.repeat = "unknown", "with-key"
    return error


@pytest.mark.parametrize(
    ("failures", "status"),
    [
        ([BadBody("x")], 400),
        ([TooLarge("x"), SchemaViolation("x")], 400),
        ([SchemaViolation("x"), BrokerRefused("x")], 503),
        ([SchemaViolation("x"), BrokerRefused("x"), AckTimeout("x")], 504),
        ([AckTimeout("x"), BadBody("x")], 504),
        ([BrokerAway("x"), Overloaded("x")], 503),
        ([BrokerRefused("x"), Forbidden("x")], 503),
        ([Unauthorized(), Unauthorized()], 401),
        ([Forbidden("x"), Forbidden("x")], 403),
        ([StationNotFound("x"), StationNotFound("x")], 404),
        ([Forbidden("x"), StationNotFound("x")], 400),
        ([_unknown(Forbidden("x")), BadBody("x")], 504),
    ],
)
def test_the_status_of_a_batch_follows_from_its_failures(failures: list[GatewayError], status: int) -> None:
    """What all share is kept; else 504 for any unknown one, 503 for any of the broker's reasons, 400 otherwise."""
    assert BatchFailed(len(failures), list(enumerate(failures))).status == status


@pytest.mark.parametrize(
    ("total", "failures", "truth"),
    [
        (2, [BadBody("x")], ("partly", "never")),
        (3, [BadBody("x"), BrokerAway("x")], ("partly", "with-key")),
        (2, [AckTimeout("x")], ("partly", "with-key")),
        (1, [AckTimeout("x")], ("unknown", "with-key")),
        (2, [AckTimeout("x"), BadBody("x")], ("unknown", "with-key")),
        (1, [BadBody("x")], ("no", "never")),
        (1, [BrokerAway("x")], ("no", "safe")),
        (2, [BrokerAway("x"), BadBody("x")], ("no", "safe")),
    ],
)
def test_a_batch_tells_the_truth_about_all_of_it(total: int, failures: list[GatewayError], truth: Any) -> None:
    """`partly` when any was stored, `unknown` when that cannot be told, `no` only when none was."""
    body = _answer(BatchFailed(total, list(enumerate(failures))))[2]
    assert (body["stored"], body["repeat"]) == truth


def test_nothing_of_a_batch_that_was_only_checked_is_called_stored() -> None:
    """Nor sent, though some of its messages are good."""
    body = _answer(CheckFailed(3, [(1, BadBody("bad"))]))[2]
    assert [body[name] for name in ("fail", "sent", "stored", "repeat")] == [1, 0, "no", "never"]


def test_acks_that_fail_are_safe_to_repeat() -> None:
    """Where repeating can help: an ack that was taken is taken again."""
    body = _answer(AcksFailed(2, [(1, BrokerRefused("gone"))]))[2]
    assert [body[name] for name in ("error", "sent", "stored", "repeat")] == ["1 of 2 acks failed", 1, "partly", "safe"]
    assert _answer(AcksFailed(2, [(1, BadBody("bad"))]))[2]["repeat"] == "never"


def test_a_batch_names_each_failure() -> None:
    """Counts, texts, and for each failure its index, status and truth."""
    body = _answer(BatchFailed(3, [(1, BadBody("bad")), (2, AckTimeout("late"))]))[2]
    assert (body["error"], body["fail"], body["sent"]) == ("2 of 3 messages failed", 2, 1)
    assert body["errors"] == ["bad", "late"]
    assert body["failed"] == [
        {"index": 1, "error": "bad", "stored": "no", "status": 400},
        {"index": 2, "error": "late", "stored": "unknown", "status": 504},
    ]


def test_a_batch_that_is_not_let_in_gets_the_challenge_too() -> None:
    """A 401 for a whole batch is as complete as any other: challenge, and the message that old clients read."""
    _, headers, body = _answer(BatchFailed(1, [(0, Unauthorized())]))
    assert headers["WWW-Authenticate"] == "Bearer"
    assert body["message"] == "Unauthorized"


def test_a_batch_that_may_be_repeated_says_when() -> None:
    """A 503 for a whole batch has `Retry-After`."""
    assert "Retry-After" in _answer(BatchFailed(1, [(0, BrokerAway())]))[1]
