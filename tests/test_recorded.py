"""What clients of Memphis' gateway sent to it, and what they were answered, recorded: it must keep working."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from proxy.credentials import Credentials
from tests.application import IN_CHUNKS, Api, running, settings
from tests.servers import ROOT, NatsServer

RECORDED = ROOT.parent / "shared" / "memphis" / "http-recorded.jsonl"
ABSENT = not RECORDED.exists()
GROUPS = {
    "authenticate",
    "refreshToken",
    "produce/single: token",
    "produce/single: body and content type",
    "produce/single: station",
    "produce/single: headers",
    "produce/batch",
    "other routes",
}
JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
LIFETIME = re.compile(r'("(?:refresh_token_)?expires_in"):-?\d+')

# What has another status now: faults of a client were answered as faults of the server, things that work were refused,
# and messages were taken that nobody could read, or that nobody was allowed to send.
CHANGED = {
    200: """
        authenticate: connection_token instead of a password (gateway in user/password mode)
        authenticate: trailing slash
        produce/single: body and content type: application/x-protobuf with a parameter
        produce/single: body and content type: no Content-Type
        produce/single: body and content type: body of 4 MiB + 1
        produce/single: body and content type: a header of 5000 bytes
        produce/single: headers: a header that starts with $memphis
        produce/batch: numbers inside
        produce/batch: strings inside
        produce/batch: arrays inside
        produce/batch: JSON with charset
        other routes: root path
    """,
    400: """
        authenticate: no password
        refreshToken: body is not JSON
        produce/single: body and content type: invalid JSON with a JSON content type, no schema
        produce/single: body and content type: empty body
        produce/single: station: name with a character that is not allowed
        produce/single: station: percent-encoded space
        produce/single: station: name of 129 characters
        produce/batch: empty array
        produce/batch: an object, not an array
        produce/batch: invalid JSON
        produce/batch: empty body
        produce/batch: bad station name
    """,
    401: """
        refreshToken: empty body
        refreshToken: legacy refresh token: only exp inside
        produce/single: token: any scheme word
        produce/single: token: alg HS512 with the right secret
        produce/single: token: right signature, wrong password inside, user already connected
        produce/single: token: legacy token: only exp inside (the gateway acts as its own root user)
    """,
    403: """
        produce/single: station: user without permission for the station
        produce/single: station: user may not create that station
        produce/batch: user without permission
    """,
    404: """
        other routes: unknown path, no token
    """,
    415: """
        authenticate: no Content-Type
        authenticate: Content-Type text/plain
        refreshToken: no Content-Type
        produce/single: body and content type: application/octet-stream
        produce/single: body and content type: application/xml
        produce/batch: text/plain
        produce/batch: application/x-protobuf
        produce/batch: no Content-Type
    """,
}
OTHERWISE = {name.strip(): status for status, names in CHANGED.items() for name in names.strip().splitlines()}


class Case(NamedTuple):
    """A request and its answer."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: str
    answer_headers: dict[str, str]


def _cases() -> list[Case]:
    if ABSENT:
        return []
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [_case(row) for row in rows if row["group"] in GROUPS and not row["label"].startswith("schema")]


def _case(row: dict[str, Any]) -> Case:
    headers = {name: value for name, value in row["request_headers"] if name not in ("Host", "Content-Length")}
    return Case(
        f"{row['group']}: {row['label'].removesuffix(': the cached connection is used')}",
        row["method"],
        row["path"],
        headers,
        _body(row["request_body"]),
        int(row["status_line"].split()[1]),
        row["response_body"],
        dict(row["response_headers"]),
    )


def _body(text: str) -> bytes:
    if text.startswith("base64:"):
        return base64.b64decode(text[7:])
    if size := re.fullmatch(r"<(\d+) bytes>", text):
        return _of_size(int(size[1]))
    return text.encode()


def _of_size(size: int) -> bytes:
    """The recording left out long bodies: a text, or a thousand objects."""
    return b"x" * size if size > 1_000_000 else json.dumps([{"n": number} for number in range(1000)]).encode()


CASES = _cases()
pytestmark = pytest.mark.skipif(ABSENT, reason="the recordings are not part of the repository")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """An application at a broker with the users of the recordings."""
    server = NatsServer(tmp_path_factory.mktemp("recorded"), _USERS)
    try:
        server.start()
        with running(settings(server.url)) as app:
            app.extensions["stations"].start()
            yield app
    finally:
        server.stop()


_USERS = """
max_payload: 8388608
authorization { users: [
  { user: root, password: memphis }
  { user: app1, password: "Passw0rd!" }
  { user: app-rb, password: "Passw0rd!",
    permissions: { publish: [rb-allowed-1.final, rb-allowed-new.final, "$JS.API.STREAM.>"] } }
] }
"""


def _send(app: Flask, case: Case) -> Response:
    """The request, with tokens of ours in place of those that were good."""
    extension = app.extensions["stations"]
    user = ("app-rb", "Passw0rd!") if "rb-" in case.path else ("root", "memphis")
    issued = extension.tokens.issue(Credentials(*user))
    good = case.status != 401 and OTHERWISE.get(case.name) != 401

    def ours(text: str, token: str) -> str:
        return JWT.sub(token, text) if good else text

    headers = {name: ours(value, issued.access) for name, value in case.headers.items()}
    body, overrides = case.body, {"CONTENT_LENGTH": str(len(case.body))}
    if "refresh" in case.path.lower():
        body = ours(body.decode(), issued.refresh).encode()
        overrides["CONTENT_LENGTH"] = str(len(body))
    if headers.pop("Transfer-Encoding", ""):
        body, overrides = b'{"c":1}', IN_CHUNKS
    return Api(app).request(
        case.method, ours(case.path, issued.access), data=body, headers=headers, environ_overrides=overrides
    )


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_answered_as_ever(app: Flask, case: Case) -> None:
    """The same status and body, but for tokens and lifetimes, or the status that is better now."""
    answer = _send(app, case)
    assert answer.status_code == OTHERWISE.get(case.name, case.status), answer.data
    assert answer.headers["Access-Control-Allow-Origin"] == case.answer_headers.get("Access-Control-Allow-Origin", "*")
    if case.name in OTHERWISE:
        return
    if case.status < 300:
        assert _masked(answer.get_data(as_text=True)) == _masked(case.answer)
        assert answer.headers.get("Content-Type") == case.answer_headers.get("Content-Type")
    elif case.status == 401:
        assert json.loads(case.answer).items() <= answer.get_json().items()


def _masked(answer: str) -> str:
    """Without what differs each time, and without lifetimes, which were reckoned wrongly."""
    return LIFETIME.sub(r"\1:0", JWT.sub("<jwt>", answer))


def test_the_list_of_what_has_changed_is_up_to_date() -> None:
    """Each entry is a recorded case whose status has changed indeed."""
    recorded = {case.name: case.status for case in CASES}
    assert not {name for name, status in OTHERWISE.items() if recorded.get(name) == status or name not in recorded}
