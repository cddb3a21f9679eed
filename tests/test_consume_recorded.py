"""What clients of Memphis' gateway asked of its consume route, recorded: they get the same, or better."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from tests.application import Api, running, settings
from tests.brokers.memphis_standin import Standin, User
from tests.recorded_http import RECORDED
from tests.servers import NatsServer

pytestmark = [
    pytest.mark.skipif(not RECORDED.exists(), reason="the recordings are not part of the repository"),
    pytest.mark.slow,
]

# What has another status now, and why: it is not the body that is wrong; and the broker denies it, as for a produce.
OTHERWISE = {"no Content-Type": 415, "user without permission": 403}
# What took another time: the wait of each request counts.
SECONDS = {"nothing left, shorter wait asked by the same consumer (the first request's wait sticks)": 0.2}
# Texts that say more now: what is wrong with the body; and one rule for the names of stations.
SAID_OTHERWISE = ("Invalid request body", "Only alphanumeric and the '_', '-', '.' characters are allowed in Station")
_USERS = """
max_payload: 8388608
authorization { users: [
  { user: root, password: memphis }
  { user: app-rb, password: "Passw0rd!", permissions: { publish: [rb-allowed-1.final], subscribe: "_INBOX.>" } }
] }
"""


def _memphis(directory: Path) -> Any:
    standin = Standin(directory, {"root": User("memphis"), "app-rb": User("Passw0rd!", ("rb-allowed*",))})
    standin.make("hp-parts", 3)
    standin.make("rb-denied")
    return standin


def _nats(directory: Path) -> Any:
    return NatsServer(directory, _USERS).start()


@pytest.fixture(params=[_memphis, _nats], ids=["memphis", "nats"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Flask]:
    """An application at a broker with the users of the recordings."""
    make: Callable[[Path], Any] = request.param
    broker = make(tmp_path / "broker")
    try:
        with running(settings(broker.url)) as app:
            yield app
    finally:
        broker.stop()


def _cases() -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [row for row in rows if row["group"].startswith("consume")]


def _send(app: Flask, row: dict[str, Any]) -> Response:
    """The request, with a token of ours in place of the one that was good."""
    user = ("app-rb", "Passw0rd!") if "rb-" in row["path"] else ("root", "memphis")
    headers = {name: value for name, value in row["request_headers"] if name not in ("Host", "Content-Length")}
    token = headers.pop("Authorization", None) and f"Bearer {Api(app, *user).token}"
    content_type = headers.pop("Content-Type", None)
    body = _bytes(row["request_body"])
    return Api(app).post(row["path"], body, content_type, headers={"Authorization": token, **headers})


def _bytes(text: str) -> bytes:
    return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()


def test_recorded_consumes_are_answered_as_ever(app: Flask) -> None:
    """All in their order: the same statuses, messages, headers and waits, but for those that are better now."""
    Api(app).single("hp-parts", b'{"a": 1}')
    for row in _cases():
        before = time.monotonic()
        answer = _send(app, row)
        took = time.monotonic() - before
        recorded = int(row["status_line"].split()[1])
        assert answer.status_code == OTHERWISE.get(row["label"], recorded), (row["label"], answer.data)
        if recorded == 200 and row["path"].endswith("/batch"):
            _compare(row["label"], answer.get_json(), json.loads(row["response_body"]))
            seconds = SECONDS.get(row["label"], row["seconds"])
            assert seconds - 0.05 < took < seconds + 3, row["label"]
        elif answer.status_code == 400:
            wanted = json.loads(row["response_body"])["error"]
            assert wanted in answer.get_json()["error"] or wanted.startswith(SAID_OTHERWISE), row["label"]


def _compare(label: str, rows: list[Any], recorded: list[Any]) -> None:
    assert len(rows) == len(recorded), label
    for ours, theirs in zip(rows, recorded, strict=True):
        if "encoding" in ours:  # what came as U+FFFD
            assert (ours["message"], ours["encoding"]) == ("AAH+/4BhYmM=", "base64")
        else:
            assert ours["message"] == theirs["message"]
        shown = {name.lower(): value for name, value in ours["headers"].items()}
        wanted = {name.lower(): value for name, value in theirs["headers"].items()}
        for name in wanted.keys() - {"authorization", "content-length", "host"}:  # never stored now
            assert shown[name] == wanted[name]
        assert not [name for name in shown if name.startswith("$")]
