"""Bad input to `/stations`: each a clear error, and nothing stored."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from tests.application import IN_CHUNKS, JSON, Api, payloads, unreadable
from tests.servers import NatsServer
from tests.ways import api

__all__ = ["api"]  # a fixture

pytestmark = pytest.mark.usefixtures("nothing_stored")

NDJSON = "application/x-ndjson"
ROUTES = ["single", "batch"]


def _assert_refused(answer: Response, status: int, *words: str) -> None:
    """The status, the truth that nothing is stored and that repeating is of no use, and words that help."""
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["repeat"], body["success"]) == (status, "no", "never", False)
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert all(word in body["error"] for word in words), body["error"]


# ---- bodies --------------------------------------------------------------------------------------------------------

NO_JSON = {
    "not JSON": (b"[nope", "not JSON"),
    "empty": (b"", "JSON"),
    "blank": (b" \r\n", "JSON"),
    "cut off": (b'[{"a": 1}', "not JSON"),
    "two documents": (b"[1] [2]", "not JSON"),
    "trailing comma": (b"[1,]", "not JSON"),
    "NaN": (b"[NaN]", "not JSON"),
    "Infinity": (b"[-Infinity]", "not JSON"),
    "invalid UTF-8": (b'["\xff"]', "not UTF-8"),
    "UTF-8 of a surrogate": (b'["\xed\xa0\x80"]', "not UTF-8"),
    "UTF-16": ("[1]".encode("utf-16-le"), "JSON"),
    "byte order mark": (b"\xef\xbb\xbf[1]", "byte order mark"),
    "lone surrogate": (b'["\\ud800"]', "not JSON"),
    "too deep": (b"[" * 130 + b"]" * 130, "nested too deeply (at most 128 levels)"),
    "much too deep": (b"[" * 200_000, "nested too deeply"),
    "raw line break in a string": (b'["\n"]', "not JSON"),
    "NUL": (b"[1]\0", "not JSON"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("content_type", [JSON, "application/cloudevents+json"])
@pytest.mark.parametrize("what", NO_JSON)
def test_what_is_not_json_is_refused(api: Api, station: str, what: str, content_type: str, route: str) -> None:
    """400, in words that say what is wrong with it."""
    body, words = NO_JSON[what]
    _assert_refused(api.post(f"/stations/{station}/produce/{route}", body, content_type), 400, words)


def test_a_depth_of_129_is_refused(api: Api, station: str) -> None:
    """One level above the limit; in a batch the array around the elements does not count."""
    deep = b"[" * 129 + b"]" * 129
    for answer in (api.single(station, deep), api.batch(station, b"[" + deep + b"]"), api.batch(station, deep, NDJSON)):
        _assert_refused(answer, 400, "nested too deeply (at most 128 levels)")


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (JSON, b"{}", "not a JSON array"),
        (JSON, b'"text"', "not a JSON array"),
        (JSON, b"null", "not a JSON array"),
        (JSON, b"[]", "no messages"),
        (NDJSON, b"", "no messages"),
        (NDJSON, b"\r\n\n  \n", "no messages"),
        (NDJSON, b"1\n2\nnope\n4", "line 3"),
        (NDJSON, b'1\n"\xff"\n', "line 2 is not UTF-8"),
        (NDJSON, b"\xef\xbb\xbf1\n", "line 1 begins with a byte order mark"),
        (NDJSON, b'{"a":\n1}', "line 1"),
    ],
)
def test_a_bad_batch_is_refused_whole(api: Api, station: str, content_type: str, body: bytes, words: str) -> None:
    """A body that cannot be taken apart stores none of its elements."""
    _assert_refused(api.batch(station, body, content_type), 400, words)


@pytest.mark.parametrize("content_type", [None, "text", "text/plain"])
def test_an_empty_text_is_refused(api: Api, station: str, content_type: str | None) -> None:
    """400: a message has at least one byte."""
    _assert_refused(api.single(station, b"", content_type), 400, "empty")


@pytest.mark.parametrize(
    "content_type", ["application/octet-stream", "application/xml", "x", "multipart/form-data", NDJSON]
)
def test_single_refuses_other_types(api: Api, station: str, content_type: str) -> None:
    """415 names what is taken."""
    answer = api.single(station, b"1", content_type)
    _assert_refused(answer, 415, "text/*", "application/json", "application/x-protobuf")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-protobuf", "application/xml"])
def test_batch_refuses_other_types(api: Api, station: str, content_type: str | None) -> None:
    """415 names what is taken."""
    _assert_refused(api.batch(station, b"[1]", content_type), 415, "application/json", "application/x-ndjson")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "deflate, gzip", "gzip, gzip", "gzip,identity", "x"])
def test_an_unknown_encoding_is_refused(api: Api, station: str, encoding: str, route: str) -> None:
    """415 says which one is known: what would be stored is not what consumers expect."""
    answer = api.post(f"/stations/{station}/produce/{route}", b"[1]", headers={"Content-Encoding": encoding})
    _assert_refused(answer, 415, "Content-Encoding")
    assert answer.headers["Accept-Encoding"] == "gzip"


GOOD_GZIP = gzip.compress(b'["good"]')
BAD_GZIP = {
    "not gzip": (b'["good"]', "not gzip"),
    "empty": (b"", "cut off"),
    "only a head": (GOOD_GZIP[:10], "cut off"),
    "no sum": (GOOD_GZIP[:-8], "cut off"),
    "a byte missing": (GOOD_GZIP[:-1], "cut off"),
    "another sum": (GOOD_GZIP[:-8] + b"\0" * 8, "not gzip"),
    "something behind it": (GOOD_GZIP + b"x", "cut off"),
    "zeros behind it": (GOOD_GZIP + b"\0" * 512, "not gzip"),
    "a request behind it": (GOOD_GZIP + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "not gzip"),
    "a part of another behind it": (GOOD_GZIP + GOOD_GZIP[:-4], "cut off"),
    "zlib": (zlib.compress(b'["good"]'), "not gzip"),
    "damaged": (GOOD_GZIP[:12] + b"\xff" + GOOD_GZIP[13:], "not gzip"),
    "a flag that nobody knows": (GOOD_GZIP[:3] + b"\xe0" + GOOD_GZIP[4:], "not gzip"),
    "nothing many times": (gzip.compress(b"") * 101 + GOOD_GZIP, "more than 100 gzip members"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("what", BAD_GZIP)
def test_bad_gzip_is_refused(api: Api, station: str, what: str, route: str) -> None:
    """400: nothing is stored of what came before the mistake."""
    body, words = BAD_GZIP[what]
    answer = api.post(f"/stations/{station}/produce/{route}", body, headers={"Content-Encoding": "gzip"})
    _assert_refused(answer, 400, words)


@pytest.mark.parametrize("route", ROUTES)
def test_a_bomb_is_refused(api: Api, station: str, route: str) -> None:
    """413 at the limit of bodies, also where it is reached by several members."""
    for bomb in (gzip.compress(b"0" * (30 << 20)), gzip.compress(b"0" * (1 << 20)) * 9):
        answer = api.post(f"/stations/{station}/produce/{route}", bomb, headers={"Content-Encoding": "gzip"})
        _assert_refused(answer, 413, "8388608 bytes when inflated")


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_without_a_length_is_refused(api: Api, station: str, route: str) -> None:
    """411: neither a length nor chunks."""
    answer = api.post(f"/stations/{station}/produce/{route}", b"[1]", environ_overrides={"CONTENT_LENGTH": None})
    _assert_refused(answer, 411, "Content-Length")


@pytest.mark.parametrize("route", ROUTES)
def test_a_long_body_is_refused_unread(api: Api, station: str, route: str) -> None:
    """413, judged by its length: nobody has to wait for 8 MiB to hear that they are one byte too many."""
    overrides = unreadable((8 << 20) + 1)
    answer = api.post(f"/stations/{station}/produce/{route}", environ_overrides=overrides)
    _assert_refused(answer, 413, "8388608 bytes")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [11, 12, 20, 200_000])
def test_a_long_body_in_chunks_is_refused(
    make_app: Callable[..., Flask], broker: NatsServer, station: str, size: int, route: str
) -> None:
    """413 as soon as it has become too long; what has come until then is not taken for the message."""
    api = Api(make_app(broker.url, MAX_BODY_BYTES="10"))
    body, content_type = (b"x" * size, "text/plain") if route == "single" else (b"[1]" + b" " * (size - 3), JSON)
    answer = api.post(f"/stations/{station}/produce/{route}", body, content_type, environ_overrides=IN_CHUNKS)
    _assert_refused(answer, 413, "10 bytes")


def test_a_body_that_ends_early_is_refused(api: Api, station: str) -> None:
    """The client is gone: what came of the message is not the message."""
    overrides = {"CONTENT_LENGTH": "10"}
    answer = api.post(f"/stations/{station}/produce/single", b"12345", "text/plain", environ_overrides=overrides)
    assert answer.status_code == 400


# ---- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nNats-Rollup: all", "a\0b"])
def test_a_header_that_would_end_its_line_is_refused(api: Api, station: str, value: str, route: str) -> None:
    """400 names the header; the broker never sees it."""
    answer = api.post(f"/stations/{station}/produce/{route}", b"[1]", environ_overrides={"HTTP_X_ONE": value})
    _assert_refused(answer, 400, "header x-one")


@pytest.mark.parametrize(
    ("headers", "words"),
    [({f"X-{n}": "v" for n in range(65)}, "64 headers"), ({"X-A": "v" * 5000, "X-B": "v" * 5000}, "8192 bytes")],
)
def test_too_many_headers_are_refused(api: Api, station: str, headers: dict[str, str], words: str) -> None:
    """400 names the limit."""
    _assert_refused(api.single(station, b"1", **headers), 400, words)


# ---- names of stations ---------------------------------------------------------------------------------------------

NAMES = [
    *(
        "a b",
        "%20a",
        "a%20",
        "a*",
        "a*b",
        "a>b",
        "*",
        ">",
        "a.>",
        "a.*",
        "$JS",
        "$SYS.x",
        "%24JS.API",
        "..",
        "%2e%2e",
        "a/b",
        "a%2fb",
    ),
    *("..%2fa", "../a", "a%0d%0ab", "a%0a", "%0ax", "a%00", "a%09b", ".a", "a.", "-a", "a-", "_a", "a_", "a,b", "a;b"),
    *(
        "a%23b",
        "%c3%a9",
        "a%ff",
        "%e2%84%aa",
        "a%25b",
        "a'b",
        "a(b)",
        "x" * 129,
        "a\\b",
        "~",
        "a=b",
        "a:b",
        "a@b",
        "%7f",
    ),
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_name_is_refused(api: Api, name: str, route: str) -> None:
    """400 says what a name looks like."""
    _assert_refused(api.post(f"/stations/{name}/produce/{route}", b"[1]"), 400, "station name", "1 to 128 letters")


@pytest.mark.parametrize(
    "path", ["/stations//produce/single", "/stations/produce/single", "/stations/a/produce/single%0a"]
)
def test_no_name_is_no_route(api: Api, path: str) -> None:
    """404, as for every path that does not exist."""
    _assert_refused(api.post(path, b"[1]"), 404)


def test_bad_names_never_reach_the_wire(nats_server: Callable[..., NatsServer], make_app: Callable[..., Flask]) -> None:
    """The broker, which notes everything it is sent, sees no publish for any of them."""
    server = nats_server("trace: true", users={"root": "memphis"})
    api = Api(make_app(server.url))
    assert api.single("good").status_code == 200
    before = server.log().count("PUB ")
    for name in NAMES:
        assert api.single(name).status_code == 400
    assert before > 0
    assert api.single("good").status_code == 200  # whatever was sent before it has arrived by now
    assert server.log().count("PUB ") == before + 1
    assert payloads(server, "good") == [b"{}", b"{}"]


# ---- methods and tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("route", ROUTES)
def test_another_method_is_refused(api: Api, station: str, method: str, route: str) -> None:
    """405 with `Allow`, without a token too."""
    answer = api.request(method, f"/stations/{station}/produce/{route}")
    _assert_refused(answer, 405)
    assert "POST" in answer.headers["Allow"].split(", ")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x.y.z", "Basic cm9vdDptZW1waGlz", "Bearer {cut}", "{token}"]
)
def test_without_a_good_token_nothing_is_stored(api: Api, station: str, header: str | None, route: str) -> None:
    """401 before anything else is looked at: with the challenge, and as old clients know it."""
    given = None if header is None else header.format(token=api.token, cut=api.token[:-5])
    answer = api.post(f"/stations/{station}/produce/{route}", b"{nope", "x", headers={"Authorization": given})
    _assert_refused(answer, 401, "Unauthorized")
    assert (answer.headers["WWW-Authenticate"], answer.get_json()["message"]) == ("Bearer", "Unauthorized")
