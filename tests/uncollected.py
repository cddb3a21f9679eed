"""What goes without the garbage collector: it counts objects, and knows nothing of the megabytes that few may hold."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


class Payload(bytes):
    """A payload that the garbage collector knows, so that it can be looked for."""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector, from a clean state on."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def no_payloads() -> bool:
    """Whether no `Payload` is left."""
    return not any(isinstance(one, Payload) for one in gc.get_objects())
