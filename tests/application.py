"""The application under Flask's test client, and what its broker has stored."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import nats
from flask import Flask, current_app
from flask_jwt_extended import get_jwt, jwt_required
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from proxy.app import create_app
from proxy.config import Config
from proxy.credentials import Credentials
from tests.servers import NatsServer

SECRET = "the secret of these tests, which has more than the 64 bytes that any algorithm asks for"
NOWHERE = "nats://127.0.0.1:1"  # for applications that never need their broker
JSON = "application/json"
STORED = {"error": None, "success": True}


def settings(broker_url: str = NOWHERE, **env: str) -> Config:
    """Settings of an application at that broker; stations are created as they are needed, and log-ons fail."""
    many = {"MAX_STATIONS_CREATED_PER_MINUTE": "10000", "AUTH_FAILURES_PER_MINUTE": "10000"}
    return Config.from_environ(
        {
            "BROKER_URL": broker_url,
            "JWT_SECRET": SECRET,
            "AUTO_CREATE_STATIONS": "true",
            "LOG_LEVEL": "info",
            **many,
            **env,
        }
    )


@contextlib.contextmanager
def running(config: Config) -> Iterator[Flask]:
    """An application, stopped at the end."""
    app = create_app(config)
    try:
        yield app
    finally:
        app.extensions["stations"].stop(1)


def add_team_routes(app: Flask) -> None:
    """Routes as a team may add them: `/team/claims` for flask-jwt-extended, `/team/caller` for the extension."""

    @app.get("/team/claims")
    @jwt_required()
    def claims() -> dict[str, Any]:
        return get_jwt()

    @app.get("/team/caller")
    def caller() -> dict[str, Any]:
        credentials = current_app.extensions["stations"].caller().credentials
        return {"user": credentials.user, "account": credentials.account}


class Answer(Response):
    """What an application has answered, and nothing that werkzeug would add."""

    default_mimetype = None
    automatically_set_content_length = False


def through(app: Callable[..., Any], environ: dict[str, Any]) -> Answer:
    """The answer of a WSGI application; the last one that it begins, as with a server that has sent nothing yet."""
    begun: tuple[Any, ...] = ()

    def start_response(*args: Any) -> None:
        nonlocal begun
        begun = args

    chunks = app(environ, start_response)
    body = b"".join(chunks)
    getattr(chunks, "close", lambda: None)()  # PEP 3333: if there is one
    return Answer(body, begun[0], begun[1])


class Api:
    """Sends requests to an application as one user, whose access token needs no log-on."""

    def __init__(self, app: Flask, user: str = "root", secret: str = "memphis") -> None:
        self.app = app
        self.token = app.extensions["stations"].tokens.issue(Credentials(user, secret)).access

    def request(self, method: str, path: str, **options: Any) -> Response:
        """A request without a token; `options` are those of werkzeug's `EnvironBuilder`.

        In `environ_overrides` None takes a variable out of the WSGI environment.
        """
        overrides = {"REMOTE_ADDR": "127.0.0.1", **options.pop("environ_overrides", {})}
        environ = EnvironBuilder(path, method=method, **options).get_environ() | overrides
        environ = {name: value for name, value in environ.items() if value is not None}
        return through(self.app, environ)

    def post(self, path: str, body: Any = b"", content_type: str | None = JSON, **options: Any) -> Response:
        """A POST with the token, unless `headers` bring an `Authorization` of their own (None: none at all)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        options["environ_overrides"] = {"CONTENT_LENGTH": str(len(data)), **options.get("environ_overrides", {})}
        method = options.pop("method", "POST")
        return self.request(method, path, data=data, content_type=content_type, headers=headers, **options)

    def put(self, path: str, body: Any) -> Response:
        """A PUT of JSON with the token."""
        return self.post(path, body, method="PUT")

    def get(self, path: str, method: str = "GET") -> Response:
        """A request without a body, with the token."""
        return self.request(method, path, headers={"Authorization": f"Bearer {self.token}"})

    def delete(self, path: str) -> Response:
        """A DELETE with the token."""
        return self.get(path, "DELETE")

    def demand(self, station: str, definition: Any, **attachment: Any) -> None:
        """Makes a station demand a JSON schema, which gets the station's name."""
        answer = self.put(f"/schemas/{station}", {"type": "json", "definition": definition})
        assert answer.status_code in (200, 201), answer.data
        answer = self.put(f"/stations/{station}/schema", {"schema": station, **attachment})
        assert answer.status_code == 200, answer.data

    def single(self, station: str, body: Any = b"{}", content_type: str | None = JSON, **headers: str) -> Response:
        """Produces one message; underscores in the names of headers stand for hyphens."""
        return self.post(f"/stations/{station}/produce/single", body, content_type, headers=_named(headers))

    def batch(self, station: str, body: Any, content_type: str | None = JSON, **headers: str) -> Response:
        """Produces the messages in the body."""
        return self.post(f"/stations/{station}/produce/batch", body, content_type, headers=_named(headers))

    def authenticate(self, fields: Any, path: str = "/auth/authenticate", **options: Any) -> Response:
        """Sends credentials as JSON."""
        return self.request("POST", path, data=json.dumps(fields), content_type=JSON, **options)


class _Unreadable(io.RawIOBase):
    """A body that fails the test of whoever reads it."""

    def readable(self) -> bool:
        """It looks like any other."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fails."""
        raise AssertionError("the body was read")


def unreadable(length: int) -> dict[str, Any]:
    """The part of a WSGI environment that promises a body of that length which must not be read."""
    return {"wsgi.input": _Unreadable(), "CONTENT_LENGTH": str(length)}


IN_CHUNKS = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": None}


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class Stored(NamedTuple):
    """A message as the stream has it, its headers as (name, value) bytes in their order."""

    payload: bytes
    headers: list[tuple[bytes, bytes]]

    def header(self, name: str) -> bytes | None:
        """The first header of that name; the case of letters counts."""
        return next((value for key, value in self.headers if key == name.encode()), None)


def stored(broker: NatsServer, station: str) -> list[Stored]:
    """All messages of a station, in its order; none for one that does not exist."""
    stream = station.lower().replace(".", "#")
    (found,) = _ask(broker, (f"STREAM.INFO.{stream}", {}))
    last = found["state"]["last_seq"] if "state" in found else 0
    answers = _ask(broker, *((f"STREAM.MSG.GET.{stream}", {"seq": number + 1}) for number in range(last)))
    return [_read(answer["message"]) for answer in answers]


def payloads(broker: NatsServer, station: str) -> list[bytes]:
    """The payloads of these."""
    return [message.payload for message in stored(broker, station)]


def footprint(broker: NatsServer) -> tuple[int, int]:
    """How many streams there are, and how many bytes all of them keep."""
    (info,) = _ask(broker, ("INFO", {}))
    return info["streams"], info["storage"]


def _read(message: dict[str, Any]) -> Stored:
    lines = base64.b64decode(message.get("hdrs", "")).split(b"\r\n")[1:-2]
    pairs = [line.partition(b":")[::2] for line in lines]
    return Stored(base64.b64decode(message.get("data", "")), [(name, value.strip(b" ")) for name, value in pairs])


def _ask(broker: NatsServer, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
    """Answers of the JetStream API to requests as `root`."""

    async def ask() -> list[Any]:
        client = await nats.connect(broker.url, user="root", password="memphis", allow_reconnect=False)
        try:
            answers = (
                client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=5) for verb, body in questions
            )
            return [json.loads((await answer).data) for answer in answers]
        finally:
            await client.close()

    return asyncio.run(ask())
