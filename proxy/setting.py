"""What a setting is: a field of a dataclass that knows its variable, its parser, and what it means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def setting(
    env: str, parse: Callable[[str], Any], default: Any, meaning: str, *, secret: bool = False, shown: str = ""
) -> Any:
    """A field of `Config`. `shown` is its default in the README, where that is not the value itself."""
    metadata = {"env": env, "parse": parse, "meaning": meaning, "secret": secret, "shown": shown}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)
