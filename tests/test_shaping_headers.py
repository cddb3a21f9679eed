"""Which request headers are stored with a message, and under which name."""

from __future__ import annotations

import pytest

from proxy.config import Config
from proxy.errors import BadHeader
from proxy.shaping import MAX_HEADER_BYTES, MAX_HEADERS, MAX_KNOWN_NAMES, MAX_KNOWN_PLANS, HeaderFilter

DEFAULT = Config().forward_headers
EVERYTHING = ("*",)


def _stored(*sent: tuple[str, str], patterns: tuple[str, ...] = DEFAULT) -> list[tuple[str, str]]:
    """What is stored of these request headers."""
    environ = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in sent}
    return list(HeaderFilter(patterns).pick(environ))


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("x-one", "x-one"),
        ("X-One-Two", "x-one-two"),
        ("X-B3-TraceId", "x-b3-traceid"),
        ("ce-id", "ce-id"),
        ("webhook-id", "webhook-id"),
        ("msg-color", "color"),
        ("Msg-X-Color", "x-color"),
        ("msg-content-type", "content-type"),
        ("msg-msg-color", "msg-color"),
        ("traceparent", None),
        ("user-agent", None),
        ("accept", None),
        ("host", None),
        ("origin", None),
        ("referer", None),
        ("msg-", None),
        ("xx-one", None),
    ],
)
def test_the_default_patterns_choose_headers(sent: str, stored: str | None) -> None:
    """`x-*`, `ce-*`, `webhook-*`, and `msg-<name>` under its shorter name, in lower case; others are not stored."""
    assert _stored((sent, "v")) == ([(stored, "v")] if stored else [])


NEVER = [
    *("authorization", "cookie", "proxy-authorization", "proxy-connection", "proxy-x", "x-forwarded-for"),
    *("x-forwarded-proto", "x-forwarded-x", "x-real-ip", "connection", "keep-alive", "te", "trailer", "trailers"),
    *("transfer-encoding", "upgrade", "nats-msg-id", "nats-rollup", "nats-expected-stream", "nats-x", "$x"),
    *("$memphis_producedby", "msg-id", "msg-partition-key", "partition-key", "idempotency-key", "x-request-id"),
    *("x-token", "x-csrf-token", "tokens", "x-secret", "x-client-secret-2", "x-auth", "x-author", "authority"),
    *("x-password", "x-passwords", "x-api-key", "x-my-apikey", "session", "x-sessionid", "x-csrf", "x-jwt", "jwt-x"),
]


@pytest.mark.parametrize("prefix", ["", "msg-", "Msg-"])
@pytest.mark.parametrize("name", NEVER)
def test_secrets_and_names_of_the_brokers_are_never_stored(name: str, prefix: str) -> None:
    """Not even where a pattern takes everything, nor by the detour of `msg-`."""
    assert _stored((prefix + name, "v"), patterns=EVERYTHING) == []


def test_the_encoding_of_a_request_is_not_that_of_its_message() -> None:
    """It has been undone; a sender whose payload is encoded says so by `msg-`."""
    sent = [("content-encoding", "gzip"), ("msg-content-encoding", "br")]
    assert _stored(*sent, patterns=EVERYTHING) == [("content-encoding", "br")]


def test_a_filter_takes_what_its_patterns_say() -> None:
    """The operator's list replaces the default one."""
    sent = [("traceparent", "1"), ("x-one", "2"), ("user-agent", "3"), ("content-type-x", "4")]
    assert _stored(*sent, patterns=("traceparent", "user-*")) == [("traceparent", "1"), ("user-agent", "3")]


def test_the_content_type_is_stored_as_sent() -> None:
    """WSGI keeps it apart from the other headers."""
    assert HeaderFilter(DEFAULT).pick({"CONTENT_TYPE": "Text/Plain; v=1"}) == (("content-type", "Text/Plain; v=1"),)
    assert HeaderFilter(("x-*",)).pick({"CONTENT_TYPE": "text/plain"}) == ()
    assert HeaderFilter(DEFAULT).pick({"CONTENT_TYPE": ""}) == ()


