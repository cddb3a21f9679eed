"""Where our answers are not those that Memphis' REST gateway gave when it was recorded, and why.

A reason is a heading of `docs/moving-from-memphis.md`, written as the link to it is. Under it stand the recorded
requests, each with our status and what we say: the text of an error, else the body; `...` at its end is any rest.
"""

from __future__ import annotations

_STORED = '{"error":null,"success":true}'
_NO_JSON = "the body is not JSON: ..."
_SEND_JSON = "send application/json or application/x-www-form-urlencoded"
_STATION_NAME = (
    "a station name has 1 to 128 letters, digits, '_', '-' and '.', and begins and ends with a letter or digit"
)
_NO_ROUTE = "there is no such route; see the links at /"
_NO_METHOD = "this route does not take that method"
_SEND_MESSAGE = "send one of text/*, application/json, application/*+json, application/x-protobuf"
_SEND_BATCH = "send one of application/json, application/x-ndjson"


def _lives(access_minutes: int, refresh_minutes: int) -> str:
    """Tokens that live so long; what the answer says is in milliseconds."""
    access, refresh = access_minutes * 60_000, refresh_minutes * 60_000
    tokens = '"jwt":"<jwt>","jwt_refresh_token":"<jwt>"'
    return f'{{"expires_in":{access},{tokens},"refresh_token_expires_in":{refresh}}}'


