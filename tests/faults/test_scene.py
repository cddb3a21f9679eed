"""What is wrong with what a fault has done, or not done."""

from __future__ import annotations

import pytest

from tests.faults.ledger import Answer, Ledger
from tests.faults.scene import Fault, Outcome, Scene


def _nothing(scene: Scene) -> None:
    """A fault that does nothing."""


@pytest.mark.parametrize(("felt", "wrong"), [(0.0, {}), (2.0, {}), (2.5, {"not felt": 2.0})])
def test_a_fault_that_nobody_has_felt_has_not_happened(felt: float, wrong: dict[str, float]) -> None:
    """Where it cannot be hidden from senders, their slowest answer has to show it."""
    ledger = Ledger(answers=[Answer(0, 1.0, seconds, 200, b"") for seconds in (0.1, 2.0)])
    assert Outcome(Fault("nothing", _nothing), ledger, ledger.compare([]), 0.0, [40.0], felt).wrong == wrong


@pytest.mark.parametrize(("latency", "wrong"), [(2.0, {}), (0.5, {"99 of 100 answers 200": 1.0})])
def test_what_is_accepted_keeps_its_latency(latency: float, wrong: dict[str, float]) -> None:
    """A few may be slow; answers other than 200 do not count."""
    answers = [Answer(0, 1.0, 0.1, 200, b"")] * 95 + [Answer(0, 1.0, 1.0, 200, b"")] * 5
    ledger = Ledger(answers=[*answers, *[Answer(0, 1.0, 9.0, 504, b"")] * 50])
    fault = Fault("nothing", _nothing, frozenset({504}), latency=latency)
    assert Outcome(fault, ledger, ledger.compare([]), 0.0, [40.0]).wrong == wrong
