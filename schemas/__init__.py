"""What request and response bodies look like, one module for each blueprint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from marshmallow import Schema, ValidationError

from proxy.errors import BadBody, let_go

MAX_FIELDS = 1000  # each one that is not known is told, so many of them would cost more than any good body


def load(shape: Schema, body: Any) -> dict[str, Any]:
    """The body in that shape. Raises `BadBody`, which names each field that is wrong, and what it must be."""
    if isinstance(body, dict) and len(body) > MAX_FIELDS:
        raise BadBody(f"the body has more than {MAX_FIELDS} fields")
    try:
        loaded: dict[str, Any] = shape.load(body)
    except ValidationError as error:
        let_go(error)  # marshmallow raises what a variable there has
        raise BadBody("; ".join(_faults(error.messages_dict))) from None
    return loaded


def _faults(messages: dict[str, Any], place: str = "") -> Iterator[str]:
    """Marshmallow's nested messages as lines like `username: Missing data for required field.`"""
    for name, fault in messages.items():
        here = place if name == "_schema" else f"{place}.{name}" if place else str(name)
        if isinstance(fault, dict):
            yield from _faults(fault, here)
        else:
            yield f"{here}: {' '.join(map(str, fault))}" if here else " ".join(map(str, fault))