DIFFERENCES: dict[str, dict[str, tuple[int, str]]] = {
    "lifetimes": {
        "authenticate: root, right password": (200, _lives(15, 300)),
        "authenticate: application user": (200, _lives(15, 300)),
        "authenticate: expiries given: 60 and 120 minutes": (200, _lives(60, 120)),
        "authenticate: only the refresh expiry given": (200, _lives(15, 120)),
        "authenticate: negative expiries": (200, _lives(15, 300)),
        "authenticate: very large expiry": (200, _lives(43200, 300)),
        "authenticate: account_id 1": (200, _lives(15, 300)),
        "authenticate: account_id 7 (does not exist)": (200, _lives(15, 300)),
        "authenticate: accountId in the query": (200, _lives(15, 300)),
        "authenticate: account in the user name": (200, _lives(15, 300)),
        "authenticate: password and connection_token both": (200, _lives(15, 300)),
        "authenticate: form body": (200, _lives(15, 300)),
        "authenticate: Content-Type with charset": (200, _lives(15, 300)),
        "authenticate: unknown extra field": (200, _lives(15, 300)),
        "authenticate: other letter case in the path": (200, _lives(15, 300)),
        "refreshToken: right refresh token": (200, _lives(15, 300)),
        "refreshToken: with expiries 60 and 120": (200, _lives(60, 120)),
        "refreshToken: the same refresh token a third time": (200, _lives(15, 300)),
        "refreshToken: (set-up) log on as root": (200, _lives(15, 300)),
        "produce/single: station: (set-up) log on as app-rb": (200, _lives(15, 300)),
    },
    "either-name-for-the-secret": {
        "authenticate: no password": (400, "connection_token: Missing data for required field (or password)."),
        "authenticate: connection_token instead of a password (gateway in user/password mode)": (200, _lives(15, 300)),
    },
    "tokens": {
        "refreshToken: legacy refresh token: only exp inside": (401, "Unauthorized"),
        "produce/single: token: any scheme word": (401, "Unauthorized"),
        "produce/single: token: alg HS512 with the right secret": (401, "Unauthorized"),
        "produce/single: token: right signature, wrong password inside, user already connected: the cached connection "
        "is used": (
            401,
            "Unauthorized",
        ),
        "produce/single: token: legacy token: only exp inside (the gateway acts as its own root user)": (
            401,
            "Unauthorized",
        ),
    },
    "paths": {
        "authenticate: trailing slash": (200, _lives(15, 300)),
        "other routes: root path": (
            200,
            '{"links":{...',
        ),
        "other routes: unknown path, no token": (404, _NO_ROUTE),
    },
    "errors-are-json-and-tell-more": {
        "authenticate: account_id as a string": (400, "account_id: Not a valid integer."),
        "authenticate: no user name": (400, "username: Missing data for required field."),
        "authenticate: empty user name": (400, "username: Length must be between 1 and 1024."),
        "authenticate: user name is a number": (400, "username: Not a valid string."),
        "authenticate: body is an array": (400, "the body must be a JSON object"),
        "authenticate: body is not JSON": (400, _NO_JSON),
        "authenticate: empty body": (400, _NO_JSON),
        "authenticate: GET": (405, _NO_METHOD),
        "produce/single: station: empty name": (404, _NO_ROUTE),
        "other routes: resources (only with DEV_ENV=true)": (404, _NO_ROUTE),
        "other routes: unknown path, token": (404, _NO_ROUTE),
        "other routes: produce with GET": (405, _NO_METHOD),
        "other routes: produce with PUT": (405, _NO_METHOD),
    },
    "mistakes-of-the-sender": {
        "refreshToken: body is not JSON": (400, _NO_JSON),
        "refreshToken: no Content-Type": (415, _SEND_JSON),
        "refreshToken: empty body": (401, "Unauthorized"),
        "produce/single: station: name with a character that is not allowed": (400, _STATION_NAME),
        "produce/single: station: percent-encoded space": (400, _STATION_NAME),
        "produce/single: station: name of 129 characters": (400, _STATION_NAME),
        "produce/single: station: user without permission for the station": (
            403,
            "user app-rb is not allowed to access station rb-denied",
        ),
        "produce/single: station: user may not create that station": (
            403,
            "user app-rb is not allowed to create station rb-other",
        ),
        "produce/batch: an object, not an array": (400, "the body is not a JSON array"),
        "produce/batch: invalid JSON": (400, _NO_JSON),
        "produce/batch: empty body": (400, "the body is not a JSON array"),
        "produce/batch: bad station name": (400, _STATION_NAME),
        "produce/batch: user without permission": (403, "1 of 1 messages failed"),
    },
    "content-types": {
        "authenticate: no Content-Type": (415, _SEND_JSON),
        "authenticate: Content-Type text/plain": (415, _SEND_JSON),
        "produce/single: body and content type: application/x-protobuf with a parameter": (200, _STORED),
        "produce/single: body and content type: application/octet-stream": (415, _SEND_MESSAGE),
        "produce/single: body and content type: application/xml": (415, _SEND_MESSAGE),
        "produce/single: body and content type: no Content-Type": (200, _STORED),
        "produce/batch: JSON with charset": (200, _STORED),
        "produce/batch: text/plain": (415, _SEND_BATCH),
        "produce/batch: application/x-protobuf": (415, _SEND_BATCH),
        "produce/batch: no Content-Type": (415, _SEND_BATCH),
    },
    "json-has-to-be-json": {
        "produce/single: body and content type: invalid JSON with a JSON content type, no schema": (
            400,
            _NO_JSON,
        ),
        "produce/single: body and content type: empty body": (400, _NO_JSON),
    },
    "larger-requests": {
        "produce/single: body and content type: body of 4 MiB + 1": (200, _STORED),
        "produce/single: body and content type: a header of 5000 bytes": (200, _STORED),
    },
    "message-headers": {
        "produce/single: headers: a header that starts with $memphis": (200, _STORED),
    },
    "batches": {
        "produce/batch: empty array": (400, "the batch has no messages"),
        "produce/batch: numbers inside": (200, _STORED),
        "produce/batch: strings inside": (200, _STORED),
        "produce/batch: arrays inside": (200, _STORED),
        "produce/batch: schema: valid, invalid, valid, invalid": (400, "2 of 4 messages failed"),
        "produce/batch: schema: all invalid": (400, "2 of 2 messages failed"),
    },
    "schema-violations": {
        "produce/single: schemas: json schema, required property missing": (
            400,
            "Schema validation has failed: jsonschema: missing properties: 'id'",
        ),
        "produce/single: schemas: json schema, wrong type": (
            400,
            'Schema validation has failed: jsonschema: /id: the value is not of type "integer"',
        ),
        "produce/single: schemas: json schema, two errors": (
            400,
            'Schema validation has failed: jsonschema: /id: the value is not of type "integer"; '
            '/name: the value is not of type "string"',
        ),
        "produce/single: schemas: json schema, not JSON": (
            400,
            _NO_JSON,
        ),
        "produce/single: schemas: protobuf schema, invalid wire data": (
            400,
            "Schema validation has failed: protobuf: invalid message format, expecting protobuf peers.Order: ...",
        ),
        "produce/single: schemas: protobuf schema, JSON body": (
            400,
            "Schema validation has failed: protobuf: 15.4: invalid message format, expecting protobuf peers.Order: ...",
        ),
        "produce/single: schemas: avro schema, not JSON": (
            400,
            _NO_JSON,
        ),
        "produce/single: schemas: graphql schema, unknown field": (
            400,
            "Schema validation has failed: graphql: line 1, column 24: Cannot query field 'nope' on type 'Order'.",
        ),
        "produce/single: schemas: graphql schema, syntax error": (
            400,
            "Schema validation has failed: graphql: line 1, column 8: Syntax Error: Expected Name, found <EOF>.",
        ),
    },
    "avro-schemas": {
        "produce/single: schemas: avro schema, valid (JSON)": (200, _STORED),
        "produce/single: schemas: avro schema, field missing": (
            400,
            "Schema validation has failed: avro: missing fields: 'name'",
        ),
        "produce/single: schemas: avro schema, extra field": (200, _STORED),
        "produce/single: schemas: avro schema, wrong type": (
            400,
            "Schema validation has failed: avro: /id: must be int, not a string",
        ),
    },
}