def test_the_content_type_may_be_replaced() -> None:
    """The elements of a batch have one of their own."""
    pairs = HeaderFilter(DEFAULT).pick({"CONTENT_TYPE": "application/x-ndjson"}, content_type="application/json")
    assert pairs == (("content-type", "application/json"),)


def test_what_is_no_header_is_not_stored() -> None:
    """Of a WSGI environment only the headers count, whatever the patterns."""
    environ = {"PATH_INFO": "/x", "wsgi.url_scheme": "http", "x-one": "1", "CONTENT_LENGTH": "7", "X_ONE": "1"}
    assert HeaderFilter(EVERYTHING).pick(environ) == ()


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nnats-rollup: all", "\n", "a\0b", "\0"])
def test_a_value_that_would_end_its_line_is_refused(value: str) -> None:
    """CR, LF and NUL are a clear error that names the header, never another header."""
    with pytest.raises(BadHeader, match="x-one"):
        _stored(("x-one", value))


def test_a_line_break_in_a_content_type_is_refused() -> None:
    """It is stored too."""
    with pytest.raises(BadHeader, match="content-type"):
        HeaderFilter(DEFAULT).pick({"CONTENT_TYPE": "text/plain\r\nx: y"})


def test_values_that_are_not_stored_are_not_judged() -> None:
    """What a proxy adds for itself cannot stop a message."""
    assert _stored(("user-agent", "a\0b")) == []


def test_the_number_of_headers_is_limited() -> None:
    """64 are stored, one more is an error, not a loss."""
    sent = [(f"x-{number}", "v") for number in range(MAX_HEADERS + 1)]
    assert len(_stored(*sent[:-1])) == 64
    with pytest.raises(BadHeader, match="64"):
        _stored(*sent)


def test_the_bytes_of_headers_are_limited() -> None:
    """Names and values together: 8 KiB are stored, one byte more is an error."""
    assert len(_stored(("x-a", "v" * 4000), ("x-b", "v" * (MAX_HEADER_BYTES - 4006)))) == 2
    with pytest.raises(BadHeader, match="8192"):
        _stored(("x-a", "v" * 4000), ("x-b", "v" * (MAX_HEADER_BYTES - 4005)))


@pytest.mark.parametrize(
    "raw", ["é".encode(), "é".encode("latin-1"), b"\xff\xfe", "日本".encode(), b"a\xc3b", bytes(range(128, 256))]
)
def test_the_bytes_of_a_value_stay(raw: bytes) -> None:
    """WSGI hands bytes over as Latin-1; what is given to the broker stands for the same bytes."""
    ((_, value),) = _stored(("x-one", raw.decode("latin-1")))
    assert value.encode("utf-8", "surrogateescape") == raw


def test_the_memory_of_names_is_bounded() -> None:
    """A sender that invents names costs no memory, and is judged as before."""
    headers = HeaderFilter(DEFAULT)
    for number in range(MAX_KNOWN_NAMES + 100):
        assert headers.pick({f"HTTP_X_{number}": "v"}) == ((f"x-{number}", "v"),)
    assert headers.pick({"HTTP_X_TOKEN_NEW": "v", "HTTP_X_NEW": "v"}) == (("x-new", "v"),)
    assert len(vars(headers)["_known"]) <= MAX_KNOWN_NAMES


def test_what_senders_make_up_does_not_displace_for_good_what_others_send() -> None:
    """Else one sender with many sets of headers made all later requests of others dearer. Long ones are not kept."""
    headers = HeaderFilter(("x-*",))
    for number in range(MAX_KNOWN_PLANS + 10):
        headers.pick({f"HTTP_X_{number}": "1"})
        headers.pick({f"HTTP_X_{number}_{'A' * 5000}": "1"})
    assert headers.pick({"HTTP_X_OTHER": "1"}) == (("x-other", "1"),)
    remembered = vars(headers)
    assert ("HTTP_X_OTHER",) in remembered["_plans"]
    assert "HTTP_X_OTHER" in remembered["_known"]
    assert max(len(variables[0]) for variables in remembered["_plans"]) < 5000
    assert max(map(len, remembered["_known"])) < 5000
