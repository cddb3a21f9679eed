"""What talks to a running gateway in tests: senders over HTTP, and a look into its embedded broker."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from proxy.brokers import embedded
from tests.brokers.tools import Operator
from tests.servers import Gateway

JSON = "application/json"
STORED = {"error": None, "success": True}


class Answer(NamedTuple):
    """A response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Sender:
    """A user of a gateway, on one connection that is kept open. `logged_on` makes one with tokens."""

    def __init__(self, host: str, user: str = "root", secret: str = "memphis") -> None:
        self.user, self.secret = user, secret
        self.token = self.refresh_token = ""
        self._connection = http.client.HTTPConnection(host, timeout=30)

    def log_on(self) -> Answer:
        """Sends the credentials, and keeps the tokens that come."""
        body = {"username": self.user, "connection_token": self.secret}
        answer = self.post("/auth/authenticate", json.dumps(body).encode(), JSON)
        if answer.status == 200:
            self.token, self.refresh_token = answer.json["jwt"], answer.json["jwt_refresh_token"]
        return answer

    def refresh(self) -> Answer:
        """Sends the refresh token."""
        return self.post("/auth/refreshToken", b"", None, Authorization=f"Bearer {self.refresh_token}")

    def single(self, station: str, payload: bytes, content_type: str | None = JSON, **headers: str) -> Answer:
        """Produces one message; underscores in the names of headers stand for hyphens."""
        return self._produce(f"/stations/{station}/produce/single", payload, content_type, headers)

    def batch(self, station: str, body: bytes, content_type: str = JSON, **headers: str) -> Answer:
        """Produces the messages in the body."""
        return self._produce(f"/stations/{station}/produce/batch", body, content_type, headers)

    def post(self, path: str, body: bytes, content_type: str | None, **headers: str) -> Answer:
        """Sends a POST with exactly these headers and those of HTTP itself."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, body, named | ({"Content-Type": content_type} if content_type else {}))

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Sends a request and reads the answer."""
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        self._connection.close()

    def _produce(self, path: str, body: bytes, content_type: str | None, headers: dict[str, str]) -> Answer:
        return self.post(path, body, content_type, Authorization=f"Bearer {self.token}", **headers)


@contextlib.contextmanager
def logged_on(host: str, user: str = "root", secret: str = "memphis") -> Iterator[Sender]:
    """A sender that has tokens."""
    with contextlib.closing(Sender(host, user, secret)) as sender:
        answer = sender.log_on()
        assert answer.status == 200, answer.body
        yield sender


@contextlib.contextmanager
def with_tokens_of(sender: Sender, host: str) -> Iterator[Sender]:
    """Another connection of the same user, to this or another gateway, with the tokens that it has."""
    with contextlib.closing(Sender(host, sender.user, sender.secret)) as other:
        other.token, other.refresh_token = sender.token, sender.refresh_token
        yield other


class EmbeddedServer(NamedTuple):
    """The embedded broker of a gateway, as far as an `Operator` wants to know it."""

    url: str


def embedded_broker(gateway: Gateway) -> Operator:
    """Looks into the embedded broker of a gateway that keeps its data in its working directory."""
    return Operator(EmbeddedServer(embedded.address(gateway.directory / "data")))


def embedded_pid(gateway: Gateway) -> int:
    """The process id of that gateway's nats-server."""
    return int(json.loads((gateway.directory / "data" / "broker.json").read_text())["pid"])
