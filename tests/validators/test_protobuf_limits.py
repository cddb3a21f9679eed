"""What the worst payloads cost, as `python -m benchmarks.validators protobuf` measures it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.servers import ROOT
from tests.validators.protos import nested, violations

WIDE = (
    "syntax = 'proto3'; message Wide { repeated Wide many = 1; map<int32, Wide> named = 2; oneof o { Wide one = 3; } "
)
WIDE += "".join(f"string s{number} = {number};" for number in range(4, 2_000)) + "}"
NARROW = "syntax = 'proto3'; message Narrow { repeated Narrow many = 1; Narrow one = 2; string s = 3; }"
TOO_MUCH = ["size"]


@pytest.mark.slow
def test_no_payload_takes_much_time_or_memory() -> None:
    """Of 8 MiB, whatever they hold; the process has room for the payload, the message and a copy."""
    script = """
        import resource, time
        from benchmarks.validators_protobuf import CASES
        from proxy.validators import validator_of
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        for name, make in CASES.items():
            schema, payload = make()
            validator = validator_of(schema)
            began = time.process_time()
            if schema.strict:
                validator.violations(payload)
            assert time.process_time() - began < 5, name
        print((peak() - before) // 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 500


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a\x00" * 5_000,
        b"\x8a\x00\x00" * 5_000,  # the same tag, written longer
        b"\x12\x02\x12\x00" * 5_000,
        b"\x1a\x00" * 5_000,
        nested(b"\x0a", b"\x0a\x00" * 5_000, 1),
    ],
)
def test_messages_are_counted_before_they_are_made(payload: bytes) -> None:
    """Two bytes would become 32 KiB."""
    assert [one.keyword for one in violations(WIDE, payload)] == TOO_MUCH


def test_as_many_small_ones_are_fine() -> None:
    """It is the memory that counts."""
    assert violations(NARROW, b"\x0a\x00" * 5_000, strict=True) == []
    assert violations(NARROW, b"\x0a\x04\x1a\x02hi" * 50_000, strict=True) == []


def test_what_only_looks_like_messages_is_counted_exactly() -> None:
    """A text of bytes that tags begin with, in a message of which there could be few."""
    assert violations(WIDE, nested(b"\x22", b"\x0a" * 1_000_000, 1)) == []
    assert violations(WIDE, nested(b"\x22", b"\x0a" * 1_000_000, 1) + b"\x0a\x00" * 5_000)[0].keyword == "size"


def test_what_cannot_be_counted_in_time_is_too_much() -> None:
    """It could be valid, but nobody looks at so many fields one by one."""
    assert [one.keyword for one in violations(WIDE, b"\x22\x01\x0a" * 100_000)] == TOO_MUCH


def test_what_is_malformed_is_counted_up_to_its_fault() -> None:
    """The parser goes no further."""
    payload = b"\x0f" + b"\x0a\x00" * 50_000
    assert [one.keyword for one in violations(WIDE, payload)] == ["wire-format"]
