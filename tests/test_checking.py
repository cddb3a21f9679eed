"""Payloads are checked against what their station demands, one or many."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from proxy import checking, validators
from proxy.errors import BadRegistry, BatchFailed, Overloaded, SchemaViolation, encode, to_response
from proxy.messages import Demand, Manner, Schema
from tests.languages import Words, words
from tests.uncollected import Payload, no_payloads, uncollected

FOREVER = float("inf")


@pytest.fixture(autouse=True)
def _language(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the language of these tests."""
    monkeypatch.setitem(validators.VALIDATORS, "words", "tests.languages:Words")


def test_a_payload_that_satisfies_the_schema_passes() -> None:
    """Without a word."""
    checking.check(words("a b"), b"a b c")


def test_a_violation_tells_what_is_wrong() -> None:
    """In the text, and as a list."""
    with pytest.raises(SchemaViolation) as caught:
        checking.check(words("a b c"), b"b")
    assert caught.value.message == ("Schema validation has failed: words: /a: a is missing in b; /c: c is missing in b")
    assert [violation["pointer"] for violation in caught.value.fields["violations"]] == ["/a", "/c"]


def test_of_many_payloads_those_that_fail_are_told_by_their_index() -> None:
    """In their order."""
    found = dict(checking.failures(words("a"), [b"a", b"b", b"a", b"c"], FOREVER))
    assert list(found) == [1, 3]
    assert "missing in c" in found[3].message


def test_what_is_soon_told_is_told_at_once() -> None:
    """That all payloads pass, or that not all do."""
    assert checking.pass_at_once(words("a"), [b"a"] * 200)
    assert not checking.pass_at_once(words("a"), [b"a", b"b"])


def test_what_takes_long_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for a few milliseconds and one payload at most, however many there are and however good."""
    checked: list[bytes] = []

    def slow(self: Words, payload: bytes) -> list[validators.Violation]:
        checked.append(payload)
        time.sleep(checking.AT_ONCE_SECONDS)
        return []

    monkeypatch.setattr(Words, "violations", slow)
    assert checking.pass_at_once(words("a"), [b"a"])
    checked.clear()
    assert not checking.pass_at_once(words("a"), [b"a"] * 50)
    assert len(checked) == 1


def test_a_schema_that_does_not_compile_names_itself_and_its_fault() -> None:
    """The sender cannot mend it: 503, nothing stored; it is compiled once, however many come."""
    demand, before = words("bad once"), Words.compiled
    for _ in range(3):
        with pytest.raises(BadRegistry, match=r"schema 'words' \(version 3\).*line 1: a bad word") as caught:
            checking.check(demand, b"x")
    assert (caught.value.status, caught.value.stored, Words.compiled - before) == (503, "no", 1)


def test_what_compiled_schemas_take_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stations there are: large ones that were not used for long are compiled again."""
    monkeypatch.setitem(validators.MEMORY, "words", 1000)
    demands = [words(f"a {number} " + "a" * 50_000) for number in range(6)]
    for demand in demands:
        validators.validator_of(demand.schema)
    before = Words.compiled
    validators.validator_of(demands[-1].schema)
    assert Words.compiled == before
    validators.validator_of(demands[0].schema)
    assert Words.compiled == before + 1


@pytest.mark.parametrize("text", [b"x" * 200, b"\x01\x02\x03" * 60, '"\\é'.encode() * 50])
def test_the_answer_to_a_batch_is_bounded_however_many_fail(text: bytes) -> None:
    """The first ones are told with their reasons, the others without; the bound counts bytes as they are sent."""
    count = 10_000
    found = list(checking.failures(words("one two three"), [text] * count, FOREVER))
    assert len(found) == count
    assert "one is missing" in found[0][1].message
    assert (found[-1][1].message, found[-1][1].fields) == (checking.WITHOUT_DETAIL, {})
    _, _, body = to_response(BatchFailed(count, [*found]))
    assert len(body) < 2 * checking.MAX_DETAIL_BYTES + count * 150


def test_what_a_payload_brings_never_breaks_the_answer() -> None:
    """Half a surrogate pair is written as JSON writes it."""
    assert encode({"a": "\ud800é"}) == b'{"a":"\\ud800\xc3\xa9"}'


def test_checking_ends_when_there_is_no_time_left() -> None:
    """503: nothing was stored, and it is safe to repeat."""
    with pytest.raises(Overloaded) as caught:
        list(checking.failures(words("slow"), [b"x"] * 1000, time.monotonic() + 0.02))
    assert (caught.value.stored, caught.value.repeat) == ("no", "safe")


def test_nothing_is_refused_where_nothing_is_demanded() -> None:
    """A station without a schema takes any payload."""
    assert checking.refused(None, [b"a", b"b"], FOREVER) == {}


@pytest.mark.parametrize(
    ("manner", "dead_letter", "refused"),
    [("apart", False, [1, 3]), ("atomic", False, [1]), ("atomic", True, [1, 3])],
)
def test_one_reason_is_enough_to_refuse_an_atomic_batch(manner: Manner, dead_letter: bool, refused: list[int]) -> None:
    """Unless each of its messages that is refused has to be kept as a dead letter."""
    demand = words("a", dead_letter=dead_letter)
    assert list(checking.refused(demand, [b"a", b"b", b"a", b"c"], FOREVER, manner)) == refused


def test_an_atomic_batch_has_one_reason() -> None:
    """The first, with its index, and what became of all its dead letters."""
    refused = {2: SchemaViolation("x", violations=[], dead_letter="stored"), 4: SchemaViolation("y", dead_letter="no")}
    error = checking.first_of(refused)
    assert (error.message, error.fields) == ("x", {"violations": [], "dead_letter": "no", "index": 2})


@pytest.mark.slow
def test_a_long_batch_lets_other_greenlets_run() -> None:
    """Under gevent, as in a worker: in a process of its own, since patching changes everything."""

    ran = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 20


_PROGRAM = """
from gevent import monkey, sleep, spawn; monkey.patch_all()
from proxy import checking, validators
from tests.languages import words
validators.VALIDATORS["words"] = "tests.languages:Words"
turns = 0
def other():
    global turns
    while True:
        turns += 1
        sleep(0)
runner = spawn(other)
list(checking.failures(words("slow"), [b"x"] * 200, float("inf")))
print(turns)
"""


@pytest.mark.parametrize(("type_", "definition"), [("json", "{"), ("avro", "{"), ("graphql", "type {")])
def test_a_schema_that_cannot_be_used_keeps_no_payload(type_: str, definition: str) -> None:
    """Why it cannot is remembered; the payload of whoever found out may have megabytes."""
    validators.forget()
    demand = Demand(name="bad", version=1, schema=Schema(type=type_, definition=definition))
    with uncollected():
        with contextlib.suppress(BadRegistry):
            checking.check(demand, Payload(b"x"))
        assert no_payloads()
