"""The bytes of a publish on the wire."""

from __future__ import annotations

import pytest

from proxy.brokers import frames
from proxy.keys import elements
from proxy.messages import Message


def test_a_message_states_the_sizes_of_its_headers_and_of_all() -> None:
    """`HPUB` counts header bytes first, then headers and payload together, without the line end that follows."""
    head = b"NATS/1.0\r\nNats-Msg-Id:k\r\n\r\n"
    frame = frames.publish("orders.final", "_INBOX.a.1", (len(head), head + b"hello"))
    assert frame == b"HPUB orders.final _INBOX.a.1 27 32\r\n" + head + b"hello\r\n"


def test_a_payload_is_framed_byte_for_byte() -> None:
    """Line ends and NUL inside a payload are data."""
    payload = bytes(range(256)) + b"\r\nPUB other 0\r\n\r\n"
    frame = frames.publish("s", "r", (1, b"H" + payload))
    assert frame == b"HPUB s r 1 %d\r\nH%b\r\n" % (len(payload) + 1, payload)


def test_a_request_has_no_headers() -> None:
    """`PUB` states the size of the payload, which may be empty."""
    assert frames.request("$JS.API.INFO", "_INBOX.a.1", b"{}") == b"PUB $JS.API.INFO _INBOX.a.1 2\r\n{}\r\n"
    assert frames.request("a", "b", b"") == b"PUB a b 0\r\n\r\n"


def test_headers_begin_with_the_id() -> None:
    """The header block is the version, the id under the broker's name for it, the message's own, an empty line."""
    pairs = (("content-type", "application/json"), ("x-trace", "1"))
    block = frames.headers("Nats-Msg-Id", "u.k", pairs)
    assert block == b"NATS/1.0\r\nNats-Msg-Id:u.k\r\ncontent-type: application/json\r\nx-trace: 1\r\n\r\n"


def test_headers_may_be_the_id_alone() -> None:
    """A message without headers of its own still has its id."""
    assert frames.headers("msg-id", "u.k", ()) == b"NATS/1.0\r\nmsg-id:u.k\r\n\r\n"


def test_messages_with_the_same_headers_have_each_their_own_id() -> None:
    """What messages have in common is encoded once; the id is not among it."""
    pairs = (("x-a", "1"),)
    first, second = (frames.headers("Nats-Msg-Id", key, pairs) for key in ("one", "two"))
    assert (b":one\r\n" in first, b":two\r\n" in second) == (True, True)
    assert first.replace(b"one", b"two") == second


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\0"])
@pytest.mark.parametrize("place", ["name", "value"])
def test_no_header_adds_another_one(end: str, place: str) -> None:
    """What would end a line is taken out of names and values."""
    bad = f"a{end}nats-rollup: all"
    pairs = ((bad, "v") if place == "name" else ("x", bad),)
    block = frames.headers("Nats-Msg-Id", "k", pairs)
    assert block.count(b"\r\n") == 4
    assert block.replace(b"\r\n", b"").translate(None, b"\r\n\0") == block.replace(b"\r\n", b"")


def test_header_values_keep_bytes_that_are_no_utf_8() -> None:
    """A value that came as Latin-1 leaves as it came."""
    value = b"caf\xe9 \xff".decode("utf-8", "surrogateescape")
    assert b"x-name: caf\xe9 \xff\r\n" in frames.headers("Nats-Msg-Id", "k", (("x-name", value),))


def test_header_values_outside_ascii_are_utf_8() -> None:
    """Text is encoded as UTF-8."""
    assert "x-name: caf\u00e9".encode() in frames.headers("Nats-Msg-Id", "k", (("x-name", "caf\u00e9"),))


def test_a_batch_tells_which_message_begins_it_and_which_ends_it() -> None:
    """Each has its number, and one of the operations begin, go on, commit; a `%` in a subject is one."""
    blocks = [(1, b"Ha"), (1, b"H"), (1, b"H%d\r\n")]
    assert frames.batch("a%d", "r.7.500.fail.", blocks) == (
        b"HPUB a%d r.7.500.fail.1.0.$FI 1 2\r\nHa\r\n"
        b"HPUB a%d r.7.500.fail.2.1.$FI 1 1\r\nH\r\n"
        b"HPUB a%d r.7.500.fail.3.2.$FI 1 5\r\nH%d\r\n\r\n"
    )


HEADERS = (("content-type", "application/json"), ("x-share", "100%d"))


def test_the_elements_of_a_batch_are_sent_as_other_messages_are() -> None:
    """What is quicker for many that are alike gives the same bytes: each with its own id, sizes and payload."""
    alike = elements("%namespace", "key%s", [b"one", b"%d", b"\r\n\0"], HEADERS, named=True)
    one_by_one = list(alike)
    marks = (("x-mark", "%s"),)
    for indexes in ([0, 1, 2], [2, 0], []):
        found = frames.blocks("Nats-Msg-Id", marks, alike, indexes)
        assert found == frames.blocks("Nats-Msg-Id", marks, one_by_one, indexes)
        for index, (size, data) in zip(indexes, found, strict=True):
            message = one_by_one[index]
            head = frames.headers("Nats-Msg-Id", message.key, message.headers + marks)
            assert (data[:size], data[size:]) == (head, message.payload)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (10, 1), (11, 1), (101, 1), (101, 100)])
def test_a_whole_batch_is_sent_as_its_elements_are(count: int, size: int) -> None:
    """Made in one piece it has the bytes that its elements have one by one; nothing in them is taken for a format."""
    payloads = [b"%d" * n * size for n in range(count)]
    messages = elements("%namespace", "key%s", payloads, HEADERS, named=True)
    marks = (("x-mark", "%s"),)
    whole = frames.whole("Nats-Msg-Id", marks, messages, count)
    blocks = frames.blocks("Nats-Msg-Id", marks, messages, range(count))
    assert whole is not None
    assert whole.frames("a%d", "r.7.500.fail.") == frames.batch("a%d", "r.7.500.fail.", blocks)
    assert 0 <= whole.largest() - max(len(data) for _, data in blocks) < len(str(count))


def test_only_a_whole_batch_goes_in_one_piece() -> None:
    """Not a part of one, not messages of their own, and none of a size of which no form is kept."""
    one, few, many = (elements("n", "k", [b"1"] * count, (), named=True) for count in (1, 70, 1001))
    assert frames.whole("Nats-Msg-Id", (), one, 1) is None
    assert frames.whole("Nats-Msg-Id", (), few, 69) is None
    assert frames.whole("Nats-Msg-Id", (), list(few), 70) is None
    assert frames.whole("Nats-Msg-Id", (), many, 1001) is None


def test_messages_of_one_produce_may_have_different_headers() -> None:
    """Those of several senders that are sent together do."""
    messages = [Message(b"1", (("x-a", "1"),), "k1"), Message(b"2", (("x-b", "2"),), "k2")]
    for message, (size, data) in zip(messages, frames.blocks("msg-id", (), messages, range(2)), strict=True):
        assert data[:size] == frames.headers("msg-id", message.key, message.headers)
