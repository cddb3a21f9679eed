"""A produce to a station that demands a schema: what is refused, what is stored, and from when on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask, current_app

from tests.application import STORED, Api, payloads
from tests.brokers.tools import Operator
from tests.servers import NatsServer

ORDER = '{"type": "object", "required": ["id", "total"], "properties": {"id": {"type": "integer"}}}'
NDJSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def app(app: Flask) -> Flask:
    """The application, with a route of a team that produces."""

    @app.post("/team/<station>")
    def send(station: str) -> Any:
        from flask import request

        ack = current_app.extensions["stations"].produce(station, request.get_data())
        return {"sequence": ack.sequence}

    return app


def test_what_satisfies_the_schema_is_stored(api: Api, broker: NatsServer, station: str) -> None:
    """Byte for byte, as without a schema."""
    api.demand(station, ORDER)
    body = b'{ "id": 1, "total": 1.50 }'
    assert api.single(station, body).get_json() == STORED
    assert api.batch(station, b"[" + body + b"]").get_json() == STORED
    assert payloads(broker, station) == [body] * 2


def test_what_does_not_is_refused_with_every_reason(api: Api, broker: NatsServer, station: str) -> None:
    """400 with all violations, each with its place; nothing is stored."""
    api.demand(station, ORDER)
    answer = api.single(station, b'{"id": "x"}').get_json()
    assert answer["error"].startswith("Schema validation has failed: jsonschema: ")
    assert "missing properties: 'total'" in answer["error"]
    assert {violation["pointer"] for violation in answer["violations"]} == {"", "/id"}
    assert (answer["stored"], answer["repeat"], answer["success"]) == ("no", "never", False)
    assert "dead_letter" not in answer
    assert payloads(broker, station) == []


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json", "application/x-protobuf"])
def test_the_schema_counts_whatever_the_content_type(
    api: Api, broker: NatsServer, station: str, content_type: str | None
) -> None:
    """A body that is no JSON at all is refused as well."""
    api.demand(station, ORDER)
    assert api.single(station, b'{"id": 1, "total": 1}', content_type).status_code == 200
    assert api.single(station, b'{"id": 1}', content_type).status_code == 400
    assert api.single(station, b"nope", content_type).status_code == 400
    assert len(payloads(broker, station)) == 1


@pytest.mark.parametrize("body", [b"\xff\xfe", b'"\\ud800"', b'{"\\udc00": 1}', b"NaN", b'{"id": 1e999}', b"[" * 5000])
def test_strange_texts_are_refused_like_others(api: Api, broker: NatsServer, station: str, body: bytes) -> None:
    """400, and the answer is JSON."""
    api.demand(station, ORDER)
    answer = api.single(station, body, "text/plain")
    assert (answer.status_code, answer.get_json()["stored"]) == (400, "no")


def test_of_a_batch_the_good_ones_are_stored(api: Api, broker: NatsServer, station: str) -> None:
    """Each other one has its index, status and violations."""
    api.demand(station, ORDER)
    good = [b'{"id": 1, "total": 1}', b'{"id": 2, "total": 2}']
    answer = api.batch(station, b"\n".join([good[0], b"{}", good[1], b'{"id": "x", "total": 3}']), NDJSON)
    body = answer.get_json()
    assert (answer.status_code, body["fail"], body["sent"], body["stored"]) == (400, 2, 2, "partly")
    assert [(entry["index"], entry["status"], entry["stored"]) for entry in body["failed"]] == [
        (1, 400, "no"),
        (3, 400, "no"),
    ]
    assert "missing properties: 'id', 'total'" in body["failed"][0]["error"]
    assert body["failed"][1]["violations"][0]["pointer"] == "/id"
    assert payloads(broker, station) == good


def test_a_batch_of_bad_ones_stores_nothing(api: Api, broker: NatsServer, station: str) -> None:
    """And says so; a broker that the user may not use is not asked."""
    api.demand(station, ORDER)
    body = api.batch(station, b"[1, 2]").get_json()
    assert (body["fail"], body["sent"], body["stored"], body["repeat"]) == (2, 0, "no", "never")
    assert payloads(broker, station) == []


def test_of_an_atomic_batch_nothing_is_stored_if_one_is_bad(api: Api, broker: NatsServer, station: str) -> None:
    """The reason is the first one's, with its index."""
    api.demand(station, ORDER)
    good = b'{"id": 1, "total": 1}'
    assert api.batch(station, b"[%b,%b]" % (good, good), Prefer="atomic").status_code == 200
    answer = api.batch(station, b"[%b,{},1]" % good, Prefer="atomic")
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["index"]) == (400, "no", 1)
    assert "missing properties" in body["error"]
    assert payloads(broker, station) == [good] * 2


