"""Bodies become messages, byte for byte, or are refused with what is wrong."""

from __future__ import annotations

import pytest

from proxy import shaping
from proxy.errors import BadBody, TooLarge, UnsupportedMediaType
from proxy.shaping import form_of

JSON = "application/json"
NDJSON = "application/x-ndjson"
MOST = 10_000


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("", "text"),
        ("text", "text"),
        ("text/plain", "text"),
        ("text/html; charset=utf-8", "text"),
        ("TEXT/CSV", "text"),
        (" text/plain ", "text"),
        (JSON, "json"),
        (f"{JSON}; charset=utf-8", "json"),
        ("Application/JSON", "json"),
        ("application/cloudevents+json", "json"),
        ("application/vnd.x+json;v=1", "json"),
        ("application/x-protobuf", "protobuf"),
        ("application/x-protobuf; v=1", "protobuf"),
        ("application/protobuf", "protobuf"),
        (NDJSON, "ndjson"),
        ("application/ndjson", "ndjson"),
        ("application/octet-stream", None),
        ("application/xml", None),
        ("application/jsonx", None),
        ("application/json-seq", None),
        ("textual/plain", None),
        ("texts", None),
        ("json", None),
        ("multipart/form-data; boundary=x", None),
        ("application/x-www-form-urlencoded", None),
        ("é/ü", None),
    ],
)
def test_content_types_say_what_the_body_is(content_type: str, form: str | None) -> None:
    """Parameters, blanks and the case of letters do not count; what is not listed is not guessed."""
    assert form_of(content_type) == form


# ---- single --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["", "text", "text/plain", "application/x-protobuf", "application/protobuf"])
@pytest.mark.parametrize("body", [b"x", b"\0\xff\xfe\r\n", b'{"a":', bytes(range(256))])
def test_text_and_protobuf_are_taken_as_they_are(content_type: str, body: bytes) -> None:
    """Any bytes."""
    assert shaping.single(content_type, body) == body


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b" [1,\r\n\t2] ",
        b'{"b":1,"a":2,"b":3}',
        b"12345678901234567890.10",
        b"-0.0E+00",
        b'"\\u00e9\xc3\xa9"',
        b"null",
    ],
)
@pytest.mark.parametrize("content_type", [JSON, "application/x+json"])
def test_json_is_never_written_anew(content_type: str, body: bytes) -> None:
    """Blanks, order, duplicate keys, digits and escapes stay as they were sent."""
    assert shaping.single(content_type, body) == body


@pytest.mark.parametrize("content_type", ["", "text/plain"])
def test_an_empty_text_is_refused(content_type: str) -> None:
    """It is a mistake more often than a message."""
    with pytest.raises(BadBody, match="empty"):
        shaping.single(content_type, b"")


def test_an_empty_protobuf_is_a_message() -> None:
    """In protobuf no bytes are the message whose fields are all unset."""
    assert shaping.single("application/x-protobuf", b"") == b""


@pytest.mark.parametrize("content_type", [NDJSON, "application/octet-stream", "application/xml", "x"])
def test_single_names_what_it_takes(content_type: str) -> None:
    """415 says which content types would do."""
    with pytest.raises(UnsupportedMediaType, match=r"text/\*, application/json.*application/x-protobuf"):
        shaping.single(content_type, b"{}")


# ---- batch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "payloads"),
    [
        (b"[1]", [b"1"]),
        (b'[1,"a",null,true,{},[],-1.50]', [b"1", b'"a"', b"null", b"true", b"{}", b"[]", b"-1.50"]),
        (b' \r\n[ 1 ,\t{ "a" : [ 1 ] } ]\n ', [b"1", b'{ "a" : [ 1 ] }']),
        (b'[{"z":1,"a":9007199254740993,"a":1.0}]', [b'{"z":1,"a":9007199254740993,"a":1.0}']),
        (b'["]","[,","\\"]"]', [b'"]"', b'"[,"', b'"\\"]"']),
        ('["é"]'.encode(), ['"é"'.encode()]),
    ],
)
def test_the_elements_of_an_array_are_the_messages(body: bytes, payloads: list[bytes]) -> None:
    """Any JSON value is one, and its bytes are those that were sent, without the blanks around it."""
    assert shaping.batch(JSON, body, MOST) == payloads


