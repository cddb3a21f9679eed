"""The cases: what is sent, over how many connections. A new one is a line in `CASES`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import validators_avro, validators_graphql, validators_json, validators_protobuf
from benchmarks.load import Request
from proxy.messages import Schema

IDLE_CONNECTIONS = 10_000
MANY = 1000
STATION = "bench"

_TEXT = "text/plain"
_JSON = "application/json"
_PROTOBUF = "application/x-protobuf"
_BYTES = 100


@dataclass(frozen=True)
class Case:
    """One kind of request. `messages` are in each; 0 for a request that stores none.

    `identities`: how many users, each with a station of its own, take turns. `heads`: how many different heads
    requests have, by a request id each. `schema`: what the station demands, where the server knows schemas. `idle`: how
    many keep-alive connections are open beside the traffic. `wide`: all variants are measured, not only the main ones.
    `for_peers`: whether a peer can do it too.
    """

    name: str
    meaning: str
    body: bytes
    content_type: str
    connections: int = 64
    messages: int = 1
    action: str = "produce/single"
    identities: int = 1
    heads: int = 1
    schema: Schema | None = None
    idle: int = 0
    wide: bool = False
    for_peers: bool = True

    @property
    def stations(self) -> list[str]:
        """The stations that the messages go to."""
        if not self.messages:
            return []
        if self.schema is not None:
            return [f"{STATION}-{self.schema.type}"]
        return [STATION] if self.identities == 1 else [f"{STATION}-{number}" for number in range(self.identities)]

    def requests(self, tokens: Sequence[str]) -> list[Request]:
        """The requests that take turns; without tokens (a peer) they carry none."""
        if not self.messages:
            return [Request(f"/{self.action}", {"Content-Type": self.content_type}, self.body)]
        requests = [self._produce(station, tokens[at] if tokens else "") for at, station in enumerate(self.stations)]
        if self.heads == 1:
            return requests
        return [
            Request(request.path, {**request.headers, "X-Request-Id": f"bench-{number}"}, request.body)
            for number in range(self.heads)
            for request in requests
        ]

    def _produce(self, station: str, token: str) -> Request:
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        headers = {"Content-Type": self.content_type, **authorization}
        return Request(f"/stations/{station}/{self.action}", headers, self.body)


def event(size: int = _BYTES) -> bytes:
    """A JSON object of `size` bytes."""
    fields = {"id": 184_467, "kind": "order", "paid": True, "note": ""}
    fields["note"] = "x" * (size - len(json.dumps(fields, separators=(",", ":"))))
    return json.dumps(fields, separators=(",", ":")).encode()


def protobuf(size: int = _BYTES) -> bytes:
    """A protobuf message of `size` bytes (128 at most): field 1, a string."""
    return bytes([0x0A, size - 2]) + b"x" * (size - 2)


def _single(connections: int, *, wide: bool = False) -> Case:
    meaning = f"a text of {_BYTES} bytes, {connections} connections"
    return Case(f"single-{connections}", meaning, b"x" * _BYTES, _TEXT, connections, wide=wide)


def _batch(messages: int) -> Case:
    meaning = f"{messages} JSON objects of {_BYTES} bytes in an array, 8 connections"
    body = b"[" + b",".join([event()] * messages) + b"]"
    return Case(f"batch-{messages}", meaning, body, _JSON, 8, messages, "produce/batch")


def _with_schema(schema: Schema, payload: bytes, content_type: str) -> Case:
    meaning = f"{len(payload)} bytes, checked against five fields in {schema.type}, 64 connections"
    return Case(f"schema-{schema.type}", meaning, payload, content_type, schema=schema)


def _with_schemas() -> list[Case]:
    """The ordinary message of each language, as `benchmarks.validators` has it."""
    return [
        _with_schema(*validators_json.CASES["100 bytes, five fields"](), _JSON),
        _with_schema(*validators_protobuf.CASES["ordinary, five fields"](), _PROTOBUF),
        _with_schema(*validators_avro.CASES["five fields, JSON"](), _JSON),
        _with_schema(*validators_graphql.CASES["five fields"](), _TEXT),
    ]


def _all() -> list[Case]:
    """In this order they run: what leaves much memory in use comes last."""
    log_on = json.dumps({"username": "root", "connection_token": "memphis"}).encode()
    text = b"x" * _BYTES
    return [
        _single(1),
        _single(16),
        _single(64, wide=True),
        _single(256),
        Case(
            "single-heads",
            f"a text of {_BYTES} bytes, each request with a head of its own, 64 connections",
            text,
            _TEXT,
            heads=MANY,
        ),
        Case("single-json", f"a JSON object of {_BYTES} bytes, 64 connections", event(), _JSON),
        Case("single-protobuf", f"a protobuf message of {_BYTES} bytes, 64 connections", protobuf(), _PROTOBUF),
        *_with_schemas(),
        _batch(10),
        _batch(100),
        _batch(1000),
        Case(
            "authenticate",
            "log-ons, each proved by a fresh broker connection; 8 connections",
            log_on,
            _JSON,
            8,
            0,
            "auth/authenticate",
            for_peers=False,
        ),
        Case(
            "idle",
            f"64 connections beside {IDLE_CONNECTIONS:,} that are open and silent",
            text,
            _TEXT,
            idle=IDLE_CONNECTIONS,
        ),
        Case("mix", f"{MANY:,} users and {MANY:,} stations in turn, 64 connections", text, _TEXT, identities=MANY),
        Case("large", "a text of 1 MiB, 4 connections", b"x" * (1 << 20), _TEXT, 4),
    ]


CASES = {case.name: case for case in _all()}
