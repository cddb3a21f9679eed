"""`/schemas`, a station's schema, and `/validate`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.application import IN_CHUNKS, STORED, Api, payloads, unreadable
from tests.servers import NatsServer

ORDER = '{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}'
OTHER = '{"type": "object", "required": ["number"]}'
AVRO = '{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}'


@pytest.fixture
def name(station: str) -> str:
    """The name of a schema that no other test uses."""
    return f"schema-of-{station}"


def _put(api: Api, name: str, definition: Any = ORDER, **fields: Any) -> Any:
    return api.put(f"/schemas/{name}", {"type": "json", "definition": definition, **fields})


def _fault(answer: Any, status: int) -> str:
    body = answer.get_json()
    assert (answer.status_code, body["success"], body["stored"]) == (status, False, "no"), body
    return str(body["error"])


# ---- schemas -------------------------------------------------------------------------------------------------------


def test_a_schema_is_kept_and_shown(api: Api, name: str) -> None:
    """201, where its version is, and the version itself; the definition comes back to the character."""
    made = _put(api, name)
    shown = {
        "name": name,
        "version": 1,
        "type": "json",
        "definition": ORDER,
        "message_struct_name": "",
        "strict": False,
    }
    assert (made.status_code, made.get_json()) == (201, {**STORED, "schema": shown})
    assert made.headers["Location"] == f"/schemas/{name}/versions/1"
    for path in (f"/schemas/{name}", f"/schemas/{name.upper()}/", made.headers["Location"]):
        answer = api.get(path)
        assert (answer.status_code, answer.get_json()) == (200, {**STORED, "schema": shown})
        assert answer.headers["Cache-Control"] == "no-store"  # the token may stand in the address


def test_the_same_definition_again_makes_no_version(api: Api, name: str) -> None:
    """200, and the version that there was."""
    _put(api, name)
    again = _put(api, name)
    assert (again.status_code, again.get_json()["schema"]["version"]) == (200, 1)
    assert "Location" not in again.headers


def test_a_changed_definition_makes_a_version(api: Api, name: str) -> None:
    """The old one stays; without a number the newest is shown."""
    _put(api, name)
    changed = _put(api, name, OTHER)
    assert (changed.status_code, changed.get_json()["schema"]["version"]) == (201, 2)
    definitions = {
        path: api.get(f"/schemas/{name}{path}").get_json()["schema"]["definition"]
        for path in ("", "/versions/1", "/versions/2")
    }
    assert definitions == {"": OTHER, "/versions/1": ORDER, "/versions/2": OTHER}


def test_a_definition_may_be_sent_as_json(api: Api, name: str) -> None:
    """Its own characters are kept, whatever numbers and keys they hold."""
    definition = '{"type" : "object", "maxProperties": 1e2,\n "title": "\\u00e9é"}'
    body = f'{{"definition": {definition}, "type": "json"}}'.encode()
    assert api.put(f"/schemas/{name}", body).get_json()["schema"]["definition"] == definition
    body = f'{{"definition": {AVRO}, "type": "avro"}}'.encode()
    assert api.put(f"/schemas/{name}-avro", body).get_json()["schema"]["definition"] == AVRO


def test_all_schemas_are_listed(api: Api, name: str) -> None:
    """With their newest versions, by name."""
    _put(api, f"{name}-b")
    _put(api, f"{name}-a")
    _put(api, f"{name}-a", OTHER)
    listed = api.get("/schemas").get_json()["schemas"]
    assert [row for row in listed if row["name"].startswith(name)] == [
        {"name": f"{name}-a", "version": 2, "type": "json"},
        {"name": f"{name}-b", "version": 1, "type": "json"},
    ]


def test_a_deleted_schema_is_gone(api: Api, name: str) -> None:
    """With its versions; deleting it again is 404."""
    _put(api, name)
    assert api.delete(f"/schemas/{name}").get_json() == STORED
    for answer in (
        api.get(f"/schemas/{name}"),
        api.get(f"/schemas/{name}/versions/1"),
        api.delete(f"/schemas/{name}"),
    ):
        assert _fault(answer, 404)


def test_a_schema_that_a_station_demands_stays(api: Api, name: str, station: str) -> None:
    """409 names the station."""
    _put(api, name)
    api.put(f"/stations/{station}/schema", {"schema": name})
    assert station in _fault(api.delete(f"/schemas/{name}"), 409)
    api.delete(f"/stations/{station}/schema")
    assert api.delete(f"/schemas/{name}").status_code == 200


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ('{"type": "nothing"}', "nothing"),
        ('{"type": \n 1 x}', "line 2"),
        ("", ""),
    ],
)
def test_a_definition_that_does_not_compile_is_refused(api: Api, name: str, definition: str, words: str) -> None:
    """400 with the reason and the line, and no version is made."""
    assert words in _fault(_put(api, name, definition), 400)
    assert _fault(api.get(f"/schemas/{name}"), 404)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "definition: Missing"),
        ({"type": "json"}, "definition: Missing"),
        ({"definition": "{}"}, "type: Missing"),
        ({"type": "xml", "definition": "{}"}, "json, protobuf, avro, graphql"),
        ({"type": 1, "definition": "{}"}, "type: Not a valid string"),
        ({"type": "json", "definition": "{}", "version": 1}, "version: Unknown field"),
        ({"type": "json", "definition": "{}", "strict": "yes"}, "strict: Not a valid boolean"),
        ({"type": "json", "definition": "{}", "strict": 1}, "strict: Not a valid boolean"),
        ({"type": "protobuf", "definition": {"a": 1}}, "definition: Must be a text"),
        ({"type": "json", "definition": "x" * (256 * 1024 + 1)}, "definition: Longer"),
        ({"type": "json", "definition": "{}", "message_struct_name": "x" * 513}, "message_struct_name: Longer"),
        ([], "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"{", "not JSON"),
        (b"\xff", "UTF-8"),
        (b'{"definition": ' + b"[" * 200 + b"]" * 200 + b"}", "nested too deeply"),
    ],
)
def test_a_body_that_is_no_schema_is_refused(api: Api, name: str, body: Any, words: str) -> None:
    """400 says which field, and what it must be."""
    assert words in _fault(api.put(f"/schemas/{name}", body), 400)


def test_a_body_that_is_not_json_is_refused(api: Api, name: str) -> None:
    """415, also without a type."""
    for content_type in ("text/plain", None):
        answer = api.post(f"/schemas/{name}", b"{}", content_type, method="PUT")
        assert "application/json" in _fault(answer, 415)


def test_a_body_has_a_largest_size(api: Api, name: str) -> None:
    """413 without reading it; in chunks after as much has been read."""
    path = f"/schemas/{name}"
    assert _fault(api.post(path, method="PUT", environ_overrides=unreadable((2 << 20) + 1)), 413)
    large = b'{"definition": "' + b"x" * (2 << 20) + b'"}'
    assert _fault(api.post(path, large, method="PUT", environ_overrides=IN_CHUNKS), 413)


@pytest.mark.parametrize("bad", ["a.b", "a%20b", "a*", "a%2Fb", "%C3%A9", "x" * 129, "a%0Ab"])
def test_a_name_that_no_schema_can_have_is_refused(api: Api, bad: str) -> None:
    """400 says what names look like, at every route."""
    body = {"type": "json", "definition": ORDER}
    answers = (
        api.put(f"/schemas/{bad}", body),
        api.get(f"/schemas/{bad}"),
        api.get(f"/schemas/{bad}/versions/1"),
        api.delete(f"/schemas/{bad}"),
    )
    for answer in answers:
        assert "letters, digits" in _fault(answer, 400)


@pytest.mark.parametrize("number", ["0", "2", "-1", "x", "1.0", "01", "9" * 30, "%D9%A1"])
def test_a_version_that_is_not_there_is_404(api: Api, name: str, number: str) -> None:
    """Whatever it looks like."""
    _put(api, name)
    assert _fault(api.get(f"/schemas/{name}/versions/{number}"), 404)


# ---- what a station demands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({}, {"version": None, "dead_letter": False}),
        ({"version": None}, {"version": None, "dead_letter": False}),
        ({"version": 1}, {"version": 1, "dead_letter": False}),
        ({"version": 2, "dead_letter": True}, {"version": 2, "dead_letter": True}),
    ],
)
def test_a_station_demands_a_schema(
    api: Api, name: str, station: str, asked: dict[str, Any], shown: dict[str, Any]
) -> None:
    """What was asked is what is shown."""
    _put(api, name)
    _put(api, name, OTHER)
    expected = {**STORED, "attachment": {"station": station, "schema": name, **shown}}
    for asked_name in (name, name.upper()):  # what is shown is the name that the schema has
        assert api.put(f"/stations/{station}/schema", {"schema": asked_name, **asked}).get_json() == expected
    assert api.get(f"/stations/{station.upper()}/schema/").get_json() == expected


def test_a_station_that_demands_nothing_has_no_schema(api: Api, name: str, station: str) -> None:
    """404 before, and after it was taken away."""
    path = f"/stations/{station}/schema"
    assert station in _fault(api.get(path), 404)
    assert _fault(api.delete(path), 404)
    _put(api, name)
    api.put(path, {"schema": name})
    assert api.delete(path).get_json() == STORED
    assert _fault(api.get(path), 404)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "schema: Missing"),
        ({"schema": "nowhere-to-be-found"}, 404, "nowhere-to-be-found"),
        ({"schema": "a.b"}, 400, "letters, digits"),
        ({"schema": "NAME", "version": 7}, 404, "version 7"),
        ({"schema": "NAME", "version": 0}, 400, "version: Must be"),
        ({"schema": "NAME", "version": "1"}, 400, "version: Not a valid integer"),
        ({"schema": "NAME", "version": 1.5}, 400, "version: Not a valid integer"),
        ({"schema": "NAME", "dead_letter": "yes"}, 400, "dead_letter: Not a valid boolean"),
        ({"schema": "NAME", "definition": "{}"}, 400, "definition: Unknown field"),
    ],
)
def test_what_a_station_cannot_demand_is_refused(
    api: Api, name: str, station: str, body: dict[str, Any], status: int, words: str
) -> None:
    """And changes nothing."""
    _put(api, name)
    if body.get("schema") == "NAME":
        body = {**body, "schema": name}
    assert words in _fault(api.put(f"/stations/{station}/schema", body), status)
    assert _fault(api.get(f"/stations/{station}/schema"), 404)


def test_a_station_with_dead_letters_has_room_for_their_name(api: Api, name: str) -> None:
    """400 for a station whose name is too long with `.dls` behind it; without dead letters it is fine."""
    _put(api, name)
    path = f"/stations/{'x' * 125}/schema"
    assert _fault(api.put(path, {"schema": name, "dead_letter": True}), 400)
    assert api.put(path, {"schema": name}).status_code == 200


@pytest.mark.parametrize("path", ["schema", "validate", "validate/batch"])
def test_a_bad_station_name_is_refused(api: Api, path: str) -> None:
    """As everywhere."""
    method = "PUT" if path == "schema" else "POST"
    answer = api.post(f"/stations/a*/{path}", {"schema": "x"}, method=method)
    assert "a station name has" in _fault(answer, 400)


# ---- validate ------------------------------------------------------------------------------------------------------


def test_a_body_can_be_checked(api: Api, broker: NatsServer, station: str) -> None:
    """The answer of a produce, and nothing is stored."""
    api.demand(station, ORDER)
    path = f"/stations/{station}/validate"
    assert api.post(path, {"id": 1}).get_json() == STORED
    assert api.post(path, b'{"id": 1}', "text/plain").get_json() == STORED
    refused, produced = (api.post(path, {"id": "x"}).get_json(), api.single(station, b'{"id": "x"}').get_json())
    assert {**refused, "request_id": ""} == {**produced, "request_id": ""}
    assert refused["violations"][0]["pointer"] == "/id"
    assert payloads(broker, station) == []


def test_a_batch_can_be_checked(api: Api, broker: NatsServer, station: str) -> None:
    """Each failure has its index."""
    api.demand(station, ORDER)
    path = f"/stations/{station}/validate/batch"
    assert api.post(path, [{"id": 1}, {"id": 2}]).get_json() == STORED
    refused = api.post(path, b'{"id": 1}\n{}\n{"id": "x"}', "application/x-ndjson")
    assert refused.status_code == 400
    assert [failure["index"] for failure in refused.get_json()["failed"]] == [1, 2]
    assert [refused.get_json()[name] for name in ("fail", "sent", "stored", "repeat")] == [2, 0, "no", "never"]
    assert payloads(broker, station) == []


def test_without_a_schema_any_good_body_is_fine(api: Api, station: str) -> None:
    """What a produce would refuse is refused all the same."""
    assert api.post(f"/stations/{station}/validate", {}).status_code == 200
    assert api.post(f"/stations/{station}/validate/batch", [1]).status_code == 200
    assert _fault(api.post(f"/stations/{station}/validate", b"{"), 400)
    assert _fault(api.post(f"/stations/{station}/validate", b"x", "image/png"), 415)
    assert _fault(api.post(f"/stations/{station}/validate/batch", b"{}"), 400)


# ---- who may -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/schemas"),
        ("GET", "/schemas/x"),
        ("PUT", "/schemas/x"),
        ("DELETE", "/schemas/x"),
        ("GET", "/schemas/x/versions/1"),
        ("GET", "/stations/x/schema"),
        ("PUT", "/stations/x/schema"),
        ("DELETE", "/stations/x/schema"),
        ("POST", "/stations/x/validate"),
        ("POST", "/stations/x/validate/batch"),
    ],
)
def test_each_route_wants_a_token(api: Api, method: str, path: str) -> None:
    """401 before anything is read."""
    answer = api.request(method, path, environ_overrides=unreadable(5) if method != "GET" else {})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_method_that_a_route_does_not_take_is_405(api: Api) -> None:
    """With those that it takes."""
    answer = api.get("/stations/x/schema", "PATCH")
    assert answer.status_code == 405
    assert {"GET", "PUT", "DELETE"} <= set(answer.headers["Allow"].split(", "))
