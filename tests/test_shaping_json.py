"""What is well-formed JSON: compared with Python's own reader, and measured for the worst that can be sent."""

from __future__ import annotations

import contextlib
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from proxy import shaping
from proxy.errors import BadBody, TooLarge
from proxy.shaping import MAX_DEPTH, check_json

MIB = 1 << 20


def _takes(body: bytes) -> bool:
    try:
        check_json(body)
    except BadBody:
        return False
    return True


# ---- the reference -------------------------------------------------------------------------------------------------


def _reference(body: bytes) -> bool:
    """Python's reader, made strict: UTF-8 without a mark, no NaN, no lone surrogate, not too deep."""
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_refuse, parse_int=float, object_pairs_hook=_pairs)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return not text.startswith("\ufeff") and _depth(value) <= MAX_DEPTH


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _pairs(pairs: list[tuple[str, Any]]) -> list[Any]:
    """An object as a list of keys and values, so that of duplicate keys none is lost."""
    return [part for pair in pairs for part in pair]


def _depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


# ---- random documents ----------------------------------------------------------------------------------------------

_TEXTS = [
    "",
    "a",
    "[",
    "]",
    "{}",
    '"',
    "\\",
    '\\"',
    "[[",
    "é",
    "😀",
    "\x00",
    "\n",
    "\x7f",
    "\u2028",
    "a:b,c",
    '"["',
    "\\[\\",
]
_NUMBERS = ["0", "-0", "1", "-1.5", "1e5", "1E-7", "1.0e+10", "123456789012345678901234567890", "1e400"]
_BLANKS = ["", "", "", " ", "\n", "\t\r\n "]
_NOISE = [*b'"\\{}[],:0123456789.eE+-tfnul/', 0, 9, 10, 11, 13, 31, 32, 127, 128, 0xC3, 0xED, 0xA0, 0xEF, 0xFF]
_SNIPPETS = [
    b"\\ud800",
    b"\\udc00",
    b"\\ud83d\\ude00",
    b"\\u12",
    b"NaN",
    b"Infinity",
    b"\xef\xbb\xbf",
    b"01",
    b"[[",
    b"]]",
]


def _document(chance: random.Random, depth: int) -> str:
    kind = chance.random()
    blank = chance.choice(_BLANKS)
    if depth and kind < 0.3:
        return "[" + f"{blank},".join(_document(chance, depth - 1) for _ in range(chance.randrange(4))) + blank + "]"
    if depth and kind < 0.6:
        members = (f"{_string(chance)}{blank}:{_document(chance, depth - 1)}" for _ in range(chance.randrange(4)))
        return "{" + f",{blank}".join(members) + "}"
    if kind < 0.8:
        return _string(chance)
    return blank + chance.choice([*_NUMBERS, "true", "false", "null"]) + blank


def _string(chance: random.Random) -> str:
    text = "".join(chance.choice(_TEXTS) for _ in range(chance.randrange(4)))
    return json.dumps(text, ensure_ascii=chance.random() < 0.5)


def _mutated(chance: random.Random, body: bytes) -> bytes:
    place = chance.randrange(len(body) + 1)
    piece = chance.choice([bytes([chance.choice(_NOISE)]), chance.choice(_SNIPPETS), b""])
    return body[:place] + piece + body[place + chance.randrange(3) :]


def test_random_documents_are_taken() -> None:
    """Whatever is well-formed, with any text in keys and strings."""
    chance = random.Random(1)
    documents = [_document(chance, chance.randrange(8)).encode() for _ in range(3000)]
    assert [body for body in documents if not _takes(body)] == []


def test_changed_documents_are_judged_as_by_the_reference() -> None:
    """A byte more, less or other: both readers agree on every document."""
    chance = random.Random(2)
    documents = [_mutated(chance, _document(chance, chance.randrange(5)).encode()) for _ in range(10_000)]
    judged = [(body, _takes(body), _reference(body)) for body in documents]
    assert [body for body, ours, theirs in judged if ours != theirs] == []
    assert 0.1 < sum(theirs for _, _, theirs in judged) / len(judged) < 0.9


def _nested(chance: random.Random, depth: int) -> bytes:
    """A document of that depth, with more beside the deepest place, and brackets in keys and strings."""
    text = chance.choice([_string(chance), "1", "[]" if depth else "1"])
    depth -= text == "[]"
    for level in range(depth):
        beside = _document(chance, 3 if level > 5 else 0)
        text = chance.choice([f"[{text}]", f"[{beside},{text}]", f"[{text},{beside}]", f"{{{_string(chance)}:{text}}}"])
    return text.encode()


def test_depth_is_measured_as_by_the_reference() -> None:
    """Around the limit, among brackets in strings, escaped quotes and neighbours of any shape."""
    chance = random.Random(3)
    for _ in range(120):
        body = _nested(chance, chance.randrange(MAX_DEPTH - 4, MAX_DEPTH + 5))
        assert _takes(body) == _reference(body), body


@pytest.mark.parametrize("depth", [1, 2, 5, MAX_DEPTH - 1, MAX_DEPTH])
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"[":'])
def test_a_depth_up_to_the_limit_is_taken(depth: int, opening: str) -> None:
    """Arrays, objects, and both in turn; many of them side by side count once."""
    document = _deep(opening, depth)
    assert _takes(document)
    assert _takes(b"[" + b",".join([_deep(opening, depth - 1)] * 50) + b"]")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 2, 500, 5000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"[":'])
