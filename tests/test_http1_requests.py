"""Bytes become requests or refusals; heads that repeat."""

import pytest

from proxy import http1_requests
from proxy.http1_repeats import known_head
from proxy.http1_requests import MAX_PIPELINED, Limits, Refusal, Request, RequestParser

BASE = {"SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"}
POST = b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
SCHEMES = (("HTTP_X_FORWARDED_PROTO", "https"),)


def parse(*pieces, limits=None, schemes=()):
    """A parser that was fed these pieces."""
    parser = RequestParser(limits or Limits(), BASE, schemes)
    for piece in pieces:
        parser.feed(piece)
    return parser


def body(request):
    """The request's body."""
    return request.environ["wsgi.input"].read()


def test_a_request_becomes_an_environ():
    """The head is in it, and the body."""
    [request] = parse(POST).ready
    assert body(request) == b"abc"
    assert (
        request.environ.items()
        >= {
            "REQUEST_METHOD": "POST",
            "RAW_URI": "/a?b",
            "PATH_INFO": "/a",
            "QUERY_STRING": "b",
            "HTTP_HOST": "h",
            "CONTENT_LENGTH": "3",
        }.items()
    )
    assert request.keep_alive


def test_any_split_gives_the_same_request():
    """Wherever the bytes are cut."""
    for cut in range(1, len(POST)):
        [request] = parse(POST[:cut], POST[cut:]).ready
        assert (body(request), request.environ["PATH_INFO"]) == (b"abc", "/a")


def test_the_base_stays_as_it_is():
    """Every request has an environ of its own."""
    first, second = parse(POST + POST).ready
    first.environ["HTTP_HOST"] = "changed"
    assert second.environ["HTTP_HOST"] == "h"
    assert BASE.keys() == {"SERVER_PROTOCOL", "wsgi.url_scheme"}


def test_more_requests_than_are_taken():
    """The last one that is taken says that the connection ends."""
    parser = parse(POST * (MAX_PIPELINED + 5))
    assert len(parser.ready) == MAX_PIPELINED
    assert not parser.ready[-1].keep_alive
    assert parser.cut_short


def test_nothing_is_parsed_after_the_last_request():
    """What follows `Connection: close` is ignored."""
    close = POST.replace(b"Host: h", b"Host: h\r\nConnection: close")
    parser = parse(close + b"garbage")
    assert [type(item) for item in parser.ready] == [Request]
    assert parser.finished
    assert not parser.cut_short


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (Limits(request_line=3), 414),
        (Limits(fields=1), 431),
        (Limits(field_bytes=5), 431),
        (Limits(field_bytes=50, head_bytes=10), 431),
        (Limits(body_bytes=2), 413),
    ],
)
def test_limits(limits, status):
    """Each has its status, and says in its sentence what the limit is."""
    [refusal] = parse(POST, limits=limits).ready
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    assert any(character.isdigit() for character in refusal.message)


UPGRADE = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: %bUpgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_what_is_wrong_behind_an_upgrade_is_refused():
    """It is no fault of ours, for which the connection would end without an answer."""
    [request, refusal] = parse(UPGRADE % b"" + b"3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n").ready
    assert body(request) == b"abc"
    assert refusal.status == 400


@pytest.mark.parametrize(
    ("chunks", "status"), [(b"zz\r\n", 400), (b"1\r\nx\r\n" * 40_000, 400), (b"fff\r\n" + b"x" * 2000, 413)]
)
def test_the_body_of_an_upgrade_that_closes_is_judged_as_any_other(chunks, status):
    """Its head says that the connection ends, which is not before the body's end."""
    [refusal] = parse(UPGRADE % b"close, ", chunks, limits=Limits(body_bytes=1000 if status == 413 else 100_000)).ready
    assert refusal.status == status


def test_a_length_of_thousands_of_digits_is_refused():
    """They are leading zeros, which Python would not make a number of."""
    [refusal] = parse(POST.replace(b"Length: 3", b"Length: " + b"0" * 5000 + b"3")).ready
    assert refusal.status == 400
    [request] = parse(POST.replace(b"Length: 3", b"Length: 03")).ready
    assert body(request) == b"abc"


