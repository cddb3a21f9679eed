"""The ledger: it must see what it is there to see."""

from __future__ import annotations

import json

import pytest

from tests.faults.ledger import ACKED, NO_ANSWER, NOT_STORED, UNKNOWN, Answer, Ledger, told


def _answer(status: int, sender: int = 0, asked: float = 0.0, **body: object) -> Answer:
    return Answer(sender, asked, 0.5, status, json.dumps(body).encode() if body else b"")


def _ledger(*rounds: tuple[bytes, Answer]) -> Ledger:
    ledger = Ledger()
    for payload, answer in rounds:
        if payload not in ledger.words:
            ledger.sent([payload])
        ledger.answered([payload], answer)
    return ledger


_STORED, _REFUSED, _OPEN = _answer(200), _answer(503, stored="no"), _answer(504, stored="unknown")


def test_all_is_well_when_all_is_as_told() -> None:
    """What is open may be stored or not."""
    ledger = _ledger((b"a", _STORED), (b"b", _REFUSED), (b"c", _OPEN), (b"d", _answer(NO_ANSWER)))
    for stored in ([b"a"], [b"a", b"c", b"d"]):
        verdict = ledger.compare(stored)
        assert verdict.wrong == {}
        assert (verdict.sent, verdict.acknowledged, verdict.unknown) == (4, 1, 2)


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [
        ([], {"lost": [b"a"]}),
        ([b"a", b"a"], {"doubled": [b"a"]}),
        ([b"a", b"c", b"c"], {"doubled": [b"c"]}),
        ([b"a", b"b"], {"lies": [b"b"]}),
        ([b"a", b"x"], {"strange": [b"x"]}),
    ],
)
def test_what_is_wrong_is_found(stored: list[bytes], wrong: dict[str, list[bytes]]) -> None:
    """Lost, doubled, a lie, something that nobody sent."""
    ledger = _ledger((b"a", _STORED), (b"b", _REFUSED), (b"c", _OPEN))
    assert ledger.compare(stored).wrong == wrong


def test_of_many_answers_the_certain_ones_count() -> None:
    """A refusal does not take back that an earlier attempt may be stored; a 200 settles all."""
    ledger = _ledger((b"a", _OPEN), (b"a", _REFUSED), (b"b", _OPEN), (b"b", _REFUSED), (b"b", _STORED), (b"b", _OPEN))
    assert ledger.words == {b"a": UNKNOWN, b"b": ACKED}


def test_answers_to_batches_are_told_apart_by_index() -> None:
    """What is not among the failures is stored."""
    failed = [{"index": 1, "stored": "no"}, {"index": 2, "stored": "unknown"}]
    assert told(_answer(504, stored="partly", failed=failed), 3) == [ACKED, NOT_STORED, UNKNOWN]


def test_recovery_is_that_of_the_last_sender() -> None:
    """From when the broker was back to the first 200 of the sender that had to wait longest."""
    ledger = _ledger((b"a", _answer(200, 0, 5.0)), (b"b", _answer(200, 1, 7.0)), (b"c", _answer(200, 0, 9.0)))
    assert ledger.recovery(2, 5.0) == 2.5
    assert ledger.recovery(3, 5.0) == float("inf")
    assert ledger.recovery(2, 8.0) == float("inf")