def test_a_greater_depth_is_refused(depth: int, opening: str) -> None:
    """One level more, or very many: the same clear error, and no crash."""
    with pytest.raises(BadBody, match=f"nested too deeply \\(at most {MAX_DEPTH} levels\\)"):
        check_json(_deep(opening, depth))


def _deep(opening: str, depth: int) -> bytes:
    pairs = (opening, {"[": "]", '{"a":': "}", '[{"[":': "}]"}[opening])
    levels = opening.count("[") + opening.count("{") - opening.count('"["')
    whole, rest = divmod(depth, levels)
    inner = "[" * rest + "1" + "]" * rest
    return (pairs[0] * whole + inner + pairs[1] * whole).encode()


NOT_JSON = b"""
nope NaN -Infinity [1,] {a:1} 'a' 01 +1 1. .5 0x1 1_0 -01 [ {"a":1 " "\\x" "\\ud800" "\\udc00\\ud800" {"\\ud800":1}
/**/1 nul truex {"a","b"} [1} {"a":} {,} [,1] {"a":1,} "\\u12g4" "\\u12" ]
""".split()
NOT_JSON += [
    b"",
    b" ",
    b"1 2",
    b'"\t"',
    b"\x00",
    b"1\x00",
    b"\xef\xbb\xbf{}",
    b"\xff",
    b'"\xed\xa0\x80"',
    b"\xa01",
    b"\x0b1",
]


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """The usual mistakes, each by itself."""
    assert not _takes(body)
    assert not _reference(body)


# ---- the worst -----------------------------------------------------------------------------------------------------

WORST = {
    "opening brackets": b"[" * MIB,
    "opening objects": b'{"a":' * (MIB // 5),
    "empty arrays": b"[" + b",".join([b"[]"] * (MIB // 3)) + b"]",
    "nests of 6": b"[" + b",".join([b"[[[[[[]]]]]]"] * (MIB // 13)) + b"]",
    "nests of 100": b"[" + b",".join([b"[" * 100 + b"]" * 100] * (MIB // 201)) + b"]",
    "strings of brackets": b"[" + b",".join([b'"[[[["'] * (MIB // 7)) + b"]",
    "empty strings": b"[" + b",".join([b'""'] * (MIB // 3)) + b"]",
    "escaped quotes": b'["' + b'\\"[' * (MIB // 3) + b'"]',
    "escaped backslashes": b"[" + b",".join([b'"\\\\["'] * (MIB // 6)) + b"]",
    "an endless string": b'"' + b"a" * MIB,
    "an endless number": b"1" * MIB,
    "escapes": b'"' + b"\\u00e9" * (MIB // 6) + b'"',
    "blanks": b" " * MIB,
    "blank lines": b"\n" * MIB,
    "lines of blanks": b" \r\n" * (MIB // 3),
    "short lines": b"1\n" * (MIB // 2),
    "one wrong byte at the end": b"[" + b",".join([b'{"a":1}'] * (MIB // 8)) + b"x",
    "broken UTF-8 at the end": b'"' + "é".encode() * (MIB // 2) + b'\xff"',
}


def _batch(content_type: str) -> Callable[[bytes], object]:
    return lambda body: shaping.batch(content_type, body, 10_000)


@pytest.mark.parametrize("what", WORST)
def test_the_worst_body_costs_little(what: str) -> None:
    """No mebibyte, good or bad, as one document or as a batch, keeps a worker for long."""
    for judge in (check_json, _batch("application/json"), _batch("application/x-ndjson")):
        started = time.thread_time()
        with contextlib.suppress(BadBody, TooLarge):
            judge(WORST[what])
        assert time.thread_time() - started < 0.5


def test_an_array_of_far_too_many_elements_makes_none_of_them() -> None:
    """It is refused for less than what a good batch of that size takes."""
    body = b"[" + b"1," * (4 * MIB - 1) + b"1]"
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="at most 10000 messages"):
            shaping.batch("application/json", body, 10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


def test_a_bound_for_elements_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither which documents are taken, nor as what, nor what is told of those that are not."""
    chance = random.Random(4)
    documents = [_mutated(chance, f"[{_document(chance, 4)},{_document(chance, 4)}]".encode()) for _ in range(3000)]
    answers = []
    for commas in (0, 1000):
        monkeypatch.setattr(shaping, "MANY_COMMAS", commas)
        answers.append([_answer(body, 1 + index % 3) for index, body in enumerate(documents)])
    assert answers[0] == answers[1]
    assert {kind for kind, _ in answers[0]} == {list, BadBody, TooLarge}


def _answer(body: bytes, most: int) -> tuple[type, object]:
    try:
        return list, shaping.batch("application/json", body, most)
    except (BadBody, TooLarge) as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "body", [b"[1,2,3,4,5]", b"[1,2,3,4,5,]", b"[1,2,3,4,5", b'[1,2,3,4,"\\ud800"]', b"[1,2,3,4] 5"]
)
def test_a_limit_that_is_too_large_for_a_bound_gives_the_same_answers(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All elements are made then, and counted."""
    monkeypatch.setattr(shaping, "MANY_COMMAS", 1)
    bounded = [_answer(body, most) for most in (1, 3, 4)]
    monkeypatch.setattr(shaping, "MAX_BOUNDED", 0)
    assert [_answer(body, most) for most in (1, 3, 4)] == bounded
