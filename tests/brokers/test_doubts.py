"""Which messages may be stored although no ack has come."""

from __future__ import annotations

from proxy.brokers.doubts import Doubts


def test_a_refusal_ends_the_doubt_that_came_of_a_known_id() -> None:
    """The leader that knew it would know it still."""
    doubts = Doubts()
    doubts.add_known(1)
    doubts.add_known(1)
    assert 1 in doubts
    doubts.refused(1)
    assert not doubts


def test_a_refusal_tells_nothing_of_attempts_without_an_answer() -> None:
    """They may arrive after it, whatever the leader knew before or since."""
    doubts = Doubts()
    doubts.add_known(1)
    doubts.add(1)
    doubts.add(2)
    doubts.add_known(2)
    doubts.add_known(3)
    doubts.leader_left(3)
    for place in (1, 2, 3):
        doubts.refused(place)
    assert doubts == {1, 2, 3}
