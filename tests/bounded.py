"""Property tests that take the same examples each time, and a bounded number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings


def bounded(examples: int) -> Callable[[Any], Any]:
    """Takes that many examples, always the same ones; a failing one is made smaller. Keeps nothing on disk."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,  # programs of their own are part of it
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
