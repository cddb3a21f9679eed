"""The requests that Memphis' REST gateway was sent when it was recorded, and its answers, to be sent again."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.clients import Answer
from tests.servers import ROOT

RECORDED = ROOT.parent / "shared" / "memphis" / "http-recorded.jsonl"

# Tokens of the gateway's own. Those that were made up to try it have a blank in their heads, and are sent as they are.
_ISSUED = re.compile(r"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.([\w-]+)\.[\w-]+")
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")

#: Tokens of ours by user and kind, which is `jwt` or `jwt_refresh_token`.
Tokens = Mapping[tuple[str, str], str]


class Case(NamedTuple):
    """A request and its answer, as they were recorded; `name` begins with the heading under which it stands."""

    name: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    status: int
    answer: str
    answer_headers: dict[str, str]


def cases(*left_out: str) -> list[Case]:
    """All cases in their order, but for some headings; none where the recordings are not at hand."""
    if not RECORDED.exists():
        return []
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [_case(row) for row in rows if row["group"] not in left_out]


def _case(row: dict[str, Any]) -> Case:
    return Case(
        f"{row['group']}: {row['label']}",
        row["method"],
        row["path"],
        [(name, value) for name, value in row["request_headers"] if name not in ("Host", "Content-Length")],
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


def send(host: str, case: Case, tokens: Tokens) -> Answer:
    """Sends it on a connection of its own, with tokens of ours for the gateway's; `host` has the port."""

    def ours(text: str) -> str:
        return _ISSUED.sub(lambda found: _token(found, tokens), text)

    body = ours(case.body.decode()).encode() if case.path.startswith("/auth/") else case.body
    headers = [(name, ours(value)) for name, value in case.headers]
    if case.method != "GET" and not any(name == "Transfer-Encoding" for name, _ in headers):
        headers.append(("Content-Length", str(len(body))))
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        if case.name.endswith("HTTP/1.0"):
            connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
        connection.putrequest(case.method, ours(case.path), skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())


def _token(found: re.Match[str], tokens: Tokens) -> str:
    """Of the same user and kind."""
    claims = json.loads(base64.urlsafe_b64decode(found[1] + "=="))
    return tokens[claims["username"], "jwt_refresh_token" if "token_exp" in claims else "jwt"]


def masked(answer: str) -> str:
    """Without tokens, which differ each time."""
    return _JWT.sub("<jwt>", answer)


def same(case: Case, answer: Answer) -> bool:
    """Whether an answer is the recorded one; the body of an error may have more fields than it had."""
    text = masked(answer.body.decode())
    if answer.status != case.status or text == masked(case.answer):
        return answer.status == case.status
    try:
        recorded, ours = json.loads(case.answer), json.loads(text)
    except ValueError:
        return False
    return case.status >= 400 and bool(recorded.items() <= ours.items())


def says(answer: Answer, expected: str) -> bool:
    """Whether that is the text of an error, or the body of a success; `...` at its end stands for any rest."""
    text = str(answer.json["error"]) if answer.status >= 400 else masked(answer.body.decode())
    return text.startswith(expected[:-3]) if expected.endswith("...") else text == expected