def test_limits_of_what_is_incomplete():
    """Bytes without end are refused while they come, headers and blank lines alike."""
    limits = Limits(head_bytes=1000)
    for piece in (b"x" * 100, b"\r\n" * 50):
        parser = parse(b"GET / HTTP/1.1\r\nX: " if piece[0] != 13 else b"", *[piece] * 20, limits=limits)
        assert [item.status for item in parser.ready] == [431]


def test_a_large_body_does_not_count_as_a_head():
    """Nor does the beginning of the next request count for the one before."""
    large = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    parser = parse((large + POST)[:-20], (large + POST)[-20:], limits=Limits(head_bytes=500, field_bytes=100))
    assert [len(body(item)) for item in parser.ready] == [100_000, 3]


def test_caches_are_bounded():
    """No number of names and targets makes them grow."""
    for i in range(3000):
        parse(b"GET /%d HTTP/1.1\r\nHost: h\r\nX-%d: 1\r\n\r\n" % (i, i))
    assert len(http1_requests._keys) <= 1024
    assert len(http1_requests._targets) <= 1024


def test_targets_with_a_query_are_not_remembered():
    """A query may hold a token."""
    parse(b"GET /x?authorization=secret HTTP/1.1\r\nHost: h\r\n\r\n")
    assert not any(b"secret" in target for target in http1_requests._targets)


def test_forwarded_scheme_is_for_those_who_are_trusted():
    """Others cannot say that they came by TLS."""
    request = POST.replace(b"Host: h", b"Host: h\r\nX-Forwarded-Proto: https")
    assert parse(request).ready[0].environ["wsgi.url_scheme"] == "http"
    assert parse(request, schemes=SCHEMES).ready[0].environ["wsgi.url_scheme"] == "https"


def test_known_heads():
    """A head that was seen is recognised with a body of any length; its environ is the same but for that."""
    data = POST.replace(b"Host: h", b"Host: h\r\nX-A: 1")
    known = known_head(data, parse(data).ready[0], 100)
    for length in (0, 3, 42):
        repeated = data[:-3].replace(b"Length: 3", b"Length: %d" % length) + b"x" * length
        request, parsed = known.request(known.body(repeated)), parse(repeated).ready[0]
        assert body(request) == body(parsed)
        assert {**request.environ, "wsgi.input": 0} == {**parsed.environ, "wsgi.input": 0}


@pytest.mark.parametrize(
    "change",
    [
        (b"Host: h", b"Host: i"),
        (b"/a", b"/b"),
        (b"Length: 3", b"Length: 4"),
        (b"Length: 3", b"Length: 2"),
        (b"Length: 3", b"Length: +3"),
        (b"Length: 3", b"Length: 3 "),
        (b"Length: 3", b"Length: 03"),
        (b"Length: 3", b"Length: "),
        (b"Length: 3", b"Length: 3\r\nContent-Length: 3"),
        (b"Length: 3\r\n", b"Length: 3\r\nX-A: 1\r\n"),
        (b"Length: 3\r\n\r\n", b"Length: 3\n\r\n"),
        (b"abc", b"abcGET / HTTP/1.1\r\n\r\n"),
        (b"Length: 3\r\n\r\nabc", b"Length: 101\r\n\r\n" + b"x" * 101),
    ],
)
def test_heads_that_are_not_known(change):
    """Anything else goes to the parser."""
    known = known_head(POST, parse(POST).ready[0], 100)
    assert known.body(POST) == b"abc"
    assert known.body(POST.replace(*change)) is None


@pytest.mark.parametrize(
    "header", [b"Connection: close", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Upgrade: h2c"]
)
def test_heads_that_are_not_remembered(header):
    """Those that mean more than a body of some length."""
    data = POST.replace(b"Content-Length: 3" if b"Transfer" in header else b"Host: h", b"Host: h\r\n" + header)
    [item] = parse(data.replace(b"abc", b"0\r\n\r\n") if b"Transfer" in header else data).ready
    assert isinstance(item, Refusal) or known_head(data, item, 100) is None
