"""What is looked up again and again: the bounds, and what stays."""

from __future__ import annotations

from proxy.remembering import Remembered


def test_no_more_is_kept_than_the_count_allows() -> None:
    """What is used stays, whatever comes in between."""
    kept = Remembered[int, str](8)
    for key in range(100):
        kept.put(key, str(key))
        assert kept.get(0) == "0"
    assert sum(kept.get(key) is not None for key in range(100)) <= 8


def test_no_more_is_kept_than_the_weight_allows() -> None:
    """Few heavy ones, or many light ones."""
    kept = Remembered[int, str](1000, 100, weigh=lambda key: key)
    for _ in range(20):
        for key in (10, 11, 12, 13, 14, 15, 16, 17):
            kept.put(key, "x")
            assert sum({*kept._recent, *kept._older}) <= 100


def test_what_is_heavier_than_all_may_be_is_kept_until_the_next_one() -> None:
    """Or it would be made again for each who asks."""
    kept = Remembered[int, str](1000, 100, weigh=lambda key: key)
    kept.put(500, "x")
    assert kept.get(500) == "x"
    for key in range(40, 48):
        kept.put(key, "y")
    assert kept.get(500) is None


def test_what_is_forgotten_is_gone() -> None:
    """All of it."""
    kept = Remembered[int, str](8)
    kept.put(1, "x")
    kept.clear()
    assert kept.get(1) is None
