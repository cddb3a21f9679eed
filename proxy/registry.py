"""`/schemas`, and what stations demand: the routes for definitions, attachments, and bodies that are only checked."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from flask import Blueprint, Response, request

import schemas
from proxy import intake, shaping
from proxy.credentials import Credentials
from proxy.errors import DATA_ONLY, BadBody, SchemaNotFound, UnsupportedMediaType, encode
from proxy.extension import the_stations
from proxy.messages import Attachment, Schema, SchemaVersion, Station, station_named
from proxy.registrar import Registrar
from schemas.registry import AttachmentOf, Definition, Demanded, JsonText, SchemaIn, SchemaOf

bp = Blueprint("registry", __name__)
bp.record_once(intake.add_converters)

# Room for a definition of the largest size, each character of it escaped, and the other fields.
MAX_BODY_BYTES = 2 << 20
_DEFINITION, _DEMANDED, _SCHEMA, _ATTACHMENT = Definition(), Demanded(), SchemaOf(), AttachmentOf()
_SCHEMAS = SchemaIn(many=True)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_raws = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@bp.get("/schemas")
def list_schemas() -> Response:
    """All schemas, each with its newest version."""
    return _answer(schemas=_SCHEMAS.dump(_registrar().all(_caller())))


@bp.get("/schemas/<schema:name>")
def show_schema(name: str) -> Response:
    """The newest version of a schema."""
    return _answer(schema=_shown(_registrar().get(_caller(), name)))


@bp.get("/schemas/<schema:name>/versions/<number>")
def show_version(name: str, number: str) -> Response:
    """One version of a schema, which never changes."""
    credentials = _caller()
    if not _VERSION.fullmatch(number):
        raise SchemaNotFound("versions are numbers from 1 on")
    return _answer(schema=_shown(_registrar().get(credentials, name, int(number))))


@bp.put("/schemas/<schema:name>")
def put_schema(name: str) -> Response:
    """Keeps a definition as the newest version: 201 when it was made for this, 200 when it was the newest already."""
    credentials = _caller()
    schema = Schema(**schemas.load(_DEFINITION, _fields()))
    kept, made = _registrar().put(credentials, name, schema)
    response = _answer(201 if made else 200, schema=_shown(kept))
    if made:
        response.headers["Location"] = f"/schemas/{kept.name}/versions/{kept.version}"
    return response


@bp.delete("/schemas/<schema:name>")
def delete_schema(name: str) -> Response:
    """Deletes a schema that no station demands, with all its versions."""
    _registrar().delete(_caller(), name)
    return _answer()


@bp.get("/stations/<station:station>/schema")
def show_attachment(station: str) -> Response:
    """Which schema a station demands."""
    credentials, named = _caller(), station_named(station)
    return _answer(attachment=_attached(named, _registrar().attachment(credentials, named)))


@bp.put("/stations/<station:station>/schema")
def attach(station: str) -> Response:
    """Makes a station demand a schema."""
    credentials, named = _caller(), station_named(station)
    wanted = Attachment(**schemas.load(_DEMANDED, _fields()))
    return _answer(attachment=_attached(named, _registrar().attach(credentials, named, wanted)))


@bp.delete("/stations/<station:station>/schema")
def detach(station: str) -> Response:
    """Makes a station demand nothing."""
    credentials, named = _caller(), station_named(station)
    _registrar().detach(credentials, named)
    return _answer()


@bp.post("/stations/<station:station>/validate")
def validate(station: str) -> Response:
    """Checks a body as `/produce/single` would, and stores nothing."""
    credentials, named, body = _caller(), station_named(station), intake.body()
    payload = shaping.single(request.environ.get("CONTENT_TYPE", ""), body)
    _registrar().validate(credentials, named, payload)
    return _answer()


@bp.post("/stations/<station:station>/validate/batch")
def validate_batch(station: str) -> Response:
    """Checks a body as `/produce/batch` would, and stores nothing."""
    credentials, named, body = _caller(), station_named(station), intake.body()
    most = the_stations().config.max_batch_messages
    payloads = shaping.batch(request.environ.get("CONTENT_TYPE", ""), body, most)
    _registrar().validate_batch(credentials, named, payloads)
    return _answer()


def _registrar() -> Registrar:
    return the_stations().registrar


def _caller() -> Credentials:
    return the_stations().caller().credentials


def _fields() -> dict[str, Any]:
    """The body, a JSON object; a definition in it that is no text keeps the characters it was sent in."""
    request.max_content_length = min(MAX_BODY_BYTES, the_stations().config.max_body_bytes)
    body = intake.body()
    if shaping.form_of(request.environ.get("CONTENT_TYPE", "")) != "json":
        raise UnsupportedMediaType("send application/json")
    shaping.check_json(body)
    try:
        raws = _raws(body)
        return {name: _value(name, bytes(raw)) for name, raw in raws.items()}
    except msgspec.MsgspecError:
        raise BadBody("the body must be a JSON object") from None


def _value(name: str, raw: bytes) -> Any:
    if name == "definition" and not raw.startswith(b'"'):
        return JsonText(raw.decode())
    return msgspec.json.decode(raw)


def _shown(version: SchemaVersion) -> Any:
    row = msgspec.structs.asdict(version.schema) | {"name": version.name, "version": version.version}
    return _SCHEMA.dump(row)


def _attached(station: Station, attachment: Attachment) -> Any:
    return _ATTACHMENT.dump({"station": station.name, **msgspec.structs.asdict(attachment)})


def _answer(status: int = 200, **content: Any) -> Response:
    body = encode({"error": None, "success": True, **content})
    return Response(body, status, DATA_ONLY, mimetype="application/json")
