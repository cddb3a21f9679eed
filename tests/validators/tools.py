"""What the tests of schema languages share."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from hypothesis import HealthCheck, settings

from proxy.messages import Schema
from proxy.validators import Violation
from proxy.validators.avro import Avro
from tests.servers import ROOT

#: The same examples in every run, and a bounded number of them.
FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def avro(definition: Any, *, strict: bool = False) -> Avro:
    """The validator of an Avro definition, given as what its JSON is, or as text."""
    text = definition if isinstance(definition, str) and definition[:1] in "[{" else json.dumps(definition)
    return Avro(Schema(type="avro", definition=text, strict=strict))


def told(found: list[Violation]) -> list[tuple[str, str]]:
    """The places and keywords of violations."""
    return [(one.pointer, one.keyword) for one in found]


def run(program: str, seconds: float = 60) -> str:
    """What a program prints; it runs in a process of its own, which must neither crash nor take longer."""
    done = subprocess.run(
        [sys.executable, "-"], input=program, cwd=ROOT, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