@pytest.mark.parametrize(
    ("body", "payloads"),
    [
        (b"1", [b"1"]),
        (b"1\n2\n", [b"1", b"2"]),
        (b'{"a": 1}\r\n{"b": 2}\r\n', [b'{"a": 1}', b'{"b": 2}']),
        (b"\n\n 1 \n\t\r\n\n2", [b"1", b"2"]),
        (b'"a b"\n[1, 2]', [b'"a b"', b"[1, 2]"]),
    ],
)
def test_the_lines_of_ndjson_are_the_messages(body: bytes, payloads: list[bytes]) -> None:
    """Lines may end with CR LF; blank ones are skipped; blanks around a value are not part of it."""
    assert shaping.batch(NDJSON, body, MOST) == payloads


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not a JSON array"),
        (b"  ", "not a JSON array"),
        (b"{}", "not a JSON array"),
        (b"null", "not a JSON array"),
        (b"1,2", "not a JSON array"),
        (b"[]", "no messages"),
        (b" [ ] ", "no messages"),
        (b"[1,]", "not JSON"),
        (b"[1 2]", "not JSON"),
        (b"[1", "not JSON"),
        (b"[1]]", "not JSON"),
        (b"[1][2]", "not JSON"),
        (b"[NaN]", "not JSON"),
        (b'["\\ud800"]', "not JSON"),
        (b"\xef\xbb\xbf[1]", "byte order mark"),
        (b'["\xff"]', r"not UTF-8 \(byte 2\)"),
        (b"[" + b"[" * 129 + b"]" * 129 + b"]", "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_array_is_refused(body: bytes, what: str) -> None:
    """The whole batch, before anything is sent, with what is wrong."""
    with pytest.raises(BadBody, match=what):
        shaping.batch(JSON, body, MOST)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (rb'["\ud800"]', "lone surrogate (byte 2)"),
        (rb'["\ud83d\n"]', "lone surrogate (byte 2)"),
        (rb'["\ud83d\ude00", "a\udbff"]', "lone surrogate (byte 19)"),
        (rb'["\ud800 and more text"]', "(byte 8)"),
        (rb'["\ud800', "Input data was truncated"),
        (rb'["\\ud800"', "Input data was truncated"),
        (rb'["\ud8', "Input data was truncated"),
    ],
)
def test_half_a_surrogate_pair_at_the_end_is_called_what_it_is(body: bytes, what: str) -> None:
    """And a text that ends too early is called so, whatever it ends with."""
    with pytest.raises(BadBody) as caught:
        shaping.batch(JSON, body, MOST)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "no messages"),
        (b"\n \r\n\t\n", "no messages"),
        (b"1\n\n{nope\n2", "line 3 is not JSON"),
        (b"1\n2 3\n", "line 2 is not JSON"),
        (b'\r\n\r\n{"a":\r\n1}\r\n', "line 3 is not JSON"),
        (b"\xef\xbb\xbf1\n2", "line 1 begins with a byte order mark"),
        (b'1\n"\xff"', "line 2 is not UTF-8"),
        (b"1\n" + b"[" * 129 + b"]" * 129, "line 2 is nested too deeply"),
        (b"1\r2", "line 1 is not JSON"),
    ],
)
def test_bad_ndjson_is_refused_with_its_line(body: bytes, what: str) -> None:
    """The number counts all lines, from 1, blank ones too."""
    with pytest.raises(BadBody, match=what):
        shaping.batch(NDJSON, body, MOST)


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_a_batch_has_a_largest_size(content_type: str) -> None:
    """As many as allowed are taken, one more is not; the limit is named."""
    elements = [b"1"] * 5
    body = b"\n".join(elements) if content_type == NDJSON else b"[" + b",".join(elements) + b"]"
    assert len(shaping.batch(content_type, body, 5)) == 5
    with pytest.raises(TooLarge, match="at most 4 messages"):
        shaping.batch(content_type, body, 4)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-protobuf", "application/xml"])
def test_batch_names_what_it_takes(content_type: str) -> None:
    """415 says which content types would do."""
    with pytest.raises(UnsupportedMediaType, match="application/json, application/x-ndjson"):
        shaping.batch(content_type, b"[1]", MOST)
