"""Payloads against what their station demands, checked in the greenlet or thread of whoever sends them.

One demand counts for all payloads of a request: the one that was in force when it came.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from proxy import validators
from proxy.errors import BadRegistry, BadSchema, Overloaded, SchemaViolation, encode
from proxy.messages import Demand, Manner

# A worker's other greenlets wait for so long at most while a batch is checked, if no single payload takes longer.
SLICE_SECONDS = 0.002
AT_ONCE_SECONDS = 0.005  # most that others wait where a batch is checked in the event loop, one payload aside
# Most bytes of JSON that the reasons of one batch take in its answer, a short one for each message aside.
MAX_DETAIL_BYTES = 256 << 10
WITHOUT_DETAIL = "Schema validation has failed"


def check(demand: Demand, payload: bytes) -> None:
    """Sees that a payload is what its station demands. Raises `SchemaViolation`, `BadRegistry`."""
    validator = _validator(demand)
    found = validator.violations(payload)
    if found:
        raise validators.violation(validator.label, found)


def pass_at_once(demand: Demand, payloads: list[bytes]) -> bool:
    """Whether payloads are what the station demands, if that is soon told; false leaves it to `failures`.

    Lets nobody else run. Raises `BadRegistry`.
    """
    validator, end = _validator(demand), time.monotonic() + AT_ONCE_SECONDS
    return not any(time.monotonic() > end or validator.violations(payload) for payload in payloads)


def refused(
    demand: Demand | None, payloads: list[bytes], until: float, manner: Manner = "apart"
) -> dict[int, SchemaViolation]:
    """Which payloads are not what the station demands, and why; of an atomic batch one is enough to know.

    Raises `BadRegistry`, and `Overloaded` when there is no time to check them all.
    """
    if demand is None:
        return {}
    found = failures(demand, payloads, until)
    return dict(itertools.islice(found, 1) if manner == "atomic" and not demand.dead_letter else found)


def failures(demand: Demand, payloads: list[bytes], until: float) -> Iterator[tuple[int, SchemaViolation]]:
    """The payloads that are not what their station demands, by index, in order.

    Lets other greenlets run between slices; may run until `until` (`time.monotonic()`). What all reasons take together
    is bounded: when that is used up, the further ones are told without detail. Raises `BadRegistry`, `Overloaded`.
    """
    validator, left = _validator(demand), MAX_DETAIL_BYTES
    pause = time.monotonic() + SLICE_SECONDS
    for index, payload in enumerate(payloads):
        found = validator.violations(payload)
        if found:
            error = validators.violation(validator.label, found) if left > 0 else SchemaViolation(WITHOUT_DETAIL)
            left -= _size(error)
            yield index, (error if left >= 0 else SchemaViolation(WITHOUT_DETAIL))
        now = time.monotonic()
        if now >= pause:
            if now > until:
                raise Overloaded("there was no time left to check all messages against the schema; send fewer at once")
            time.sleep(0)  # gevent's own: lets others run; to a thread it does next to nothing
            pause = time.monotonic() + SLICE_SECONDS


def first_of(refused: dict[int, SchemaViolation]) -> SchemaViolation:
    """The one reason for which an atomic batch is refused, with the index of its message."""
    index, error = next(iter(refused.items()))
    letters = {str(one.fields["dead_letter"]): None for one in refused.values() if "dead_letter" in one.fields}
    kept = {"dead_letter": next((text for text in letters if text != "stored"), "stored")} if letters else {}
    return SchemaViolation(error.message, **{**error.fields, **kept, "index": index})


def _size(error: SchemaViolation) -> int:
    """Bytes that the reason takes in the answer to a batch, where its text stands twice."""
    return len(encode([error.message, error.message, error.fields])) if error.fields else 0


def _validator(demand: Demand) -> validators.Validator:
    validator = validators.compiled_or_not(demand.schema)
    if isinstance(validator, BadSchema):
        raise BadRegistry(
            f"schema {demand.name!r} (version {demand.version}), which this station demands, cannot be used: "
            f"{validator.message}; its keeper has to mend it, nothing is stored until then"
        )
    return validator
