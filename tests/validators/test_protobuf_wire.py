"""Where payloads are said to be wrong, compared with what the library makes of them."""

from __future__ import annotations

import re

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validators.protos import PROTO2, PROTO3, message_class, validator, varint

BOUNDED = settings(max_examples=150, deadline=None, derandomize=True, database=None)
# No oneof or map: what a later value replaces is in the payload and not in the message.
PLAIN = """syntax = "proto2";
message Plain {
  optional int32 i = 1; optional Plain one = 2; repeated Plain many = 3; optional string s = 4;
  repeated fixed64 fixed = 5; repeated sint32 packed = 6 [packed = true]; optional E e = 7; optional bool b = 8;
  optional group G = 9 { optional Plain inner = 1; }
  enum E { ZERO = 0; ONE = 1; }
}"""


def _field(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A field of any number and wire type, well-formed by itself."""
    number = st.integers(1, 17) | st.sampled_from([100, 101, 2015])
    length = inner | st.binary(max_size=9) | st.text(max_size=3).map(str.encode)
    return st.one_of(
        st.builds(lambda n, v: varint(n << 3) + varint(v), number, st.integers(0, 7) | st.integers(0, (1 << 64) - 1)),
        st.builds(lambda n, v: varint(n << 3 | 1) + v, number, st.binary(min_size=8, max_size=8)),
        st.builds(lambda n, v: varint(n << 3 | 5) + v, number, st.binary(min_size=4, max_size=4)),
        st.builds(lambda n, v: varint(n << 3 | 2) + varint(len(v)) + v, number, length),
        st.builds(lambda n, v: varint(n << 3 | 3) + v + varint(n << 3 | 4), number, inner),
    )


def _several(field: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(field, max_size=3).map(b"".join)


PAYLOADS = st.recursive(st.just(b""), lambda inner: _several(_field(inner)), max_leaves=12)


@st.composite
def _broken(draw: st.DrawFn) -> bytes:
    """A payload with a bit flipped, or cut, or with something behind it."""
    payload = bytearray(draw(PAYLOADS))
    if payload and draw(st.booleans()):
        payload[draw(st.integers(0, len(payload) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(payload[: draw(st.integers(0, len(payload)))] + draw(st.binary(max_size=2)))


@pytest.mark.slow
@pytest.mark.parametrize(("definition", "name"), [(PROTO2, "p.All"), (PROTO3, "p.All"), (PLAIN, "Plain")])
@given(payload=PAYLOADS | _broken() | st.binary(max_size=40))
@BOUNDED
def test_the_library_decides(definition: str, name: str, payload: bytes) -> None:
    """A payload has violations if, and only if, the library cannot read it or finds a required field missing."""
    message = message_class(definition, name)()
    try:
        message.ParseFromString(payload)
        valid = message.IsInitialized()
    except DecodeError:
        valid = False
    assert (validator(definition).violations(payload) == []) == valid


@pytest.mark.slow
@given(payload=PAYLOADS | _broken())
@BOUNDED
def test_faults_have_their_place(payload: bytes) -> None:
    """Whatever the library refuses, we find out where; what it takes has no fault for us either."""
    found = validator(PLAIN).violations(payload)
    assert all("at byte" in one.message for one in found) or _is_overlong(payload)


def _is_overlong(payload: bytes) -> bool:
    """Packed numbers of more than ten bytes are refused without a place."""
    return re.search(rb"[\x80-\xff]{10}", payload) is not None


@pytest.mark.slow
@given(payload=PAYLOADS)
@BOUNDED
def test_strict_means_that_the_library_keeps_nothing_unknown(payload: bytes) -> None:
    """Judged by what is left when the library discards it; and what it has discarded has a place."""
    try:
        message = message_class(PLAIN, "Plain").FromString(payload)
    except DecodeError:
        return
    before = message.SerializeToString()
    message.DiscardUnknownFields()
    found = validator(PLAIN, strict=True).violations(payload)
    assert (found == []) == (message.SerializeToString() == before)
    assert all(one.pointer and "at byte" in one.message for one in found)


@pytest.mark.slow
@given(payload=PAYLOADS, at=st.integers(0, 200))
@BOUNDED
def test_every_truncation_is_refused_or_a_message(payload: bytes, at: int) -> None:
    """A prefix is taken only if the library takes it."""
    cut = payload[:at]
    try:
        message_class(PROTO3, "p.All").FromString(cut)
    except DecodeError:
        assert validator(PROTO3).violations(cut)
    else:
        assert not validator(PROTO3).violations(cut)