def test_a_repeat_after_the_schema_has_changed_stores_what_is_missing(
    api: Api, broker: NatsServer, station: str
) -> None:
    """Elements keep their ids: the ones that were stored are recognised, whatever the others are."""
    api.demand(station, ORDER)
    batch = b'[{"id": 1, "total": 1}, {"id": 2}, {"id": 3, "total": 3}]'
    assert api.batch(station, batch, Idempotency_Key="k").get_json()["sent"] == 2
    api.demand(station, '{"type": "object"}')
    assert api.batch(station, batch, Idempotency_Key="k").get_json() == STORED
    assert [json.loads(payload)["id"] for payload in payloads(broker, station)] == [1, 3, 2]


def test_the_acks_of_a_batch_are_told_as_ever(api: Api, station: str) -> None:
    """With a schema that all satisfy."""
    api.demand(station, ORDER)
    answer = api.batch(station, b'[{"id": 1, "total": 1}]', Prefer="return=representation").get_json()
    assert answer["acks"] == [{"index": 0, "station": station, "sequence": 1, "duplicate": False}]


def test_a_change_counts_as_soon_as_it_is_answered(api: Api, station: str) -> None:
    """In the worker that made it: a schema, a new version, a version of choice, none."""
    body = b'{"id": 1, "total": 1}'
    for definition, status in ((ORDER, 200), ('{"type": "array"}', 400), ('{"type": "object"}', 200)) * 5:
        api.demand(station, definition)
        assert api.single(station, body).status_code == status
    for version, status in ((1, 200), (2, 400), (None, 200), (2, 400)):
        api.put(f"/stations/{station}/schema", {"schema": station, "version": version})
        assert api.single(station, body).status_code == status
    api.delete(f"/stations/{station}/schema")
    assert api.single(station, body).status_code == 200


def test_a_version_of_choice_stays_when_a_newer_one_comes(api: Api, station: str) -> None:
    """Only a station that names none follows."""
    api.demand(station, ORDER, version=1)
    api.put(f"/schemas/{station}", {"type": "json", "definition": '{"type": "array"}'})
    assert api.single(station, b'{"id": 1, "total": 1}').status_code == 200


def test_a_route_of_a_team_is_checked_too(api: Api, broker: NatsServer, station: str) -> None:
    """`produce` raises, and the answer is the gateway's own."""
    api.demand(station, ORDER)
    assert api.post(f"/team/{station}", b'{"id": 1, "total": 1}').status_code == 200
    answer = api.post(f"/team/{station}", b"{}")
    assert (answer.status_code, answer.get_json()["violations"][0]["keyword"]) == (400, "required")
    assert len(payloads(broker, station)) == 1


@pytest.mark.parametrize(
    "value",
    [
        {"type": "json", "definition": '{"type": "nothing"}'},
        {"type": "json", "definition": "{"},
        {"type": "json", "definition": '{"$ref": "file:///etc/passwd"}'},
        {"type": "protobuf", "definition": 'syntax = "proto3";', "compiled": "AAAA"},
        {"type": "cobol", "definition": ""},
    ],
)
def test_a_schema_that_cannot_be_used_stores_nothing(
    api: Api, broker: NatsServer, station: str, value: dict[str, str]
) -> None:
    """It was written past the gateway. 503 names it and says who has to mend it, again and again."""
    api.demand(station, "{}")
    keep = f"$KV.station-schemas.schema.{station}.1"

    async def write(client: Any) -> None:
        await client.jetstream().publish(keep, json.dumps(value).encode())

    Operator(broker).ask(write)
    api.put(f"/stations/{station}/schema", {"schema": station, "version": 1})  # forgets what was known
    for answer in (api.single(station), api.single(station), api.batch(station, b"[{},{}]")):
        body = answer.get_json()
        assert (answer.status_code, body["stored"]) == (503, "no")
        assert station in str(body)
        assert "mend" in str(body)
    assert payloads(broker, station) == []
